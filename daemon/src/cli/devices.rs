//! `wiremamba devices`: what can compute here, and why the rest cannot.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use wiremamba_model::device::{Gpu, gpus};
use wiremamba_model::engine::Isa;

use super::{print_json, print_text};

#[derive(Debug, Args)]
pub(super) struct DevicesArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is usable and why not.
#[derive(Debug, Serialize)]
struct Report {
    devices: Vec<Device>,
    /// Why no GPU can be used, where none can.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_gpu: Option<String>,
    /// What `--device auto` takes.
    auto: String,
}

#[derive(Debug, Serialize)]
struct Device {
    /// As given to `--device`.
    device: String,
    name: String,
    is_usable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not: Option<String>,
    /// Instruction set of the kernels, or compute capability.
    kernels: String,
    /// Threads, or streaming multiprocessors.
    processors: usize,
    memory_bytes: usize,
}

pub(super) fn run(args: &DevicesArgs) -> Result<()> {
    let (gpus, no_gpu) = match gpus() {
        Ok(gpus) => (gpus, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    let devices: Vec<Device> = std::iter::once(cpu()).chain(gpus.into_iter().map(gpu)).collect();
    let auto = wiremamba_model::device::Device::Auto.resolve()?.0.to_string();
    let report = Report { devices, no_gpu, auto };
    if args.json { print_json(&report) } else { print_text(&text(&report)) }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for d in &report.devices {
        let chosen = if d.device == report.auto { ", what auto takes" } else { "" };
        let gib = d.memory_bytes as f64 / f64::from(1 << 30);
        text +=
            &format!("{:<8} {} ({}, {} processors, {gib:.1} GiB){chosen}\n", d.device, d.name, d.kernels, d.processors);
        if let Some(why) = &d.why_not {
            text += &format!("         cannot be used: {why}\n");
        }
    }
    if let Some(why) = &report.no_gpu {
        text += &format!("no GPU: {why}\n");
    }
    text
}

fn cpu() -> Device {
    Device {
        device: "cpu".to_owned(),
        name: cpu_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        is_usable: true,
        why_not: None,
        kernels: format!("{:?}", Isa::detect()).to_lowercase(),
        processors: rayon::current_num_threads(),
        memory_bytes: memory_bytes().unwrap_or(0),
    }
}

fn gpu(gpu: Gpu) -> Device {
    Device {
        device: format!("cuda:{}", gpu.ordinal),
        name: gpu.name,
        is_usable: gpu.unusable.is_none(),
        why_not: gpu.unusable,
        kernels: format!("compute capability {}.{}", gpu.capability.0, gpu.capability.1),
        processors: gpu.multiprocessors,
        memory_bytes: gpu.memory_bytes,
    }
}

/// proc_cpuinfo(5).
fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// proc_meminfo(5): in kilobytes.
fn memory_bytes() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemTotal"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}

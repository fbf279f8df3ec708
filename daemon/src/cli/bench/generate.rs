//! `wiremamba bench generate`: packets from a model, masked, rendered and written, all of the path but opening the checkpoint.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use wiremamba_model::engine::Isa;

use super::device::{self, Limits};
use super::{peak_bytes, peak_rss_bytes};
use crate::cli::{Misuse, print_json, print_text};
use crate::job::model::{self, SamplingArgs};
use crate::sink::PacketSink;
use crate::sink::savefile::{SavefileOptions, SavefileSink};
use crate::source::{Next, PacketSource};

#[derive(Debug, Args)]
pub(in crate::cli) struct GenerateBench {
    /// Checkpoint: a folder that train wrote, or one version in it
    #[arg(long, value_name = "DIR", default_value = model::SHIPPED, value_parser = model::folder)]
    model: PathBuf,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Capture file to write
    #[arg(short = 'w', long = "write", value_name = "FILE", default_value = "/dev/null")]
    write: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The measurement.
#[derive(Debug, Serialize)]
struct Report {
    work: &'static str,
    /// `cpu` or `cuda:N`.
    device: String,
    isa: String,
    precision: &'static str,
    threads: usize,
    streams: usize,
    /// Packets written: as many as --packets, where it was given.
    packets: u64,
    bytes: u64,
    /// Flows that ended, packets and tokens generated: with --packets also those of flows that are not written to their ends.
    flows: u64,
    packets_generated: u64,
    tokens: u64,
    seconds: f64,
    packets_per_s: f64,
    packets_generated_per_s: f64,
    tokens_per_s: f64,
    tokens_per_packet: f64,
    /// Steps of the whole batch.
    steps: u64,
    /// Streams that had a flow, on average over the steps.
    busy_streams: f64,
    peak_rss_bytes: u64,
    /// What the GPU can do, where it is one.
    gpu: Option<Limits>,
}

pub(super) fn run(args: &GenerateBench) -> Result<()> {
    if args.sampling.flows.is_none() && args.sampling.packets.is_none() {
        return Err(Misuse("say how much: --flows N or --packets N".into()).into());
    }
    // Settled once, here, so that the report says where it was; the job says it in its own line.
    let device = args.sampling.device.resolve()?.0;
    let mut source = model::source(&args.model, &args.sampling)?;
    let mut sink = SavefileSink::create(&args.write, SavefileOptions::default())?;
    let start = Instant::now();
    loop {
        match source.next_packet()? {
            Next::Packet(packet) => sink.send(&packet)?,
            Next::Idle => {}
            Next::End => break,
        }
    }
    let written = sink.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    let c = source.traffic.counters();
    let config = source.traffic.config().clone();
    drop(source);
    let report = Report {
        work: "generate",
        device: device.to_string(),
        isa: device::isa(device, Isa::detect()),
        precision: args.sampling.precision.on(device).name(),
        threads: rayon::current_num_threads(),
        streams: args.sampling.streams,
        packets: written.packets,
        bytes: written.bytes,
        flows: c.flows,
        packets_generated: c.packets,
        tokens: c.tokens,
        seconds,
        packets_per_s: written.packets as f64 / seconds,
        packets_generated_per_s: c.packets as f64 / seconds,
        tokens_per_s: c.tokens as f64 / seconds,
        tokens_per_packet: c.tokens as f64 / c.packets.max(1) as f64,
        steps: c.steps,
        busy_streams: c.tokens as f64 / c.steps.max(1) as f64,
        peak_rss_bytes: peak_rss_bytes(),
        gpu: Limits::measure(device, &config)?,
    };
    if args.json {
        return print_json(&report);
    }
    let r = &report;
    print_text(&format!(
        "generate, {} streams, {}, {}, {} threads, {}\n{:>12.0} packets/s written ({} in {:.1} s)\n{:>12.0} packets/s generated ({}, {} flows to their ends)\n{:>12.0} tokens/s, {:.1} a packet, {:.1} streams busy\n{:>12.2} GiB peak\n",
        r.streams,
        r.device,
        r.precision,
        r.threads,
        r.isa,
        r.packets_per_s,
        r.packets,
        r.seconds,
        r.packets_generated_per_s,
        r.packets_generated,
        r.flows,
        r.tokens_per_s,
        r.tokens_per_packet,
        r.busy_streams,
        peak_bytes(r.gpu.as_ref(), r.peak_rss_bytes) as f64 / f64::from(1 << 30),
    ))
}

//! Where a bench computes, and what a GPU can do at most, measured in the same run as what is held against it.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use wiremamba_model::device::{self, Device};
use wiremamba_model::engine::{self, DeviceProbe, Isa, Precision};
use wiremamba_model::mamba::MambaConfig;

/// Seconds that one measurement of a limit takes, about: long beside a launch.
const MEASURED_S: f64 = 0.02;
/// Repetitions of a measurement at most.
const TIMES_MAX: f64 = 1000.0;

/// Settles on a device, and says on stderr which it is.
pub(super) fn settle(asked: Device, names_isa: bool) -> Result<Device> {
    // Who names the CPU's instructions wants the CPU.
    let asked = if asked == Device::Auto && names_isa { Device::Cpu } else { asked };
    let (device, named) = asked.resolve()?;
    tracing::info!(device = named, "computing on");
    Ok(device)
}

/// The instruction set: the CPU's, or the architecture of the GPU.
pub(super) fn isa(device: Device, isa: Isa) -> String {
    let Device::Cuda(ordinal) = device else { return format!("{isa:?}").to_lowercase() };
    let gpu = device::gpus().ok().and_then(|gpus| gpus.into_iter().find(|gpu| gpu.ordinal == ordinal));
    gpu.map_or_else(String::new, |gpu| format!("sm_{}{}", gpu.capability.0, gpu.capability.1))
}

/// What a GPU did at its limit.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Limits {
    /// What it calls itself.
    pub(super) name: String,
    /// Copies of its memory, read and written bytes, in gigabytes a second.
    pub(super) copy_gb_per_s: f64,
    /// cuBLAS, shaped as a training step's input projection.
    pub(super) gemm_f32_gflop_per_s: f64,
    /// As above.
    pub(super) gemm_bf16_gflop_per_s: f64,
    /// The most bytes of its memory that the work held.
    pub(super) peak_bytes: u64,
}

impl Limits {
    /// Of `device` if it is a GPU; to be called after the work, so that its memory is not in the peak.
    pub(super) fn measure(device: Device, config: &MambaConfig) -> Result<Option<Self>> {
        let Some(mut probe) = engine::probe(device, config)? else { return Ok(None) };
        let probe = &mut *probe;
        Ok(Some(Self {
            name: probe.gpu().name.clone(),
            peak_bytes: probe.peak_bytes(),
            copy_gb_per_s: rate(probe, |probe, times| probe.copy(times)),
            gemm_f32_gflop_per_s: rate(probe, |probe, times| probe.multiply(Precision::F32, times)),
            gemm_bf16_gflop_per_s: rate(probe, |probe, times| probe.multiply(Precision::Bf16, times)),
        }))
    }

    /// Products of a precision.
    pub(super) fn gemm_gflop_per_s(&self, precision: Precision) -> f64 {
        if precision == Precision::F32 { self.gemm_f32_gflop_per_s } else { self.gemm_bf16_gflop_per_s }
    }
}

/// Giga-units a second of `work`, which says how many units it did: the median of some measurements.
fn rate(probe: &mut dyn DeviceProbe, work: impl Fn(&mut dyn DeviceProbe, usize) -> f64) -> f64 {
    let mut measure = |times| {
        let start = Instant::now();
        let done = work(probe, times);
        (done, start.elapsed().as_secs_f64())
    };
    measure(1);
    let (_, once) = measure(1);
    let times = (MEASURED_S / once.max(1e-9)).clamp(1.0, TIMES_MAX) as usize;
    let mut rates: Vec<f64> = (0..5).map(|_| measure(times)).map(|(done, seconds)| done / seconds / 1e9).collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

//! `wiremamba bench decode`: one token for each of many streams at a time.

use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use wiremamba_model::codec::Token;
use wiremamba_model::device::Device;
use wiremamba_model::engine::{self, CpuDecoder, Precision};
use wiremamba_model::generate::{Decoder, Draws, Sampling};
use wiremamba_model::mamba::{MambaConfig, Params, Preset};

use super::device::{self, Limits};
use super::roofline::{Reading, bf16_gflop_per_s, gemm_gflop_per_s};
use super::{Shared, median, peak_bytes, peak_rss_bytes, spread, tokens};
use crate::cli::{print_json, print_text};
use crate::job::model::PrecisionArg;

/// Steps before those that are measured.
const WARM_UP: usize = 3;
/// Times that reading is measured, in turn with the steps: a shared machine's memory is now fast, now slow.
const READINGS: usize = 5;

#[derive(Debug, Args)]
pub(in crate::cli) struct DecodeBench {
    #[command(flatten)]
    shared: Shared,
    /// Streams in one batch
    #[arg(long, default_value_t = 64)]
    streams: usize,
    /// How weights are held
    #[arg(long, value_enum, default_value_t = PrecisionArg::Auto)]
    precision: PrecisionArg,
    /// Steps that are measured, after some that are not
    #[arg(long, default_value_t = 50)]
    steps: usize,
}

/// The measurement.
#[derive(Debug, Serialize)]
struct Report {
    work: &'static str,
    preset: &'static str,
    parameters: usize,
    /// `cpu` or `cuda:N`.
    device: String,
    isa: String,
    precision: &'static str,
    threads: usize,
    /// Streams.
    batch: usize,
    seq_len: usize,
    steps: usize,
    /// Median over the steps.
    tokens_per_s: f64,
    /// Of the slowest and the fastest step.
    tokens_per_s_range: [f64; 2],
    /// Matrix products only.
    gflop_per_s: f64,
    /// Products alone, measured in this run: on the CPU a 2048 x 2048 x 2048 f32 product by the `gemm` crate, on a GPU one of the
    /// weights' precision by cuBLAS.
    gemm_gflop_per_s: f64,
    /// The same in bf16: by our own product, where the CPU multiplies bf16, or by cuBLAS.
    bf16_gflop_per_s: Option<f64>,
    /// Bytes of weights that a step reads.
    weight_bytes: usize,
    /// As many bytes read over and over by one thread, and by all, medians of five measurements between steps; on a GPU both are a copy's,
    /// read and written.
    read_gb_per_s: [f64; 2],
    /// What bounds a step: reading the weights once (and, on a GPU, moving every stream's state), or multiplying by them.
    bound: &'static str,
    bound_tokens_per_s: f64,
    share_of_bound: f64,
    peak_rss_bytes: u64,
    /// What the GPU can do, where it is one.
    gpu: Option<Limits>,
}

pub(super) fn run(args: &DecodeBench) -> Result<()> {
    let report = measure(args)?;
    if args.shared.json {
        return print_json(&report);
    }
    let r = &report;
    print_text(&format!(
        "decode {}, {} streams, {}, {}, {} threads, {}\n{:>12.0} tokens/s ({:.0} to {:.0}), {:.0} % of {:.0} ({})\n{:>12.1} MB of weights a step; reading: {:.1} GB/s, one thread {:.1}\n{:>12.1} GFLOP/s; product: {:.1}{}\n{:>12.2} GiB peak\n",
        r.preset,
        r.batch,
        r.device,
        r.precision,
        r.threads,
        r.isa,
        r.tokens_per_s,
        r.tokens_per_s_range[0],
        r.tokens_per_s_range[1],
        100.0 * r.share_of_bound,
        r.bound_tokens_per_s,
        r.bound,
        r.weight_bytes as f64 / 1e6,
        r.read_gb_per_s[1],
        r.read_gb_per_s[0],
        r.gflop_per_s,
        r.gemm_gflop_per_s,
        r.bf16_gflop_per_s.map_or(String::new(), |bf16| format!(", bf16 {bf16:.1}")),
        peak_bytes(r.gpu.as_ref(), r.peak_rss_bytes) as f64 / f64::from(1 << 30),
    ))
}

fn measure(args: &DecodeBench) -> Result<Report> {
    anyhow::ensure!(args.streams > 0 && args.steps > 0, "--streams and --steps begin at 1");
    let config = args.shared.config();
    let (isa, device) = (args.shared.isa()?, args.shared.settle()?);
    let precision = args.precision.on(device);
    let params = Params::init(&config, 1);
    let parameters = params.data.len();
    let (mut decoder, weight_bytes): (Box<dyn Decoder>, usize) = match device {
        Device::Cuda(_) => (engine::decoder(&params, device, Some(precision))?, weight_bytes(&params, precision)),
        _ => {
            let decoder = CpuDecoder::with_isa(&params, precision, isa)?;
            let weight_bytes = decoder.weight_bytes();
            (Box::new(decoder), weight_bytes)
        }
    };
    drop(params);
    decoder.resize(&[], args.streams);
    let mut next = tokens(args.streams, config.vocab_size);
    let slots: Vec<usize> = (0..args.streams).collect();
    let draws = Draws {
        slots: &slots,
        uniforms: &vec![0.0; args.streams],
        vocab_size: config.vocab_size,
        masks: None,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
    };
    let threads = rayon::current_num_threads();
    let (mut drawn, mut seconds) = (Vec::new(), Vec::new());
    // Made after some steps, so that its memory is not in their peak.
    let (mut reading, mut rates, mut peak_rss) = (None, [Vec::new(), Vec::new()], 0);
    for step in 0..args.steps + WARM_UP {
        let start = Instant::now();
        decoder.step(&next);
        decoder.draw(&draws, &mut drawn);
        for (next, token) in next.iter_mut().zip(&drawn) {
            *next = token.unwrap_or(Token(0));
        }
        if step >= WARM_UP {
            seconds.push(start.elapsed().as_secs_f64());
        }
        let done = seconds.len();
        if done > 0 && done * READINGS / args.steps > (done - 1) * READINGS / args.steps {
            if reading.is_none() {
                peak_rss = peak_rss_bytes();
            }
            if !matches!(device, Device::Cuda(_)) {
                let reading = reading.get_or_insert_with(|| Reading::new(isa, weight_bytes));
                rates.iter_mut().zip([1, threads]).for_each(|(rates, threads)| rates.push(reading.gb_per_s(threads)));
            }
        }
    }
    let (tokens_per_s, range) = spread(seconds, args.streams);
    drop((decoder, reading));
    let gpu = Limits::measure(device, &config)?;
    let flops = config.forward_flops_per_token();
    let bf16 = gpu.as_ref().map_or_else(|| bf16_gflop_per_s(isa), |gpu| Some(gpu.gemm_bf16_gflop_per_s));
    let bounds = match &gpu {
        Some(gpu) => bounds_on_gpu(&config, gpu, args.streams, weight_bytes, precision),
        None => bounds_on_cpu(rates.map(median), weight_bytes, precision, bf16),
    };
    let by_reading = args.streams as f64 * bounds.read_gb_per_s[1] * 1e9 / bounds.bytes as f64;
    let by_multiplying = bounds.gflop_per_s * 1e9 / flops;
    let (bound, bound_tokens_per_s) =
        if by_reading < by_multiplying { (bounds.reading, by_reading) } else { (bounds.multiplying, by_multiplying) };
    Ok(Report {
        work: "decode",
        preset: Preset::from(args.shared.preset).name(),
        parameters,
        device: device.to_string(),
        isa: device::isa(device, isa),
        precision: precision.name(),
        threads,
        batch: args.streams,
        seq_len: 1,
        steps: args.steps,
        tokens_per_s,
        tokens_per_s_range: range,
        gflop_per_s: flops * tokens_per_s / 1e9,
        gemm_gflop_per_s: bounds.gemm_gflop_per_s,
        bf16_gflop_per_s: bf16,
        weight_bytes,
        read_gb_per_s: bounds.read_gb_per_s,
        bound,
        bound_tokens_per_s,
        share_of_bound: tokens_per_s / bound_tokens_per_s,
        peak_rss_bytes: peak_rss,
        gpu,
    })
}

/// What bounds a step.
struct Bounds {
    /// Bytes that a step moves.
    bytes: usize,
    read_gb_per_s: [f64; 2],
    gemm_gflop_per_s: f64,
    reading: &'static str,
    multiplying: &'static str,
    /// Of the products that `multiplying` names.
    gflop_per_s: f64,
}

/// Where the CPU multiplies bf16 these bound a step with narrow weights; the instruction for 8-bit weights and 16-bit inputs does as many
/// multiplications as that for bf16.
fn bounds_on_cpu(read_gb_per_s: [f64; 2], weight_bytes: usize, of: Precision, bf16_gflop_per_s: Option<f64>) -> Bounds {
    let gemm_gflop_per_s = gemm_gflop_per_s();
    let (multiplying, gflop_per_s) = match bf16_gflop_per_s {
        Some(bf16) if of != Precision::F32 => ("bf16 products", bf16),
        _ => ("f32 products", gemm_gflop_per_s),
    };
    Bounds {
        bytes: weight_bytes,
        read_gb_per_s,
        gemm_gflop_per_s,
        reading: "reading weights",
        multiplying,
        gflop_per_s,
    }
}

/// A GPU's caches hold no state of many streams: each is read and written once a step.
fn bounds_on_gpu(config: &MambaConfig, gpu: &Limits, streams: usize, weight_bytes: usize, of: Precision) -> Bounds {
    let state = 4 * config.n_layer * config.d_inner * (config.d_state + config.d_conv - 1);
    Bounds {
        bytes: weight_bytes + 2 * streams * state,
        read_gb_per_s: [gpu.copy_gb_per_s; 2],
        gemm_gflop_per_s: gpu.gemm_gflop_per_s(of),
        reading: "moving weights and states",
        multiplying: if of == Precision::F32 { "f32 products" } else { "bf16 products" },
        gflop_per_s: gpu.gemm_gflop_per_s(of),
    }
}

/// Bytes of weights that a step reads on a GPU: matrices of products in `precision`, the rest in f32.
fn weight_bytes(params: &Params, precision: Precision) -> usize {
    let c = params.config();
    let block = c.d_model * 3 * c.d_inner + c.d_inner * (c.x_proj_width() + c.dt_rank);
    let matrices = c.n_layer * block + c.vocab_size * c.d_model;
    4 * params.data.len() - if precision == Precision::F32 { 0 } else { 2 * matrices }
}

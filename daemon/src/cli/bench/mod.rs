//! `wiremamba bench`: how fast this machine trains, decodes and generates, beside what its memory and its cores can do.

mod decode;
mod device;
mod generate;
mod quality;
mod roofline;

use std::time::Instant;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use wiremamba_model::codec::Token;
use wiremamba_model::device::Device;
use wiremamba_model::engine::{self, CpuEngine, Isa, Precision};
use wiremamba_model::mamba::{Batch, MambaConfig, Params, Preset};
use wiremamba_model::train::{AdamWOptions, HostLearner, Learner};

use super::model_args::PresetArg;
use super::train::PrecisionArg;
use super::{Context, print_json, print_text};
use device::Limits;
use roofline::{bf16_gflop_per_s, gemm_gflop_per_s};

/// What to measure.
#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Measure training: forward, backward and AdamW
    Train(TrainBench),
    /// Measure decoding: one token for each of many streams at a time
    Decode(decode::DecodeBench),
    /// Measure generation: packets from a model, rendered and written
    Generate(Box<generate::GenerateBench>),
    /// Measure what each precision of decoding costs in bits per packet
    Quality(quality::QualityBench),
}

#[derive(Debug, Args)]
pub(super) struct Shared {
    /// Size of the network
    #[arg(long, value_enum, default_value_t = PresetArg::Small)]
    preset: PresetArg,
    /// Blocks, when not the preset's own
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Tokens in the vocabulary
    #[arg(long, value_name = "N", default_value_t = 512)]
    vocab_size: usize,
    /// Where to compute: auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Instruction set of the CPU's kernels [default: the best of this CPU]
    #[arg(long, value_enum)]
    isa: Option<IsaArg>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TrainBench {
    #[command(flatten)]
    shared: Shared,
    /// Rows of a batch
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Tokens in a row
    #[arg(long, default_value_t = 512)]
    seq_len: usize,
    /// Numbers of matrix products
    #[arg(long, value_enum, default_value_t = PrecisionArg::Auto)]
    precision: PrecisionArg,
    /// Steps that are measured, after some that are not
    #[arg(long, default_value_t = 5)]
    steps: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum IsaArg {
    Avx512,
    Avx2,
    Scalar,
}

/// One measurement.
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
    /// Rows of a batch.
    batch: usize,
    seq_len: usize,
    steps: usize,
    /// Median over the steps.
    tokens_per_s: f64,
    /// Of the slowest and the fastest step.
    tokens_per_s_range: [f64; 2],
    /// Matrix products only: 3 forward passes.
    gflop_per_s: f64,
    /// Products alone, measured in this run: on the CPU a 2048 x 2048 x 2048 f32 product by the `gemm` crate, on a GPU one of the step's
    /// precision by cuBLAS.
    gemm_gflop_per_s: f64,
    /// The same in bf16: by our own product, where the CPU multiplies bf16, or by cuBLAS.
    bf16_gflop_per_s: Option<f64>,
    /// What bounds a step: its products.
    bound: &'static str,
    bound_tokens_per_s: f64,
    share_of_bound: f64,
    peak_rss_bytes: u64,
    /// What the GPU can do, where it is one.
    gpu: Option<Limits>,
}

pub(super) fn run(command: BenchCommand, _context: &Context) -> Result<()> {
    let args = match command {
        BenchCommand::Train(args) => args,
        BenchCommand::Decode(args) => return decode::run(&args),
        BenchCommand::Generate(args) => return generate::run(&args),
        BenchCommand::Quality(args) => return quality::run(&args),
    };
    let (report, json) = (train(&args)?, args.shared.json);
    if json {
        return print_json(&report);
    }
    let r = &report;
    print_text(&format!(
        "{} {}, batch {} x {}, {}, {}, {} threads, {}\n{:>12.0} tokens/s ({:.0} to {:.0})\n{:>12.1} GFLOP/s, {:.0} % of {:.0} ({})\n{:>12.2} GiB peak\n",
        r.work,
        r.preset,
        r.batch,
        r.seq_len,
        r.device,
        r.precision,
        r.threads,
        r.isa,
        r.tokens_per_s,
        r.tokens_per_s_range[0],
        r.tokens_per_s_range[1],
        r.gflop_per_s,
        100.0 * r.share_of_bound,
        r.gflop_per_s / r.share_of_bound,
        r.bound,
        peak_bytes(r.gpu.as_ref(), r.peak_rss_bytes) as f64 / f64::from(1 << 30),
    ))
}

impl Shared {
    fn config(&self) -> MambaConfig {
        let preset = MambaConfig::preset(self.preset.into(), self.vocab_size);
        MambaConfig { n_layer: self.layers.unwrap_or(preset.n_layer), ..preset }
    }

    /// The device asked for.
    fn settle(&self) -> Result<Device> {
        device::settle(self.device, self.isa.is_some())
    }

    /// The instruction set asked for.
    fn isa(&self) -> Result<Isa> {
        let isa = match self.isa {
            None => Isa::detect(),
            Some(IsaArg::Avx512) => Isa::Avx512,
            Some(IsaArg::Avx2) => Isa::Avx2,
            Some(IsaArg::Scalar) => Isa::Scalar,
        };
        anyhow::ensure!(isa.is_supported(), "this CPU does not have {isa:?}");
        Ok(isa)
    }
}

/// Tokens a second of steps of `tokens` tokens: of the median one, and of the slowest and the fastest.
fn spread(mut seconds: Vec<f64>, tokens: usize) -> (f64, [f64; 2]) {
    seconds.sort_by(f64::total_cmp);
    let rate = |s: f64| tokens as f64 / s;
    (rate(seconds[seconds.len() / 2]), [rate(seconds[seconds.len() - 1]), rate(seconds[0])])
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

fn tokens(count: usize, vocab_size: usize) -> Vec<Token> {
    // Any tokens do; these visit the whole vocabulary.
    (0..count).map(|i| Token((i * 7919 % vocab_size) as u32)).collect()
}

fn train(args: &TrainBench) -> Result<Report> {
    anyhow::ensure!(args.batch > 0 && args.seq_len > 0 && args.steps > 0, "--batch, --seq-len and --steps begin at 1");
    let (config, isa) = (args.shared.config(), args.shared.isa()?);
    let device = args.shared.settle()?;
    let precision = args.precision.on(device, isa);
    let (b, l) = (args.batch, args.seq_len);
    let params = Params::init(&config, 1);
    let parameters = params.data.len();
    let mut learner: Box<dyn Learner> = match device {
        Device::Cuda(_) => engine::learner(params, device, precision, b, AdamWOptions::default())?,
        _ => {
            let engine = CpuEngine::with_isa(params, isa)?.training_in(precision);
            Box::new(HostLearner::new(Box::new(engine), b, AdamWOptions::default()))
        }
    };
    let mut starts = vec![false; b * l];
    starts.iter_mut().step_by(l).for_each(|s| *s = true);
    let batch = Batch {
        b,
        l,
        tokens: tokens(b * l, config.vocab_size),
        targets: tokens(b * l + 1, config.vocab_size)[1..].to_vec(),
        starts,
    };
    // A GPU's first step is launched piece by piece, the second recorded.
    let warm_up = if matches!(device, Device::Cuda(_)) { 3 } else { 1 };
    let mut seconds = Vec::new();
    for step in 0..warm_up + args.steps {
        let start = Instant::now();
        learner.zero_gradients();
        learner.accumulate(&batch, 1.0 / (b * l) as f32);
        let norm = learner.gradient_norm();
        learner.update((1.0 / norm).min(1.0) as f32, 1e-4);
        if step >= warm_up {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let steps = seconds.len();
    let (tokens_per_s, tokens_per_s_range) = spread(seconds, b * l);
    let peak_rss_bytes = peak_rss_bytes();
    // The limits are measured once the work is done, so that their memory is not in the peak.
    drop(learner);
    let gpu = Limits::measure(device, &config)?;
    let bf16 = gpu.as_ref().map_or_else(|| bf16_gflop_per_s(isa), |gpu| Some(gpu.gemm_bf16_gflop_per_s));
    let gemm = gpu.as_ref().map_or_else(gemm_gflop_per_s, |gpu| gpu.gemm_gflop_per_s(precision));
    let (bound, limit) = match (&gpu, precision, bf16) {
        (Some(_), Precision::F32, _) => ("f32 products by cuBLAS", gemm),
        (Some(_), ..) => ("bf16 products by cuBLAS", gemm),
        (None, Precision::Bf16, Some(bf16)) => ("bf16 products", bf16),
        (None, ..) => ("f32 products", gemm),
    };
    let flops = 3.0 * config.forward_flops_per_token();
    let bound_tokens_per_s = limit * 1e9 / flops;
    Ok(Report {
        work: "train",
        preset: Preset::from(args.shared.preset).name(),
        parameters,
        device: device.to_string(),
        isa: device::isa(device, isa),
        precision: precision.name(),
        threads: rayon::current_num_threads(),
        batch: b,
        seq_len: l,
        steps,
        tokens_per_s,
        tokens_per_s_range,
        gflop_per_s: flops * tokens_per_s / 1e9,
        gemm_gflop_per_s: gemm,
        bf16_gflop_per_s: bf16,
        bound,
        bound_tokens_per_s,
        share_of_bound: tokens_per_s / bound_tokens_per_s,
        peak_rss_bytes,
        gpu,
    })
}

/// The most memory that the work held where it was done.
fn peak_bytes(gpu: Option<&Limits>, rss: u64) -> u64 {
    gpu.map_or(rss, |gpu| gpu.peak_bytes)
}

/// The most memory that this process has held so far.
fn peak_rss_bytes() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    // getrusage(2): kilobytes on Linux.
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().unsigned_abs() * 1024)
}

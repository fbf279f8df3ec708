//! `wiremamba bench`: how fast this machine trains, decodes and generates, beside what its memory and its cores can do.

mod decode;
mod generate;
mod quality;
mod roofline;

use std::time::Instant;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use wiremamba_model::codec::Token;
use wiremamba_model::engine::{CpuEngine, Isa};
use wiremamba_model::mamba::{Batch, Mamba, MambaConfig, Params, Preset, State};
use wiremamba_model::train::{AdamW, AdamWOptions};

use super::model_args::PresetArg;
use super::{Context, print_json, print_text};
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
    /// Instruction set of the kernels [default: the best of this CPU]
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
    /// Steps that are measured, after one that is not
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
    device: &'static str,
    isa: String,
    threads: usize,
    /// Rows of a batch, or streams.
    batch: usize,
    seq_len: usize,
    steps: usize,
    /// Median over the steps.
    tokens_per_s: f64,
    /// Of the slowest and the fastest step.
    tokens_per_s_range: [f64; 2],
    /// Matrix products only: 3 forward passes for a training step, 1 for decoding.
    gflop_per_s: f64,
    /// A 2048 x 2048 x 2048 f32 product by the `gemm` crate, measured just before.
    gemm_gflop_per_s: f64,
    /// The same in bf16 by our own product, where the CPU multiplies bf16.
    bf16_gflop_per_s: Option<f64>,
    peak_rss_bytes: u64,
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
        "{} {}, batch {} x {}, {} threads, {}\n{:>12.0} tokens/s ({:.0} to {:.0})\n{:>12.1} GFLOP/s, {:.0} % of {:.0} (f32 product)\n{:>12.2} GiB peak\n",
        r.work,
        r.preset,
        r.batch,
        r.seq_len,
        r.threads,
        r.isa,
        r.tokens_per_s,
        r.tokens_per_s_range[0],
        r.tokens_per_s_range[1],
        r.gflop_per_s,
        100.0 * r.gflop_per_s / r.gemm_gflop_per_s,
        r.gemm_gflop_per_s,
        r.peak_rss_bytes as f64 / f64::from(1 << 30),
    ))
}

impl Shared {
    fn config(&self) -> MambaConfig {
        let preset = MambaConfig::preset(self.preset.into(), self.vocab_size);
        MambaConfig { n_layer: self.layers.unwrap_or(preset.n_layer), ..preset }
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

    fn engine(&self) -> Result<CpuEngine> {
        Ok(CpuEngine::with_isa(Params::init(&self.config(), 1), self.isa()?)?)
    }

    /// The product is measured once the work is done, so that its memory is not in the peak.
    fn report(
        &self,
        work: &'static str,
        engine: &CpuEngine,
        passes: f64,
        seconds: &[f64],
        b: usize,
        l: usize,
    ) -> Report {
        let steps = seconds.len();
        let (tokens_per_s, tokens_per_s_range) = spread(seconds.to_vec(), b * l);
        let peak_rss_bytes = peak_rss_bytes();
        Report {
            work,
            preset: Preset::from(self.preset).name(),
            parameters: engine.params().data.len(),
            device: "cpu",
            isa: format!("{:?}", engine.isa()).to_lowercase(),
            threads: rayon::current_num_threads(),
            batch: b,
            seq_len: l,
            steps,
            tokens_per_s,
            tokens_per_s_range,
            gflop_per_s: passes * self.config().forward_flops_per_token() * tokens_per_s / 1e9,
            gemm_gflop_per_s: gemm_gflop_per_s(),
            bf16_gflop_per_s: bf16_gflop_per_s(engine.isa()),
            peak_rss_bytes,
        }
    }
}

/// Tokens a second of steps of `tokens` tokens: of the median one, and of the slowest and the fastest.
fn spread(mut seconds: Vec<f64>, tokens: usize) -> (f64, [f64; 2]) {
    seconds.sort_by(f64::total_cmp);
    let rate = |s: f64| tokens as f64 / s;
    (rate(seconds[seconds.len() / 2]), [rate(seconds[seconds.len() - 1]), rate(seconds[0])])
}

fn tokens(count: usize, vocab_size: usize) -> Vec<Token> {
    // Any tokens do; these visit the whole vocabulary.
    (0..count).map(|i| Token((i * 7919 % vocab_size) as u32)).collect()
}

fn train(args: &TrainBench) -> Result<Report> {
    anyhow::ensure!(args.batch > 0 && args.seq_len > 0 && args.steps > 0, "--batch, --seq-len and --steps begin at 1");
    let config = args.shared.config();
    let mut engine = args.shared.engine()?;
    let (b, l) = (args.batch, args.seq_len);
    let mut starts = vec![false; b * l];
    starts.iter_mut().step_by(l).for_each(|s| *s = true);
    let batch = Batch {
        b,
        l,
        tokens: tokens(b * l, config.vocab_size),
        targets: tokens(b * l + 1, config.vocab_size)[1..].to_vec(),
        starts,
    };
    let mut gradients = Params::zeros(&config);
    let mut optimiser = AdamW::new(&gradients.layout.clone(), AdamWOptions::default());
    let mut state = State::new(&config, b);
    let mut seconds = Vec::new();
    for step in 0..=args.steps {
        let start = Instant::now();
        gradients.data.fill(0.0);
        engine.gradients(&batch, &mut state, 1.0 / (b * l) as f32, &mut gradients);
        // The new parameters come back in place of the gradients.
        optimiser.update(&engine.params().data, &mut gradients.data, 1.0, 1e-4);
        engine.set_params(&gradients.data);
        if step > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(args.shared.report("train", &engine, 3.0, &seconds, b, l))
}

/// The most memory that this process has held so far.
fn peak_rss_bytes() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    // getrusage(2): kilobytes on Linux.
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().unsigned_abs() * 1024)
}

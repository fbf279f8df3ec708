//! `wiremamba train`: captures in, a checkpoint out.

mod curve;
mod prepare;
mod report;
mod steps;
mod together;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use wiremamba_model::checkpoint::{CheckpointError, Lineage, Store, versions};
use wiremamba_model::codec::bytes::Keep;
use wiremamba_model::codec::wire::STRINGS_DEFAULT;
use wiremamba_model::device::Device;
use wiremamba_model::engine::{self, Isa, Precision};
use wiremamba_model::mamba::{MambaConfig, Params, Preset};
use wiremamba_model::train::{Dataset, TrainOptions, TrainState, Trainer};

use super::model_args::{CodecArg, PresetArg};
use super::{Context, Misuse, print_json, progress};
use crate::job;
use crate::job::corpus::{Corpus, CorpusArgs, Sample};
use crate::job::model::Model;
use crate::job::plan::PlanArgs;
use crate::job::ranges;
use curve::Curve;
use prepare::{adapt_codec, baselines, fit_codec, log_counters, plan, train_options};
use report::{BestVersion, Summary, measured, print_summary};
use steps::{Best, Run};
use together::Party;

/// `wiremamba train`
#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    corpus: CorpusArgs,
    /// Folder for checkpoints and curve.jsonl; made if absent. Without --resume the curve starts anew
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Checkpoint to begin with, in place of chance: its network, its codec, and its labels beside those of the captures. base is the model that comes with the program
    #[arg(long, value_name = "DIR", value_parser = job::model::folder,
        conflicts_with_all = ["resume", "codec", "strings_max", "keep_names", "vocab", "bpe_vocab_max", "keep", "preset"])]
    base: Option<PathBuf>,
    /// How packets become tokens
    #[arg(long, value_enum, default_value_t = CodecArg::Wire)]
    codec: CodecArg,
    /// wire: most strings of the dictionary that is learned from literal payload
    #[arg(long, value_name = "N", default_value_t = STRINGS_DEFAULT)]
    strings_max: usize,
    /// wire: learn server names, hosts and addresses in text as they are captured, instead of replacing them
    #[arg(long)]
    keep_names: bool,
    #[command(flatten)]
    plan: PlanArgs,
    /// bytes: one token a byte, or a byte-level BPE trained on the captures
    #[arg(long, value_enum, default_value_t = VocabArg::Byte)]
    vocab: VocabArg,
    /// bytes: most tokens of a BPE vocabulary
    #[arg(long, value_name = "N", default_value_t = 2048)]
    bpe_vocab_max: usize,
    /// bytes: which bytes of a packet are kept: whole, headers, or the first N
    #[arg(long, value_name = "whole|headers|N", default_value = "whole", value_parser = parse_keep)]
    keep: Keep,
    /// Size of the network
    #[arg(long, value_enum, default_value_t = PresetArg::Small)]
    preset: PresetArg,
    /// Where to compute: auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Learn together with the other processes that a launcher (mpirun, srun, torchrun) has started: each takes its share of the rows of --batch
    #[arg(long, value_enum, conflicts_with = "minutes")]
    parallel: Option<ParallelArg>,
    /// Stop after this many steps
    #[arg(long, value_name = "N", group = "length", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Stop after seeing every sample this often [default: 1, when neither --steps nor --minutes is given]
    #[arg(long, value_name = "N", group = "length", allow_negative_numbers = true, value_parser = ranges::above_zero)]
    epochs: Option<f64>,
    /// Train for this long: measures a few steps first and plans as many as fit
    #[arg(long, value_name = "M", group = "length", allow_negative_numbers = true, value_parser = ranges::above_zero)]
    minutes: Option<f64>,
    /// Tokens in a row of a batch; the state is carried from row to row, so longer samples are learned whole
    #[arg(long, value_name = "N", default_value_t = 512)]
    seq_len: usize,
    /// Rows in a batch
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Batches whose gradients are added up before a step
    #[arg(long, value_name = "N", default_value_t = 1)]
    accumulate: usize,
    /// Largest learning rate, after warm-up [default: 0.002, with --base 0.001]
    #[arg(long, value_name = "LR")]
    learning_rate: Option<f64>,
    /// Steps of linear warm-up [default: a twentieth of all, at most 500]
    #[arg(long, value_name = "N")]
    warmup_steps: Option<u64>,
    /// Forget the state at the end of each row instead of carrying it to the next
    #[arg(long)]
    no_carry: bool,
    /// Cut samples after this many tokens [default: never; the paper: 50000]
    #[arg(long, value_name = "N")]
    sample_tokens_max: Option<usize>,
    /// Share of the flows that is held out and only measured
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    held_out: f64,
    /// Operands of matrix products while learning; auto is bf16 where the device multiplies such numbers (a GPU, AVX-512 with bf16), else f32. Saved for --resume
    #[arg(long, value_enum, default_value_t = PrecisionArg::Auto)]
    precision: PrecisionArg,
    /// Seed of everything that chance decides
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Measure held-out flows every N steps, beside the end; the version that predicts them best is kept, and is in use at the end [default: only at
    /// the end]
    #[arg(long, value_name = "N")]
    eval_every: Option<u64>,
    /// Write a checkpoint every N minutes, beside the end
    #[arg(long, value_name = "M", default_value_t = 5.0, allow_negative_numbers = true, value_parser = ranges::from_zero)]
    checkpoint_minutes: f64,
    /// Checkpoints kept in --out; older ones are removed
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = ranges::at_least_one)]
    keep_checkpoints: usize,
    /// Carry on from the last checkpoint in --out, exactly where it stopped
    #[arg(long)]
    resume: bool,
    /// Leave out the byte-frequency and Markov baselines
    #[arg(long)]
    no_baselines: bool,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

/// `--precision`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum PrecisionArg {
    /// bf16 where the device multiplies such numbers, else f32
    Auto,
    /// 32 bits
    F32,
    /// 16 bits; sums, weights and moments stay f32
    Bf16,
}

impl PrecisionArg {
    /// What it is on `device`, where on the CPU `isa` computes.
    pub(in crate::cli) fn on(self, device: Device, isa: Isa) -> Precision {
        match self {
            PrecisionArg::Auto => engine::training_precision(device, isa),
            PrecisionArg::F32 => Precision::F32,
            PrecisionArg::Bf16 => Precision::Bf16,
        }
    }
}

/// `--parallel`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ParallelArg {
    /// Open MPI or MPICH, loaded when asked for: sums in memory
    Mpi,
    /// NVIDIA's NCCL, loaded when asked for: a GPU each, sums between them; processes as torchrun, Slurm or MPI start them
    Nccl,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VocabArg {
    Byte,
    Bpe,
}

fn parse_keep(s: &str) -> Result<Keep, String> {
    match s {
        "whole" => Ok(Keep::Whole),
        "headers" => Ok(Keep::Headers),
        _ => match s.parse() {
            Ok(n) if n > 0 => Ok(Keep::First(n)),
            _ => Err("give whole, headers or a number of bytes from 1".to_owned()),
        },
    }
}

pub(super) fn run(args: TrainArgs, context: &Context) -> Result<()> {
    if matches!(args.codec, CodecArg::Wire)
        && !args.resume
        && (args.keep != Keep::Whole || args.vocab != VocabArg::Byte)
    {
        return Err(
            Misuse("--keep and --vocab are settings of --codec bytes; add that, or leave them away".into()).into()
        );
    }
    if args.codec == CodecArg::Bytes && args.keep_names {
        return Err(Misuse("--codec bytes keeps all names as they are; leave --keep-names away".into()).into());
    }
    if args.codec == CodecArg::Bytes && args.corpus.sample == Sample::Session {
        return Err(Misuse("--codec bytes cannot tell flows apart; leave --sample session away".into()).into());
    }
    let party = Party::meet(args.parallel)?;
    let (rank, processes) = party.place();
    // The first of several processes speaks and saves for all.
    let is_leader = rank == 0;
    let context = &Context { quiet: context.quiet || !is_leader, ..context.clone() };
    let (device, named) = prepare::device(args.device, processes)?;
    tracing::info!(device = named, rank, processes, "computing on");
    let world = party.join(device)?;
    // Opened first: a folder that cannot be written to, or that another run holds, should not cost an epoch to find out.
    let mut store = is_leader.then(|| Store::open(&args.out, args.keep_checkpoints)).transpose()?;
    let resumed = if args.resume { Some(Resumed::load(&args.out)?) } else { None };
    if let (Some(resumed), Some(asked)) = (&resumed, args.steps)
        && let planned = resumed.state.options.steps
        && asked != planned
    {
        let out = args.out.display();
        return Err(Misuse(format!(
            "the run in {out} was planned for {planned} steps, and its learning rate with them: leave --steps away, or begin \
             a new run with --base {out}"
        ))
        .into());
    }
    let mut base = args.base.as_deref().map(|base| job::model::open(base).context("cannot load --base")).transpose()?;
    let bar = progress::bar(context.quiet, None, "reading");
    let corpus = Corpus::read(&args.corpus, |p| bar.set_position(p.packets))?;
    bar.finish_and_clear();
    let (codec, samples) = match (&resumed, &mut base) {
        (Some(resumed), _) => {
            let codec = Arc::clone(&resumed.model.codec);
            let samples = corpus.into_sessions(codec.labels())?;
            (codec, samples)
        }
        (None, Some(base)) => adapt_codec(base, corpus, &args.plan)?,
        (None, None) => {
            let codec = fit_codec(&args, &corpus, context)?;
            let samples = corpus.into_sessions(codec.labels())?;
            (codec, samples)
        }
    };
    let mut options = match &resumed {
        Some(resumed) => resumed.state.options.clone(),
        None => train_options(&args, device),
    };
    let data = Dataset::encode(codec.as_ref(), &samples, options.dataset);
    drop(samples);
    log_counters(&data);
    let (train, held_out) = data.split(options.held_out_share, options.seed);
    ensure!(train.token_count() > 1, "no packets to learn from: the captures hold no IP flows");
    let baselines = if args.no_baselines { Vec::new() } else { baselines(&train, &held_out, codec.as_ref()) };

    let resumed_path = resumed.as_ref().map(|resumed| resumed.model.checkpoint.path.clone());
    let begun_with = resumed.as_ref().map(|resumed| &resumed.model).or(base.as_ref());
    let params = match begun_with {
        Some(model) => model.checkpoint.params.clone(),
        None => Params::init(&MambaConfig::preset(args.preset.into(), codec.vocab_size()), args.seed),
    };
    tracing::info!(precision = options.precision.name(), "learning with");
    if resumed.is_none() {
        plan(&args, &train, params.config(), device, &mut options)?;
        options.validate().map_err(|e| Misuse(e.to_string()))?;
    }
    let lineage = lineage(&train, &options, begun_with, resumed.as_ref());
    let preset = match begun_with {
        Some(model) => model.checkpoint.about.as_ref().and_then(|a| a.preset.clone()),
        None => Some(Preset::from(args.preset).name().to_owned()),
    };
    let (train_flows, train_tokens) = (train.samples().len(), train.token_count());
    let learner = engine::learner(params, device, options.precision, options.batch / processes, options.adamw)?;
    let mut trainer = match world {
        None => Trainer::with_learner(learner, Arc::new(train), options)?,
        Some(world) => Trainer::in_parallel(learner, Arc::new(train), options, world)?,
    };
    if let Some(resumed) = resumed {
        trainer.restore(resumed.state).context("cannot carry on where the checkpoint stopped")?;
        tracing::info!(step = trainer.steps(), "resumed");
    }

    let before = trainer.steps();
    let best = args.resume.then(|| Best::of(&args.out)).flatten();
    if let (Some(best), Some(store)) = (&best, &mut store) {
        store.protect(best.path.clone());
    }
    let mut run = Run {
        curve: is_leader.then(|| Curve::open(&args.out, args.resume.then(|| trainer.steps()))).transpose()?,
        args: &args,
        context,
        best,
        store,
        codec,
        preset,
        lineage,
        held_out: &held_out,
        trainer,
        training: Duration::ZERO,
        tokens: 0,
    };
    let interrupted = run.steps()?;
    // After a signal somebody is waiting: save at once, measure another time.
    let eval = (!interrupted && is_leader && !held_out.samples().is_empty()).then(|| run.evaluate());
    ensure!(
        eval.as_ref().is_none_or(|eval| eval.total.bits_per_packet().is_finite()),
        "the held-out flows have no finite loss: learning went astray, and nothing was saved; lower --learning-rate"
    );
    let checkpoint = match resumed_path.filter(|_| run.trainer.steps() == before) {
        // There was nothing left to do.
        Some(path) if is_leader => path,
        _ => match run.save(eval.as_ref())? {
            Some(path) => path,
            None => return Ok(()),
        },
    };
    // Learning by heart begins where the held-out flows become dearer: what was best is what is used.
    let better =
        run.best.take().zip(eval.as_ref()).filter(|(best, eval)| best.is_better_than(eval) && best.path != checkpoint);
    let better = better.map(|(best, _)| best);
    if let (Some(best), Some(store)) = (&better, &run.store) {
        store.switch_current(&best.path)?;
    }
    let summary = Summary {
        steps: run.trainer.steps(),
        epochs: run.trainer.epochs(),
        interrupted,
        train_flows,
        held_out_flows: held_out.samples().len(),
        train_tokens,
        seconds: run.training.as_secs_f64(),
        tokens_per_s: run.tokens as f64 / run.training.as_secs_f64().max(1e-9),
        held_out: eval.as_ref().map(measured),
        best: better.map(|best| BestVersion { step: best.step, held_out: best.held_out, checkpoint: best.path }),
        baselines,
        checkpoint,
    };
    if args.json { print_json(&summary) } else { print_summary(&summary) }
}

/// What a resumed run begins with.
struct Resumed {
    model: Model,
    state: TrainState<'static>,
}

impl Resumed {
    fn load(out: &Path) -> Result<Self> {
        // The last one, which is not in use where an earlier one was better.
        let newest = versions(out).pop().map_or(out.to_owned(), |version| version.path);
        let model = job::model::open(&newest).context("cannot resume")?;
        let state = match model.checkpoint.load_training() {
            Ok(state) => state,
            Err(CheckpointError::MissingFile { .. }) => {
                let what = format!("{} holds no training state to resume from; train without --resume", out.display());
                return Err(Misuse(what).into());
            }
            Err(error) => return Err(error).context("cannot resume"),
        };
        Ok(Self { model, state })
    }
}

/// What this run adds to the history of its checkpoints.
fn lineage(
    train: &Dataset,
    options: &TrainOptions,
    begun_with: Option<&Model>,
    resumed: Option<&Resumed>,
) -> Vec<Lineage> {
    let about = begun_with.and_then(|model| model.checkpoint.about.as_ref());
    let mut lineage = about.map(|a| a.lineage.clone()).unwrap_or_default();
    let weights = about.and_then(|a| a.files.iter().find(|f| f.name == "model.safetensors"));
    let job = match (resumed, begun_with) {
        (Some(_), _) => "resume",
        (None, Some(_)) => "fine-tune",
        (None, None) => "train",
    };
    lineage.push(Lineage {
        job: job.to_owned(),
        base_sha256: weights.map(|f| f.sha256.clone()),
        seed: options.seed,
        data_fingerprint: train.fingerprint(),
        from_step: resumed.map_or(0, |r| r.state.step),
    });
    lineage
}

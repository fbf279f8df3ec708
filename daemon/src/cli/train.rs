//! `wiremamba train`: captures in, a checkpoint out.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use wiremamba_model::checkpoint::{CheckpointError, Contents, Lineage, Store};
use wiremamba_model::codec::bytes::{BytesCodec, Keep, Vocab};
use wiremamba_model::codec::{Codec, Token};
use wiremamba_model::device::Device;
use wiremamba_model::engine::CpuEngine;
use wiremamba_model::mamba::{Batch, Mamba, MambaConfig, Params, Preset, State};
use wiremamba_model::train::baseline::{Baseline as PlainModel, Markov, PerPosition};
use wiremamba_model::train::{Dataset, Eval, StepReport, TrainOptions, TrainState, Trainer};

use super::model_args::PresetArg;
use super::{Context, Misuse, print_json, progress};
use crate::job;
use crate::job::corpus::{Corpus, CorpusArgs};
use crate::job::model::Model;

/// `wiremamba train`
#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    corpus: CorpusArgs,
    /// Folder for checkpoints; made if absent
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How packets become tokens
    #[arg(long, value_enum, default_value_t = CodecArg::Bytes)]
    codec: CodecArg,
    /// Vocabulary: one token a byte, or a byte-level BPE trained on the captures
    #[arg(long, value_enum, default_value_t = VocabArg::Byte)]
    vocab: VocabArg,
    /// Most tokens of a BPE vocabulary
    #[arg(long, value_name = "N", default_value_t = 2048)]
    bpe_vocab_max: usize,
    /// Which bytes of a packet are kept: whole, headers, or the first N
    #[arg(long, value_name = "whole|headers|N", default_value = "whole", value_parser = parse_keep)]
    keep: Keep,
    /// Size of the network
    #[arg(long, value_enum, default_value_t = PresetArg::Small)]
    preset: PresetArg,
    /// Where to compute: auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Stop after this many steps
    #[arg(long, value_name = "N", group = "length")]
    steps: Option<u64>,
    /// Stop after seeing every sample this often [default: 1, when neither --steps nor --minutes is given]
    #[arg(long, value_name = "N", group = "length")]
    epochs: Option<f64>,
    /// Train for this long: measures a few steps first and plans as many as fit
    #[arg(long, value_name = "M", group = "length")]
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
    /// Largest learning rate, after warm-up
    #[arg(long, value_name = "LR", default_value_t = 2e-3)]
    learning_rate: f64,
    /// Steps of linear warm-up [default: a twentieth of all, at most 500]
    #[arg(long, value_name = "N")]
    warmup_steps: Option<u64>,
    /// Forget the state at the end of each row instead of carrying it to the next
    #[arg(long)]
    no_carry: bool,
    /// Cut samples after this many tokens (the paper: 50000) [default: never]
    #[arg(long, value_name = "N")]
    sample_tokens_max: Option<usize>,
    /// Share of the flows that is held out and only measured
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    held_out: f64,
    /// Seed of everything that chance decides
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Measure held-out flows every N steps, beside the end [default: only at the end]
    #[arg(long, value_name = "N")]
    eval_every: Option<u64>,
    /// Write a checkpoint every N minutes, beside the end
    #[arg(long, value_name = "M", default_value_t = 5.0)]
    checkpoint_minutes: f64,
    /// Checkpoints kept in --out; older ones are removed
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_least_one)]
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

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CodecArg {
    /// The NAIC '24 paper's: every byte of every packet, in decimal
    Bytes,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum VocabArg {
    Byte,
    Bpe,
}

fn at_least_one(s: &str) -> Result<usize, String> {
    s.parse().ok().filter(|n| *n > 0).ok_or_else(|| "give a whole number from 1".to_owned())
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

/// The closing line of a run.
#[derive(Debug, Serialize)]
struct Summary {
    steps: u64,
    epochs: f64,
    interrupted: bool,
    train_flows: usize,
    held_out_flows: usize,
    train_tokens: u64,
    seconds: f64,
    tokens_per_s: f64,
    /// `None` after a signal.
    held_out: Option<Measured>,
    baselines: Vec<Baseline>,
    checkpoint: PathBuf,
}

/// Held-out cost.
#[derive(Debug, Serialize)]
struct Measured {
    bits_per_token: f64,
    bits_per_byte: f64,
    bits_per_packet: f64,
}

#[derive(Debug, Serialize)]
struct Baseline {
    name: &'static str,
    bits_per_byte: f64,
}

pub(super) fn run(args: TrainArgs, context: &Context) -> Result<()> {
    let (_, device) = args.device.resolve()?;
    tracing::info!(device, "computing on");
    // Opened first: a folder that cannot be written to, or that another run holds, should not cost an epoch to find out.
    let store = Store::open(&args.out, args.keep_checkpoints)?;
    let resumed = if args.resume { Some(Resumed::load(&args.out)?) } else { None };
    let bar = progress::bar(context.quiet, None, "reading");
    let corpus = Corpus::read(&args.corpus, |p| bar.set_position(p.packets))?;
    bar.finish_and_clear();
    let codec = match &resumed {
        Some(resumed) => Arc::clone(&resumed.model.codec),
        None => fit_codec(&args, &corpus, context)?,
    };
    let samples = corpus.into_sessions(codec.labels())?;
    let mut options = match &resumed {
        Some(resumed) => resumed.state.options.clone(),
        None => train_options(&args),
    };
    let data = Dataset::encode(codec.as_ref(), &samples, options.dataset);
    drop(samples);
    log_counters(&data);
    let (train, held_out) = data.split(options.held_out_share, options.seed);
    ensure!(train.token_count() > 1, "no packets to learn from: the captures hold no IP flows");
    let baselines = if args.no_baselines { Vec::new() } else { baselines(&train, &held_out, codec.as_ref()) };

    let params = match &resumed {
        Some(resumed) => resumed.model.checkpoint.params.clone(),
        None => Params::init(&MambaConfig::preset(args.preset.into(), codec.vocab_size()), args.seed),
    };
    let model = CpuEngine::new(params)?;
    if resumed.is_none() {
        plan(&args, &train, model.params().config(), &mut options)?;
        options.validate().map_err(|e| Misuse(e.to_string()))?;
    }
    let lineage = lineage(&train, &options, resumed.as_ref());
    let preset = match &resumed {
        Some(resumed) => resumed.model.checkpoint.about.as_ref().and_then(|a| a.preset.clone()),
        None => Some(Preset::from(args.preset).name().to_owned()),
    };
    let (train_flows, train_tokens) = (train.samples().len(), train.token_count());
    let mut trainer = Trainer::new(Box::new(model), Arc::new(train), options)?;
    if let Some(resumed) = resumed {
        trainer.restore(resumed.state).context("cannot carry on where the checkpoint stopped")?;
        tracing::info!(step = trainer.steps(), "resumed");
    }

    let mut run = Run {
        curve: open_curve(&args)?,
        args: &args,
        context,
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
    let eval = (!interrupted).then(|| run.evaluate());
    let checkpoint = run.save(eval.as_ref())?;
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
        let model = job::model::open(out).context("cannot resume")?;
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
fn lineage(train: &Dataset, options: &TrainOptions, resumed: Option<&Resumed>) -> Vec<Lineage> {
    let about = resumed.and_then(|r| r.model.checkpoint.about.as_ref());
    let mut lineage = about.map(|a| a.lineage.clone()).unwrap_or_default();
    let weights = about.and_then(|a| a.files.iter().find(|f| f.name == "model.safetensors"));
    lineage.push(Lineage {
        job: if resumed.is_some() { "resume" } else { "train" }.to_owned(),
        base_sha256: weights.map(|f| f.sha256.clone()),
        seed: options.seed,
        data_fingerprint: train.fingerprint(),
        from_step: resumed.map_or(0, |r| r.state.step),
    });
    lineage
}

fn open_curve(args: &TrainArgs) -> Result<std::fs::File> {
    let path = args.out.join("curve.jsonl");
    let mut open = std::fs::OpenOptions::new();
    let open = if args.resume { open.append(true) } else { open.write(true).truncate(true) };
    open.create(true).open(&path).with_context(|| format!("cannot open {}", path.display()))
}

/// A run under way: the trainer with its clock, progress bar, curve and checkpoints.
struct Run<'a> {
    args: &'a TrainArgs,
    context: &'a Context,
    store: Store,
    codec: Arc<dyn Codec>,
    preset: Option<String>,
    lineage: Vec<Lineage>,
    held_out: &'a Dataset,
    trainer: Trainer,
    curve: std::fs::File,
    /// Time spent in steps.
    training: Duration,
    tokens: u64,
}

impl Run<'_> {
    /// Steps until the plan is done, the time is up or a signal comes; returns whether it was a signal.
    fn steps(&mut self) -> Result<bool> {
        let total = self.trainer.options().steps;
        let bar = progress::bar(self.context.quiet, Some(total), "training");
        bar.set_position(self.trainer.steps());
        bar.reset_eta();
        let started = Instant::now();
        let mut saved = Instant::now();
        let mut smoothed = None;
        while self.trainer.steps() < total {
            if self.context.stop.load(Ordering::Relaxed) {
                bar.abandon_with_message("stopped by a signal");
                return Ok(true);
            }
            if self.args.minutes.is_some_and(|m| started.elapsed().as_secs_f64() > 60.0 * m) {
                break;
            }
            let begun = Instant::now();
            let report = self.trainer.step()?;
            let took = begun.elapsed();
            self.training += took;
            self.tokens += report.tokens;
            let loss = smoothed.map_or(report.nats_per_token, |s: f64| 0.95 * s + 0.05 * report.nats_per_token);
            smoothed = Some(loss);
            bar.set_position(report.step);
            bar.set_message(describe(&report, loss, report.tokens as f64 / took.as_secs_f64()));
            self.record(&report)?;
            if self.args.eval_every.is_some_and(|n| report.step.is_multiple_of(n)) && report.step < total {
                let eval = self.evaluate();
                bar.println(format!("step {}: held out {}", report.step, describe_eval(&eval)));
            }
            if saved.elapsed().as_secs_f64() > 60.0 * self.args.checkpoint_minutes {
                let path = self.save(None)?;
                tracing::debug!(path = %path.display(), "checkpoint written");
                saved = Instant::now();
            }
        }
        bar.finish();
        Ok(false)
    }

    fn record(&mut self, report: &StepReport) -> Result<()> {
        serde_json::to_writer(&mut self.curve, report).context("cannot write curve.jsonl")?;
        self.curve.write_all(b"\n").context("cannot write curve.jsonl")
    }

    /// Measures the held-out flows and notes it in the curve.
    fn evaluate(&mut self) -> Eval {
        let eval = self.trainer.evaluate(self.held_out);
        #[derive(Serialize)]
        struct Line {
            step: u64,
            seconds: f64,
            held_out: Measured,
        }
        let line = Line { step: self.trainer.steps(), seconds: self.training.as_secs_f64(), held_out: measured(&eval) };
        if let Err(error) = serde_json::to_writer(&mut self.curve, &line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.curve.write_all(b"\n"))
        {
            tracing::warn!(%error, "cannot write curve.jsonl");
        }
        eval
    }

    fn save(&self, eval: Option<&Eval>) -> Result<PathBuf> {
        let mut metrics = BTreeMap::new();
        if let Some(m) = eval.map(measured) {
            metrics.insert("held_out_bits_per_token".to_owned(), m.bits_per_token);
            metrics.insert("held_out_bits_per_byte".to_owned(), m.bits_per_byte);
            metrics.insert("held_out_bits_per_packet".to_owned(), m.bits_per_packet);
        }
        let contents = Contents {
            step: self.trainer.steps(),
            params: self.trainer.params(),
            codec: self.codec.as_ref(),
            preset: self.preset.as_deref(),
            metrics,
            lineage: self.lineage.clone(),
            training: Some(self.trainer.state()),
        };
        Ok(self.store.save(&contents)?)
    }
}

fn describe(report: &StepReport, loss: f64, tokens_per_s: f64) -> String {
    format!(
        "loss {loss:.3}, {:.0} bits/packet, {tokens_per_s:.0} tokens/s, epoch {:.2}",
        report.bits_per_packet, report.epoch
    )
}

fn describe_eval(eval: &Eval) -> String {
    format!(
        "{:.3} bits/byte, {:.0} bits/packet over {} flows",
        eval.total.bits_per_byte(),
        eval.total.bits_per_packet(),
        eval.total.samples
    )
}

fn measured(eval: &Eval) -> Measured {
    let t = &eval.total;
    Measured {
        bits_per_token: t.bits_per_token(),
        bits_per_byte: t.bits_per_byte(),
        bits_per_packet: t.bits_per_packet(),
    }
}

/// Builds the codec for the captures.
fn fit_codec(args: &TrainArgs, corpus: &Corpus, context: &Context) -> Result<Arc<dyn Codec>> {
    let bar = progress::bar(context.quiet, None, "codec");
    let vocab = match args.vocab {
        VocabArg::Byte => Vocab::Byte,
        VocabArg::Bpe => Vocab::Bpe,
    };
    let CodecArg::Bytes = args.codec;
    let codec = BytesCodec::fit(vocab, args.bpe_vocab_max, args.keep, corpus.labels().to_vec(), corpus.sessions())?;
    bar.finish_and_clear();
    Ok(Arc::new(codec))
}

fn train_options(args: &TrainArgs) -> TrainOptions {
    let mut options = TrainOptions {
        batch: args.batch,
        seq_len: args.seq_len,
        accumulate: args.accumulate,
        seed: args.seed,
        carry: !args.no_carry,
        learning_rate: args.learning_rate,
        held_out_share: args.held_out,
        ..TrainOptions::default()
    };
    // Long samples are learned whole, window by window, as long as the state is carried.
    options.dataset.sample_tokens_max = args.sample_tokens_max.unwrap_or(usize::MAX);
    options
}

/// Settles how many steps there will be, which the learning-rate schedule needs to know from the start.
fn plan(args: &TrainArgs, train: &Dataset, config: &MambaConfig, options: &mut TrainOptions) -> Result<()> {
    let tokens_per_step = (args.batch * args.seq_len * args.accumulate) as f64;
    options.steps = match (args.steps, args.minutes) {
        (Some(steps), _) => steps,
        (None, Some(minutes)) => (60.0 * minutes / seconds_per_step(args, config)?) as u64,
        (None, None) => (args.epochs.unwrap_or(1.0) * train.token_count() as f64 / tokens_per_step).ceil() as u64,
    }
    .max(1);
    options.warmup_steps = args.warmup_steps.unwrap_or((options.steps / 20).min(500));
    Ok(())
}

/// How long a step takes here, measured on throw-away parameters of the same shape.
fn seconds_per_step(args: &TrainArgs, config: &MambaConfig) -> Result<f64> {
    let (b, l) = (args.batch, args.seq_len);
    let mut engine = CpuEngine::new(Params::init(config, 0))?;
    let mut gradients = Params::zeros(config);
    let tokens = vec![Token(0); b * l];
    let batch = Batch { b, l, targets: tokens.clone(), tokens, starts: vec![false; b * l] };
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let begun = Instant::now();
        engine.gradients(&batch, &mut State::new(config, b), 0.0, &mut gradients);
        best = best.min(begun.elapsed().as_secs_f64());
    }
    // Optimiser and sampler cost a few hundredths more.
    Ok(1.05 * best * args.accumulate as f64)
}

/// What the held-out flows cost two plain models.
fn baselines(train: &Dataset, held_out: &Dataset, codec: &dyn Codec) -> Vec<Baseline> {
    let (size, bytes) = (codec.vocab_size(), held_out.byte_count());
    let Some(packet_end) = (0..size as u32).map(Token).find(|t| codec.ends_packet(*t)).filter(|_| bytes > 0) else {
        return Vec::new();
    };
    let samples = || train.samples().iter().map(|s| train.tokens(s));
    let cost = |model: &dyn PlainModel| {
        let nats: f64 = held_out.samples().iter().map(|s| model.nats(held_out.tokens(s))).sum();
        nats / std::f64::consts::LN_2 / bytes as f64
    };
    vec![
        Baseline {
            name: "byte frequency by position",
            bits_per_byte: cost(&PerPosition::fit(samples(), size, packet_end)),
        },
        Baseline { name: "Markov of order 2", bits_per_byte: cost(&Markov::fit(samples(), size, 2)) },
    ]
}

fn log_counters(data: &Dataset) {
    let c = data.counters();
    tracing::info!(
        flows = data.samples().len(),
        packets = data.packet_count(),
        tokens = data.token_count(),
        truncated = c.truncated_samples,
        refused = c.refused_samples,
        empty = c.empty_samples,
        "encoded"
    );
}

fn print_summary(s: &Summary) -> Result<()> {
    let mut text = format!(
        "{} after {} steps ({:.2} epochs of {} flows, {} tokens), {:.0} s at {:.0} tokens/s\n",
        if s.interrupted { "stopped" } else { "trained" },
        s.steps,
        s.epochs,
        s.train_flows,
        s.train_tokens,
        s.seconds,
        s.tokens_per_s
    );
    text += &format!("held out ({} flows)            bits/byte   bits/packet\n", s.held_out_flows);
    match &s.held_out {
        Some(m) => {
            text += &format!("  the model                 {:>11.3} {:>13.0}\n", m.bits_per_byte, m.bits_per_packet)
        }
        None => text += "  the model                  not measured\n",
    }
    for b in &s.baselines {
        text += &format!("  {:<26}{:>11.3}\n", b.name, b.bits_per_byte);
    }
    text += &format!("checkpoint: {}\n", s.checkpoint.display());
    super::print_text(&text)
}

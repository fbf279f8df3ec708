//! What is settled before the first step: codec, options, how many steps, what plain models would cost.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use wiremamba_model::codec::bytes::{BytesCodec, Vocab};
use wiremamba_model::codec::wire::WireCodec;
use wiremamba_model::codec::{Codec, CodecSpec, LabelId, Token};
use wiremamba_model::device::Device;
use wiremamba_model::engine::{self, Isa};
use wiremamba_model::flow::Session;
use wiremamba_model::mamba::{Batch, MambaConfig, Params};
use wiremamba_model::train::baseline::{Baseline as PlainModel, Markov, PerPosition};
use wiremamba_model::train::{Dataset, TrainOptions};
use wiremamba_model::wire::plan::Plan;

use super::super::model_args::CodecArg;
use super::super::{Context, progress};
use super::report::Baseline;
use super::{TrainArgs, VocabArg};
use crate::job::corpus::Corpus;
use crate::job::model::{Model, with_habits};
use crate::job::plan::PlanArgs;

/// Largest learning rates, from chance and from a base.
const LEARNING_RATE: f64 = 2e-3;
const TUNING_RATE: f64 = 1e-3;

/// Builds the codec for the captures.
pub(super) fn fit_codec(args: &TrainArgs, corpus: &Corpus, context: &Context) -> Result<Arc<dyn Codec>> {
    let bar = progress::bar(context.quiet, None, "codec");
    let (labels, sessions) = (corpus.labels().to_vec(), corpus.sessions());
    let codec: Arc<dyn Codec> = match (args.codec, args.vocab) {
        (CodecArg::Wire, _) => {
            let plan = args.plan.apply(Plan::default());
            let mut codec = WireCodec::fit(labels, args.strings_max, args.keep_names, plan, sessions)?;
            codec.learn_starts(&corpus.starts(corpus.labels())?);
            Arc::new(codec)
        }
        (CodecArg::Bytes, vocab) => {
            let (vocab, size) = match vocab {
                VocabArg::Byte => (Vocab::Byte, 0),
                VocabArg::Bpe => (Vocab::Bpe, args.bpe_vocab_max),
            };
            let mut codec = BytesCodec::fit(vocab, size, args.keep, labels, sessions)?;
            codec.learn_starts(&corpus.starts(corpus.labels())?);
            Arc::new(codec)
        }
    };
    bar.finish_and_clear();
    Ok(codec)
}

/// Sessions with their labels.
type Samples = Vec<(LabelId, Session)>;

/// Gives `base` the labels of the captures and the addresses asked for, and learns what their flows do: at which ports they depart from
/// what is usual there, where they go, how they end, how long they are and how they follow one another. Returns its codec and the
/// samples, whose labels are its.
pub(super) fn adapt_codec(base: &mut Model, corpus: Corpus, addresses: &PlanArgs) -> Result<(Arc<dyn Codec>, Samples)> {
    base.foretell()?;
    let new = base.add_labels(corpus.labels())?;
    if !new.is_empty() {
        tracing::info!(labels = new.join(", "), "new to the base, these begin as the mean of its own");
    }
    let starts = corpus.starts(base.codec.labels())?;
    let samples = corpus.into_sessions(base.codec.labels())?;
    if let CodecSpec::Wire(mut spec) = base.codec.spec() {
        spec.plan = addresses.apply(spec.plan);
        base.codec = Arc::new(WireCodec::with_labels(spec, &[])?);
    }
    base.codec = with_habits(&base.codec, &samples, &starts)?;
    Ok((Arc::clone(&base.codec), samples))
}

/// The options as the arguments give them, without what [`plan`] settles.
pub(super) fn train_options(args: &TrainArgs, device: Device) -> TrainOptions {
    let mut options = TrainOptions {
        batch: args.batch,
        seq_len: args.seq_len,
        accumulate: args.accumulate,
        seed: args.seed,
        carry: !args.no_carry,
        precision: args.precision.on(device, Isa::detect()),
        learning_rate: args.learning_rate.unwrap_or(if args.base.is_some() { TUNING_RATE } else { LEARNING_RATE }),
        held_out_share: args.held_out,
        ..TrainOptions::default()
    };
    // Long samples are learned whole, window by window, as long as the state is carried.
    options.dataset.sample_tokens_max = args.sample_tokens_max.unwrap_or(usize::MAX);
    options
}

/// Settles on a device, and says in words which it is. Of several processes on a machine with several GPUs each gets its own: the
/// launcher numbers the processes of a machine (Open MPI, MPICH, Slurm, torchrun).
pub(super) fn device(asked: Device, processes: usize) -> Result<(Device, String)> {
    const LOCAL_RANK: [&str; 4] = ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID", "LOCAL_RANK"];
    let found = asked.resolve()?;
    let local = LOCAL_RANK.iter().find_map(|name| std::env::var(name).ok()?.parse::<usize>().ok());
    match (asked, found.0, local) {
        (Device::Auto, Device::Cuda(_), Some(local)) if processes > 1 => Ok(Device::Cuda(local).resolve()?),
        _ => Ok(found),
    }
}

/// Settles how many steps there will be, which the learning-rate schedule needs to know from the start.
pub(super) fn plan(
    args: &TrainArgs,
    train: &Dataset,
    config: &MambaConfig,
    device: Device,
    options: &mut TrainOptions,
) -> Result<()> {
    let tokens_per_step = (args.batch * args.seq_len * args.accumulate) as f64;
    options.steps = match (args.steps, args.minutes) {
        (Some(steps), _) => steps,
        (None, Some(minutes)) => (60.0 * minutes / seconds_per_step(config, device, options)?) as u64,
        (None, None) => (args.epochs.unwrap_or(1.0) * train.token_count() as f64 / tokens_per_step).ceil() as u64,
    }
    .max(1);
    options.warmup_steps = args.warmup_steps.unwrap_or((options.steps / 20).min(500));
    Ok(())
}

/// How long a step takes here, measured on throw-away parameters of the same shape.
fn seconds_per_step(config: &MambaConfig, device: Device, options: &TrainOptions) -> Result<f64> {
    let (b, l) = (options.batch, options.seq_len);
    let mut learner = engine::learner(Params::init(config, 0), device, options.precision, b, options.adamw)?;
    let tokens = vec![Token(0); b * l];
    let batch = Batch { b, l, targets: tokens.clone(), tokens, starts: vec![false; b * l] };
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let begun = Instant::now();
        learner.accumulate(&batch, 0.0);
        best = best.min(begun.elapsed().as_secs_f64());
    }
    // Optimiser and sampler cost a few hundredths more.
    Ok(1.05 * best * options.accumulate as f64)
}

/// What the held-out flows cost two plain models.
pub(super) fn baselines(train: &Dataset, held_out: &Dataset, codec: &dyn Codec) -> Vec<Baseline> {
    let (bytes, packets) = (held_out.byte_count(), held_out.packet_count());
    if bytes == 0 {
        return Vec::new();
    }
    let samples = || train.samples().iter().map(|s| train.tokens(s));
    let measure = |name, model: &dyn PlainModel| {
        let nats: f64 = held_out.samples().iter().map(|s| model.nats(held_out.tokens(s))).sum();
        let bits = nats / std::f64::consts::LN_2;
        Baseline { name, bits_per_byte: bits / bytes as f64, bits_per_packet: bits / packets as f64 }
    };
    let size = codec.vocab_size();
    let markov = measure("Markov of order 2", &Markov::fit(samples(), size, 2));
    // Places in a packet mean something only where a token is a byte.
    let packet_end = (0..size as u32).map(Token).find(|t| codec.ends_packet(*t));
    match packet_end.filter(|_| codec.grammar().is_none()) {
        Some(end) => {
            vec![measure("byte frequency by position", &PerPosition::fit(samples(), size, end)), markov]
        }
        None => vec![markov],
    }
}

/// Says what the data set holds, and what its limits cut.
pub(super) fn log_counters(data: &Dataset) {
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

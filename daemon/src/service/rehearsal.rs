//! What the base was trained on, learned beside live traffic so that it is not forgotten, and measured so that it shows.

use anyhow::{Context as _, Result, ensure};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use wiremamba_model::checkpoint::Checkpoint;
use wiremamba_model::codec::Codec;
use wiremamba_model::engine::CpuEngine;
use wiremamba_model::generate::label_id;
use wiremamba_model::train::{Dataset, DatasetLimits, EvalOptions, TrainOptions, evaluate};

use super::config::LearnConfig;
use crate::job::corpus::Sample;
use crate::source::collection::from_paths;
use crate::source::flows::{ReadLimits, read_flows};

/// Share of the samples that is only measured, where it is not known what the base held out.
const HELD_OUT: f64 = 0.1;

/// Captures of the base's, encoded.
pub(super) struct Rehearsal {
    train: Dataset,
    held_out: Dataset,
    /// Held-out bits per packet of the base itself.
    base_bits: f64,
    /// Places in `train`, shuffled anew each time round.
    order: Vec<usize>,
    next: usize,
    rng: ChaCha8Rng,
}

impl Rehearsal {
    /// Reads the captures of `learn` and measures `base` on some of them; `None` where there are no captures.
    pub(super) fn open(learn: &LearnConfig, base: &Checkpoint, codec: &dyn Codec) -> Result<Option<Self>> {
        if learn.rehearsal.is_empty() {
            return Ok(None);
        }
        let captures = from_paths(&learn.rehearsal, None)?;
        let limits = ReadLimits { packets_max: learn.rehearsal_packets_max, ..ReadLimits::default() };
        let mut set = read_flows(&captures, &limits, |_| {}).context("cannot read learn.rehearsal")?;
        for warning in &set.warnings {
            tracing::warn!(capture = %warning.path.display(), "rehearsal: {}", warning.problem);
        }
        // Those of the configuration, which the codec has beside them, mean nothing to the base.
        let known = base.about.as_ref().map_or(codec.labels(), |about| &about.labels);
        let labels = set.labels.iter().map(|name| Ok(label_id(name, known)?)).collect::<Result<Vec<_>>>()?;
        let flows = Sample::Flow.make(std::mem::take(&mut set.flows));
        let sessions: Vec<_> = flows.into_iter().map(|(place, _, session)| (labels[place], session)).collect();
        let limits = DatasetLimits { sample_tokens_max: usize::MAX, ..DatasetLimits::default() };
        let (train, held_out) = split(Dataset::encode(codec, &sessions, limits), base);
        ensure!(train.token_count() > 1 && held_out.token_count() > 1, "learn.rehearsal holds too few flows");
        let mut engine = CpuEngine::new(base.params.clone())?;
        let base_bits = evaluate(&mut engine, &held_out, &eval_options(learn)).total.bits_per_packet();
        ensure!(base_bits.is_finite(), "the base gives no finite loss on learn.rehearsal");
        tracing::info!(
            flows = train.samples().len(),
            "rehearsal: the base has {base_bits:.1} bits per packet held out"
        );
        let order = (0..train.samples().len()).collect();
        Ok(Some(Self { train, held_out, base_bits, order, next: 0, rng: ChaCha8Rng::seed_from_u64(0) }))
    }

    /// Adds as many samples to `live` as make up `share` of its packets.
    pub(super) fn mix_into(&mut self, live: &mut Dataset, share: f64) {
        let wanted = (live.packet_count() as f64 * share / (1.0 - share)) as u64;
        let (mut drawn, mut packets) = (Vec::new(), 0);
        while packets < wanted {
            if self.next == 0 {
                self.order.shuffle(&mut self.rng);
            }
            let place = self.order[self.next];
            self.next = (self.next + 1) % self.order.len();
            packets += self.train.samples()[place].packets.max(1);
            drawn.push(place);
        }
        live.extend_from(&self.train, drawn);
    }

    /// What is held out.
    pub(super) fn held_out(&self) -> &Dataset {
        &self.held_out
    }

    /// Held-out bits per packet of the base itself.
    pub(super) fn base_bits(&self) -> f64 {
        self.base_bits
    }
}

/// Training and held-out samples: as the base was trained, where these are the captures that it was trained on.
fn split(data: Dataset, base: &Checkpoint) -> (Dataset, Dataset) {
    if let Some(trained) = base.about.as_ref().and_then(|about| about.lineage.last()) {
        let (train, held_out) = data.clone().split(TrainOptions::default().held_out_share, trained.seed);
        if train.fingerprint() == trained.data_fingerprint {
            tracing::info!("rehearsal: measured on what the base itself held out");
            return (train, held_out);
        }
    }
    data.split(HELD_OUT, 0)
}

/// Limits of each measurement of a round.
pub(super) fn eval_options(learn: &LearnConfig) -> EvalOptions {
    EvalOptions { tokens_max: learn.held_out_tokens_max, ..EvalOptions::default() }
}

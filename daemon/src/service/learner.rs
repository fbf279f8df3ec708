//! Fine-tuning in rounds: learn from what was captured, measure on flows that were held out, promote what is better.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use wiremamba_model::checkpoint::{Checkpoint, Contents, Lineage, Store, Version, history, versions};
use wiremamba_model::codec::wire::WireCodec;
use wiremamba_model::codec::{Codec, LabelId};
use wiremamba_model::device::Device;
use wiremamba_model::engine;
use wiremamba_model::generate::label_id;
use wiremamba_model::mamba::{MambaConfig, Params, Preset};
use wiremamba_model::train::{Dataset, DatasetLimits, Moments, TrainOptions, Trainer};
use wiremamba_model::wire::plan::Plan;

use super::config::{Config, LearnConfig, ModelConfig};
use super::rehearsal::{Rehearsal, eval_options};
use super::samples::{Batch, Sample};
use crate::job::model::{Model, with_habits};

/// Steps of warm-up, as a part of a round, where the optimiser's moments begin at zero.
const WARMUP_PART: u64 = 5;
/// The smallest part of what was learned that is tried. Interpolating between the old weights and the fine-tuned ones keeps
/// most of what both know (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
const PART_MIN: f64 = 1.0 / 16.0;
/// Longest nap between two looks around.
const LOOK: Duration = Duration::from_millis(200);

/// The weights in use, and where their successors go.
pub(super) struct Learner {
    store: Store,
    config: ModelConfig,
    limits: LearnConfig,
    labels: Vec<String>,
    /// Where rounds are computed.
    device: Device,
    /// `None` while there was nothing to begin with, and nothing seen.
    in_use: Option<InUse>,
    rehearsal: Option<Rehearsal>,
    /// The optimiser's moments after the last round, if its weights are in use.
    moments: Option<Moments<'static>>,
    steps: u64,
}

/// A model.
#[derive(Clone)]
pub(super) struct InUse {
    pub(super) codec: Arc<dyn Codec>,
    pub(super) params: Arc<Params>,
    /// What it is called: the version's folder.
    pub(super) name: String,
    preset: Option<String>,
    lineage: Vec<Lineage>,
    weights_sha256: Option<String>,
}

/// What became of a round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Round {
    /// Bits per packet of flows that no round had learned, under the model that had not seen their kind: the drift.
    pub(super) fresh: f64,
    /// Held-out bits per packet before and after.
    pub(super) before: f64,
    pub(super) after: f64,
    /// Bits per packet of what the base was trained on: the base's, and afterwards.
    pub(super) rehearsal: Option<(f64, f64)>,
    /// How far from the old weights to the learned ones the new ones are.
    pub(super) part: f64,
    pub(super) steps: u64,
    pub(super) tokens: u64,
    pub(super) training: Duration,
    pub(super) promoted: bool,
    /// Whether it ended before its last step, because somebody asked for it.
    pub(super) was_cut: bool,
}

/// What ends a round before its last step.
pub(super) struct Cut<'a> {
    /// The service stops: measure and promote only if that is quick.
    pub(super) stop: &'a AtomicBool,
    /// Somebody asked for what is learned so far.
    pub(super) now: &'a AtomicBool,
}

impl Learner {
    /// Opens the store, and the version in use there, or the base where it has none, or nothing where there is no base.
    /// A version that is damaged is passed over for the one before.
    pub(super) fn open(config: &Config) -> Result<Self> {
        let (model, limits) = (config.model.clone(), config.learn.clone());
        let store = Store::open(&model.store, model.keep)?;
        let base = model.base.as_ref().map(|path| Checkpoint::load(path).context("cannot load the base model"));
        let in_use = match (in_use(&model.store), base) {
            // A base that has gone is no reason to stop, as long as nothing is compared with it.
            (Some(checkpoint), Some(Err(error))) if limits.rehearsal.is_empty() => {
                tracing::warn!("{error:#}; the store has what came of it");
                Some((checkpoint, None))
            }
            (Some(checkpoint), base) => Some((checkpoint, base.transpose()?)),
            (None, Some(base)) => {
                let base = base?;
                let again = Checkpoint::load(&base.path)?;
                Some((base, Some(again)))
            }
            (None, None) => None,
        };
        let steps = versions(&model.store).last().map_or(0, |version| version.step);
        let (in_use, base) = match in_use {
            Some((checkpoint, base)) => (Some(InUse::new(checkpoint, &config.labels())?), base),
            None => (None, None),
        };
        match &in_use {
            Some(in_use) => tracing::info!(model = in_use.name, "learning begins with"),
            None => tracing::info!("learning begins from nothing: no model.base, and an empty store"),
        }
        let (device, named) = model.device.resolve()?;
        tracing::info!(device = named, "learning on");
        let rehearsal = match (&in_use, &base) {
            (Some(in_use), Some(base)) => Rehearsal::open(&limits, base, in_use.codec.as_ref())?,
            _ => None,
        };
        let labels = in_use.as_ref().map_or_else(|| config.labels(), |in_use| in_use.codec.labels().to_vec());
        Ok(Self { store, config: model, limits, labels, device, in_use, rehearsal, moments: None, steps })
    }

    /// The number of a label.
    pub(super) fn label(&self, name: &str) -> Result<LabelId> {
        Ok(label_id(name, &self.labels)?)
    }

    /// The model in use.
    pub(super) fn model(&self) -> Option<&InUse> {
        self.in_use.as_ref()
    }

    /// Steps over all rounds of the store.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets the limits of the rounds to come.
    pub(super) fn set_limits(&mut self, limits: LearnConfig) {
        self.limits = limits;
    }

    /// Learns from a batch, measures, and promotes the new weights where they are better and the base's own traffic is
    /// not forgotten. `between` is called after each step. `None` when there was nothing to learn from, or no time left to
    /// measure what was learned.
    pub(super) fn round(&mut self, batch: &Batch, cut: &Cut<'_>, between: &mut dyn FnMut()) -> Result<Option<Round>> {
        let mut in_use = match &self.in_use {
            Some(in_use) => in_use.clone(),
            None => self.begin(&batch.train)?,
        };
        in_use.codec = with_habits(&in_use.codec, &batch.train, &batch.starts)?;
        let limits = self.limits.clone();
        let encode = |samples: &[Sample]| Dataset::encode(in_use.codec.as_ref(), samples, DatasetLimits::default());
        let mut train = encode(&batch.train);
        let (fresh, held_out) = (encode(&batch.train[..batch.fresh]), encode(&batch.held_out));
        if train.token_count() < 2 || held_out.token_count() < 2 {
            return Ok(None);
        }
        if let Some(rehearsal) = &mut self.rehearsal {
            rehearsal.mix_into(&mut train, limits.rehearsal_share);
        }
        let fingerprint = train.fingerprint();
        let options = TrainOptions {
            steps: limits.steps_per_round,
            batch: limits.batch.min(train.samples().len()),
            seq_len: limits.seq_len,
            learning_rate: limits.learning_rate,
            warmup_steps: if self.moments.is_some() { 0 } else { limits.steps_per_round / WARMUP_PART },
            held_out_share: 0.0,
            eval: eval_options(&limits),
            precision: engine::training_precision(self.device, engine::Isa::detect()),
            // Another order each round.
            seed: self.steps,
            ..TrainOptions::default()
        };
        let params = in_use.params.as_ref().clone();
        let learner = engine::learner(params, self.device, options.precision, options.batch, options.adamw)?;
        let mut trainer = Trainer::with_learner(learner, Arc::new(train), options)?;
        if let Some(moments) = self.moments.take() {
            let is_restored = trainer.restore_moments(&moments);
            debug_assert!(is_restored, "they are of a network of the same shape: that of the weights in use");
        }
        let measured = Instant::now();
        let fresh = if fresh.token_count() < 2 { f64::NAN } else { bits(&mut trainer, &fresh) };
        between();
        let before = bits(&mut trainer, &held_out);
        ensure!(before.is_finite(), "the model in use gives no finite loss");
        // Afterwards there is as much to measure again, and the rehearsal.
        let measuring = measured.elapsed().mul_f64(1.5);

        let (mut tokens, mut training) = (0, Duration::ZERO);
        for _ in 0..limits.steps_per_round {
            let begun = Instant::now();
            tokens += trainer.step()?.tokens;
            let took = begun.elapsed();
            training += took;
            between();
            let resumes = Instant::now() + took.mul_f64(1.0 / limits.cpu_share - 1.0);
            while let left = resumes.saturating_duration_since(Instant::now())
                && !left.is_zero()
                && !cut.stop.load(Relaxed)
            {
                std::thread::sleep(left.min(LOOK));
                between();
            }
            if cut.stop.load(Relaxed) && measuring > Duration::from_secs(u64::from(limits.drain_s)) {
                return Ok(None);
            }
            if cut.stop.load(Relaxed) || cut.now.load(Relaxed) {
                break;
            }
        }
        let was_cut = cut.now.load(Relaxed);
        let learned = trainer.params().data.clone();
        let mut measured = Measured::of(&mut trainer, &held_out, self.rehearsal.as_ref(), between);
        let mut part = 1.0;
        // What is better here and too much worse there is taken in part, unless somebody waits for the end.
        while measured.after < before
            && measured.is_forgetful(limits.rehearsal_worse_max)
            && part > PART_MIN
            && !cut.stop.load(Relaxed)
        {
            part /= 2.0;
            let between_both =
                in_use.params.data.iter().zip(&learned).map(|(old, new)| old + part as f32 * (new - old));
            trainer.model_mut().set_params(&between_both.collect::<Vec<_>>());
            measured = Measured::of(&mut trainer, &held_out, self.rehearsal.as_ref(), between);
        }
        let Measured { after, rehearsal } = measured;
        let promoted = after < before && !measured.is_forgetful(limits.rehearsal_worse_max);
        let steps = trainer.steps();
        let round = Round { fresh, before, after, rehearsal, part, steps, tokens, training, promoted, was_cut };
        self.steps += round.steps;
        if promoted {
            self.promote(in_use, trainer.params().clone(), round, fingerprint)?;
            self.moments = (part == 1.0).then(|| trainer.moments().into_owned());
        }
        Ok(Some(round))
    }

    /// A network that knows nothing, with a codec for the first flows.
    fn begin(&self, samples: &[Sample]) -> Result<InUse> {
        let preset = Preset::from(self.config.preset);
        let codec = WireCodec::fit(self.labels.clone(), self.config.strings_max, false, Plan::default(), samples)?;
        let params = Params::init(&MambaConfig::preset(preset, codec.vocab_size()), 0);
        Ok(InUse {
            codec: Arc::new(codec),
            params: Arc::new(params),
            name: "nothing".to_owned(),
            preset: Some(preset.name().to_owned()),
            lineage: Vec::new(),
            weights_sha256: None,
        })
    }

    /// Goes back to the version before the one in use. Returns which.
    pub(super) fn roll_back(&mut self) -> Result<String> {
        let history = history(self.store.dir());
        let version = history.get(1).context("there is no version before the one in use")?;
        self.switch(version).map(|name| format!("back to {name}"))
    }

    /// Uses the version called `name` from now on.
    pub(super) fn use_version(&mut self, name: &str) -> Result<String> {
        let all = versions(self.store.dir());
        let is_it = |version: &&Version| version.path.file_name().is_some_and(|n| n == name);
        let version = all.iter().find(is_it).with_context(|| format!("the store has no version {name}"))?;
        self.switch(version).map(|name| format!("{name} is in use"))
    }

    fn switch(&mut self, version: &Version) -> Result<String> {
        let in_use = InUse::new(Checkpoint::load(&version.path)?, &self.labels)?;
        ensure!(in_use.codec.labels() == self.labels, "{} has other labels", in_use.name);
        self.store.switch_current(&version.path)?;
        self.moments = None;
        Ok(self.in_use.insert(in_use).name.clone())
    }

    fn promote(&mut self, old: InUse, params: Params, round: Round, data_fingerprint: String) -> Result<()> {
        let from_step = self.steps - round.steps;
        // One entry for this store: a line a round would grow for ever.
        let live = Lineage {
            job: "live".to_owned(),
            base_sha256: old.weights_sha256.clone(),
            seed: from_step,
            data_fingerprint,
            from_step,
        };
        let mut lineage = old.lineage.clone();
        match lineage.last_mut().filter(|last| last.job == "live") {
            Some(last) => *last = Lineage { base_sha256: last.base_sha256.clone(), ..live },
            None => lineage.push(live),
        }
        let mut metrics = BTreeMap::from([
            ("held_out_bits_per_packet".to_owned(), round.after),
            ("held_out_bits_per_packet_before".to_owned(), round.before),
        ]);
        if let Some((base, now)) = round.rehearsal {
            metrics.insert("rehearsal_bits_per_packet".to_owned(), now);
            metrics.insert("rehearsal_bits_per_packet_base".to_owned(), base);
        }
        let contents = Contents {
            step: self.steps,
            params: &params,
            codec: old.codec.as_ref(),
            preset: old.preset.as_deref(),
            metrics,
            lineage: lineage.clone(),
            training: None,
        };
        let path = self.store.save(&contents).context("cannot save the promoted model")?;
        self.in_use = Some(InUse { params: Arc::new(params), name: name_of(&path), lineage, ..old });
        Ok(())
    }
}

/// How good weights are.
struct Measured {
    /// Held-out bits per packet.
    after: f64,
    /// Of what the base was trained on: the base's, and theirs.
    rehearsal: Option<(f64, f64)>,
}

impl Measured {
    fn of(trainer: &mut Trainer, held_out: &Dataset, rehearsal: Option<&Rehearsal>, between: &mut dyn FnMut()) -> Self {
        let after = bits(trainer, held_out);
        between();
        let rehearsal = rehearsal.map(|r| (r.base_bits(), bits(trainer, r.held_out())));
        between();
        Self { after, rehearsal }
    }

    /// Whether what the base knew became worse by more than `worse_max`.
    fn is_forgetful(&self, worse_max: f64) -> bool {
        self.rehearsal.is_some_and(|(base, now)| now > base * (1.0 + worse_max))
    }
}

impl InUse {
    /// A checkpoint, with `labels` beside its own.
    fn new(checkpoint: Checkpoint, labels: &[String]) -> Result<Self> {
        let mut model = Model::try_from(checkpoint)?;
        let new = model.add_labels(labels)?;
        if !new.is_empty() {
            tracing::info!(labels = new.join(", "), "new to the model, these begin as the mean of its own");
        }
        let Model { checkpoint, codec } = model;
        let path = &checkpoint.path;
        let about = checkpoint.about.with_context(|| format!("{} does not say where it comes from", path.display()))?;
        let weights = about.files.iter().find(|file| file.name == "model.safetensors");
        Ok(Self {
            codec,
            params: Arc::new(checkpoint.params),
            name: name_of(path),
            preset: about.preset.clone(),
            weights_sha256: weights.map(|file| file.sha256.clone()),
            lineage: about.lineage.clone(),
        })
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn bits(trainer: &mut Trainer, data: &Dataset) -> f64 {
    trainer.evaluate(data).total.bits_per_packet()
}

/// The version in use, or where that is damaged the one before; `None` in an empty store, or one of which nothing can be
/// read. Newer versions come last: somebody went back from them.
fn in_use(store: &Path) -> Option<Checkpoint> {
    let mut candidates = history(store);
    let newer: Vec<_> = versions(store).into_iter().rev().filter(|version| !candidates.contains(version)).collect();
    candidates.extend(newer);
    candidates.iter().find_map(|version| match Checkpoint::load(&version.path) {
        Ok(checkpoint) => Some(checkpoint),
        Err(error) => {
            tracing::error!(path = %version.path.display(), %error, "passed over: this version cannot be used");
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgetting_is_measured_against_the_base() {
        let measured = |now| Measured { after: 1.0, rehearsal: Some((40.0, now)) };
        assert!(!measured(41.9).is_forgetful(0.05) && measured(42.1).is_forgetful(0.05));
        assert!(measured(40.1).is_forgetful(0.0) && !measured(39.0).is_forgetful(0.0));
        assert!(!Measured { after: 1.0, rehearsal: None }.is_forgetful(0.0));
    }
}

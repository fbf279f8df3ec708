//! Fine-tuning in rounds: learn from what was captured, measure on flows that were held out, promote what is better.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use wiremamba_model::checkpoint::{Checkpoint, Contents, Lineage, Store, history, versions};
use wiremamba_model::codec::{Codec, LabelId};
use wiremamba_model::engine::CpuEngine;
use wiremamba_model::mamba::Params;
use wiremamba_model::train::{Dataset, DatasetLimits, EvalOptions, TrainOptions, Trainer};

use super::config::{LearnConfig, ModelConfig};
use super::samples::Sample;
use crate::job::mix;

/// Steps of warm-up, as a part of a round: moments begin at zero in each.
const WARMUP_PART: u64 = 5;
/// Longest nap between two looks around.
const LOOK: Duration = Duration::from_millis(200);

/// The weights in use, and where their successors go.
pub(super) struct Learner {
    store: Store,
    codec: Arc<dyn Codec>,
    params: Params,
    preset: Option<String>,
    lineage: Vec<Lineage>,
    weights_sha256: Option<String>,
    steps: u64,
    limits: LearnConfig,
}

/// What became of a round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Round {
    /// Held-out bits per packet before and after.
    pub(super) before: f64,
    pub(super) after: f64,
    pub(super) steps: u64,
    pub(super) tokens: u64,
    pub(super) training: Duration,
    pub(super) promoted: bool,
}

impl Learner {
    /// Opens the store, and the version in use there, or the base where it has none. A version that is damaged is passed
    /// over for the one before.
    pub(super) fn open(config: &ModelConfig, limits: LearnConfig) -> Result<Self> {
        let store = Store::open(&config.store, config.keep)?;
        let checkpoint = match in_use(&config.store) {
            Some(checkpoint) => checkpoint,
            None => Checkpoint::load(&config.base).context("cannot load the base model")?,
        };
        let path = checkpoint.path.display().to_string();
        let codec =
            checkpoint.codec.with_context(|| format!("{path} has no codec: it was not trained by wiremamba"))?;
        let about = checkpoint.about.with_context(|| format!("{path} does not say where it comes from"))?;
        tracing::info!(model = path, "learning begins with");
        let weights = about.files.iter().find(|file| file.name == "model.safetensors");
        Ok(Self {
            store,
            codec: Arc::from(codec),
            params: checkpoint.params,
            preset: about.preset.clone(),
            weights_sha256: weights.map(|file| file.sha256.clone()),
            lineage: about.lineage.clone(),
            steps: versions(&config.store).last().map_or(0, |version| version.step),
            limits,
        })
    }

    /// The number of a label.
    pub(super) fn label(&self, name: &str) -> Result<LabelId> {
        mix::id(name, self.codec.as_ref())
    }

    /// Steps over all rounds of the store.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Learns from `train`, measures on `held_out`, and promotes the new weights where they are better. `between` is
    /// called after each step. `None` when there was nothing to learn from, or it was told to stop.
    pub(super) fn round(
        &mut self,
        (train, held_out): &(Vec<Sample>, Vec<Sample>),
        stop: &AtomicBool,
        between: &mut dyn FnMut(),
    ) -> Result<Option<Round>> {
        let encode = |samples: &[Sample]| Dataset::encode(self.codec.as_ref(), samples, DatasetLimits::default());
        let (train, held_out) = (encode(train), encode(held_out));
        if train.token_count() < 2 || held_out.token_count() < 2 {
            return Ok(None);
        }
        let options = TrainOptions {
            steps: self.limits.steps_per_round,
            batch: self.limits.batch.min(train.samples().len()),
            seq_len: self.limits.seq_len,
            learning_rate: self.limits.learning_rate,
            warmup_steps: self.limits.steps_per_round / WARMUP_PART,
            held_out_share: 0.0,
            eval: EvalOptions { tokens_max: self.limits.held_out_tokens_max, ..EvalOptions::default() },
            // Another order each round.
            seed: self.steps,
            ..TrainOptions::default()
        };
        let fingerprint = train.fingerprint();
        let mut trainer = Trainer::new(Box::new(CpuEngine::new(self.params.clone())?), Arc::new(train), options)?;
        let before = trainer.evaluate(&held_out).total.bits_per_packet();
        ensure!(before.is_finite(), "the model in use gives no finite loss");
        let (mut tokens, mut training) = (0, Duration::ZERO);
        for _ in 0..self.limits.steps_per_round {
            let begun = Instant::now();
            tokens += trainer.step()?.tokens;
            let took = begun.elapsed();
            training += took;
            let resumes = Instant::now() + took.mul_f64(1.0 / self.limits.cpu_share - 1.0);
            loop {
                between();
                if stop.load(Relaxed) {
                    return Ok(None);
                }
                let left = resumes.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                std::thread::sleep(left.min(LOOK));
            }
        }
        let after = trainer.evaluate(&held_out).total.bits_per_packet();
        let round = Round { before, after, steps: trainer.steps(), tokens, training, promoted: after < before };
        self.steps += round.steps;
        if round.promoted {
            self.promote(trainer.params().clone(), round, fingerprint)?;
        }
        Ok(Some(round))
    }

    /// Goes back to the version before the one in use. Returns which.
    pub(super) fn roll_back(&mut self) -> Result<String> {
        let history = history(self.store.dir());
        let version = &history.get(1).context("there is no version before the one in use")?.path;
        let params = Checkpoint::load(version)?.params;
        self.store.switch_current(version)?;
        self.params = params;
        Ok(format!("back to {}", version.display()))
    }

    fn promote(&mut self, params: Params, round: Round, data_fingerprint: String) -> Result<()> {
        let from_step = self.steps - round.steps;
        // One entry for this store: a line a round would grow for ever.
        let live = Lineage {
            job: "live".to_owned(),
            base_sha256: self.weights_sha256.clone(),
            seed: from_step,
            data_fingerprint,
            from_step,
        };
        match self.lineage.last_mut().filter(|last| last.job == "live") {
            Some(last) => *last = Lineage { base_sha256: last.base_sha256.clone(), ..live },
            None => self.lineage.push(live),
        }
        let metrics = BTreeMap::from([
            ("held_out_bits_per_packet".to_owned(), round.after),
            ("held_out_bits_per_packet_before".to_owned(), round.before),
        ]);
        let contents = Contents {
            step: self.steps,
            params: &params,
            codec: self.codec.as_ref(),
            preset: self.preset.as_deref(),
            metrics,
            lineage: self.lineage.clone(),
            training: None,
        };
        self.store.save(&contents).context("cannot save the promoted model")?;
        self.params = params;
        Ok(())
    }
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

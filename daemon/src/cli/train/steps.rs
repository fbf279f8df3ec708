//! The steps of a run, with its clock, progress bar, curve and checkpoints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use wiremamba_model::checkpoint::{About, Contents, Lineage, Store, versions};
use wiremamba_model::codec::Codec;
use wiremamba_model::train::{Dataset, Eval, StepReport, Trainer};

use super::super::{Context, progress};
use super::TrainArgs;
use super::curve::Curve;
use super::report::{Measured, measured};

/// A run under way: the trainer with its clock, progress bar, curve and checkpoints.
pub(super) struct Run<'a> {
    pub(super) args: &'a TrainArgs,
    pub(super) context: &'a Context,
    /// Of the process that saves, where there are several.
    pub(super) store: Option<Store>,
    pub(super) codec: Arc<dyn Codec>,
    pub(super) preset: Option<String>,
    pub(super) lineage: Vec<Lineage>,
    pub(super) held_out: &'a Dataset,
    pub(super) trainer: Trainer,
    pub(super) curve: Option<Curve>,
    /// The version that predicts the held-out flows best, of those that were measured under way.
    pub(super) best: Option<Best>,
    /// Time spent in steps.
    pub(super) training: Duration,
    pub(super) tokens: u64,
}

/// A version that was measured.
pub(super) struct Best {
    pub(super) step: u64,
    pub(super) held_out: Measured,
    pub(super) path: PathBuf,
}

impl Best {
    /// The best of the versions in `store`.
    pub(super) fn of(store: &Path) -> Option<Self> {
        let measured = versions(store).into_iter().filter_map(|version| {
            let about = About::read(&version.path).ok()?;
            let metric = |name: &str| about.metrics.get(name).copied();
            let held_out = Measured {
                bits_per_token: metric(BITS_PER_TOKEN)?,
                bits_per_byte: metric(BITS_PER_BYTE)?,
                bits_per_packet: metric(BITS_PER_PACKET)?,
            };
            Some(Self { step: about.step, held_out, path: version.path })
        });
        measured.min_by(|a, b| a.held_out.bits_per_token.total_cmp(&b.held_out.bits_per_token))
    }

    /// Whether it is better than what `eval` measured.
    pub(super) fn is_better_than(&self, eval: &Eval) -> bool {
        self.held_out.bits_per_token <= eval.total.bits_per_token()
    }
}

/// Names of a version's metrics.
const BITS_PER_TOKEN: &str = "held_out_bits_per_token";
const BITS_PER_BYTE: &str = "held_out_bits_per_byte";
const BITS_PER_PACKET: &str = "held_out_bits_per_packet";

impl Run<'_> {
    /// Steps until the plan is done, the time is up or a signal comes; returns whether it was a signal.
    pub(super) fn steps(&mut self) -> Result<bool> {
        let total = self.trainer.options().steps;
        let bar = progress::bar(self.context.quiet, Some(total), "training");
        bar.set_position(self.trainer.steps());
        bar.reset_eta();
        let started = Instant::now();
        let mut saved = Instant::now();
        let mut smoothed = None;
        while self.trainer.steps() < total {
            // Several processes have clocks of their own: whatever one of them finds, all do.
            let [is_stopped, is_late, is_due] = self.trainer.any([
                self.context.stop.load(Ordering::Relaxed),
                self.args.minutes.is_some_and(|m| started.elapsed().as_secs_f64() > 60.0 * m),
                saved.elapsed().as_secs_f64() > 60.0 * self.args.checkpoint_minutes,
            ]);
            if is_stopped {
                bar.abandon_with_message("stopped by a signal");
                return Ok(true);
            }
            if is_late {
                break;
            }
            if is_due {
                if let Some(path) = self.save(None)? {
                    tracing::debug!(path = %path.display(), "checkpoint written");
                }
                saved = Instant::now();
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
            self.note(&report);
            let is_measured = self.args.eval_every.is_some_and(|n| report.step.is_multiple_of(n));
            if is_measured && report.step < total && !self.held_out.samples().is_empty() {
                let eval = self.store.is_some().then(|| self.evaluate());
                if let Some(eval) = &eval {
                    bar.println(format!("step {}: held out {}", report.step, describe_eval(eval)));
                }
                self.keep_if_best(eval.as_ref())?;
            }
        }
        bar.finish();
        Ok(false)
    }

    /// Measures the held-out flows and notes it in the curve.
    pub(super) fn evaluate(&mut self) -> Eval {
        let eval = self.trainer.evaluate(self.held_out);
        #[derive(Serialize)]
        struct Line {
            step: u64,
            seconds: f64,
            held_out: Measured,
        }
        let line = Line { step: self.trainer.steps(), seconds: self.training.as_secs_f64(), held_out: measured(&eval) };
        self.note(&line);
        eval
    }

    /// Saves the version that `eval` measured where none was better, and keeps it.
    fn keep_if_best(&mut self, eval: Option<&Eval>) -> Result<()> {
        let is_best = eval.is_some_and(|eval| {
            eval.total.bits_per_token().is_finite() && !self.best.as_ref().is_some_and(|best| best.is_better_than(eval))
        });
        // Several processes save together; one has measured.
        let [is_best] = self.trainer.any([is_best]);
        if is_best
            && let Some(path) = self.save(eval)?
            && let (Some(eval), Some(store)) = (eval, &mut self.store)
        {
            store.protect(path.clone());
            self.best = Some(Best { step: self.trainer.steps(), held_out: measured(eval), path });
        }
        Ok(())
    }

    /// Writes a line of the curve.
    fn note(&mut self, line: &impl Serialize) {
        if let Some(curve) = &mut self.curve {
            curve.write(line);
        }
    }

    /// Writes a checkpoint, and says where; where several processes learn together all call this, and one writes.
    pub(super) fn save(&self, eval: Option<&Eval>) -> Result<Option<PathBuf>> {
        let training = Some(self.trainer.state());
        let Some(store) = &self.store else { return Ok(None) };
        let mut metrics = BTreeMap::new();
        if let Some(m) = eval.map(measured) {
            metrics.insert(BITS_PER_TOKEN.to_owned(), m.bits_per_token);
            metrics.insert(BITS_PER_BYTE.to_owned(), m.bits_per_byte);
            metrics.insert(BITS_PER_PACKET.to_owned(), m.bits_per_packet);
        }
        let contents = Contents {
            step: self.trainer.steps(),
            params: self.trainer.params(),
            codec: self.codec.as_ref(),
            preset: self.preset.as_deref(),
            metrics,
            lineage: self.lineage.clone(),
            training,
        };
        Ok(Some(store.save(&contents)?))
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

//! The steps of a run, with its clock, progress bar, curve and checkpoints.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use wiremamba_model::checkpoint::{Contents, Lineage, Store};
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
    pub(super) store: Store,
    pub(super) codec: Arc<dyn Codec>,
    pub(super) preset: Option<String>,
    pub(super) lineage: Vec<Lineage>,
    pub(super) held_out: &'a Dataset,
    pub(super) trainer: Trainer,
    pub(super) curve: Curve,
    /// Time spent in steps.
    pub(super) training: Duration,
    pub(super) tokens: u64,
}

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
            self.curve.write(&report);
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
        self.curve.write(&line);
        eval
    }

    pub(super) fn save(&self, eval: Option<&Eval>) -> Result<PathBuf> {
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

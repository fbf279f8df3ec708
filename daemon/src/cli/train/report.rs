//! What a training run says at its end.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use wiremamba_model::train::Eval;

use super::super::print_text;

/// The closing line of a run.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) steps: u64,
    pub(super) epochs: f64,
    pub(super) interrupted: bool,
    pub(super) train_flows: usize,
    pub(super) held_out_flows: usize,
    pub(super) train_tokens: u64,
    pub(super) seconds: f64,
    pub(super) tokens_per_s: f64,
    /// `None` after a signal.
    pub(super) held_out: Option<Measured>,
    /// An earlier version that was better, and is in use.
    pub(super) best: Option<BestVersion>,
    pub(super) baselines: Vec<Baseline>,
    pub(super) checkpoint: PathBuf,
}

/// A version and its held-out cost.
#[derive(Debug, Serialize)]
pub(super) struct BestVersion {
    pub(super) step: u64,
    pub(super) held_out: Measured,
    pub(super) checkpoint: PathBuf,
}

/// Held-out cost.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    pub(super) bits_per_token: f64,
    pub(super) bits_per_byte: f64,
    pub(super) bits_per_packet: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Baseline {
    pub(super) name: &'static str,
    pub(super) bits_per_byte: f64,
    pub(super) bits_per_packet: f64,
}

/// What `eval` comes to a token, a byte and a packet.
pub(super) fn measured(eval: &Eval) -> Measured {
    let t = &eval.total;
    Measured {
        bits_per_token: t.bits_per_token(),
        bits_per_byte: t.bits_per_byte(),
        bits_per_packet: t.bits_per_packet(),
    }
}

/// Prints the summary for a person.
pub(super) fn print_summary(s: &Summary) -> Result<()> {
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
            text += &format!("  the model                 {:>11.3} {:>13.1}\n", m.bits_per_byte, m.bits_per_packet)
        }
        None => text += "  the model                  not measured\n",
    }
    for b in &s.baselines {
        text += &format!("  {:<26}{:>11.3} {:>13.1}\n", b.name, b.bits_per_byte, b.bits_per_packet);
    }
    if let Some(best) = &s.best {
        let m = &best.held_out;
        let name = format!("the same after {} steps", best.step);
        text += &format!("  {name:<26}{:>11.3} {:>13.1}\n", m.bits_per_byte, m.bits_per_packet);
        text += &format!("checkpoint: {}, in use: {}\n", s.checkpoint.display(), best.checkpoint.display());
        return print_text(&text);
    }
    text += &format!("checkpoint: {}\n", s.checkpoint.display());
    print_text(&text)
}

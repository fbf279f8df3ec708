//! `wiremamba bench quality`: what the precision of decoding costs in bits per packet, on captures that the model did not learn from.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use wiremamba_model::codec::Token;
use wiremamba_model::engine::{CpuDecoder, Precision};
use wiremamba_model::generate::Decoder;
use wiremamba_model::mamba::Params;
use wiremamba_model::train::{Dataset, DatasetLimits};

use crate::cli::{print_json, print_text};
use crate::job::corpus::{Corpus, CorpusArgs};
use crate::job::model;

/// Samples that are decoded at once.
const STREAMS: usize = 64;

#[derive(Debug, Args)]
pub(in crate::cli) struct QualityBench {
    /// Checkpoint: a folder that train wrote, or one version in it
    #[arg(long, value_name = "DIR", default_value = model::SHIPPED, value_parser = model::folder)]
    model: PathBuf,
    #[command(flatten)]
    corpus: CorpusArgs,
    /// Tokens to measure on; whole samples are taken in order while they fit
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    tokens: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    work: &'static str,
    samples: usize,
    packets: u64,
    tokens: usize,
    precisions: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    precision: &'static str,
    bits_per_packet: f64,
    /// Against f32, in percent; above 0 is worse.
    loss_percent: f64,
}

pub(super) fn run(args: &QualityBench) -> Result<()> {
    let model = model::open(&args.model)?;
    let samples = Corpus::read(&args.corpus, |_| {})?.into_sessions(model.codec.labels())?;
    let data = Dataset::encode(model.codec.as_ref(), &samples, DatasetLimits::default());
    let (mut chosen, mut packets, mut count) = (Vec::new(), 0, 0);
    for sample in data.samples() {
        let tokens = data.tokens(sample);
        if count + tokens.len() <= args.tokens {
            count += tokens.len();
            packets += sample.packets;
            chosen.push(tokens);
        }
    }
    ensure!(packets > 0, "no sample of the captures fits in --tokens {}", args.tokens);
    // Samples that run side by side are of about one length.
    chosen.sort_by_key(|tokens| tokens.len());
    let mut report = Report { work: "quality", samples: chosen.len(), packets, tokens: count, precisions: Vec::new() };
    for precision in Precision::ALL {
        let bits = nats(&model.checkpoint.params, precision, &chosen)? / std::f64::consts::LN_2 / packets as f64;
        let exact = report.precisions.first().map_or(bits, |first| first.bits_per_packet);
        let loss_percent = 100.0 * (bits / exact - 1.0);
        report.precisions.push(Measured { precision: precision.name(), bits_per_packet: bits, loss_percent });
    }
    if args.json {
        return print_json(&report);
    }
    let mut text = format!("quality of decoding, {packets} packets of {} samples\n", report.samples);
    for m in &report.precisions {
        text += &format!("{:>6} {:>10.4} bits/packet {:>+8.4} %\n", m.precision, m.bits_per_packet, m.loss_percent);
    }
    print_text(&text)
}

/// The summed cross-entropy of `samples`, decoded token by token.
fn nats(params: &Params, precision: Precision, samples: &[&[Token]]) -> Result<f64> {
    let mut decoder = CpuDecoder::new(params, precision)?;
    let mut sum = 0.0;
    for group in samples.chunks(STREAMS) {
        decoder.resize(&[], group.len());
        for time in 0..group.iter().map(|tokens| tokens.len()).max().unwrap_or(0).saturating_sub(1) {
            let inputs: Vec<Token> = group.iter().map(|t| t.get(time).copied().unwrap_or(t[0])).collect();
            decoder.step(&inputs);
            for (slot, tokens) in group.iter().enumerate() {
                if let Some(target) = tokens.get(time + 1) {
                    let logits = decoder.logits(slot);
                    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let all: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
                    sum += all.ln() + f64::from(max) - f64::from(logits[target.0 as usize]);
                }
            }
        }
    }
    Ok(sum)
}

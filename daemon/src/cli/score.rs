//! `wiremamba score`: what an intrusion detection system saw of a replay, held against its ground truth.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Misuse, print_json, print_text};
use crate::score::{Score, Seen, eve, read_truth, score, zeek};

/// `wiremamba score`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  wiremamba replay --model model --tap tap0 --ground-truth truth.jsonl --duration 120
  wiremamba score --truth truth.jsonl --eve /var/log/suricata/eve.json --expect web=http --expect mail=smtp

Let the system finish its flows first (stop Suricata, so that it writes those that are open). Each flow that was sent is seen or \
missed; each that the system saw and nobody sent is unknown.")]
pub(super) struct ScoreArgs {
    /// The ground truth that replay wrote
    #[arg(long, value_name = "FILE")]
    truth: PathBuf,
    /// Suricata's events
    #[arg(long, value_name = "FILE", required_unless_present = "zeek", conflicts_with = "zeek")]
    eve: Option<PathBuf>,
    /// Zeek's conn.log, tab-separated or JSON
    #[arg(long, value_name = "FILE")]
    zeek: Option<PathBuf>,
    /// What flows of a label should be taken for; may be given several times [default: their label, where the system knows it]
    #[arg(long, value_name = "LABEL=PROTOCOL", value_parser = pair)]
    expect: Vec<(String, String)>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn pair(s: &str) -> Result<(String, String), String> {
    let (label, protocol) = s.split_once('=').ok_or("give a label and a protocol, as in web=http")?;
    Ok((label.to_owned(), protocol.to_owned()))
}

pub(super) fn run(args: ScoreArgs) -> Result<()> {
    let truth = read_truth(&args.truth)?;
    let seen: Seen = match (&args.eve, &args.zeek) {
        (Some(path), _) => eve::read(path)?,
        (None, Some(path)) => zeek::read(path)?,
        (None, None) => return Err(Misuse("give --eve or --zeek".into()).into()),
    };
    let expected: HashMap<String, String> = args.expect.into_iter().collect();
    if let Some(label) = expected.keys().find(|label| !truth.iter().any(|flow| flow.label.as_ref() == Some(*label))) {
        return Err(Misuse(format!("--expect {label}: the ground truth has no flow of this label")).into());
    }
    let score = score(&truth, &seen, &expected);
    if args.json { print_json(&score) } else { print_text(&table(&score)) }
}

fn table(score: &Score) -> String {
    let percent = |part: u64, all: u64| if all == 0 { 0.0 } else { part as f64 * 100.0 / all as f64 };
    let mut text = format!(
        "flows sent            {:>9}\n  seen                {:>9}  {:.2} %\n  missed              {:>9}  {:.2} %\n\
         of those seen\n  as several flows    {:>9}\n  with fewer packets  {:>9}\n  mislabelled         {:>9}\n\
         seen, but not sent    {:>9}\npackets sent          {:>9}\n  seen                {:>9}\n",
        score.flows,
        score.seen,
        percent(score.seen, score.flows),
        score.missed,
        percent(score.missed, score.flows),
        score.split,
        score.short,
        score.mislabelled,
        score.unknown,
        score.packets,
        score.packets_seen,
    );
    for (name, protocol) in &score.protocols {
        text += &format!(
            "  {name:<20}{:>9}  {} missed, {} with fewer packets\n",
            protocol.flows, protocol.missed, protocol.short
        );
    }
    for (name, share) in [("TCP closed, sent", score.tcp_closed_sent), ("TCP closed, seen", score.tcp_closed_seen)] {
        if let Some(share) = share {
            text += &format!("{name:<22}{:>9.2} %\n", share * 100.0);
        }
    }
    let counters = [
        ("not decoded", score.decoder_invalid),
        ("wrong TCP checksums", score.invalid_checksum),
        ("TCP, nothing known", score.failed_tcp),
    ];
    for (name, count) in counters {
        if let Some(count) = count {
            text += &format!("{name:<22}{count:>9}\n");
        }
    }
    if let Some([sessions, syn, syn_ack]) = score.tcp_sessions {
        text += &format!("TCP sessions          {sessions:>9}  {syn} SYN, {syn_ack} SYN-ACK\n");
    }
    text += &format!("anomalies per 1,000   {:>9.2}\n", score.anomalies_per_1000);
    for (name, count) in &score.anomalies {
        text += &format!("  {name}: {count}\n");
    }
    text += &format!("alerts                {:>9}\n", score.alerts);
    for (name, count) in &score.alerts_without_cause {
        text += &format!("  without a cause: {name}: {count}\n");
    }
    text += &format!("\n{:<16}{:>9}{:>9}{:>9}{:>13}  taken for\n", "label", "flows", "seen", "missed", "mislabelled");
    for (name, label) in &score.labels {
        let name = if name.is_empty() { "(none)" } else { name };
        let list = |counts: &std::collections::BTreeMap<String, u64>| {
            counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        text += &format!(
            "{name:<16}{:>9}{:>9}{:>9}{:>13}  {}\n",
            label.flows,
            label.seen,
            label.missed,
            label.mislabelled,
            list(&label.applications)
        );
        for (signature, count) in &label.alerts {
            text += &format!("  alert: {signature}: {count}\n");
        }
    }
    text
}

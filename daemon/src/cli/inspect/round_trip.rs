//! Whether every packet comes back from its tokens.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, ensure};
use serde::Serialize;
use wiremamba_model::codec::wire::dictionary::Dictionary;
use wiremamba_model::codec::wire::lossless::{LosslessEncoder, decoder};
use wiremamba_model::packet::{Packet, Timestamp};

use super::super::{Context, print_json, print_text, progress};
use super::InspectArgs;
use crate::source::collection::{LabelledCapture, from_paths};
use crate::source::file::SavefileSource;
use crate::source::{Next, PacketSource};

/// Gaps may be off by this share.
const TIME_TOLERANCE: f64 = 0.01;
/// Mismatches that are described.
const DESCRIBED_MAX: usize = 10;

#[derive(Debug, Default, Serialize)]
struct Report {
    packets: u64,
    exact: u64,
    escaped: u64,
    tokens: u64,
    captures: u64,
    captures_failed: u64,
    labels: BTreeMap<String, Label>,
    mismatches: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct Label {
    packets: u64,
    exact: u64,
    escaped: u64,
    tokens: u64,
}

pub(super) fn run(args: &InspectArgs, context: &Context) -> Result<()> {
    let captures = from_paths(&args.paths, args.label.as_deref())?;
    let bar = progress::bar(context.quiet, Some(captures.len() as u64), "captures");
    let mut report = Report::default();
    for capture in &captures {
        round_trip(capture, &mut report)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    for label in report.labels.values() {
        report.packets += label.packets;
        report.exact += label.exact;
        report.escaped += label.escaped;
        report.tokens += label.tokens;
    }
    if args.json {
        print_json(&report)?
    } else {
        print_text(&text(&report))?
    };
    ensure!(report.captures > 0, "no capture could be read");
    ensure!(report.exact == report.packets, "{} packets did not come back", report.packets - report.exact);
    Ok(())
}

/// One capture as one stream: packet by packet, so that memory does not grow with it.
fn round_trip(capture: &LabelledCapture, report: &mut Report) -> Result<()> {
    let mut source = match SavefileSource::open(&capture.path) {
        Ok(source) => source,
        Err(error) => {
            tracing::warn!(capture = %capture.path.display(), "{error:#}");
            report.captures_failed += 1;
            return Ok(());
        }
    };
    report.captures += 1;
    let dictionary = Dictionary::new(Vec::new())?;
    let mut ends = None;
    let mut tokens = Vec::new();
    let mut before: Option<(Timestamp, Timestamp)> = None;
    let mut index = 0u64;
    loop {
        let packet = match source.next_packet() {
            Ok(Next::Packet(packet)) => packet,
            Ok(Next::Idle) => continue,
            Ok(Next::End) => return Ok(()),
            Err(error) => {
                tracing::warn!(capture = %capture.path.display(), "{error:#}");
                return Ok(());
            }
        };
        let (encoder, decoder) =
            ends.get_or_insert_with(|| (LosslessEncoder::new(&dictionary, packet.ts), decoder(&dictionary, packet.ts)));
        let label = report.labels.entry(capture.label.clone()).or_default();
        tokens.clear();
        let has_structure = encoder.packet(&packet, &mut tokens);
        tokens.iter().for_each(|t| decoder.push(*t));
        let back = decoder.flush();
        label.packets += 1;
        label.tokens += tokens.len() as u64;
        label.escaped += u64::from(!has_structure);
        let is_exact = matches!(back.as_slice(), [b] if is_same(b, &packet, before));
        label.exact += u64::from(is_exact);
        if !is_exact && report.mismatches.len() < DESCRIBED_MAX {
            report.mismatches.push(format!("{} packet {index}", capture.path.display()));
        }
        if let Some(back) = back.first() {
            before = Some((back.ts, packet.ts));
        }
        index += 1;
    }
}

/// Whether a packet came back: all bytes, and its gap to the one before.
fn is_same(back: &Packet, packet: &Packet, before: Option<(Timestamp, Timestamp)>) -> bool {
    let time_holds = before.is_none_or(|(back_before, packet_before)| {
        let (a, b) = (back.ts.nanos_since(back_before), packet.ts.nanos_since(packet_before));
        (a - b).unsigned_abs() as f64 <= TIME_TOLERANCE * b.unsigned_abs() as f64
    });
    time_holds && back.linktype == packet.linktype && back.len == packet.len && back.data == packet.data
}

fn text(r: &Report) -> String {
    let mut text = format!(
        "{} of {} packets came back exactly; {} of them escaped whole; {} tokens\n\n",
        r.exact, r.packets, r.escaped, r.tokens
    );
    let width = r.labels.keys().map(String::len).max().unwrap_or(0).max("label".len()) + 1;
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:<width$}{:>11}{:>11}{:>10}", "label", "packets", "exact", "escaped");
    for (label, l) in &r.labels {
        let share = 100.0 * l.escaped as f64 / l.packets.max(1) as f64;
        let _ = writeln!(text, "{label:<width$}{:>11}{:>11}{share:>9.2}%", l.packets, l.exact);
    }
    for mismatch in &r.mismatches {
        let _ = writeln!(text, "did not come back: {mismatch}");
    }
    text
}

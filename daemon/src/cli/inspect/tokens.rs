//! The tokens of one flow, for a person to read.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use wiremamba_model::codec::{Codec, LabelId, Token};
use wiremamba_model::flow::{Direction, Flow, Session};

use super::super::{print_json, print_text};
use super::{InspectArgs, codec};
use crate::source::collection::from_paths;
use crate::source::flows::{ReadLimits, read_flows};

/// Characters of a line of tokens.
const WIDTH: usize = 100;

#[derive(Debug, Serialize)]
struct Report {
    flow: usize,
    label: String,
    tuple: String,
    packets: Vec<PacketLine>,
    /// Every token, the label's and the end's included.
    tokens: Vec<u32>,
    texts: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PacketLine {
    seconds: f64,
    from_orig: bool,
    len: u32,
}

pub(super) fn run(args: &InspectArgs, index: usize) -> Result<()> {
    let captures = from_paths(&args.paths, args.label.as_deref())?;
    let mut set = read_flows(&captures, &ReadLimits::default(), |_| {})?;
    ensure!(index < set.flows.len(), "there is no flow {index}; the last is {}", set.flows.len().saturating_sub(1));
    let codec = codec(args, &set)?;
    let flow = set.flows.swap_remove(index);
    let label = set.labels[flow.label].clone();
    let place = codec.labels().iter().position(|l| *l == label);
    let place = place.with_context(|| {
        format!("the model knows no label {label}; name one that it does by --label: {}", codec.labels().join(", "))
    })?;
    let mut tokens = Vec::new();
    codec.encode(LabelId(u16::try_from(place)?), &Session::from(flow.flow.clone()), &mut tokens);
    let report = Report {
        flow: index,
        label,
        tuple: flow.flow.tuple.to_string(),
        packets: packet_lines(&flow.flow),
        texts: tokens.iter().map(|t| codec.token_text(*t)).collect(),
        tokens: tokens.iter().map(|t| t.0).collect(),
    };
    if args.json { print_json(&report) } else { print_text(&text(&report, &tokens, codec.as_ref())) }
}

fn packet_lines(flow: &Flow) -> Vec<PacketLine> {
    let line = |(direction, packet): &(Direction, wiremamba_model::packet::Packet)| PacketLine {
        seconds: packet.ts.nanos_since(flow.start()) as f64 / 1e9,
        from_orig: *direction == Direction::Orig,
        len: packet.len,
    };
    flow.packets.iter().map(line).collect()
}

/// A block of tokens for each packet, under a line that says when it came, from whom and how long it was.
///
/// A codec may leave packets out; the lines are then in step only up to the first of them, so they are left away.
fn text(r: &Report, tokens: &[Token], codec: &dyn Codec) -> String {
    let is_next = |a: &Token, b: &Token| {
        codec.ends_packet(*a) || codec.begins_packet(*b) && !codec.begins_packet(*a) || codec.ends_packet(*b)
    };
    let mut blocks: Vec<&[Token]> = match codec.begins_packet(tokens[tokens.len().min(2) - 1]) {
        // The packets of such a codec stand between label and end.
        true => tokens[1..].chunk_by(|a, b| !is_next(a, b)).collect(),
        false => tokens.split_inclusive(|t| codec.ends_packet(*t)).collect(),
    };
    blocks.retain(|block| **block != [codec.end_token()] || r.packets.is_empty());
    let in_step = blocks.len() == r.packets.len();
    let mut text = format!("flow {}, {}: {}, {} tokens\n", r.flow, r.label, r.tuple, r.tokens.len());
    for (i, block) in blocks.iter().enumerate() {
        let packet = r.packets.get(i).filter(|_| in_step);
        // Writing to a string cannot fail.
        let _ = match packet {
            Some(p) => {
                let arrow = if p.from_orig { ">" } else { "<" };
                writeln!(text, "packet {i} {arrow} {} bytes at {:.6} s", p.len, p.seconds)
            }
            None => writeln!(text, "packet {i}"),
        };
        let mut line = String::from("  ");
        for token in *block {
            let token = codec.token_text(*token);
            if line.len() + token.len() + 1 > WIDTH {
                text += line.trim_end();
                text += "\n  ";
                line.clear();
            }
            line += &token;
            line.push(' ');
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

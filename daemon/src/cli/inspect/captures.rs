//! What is in captures: packets, flows, labels, tokens.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;
use wiremamba_model::codec::{Codec, LabelId, Token};
use wiremamba_model::flow::{FlowCounters, FlowEnd, Session};
use wiremamba_model::wire::parse::{Transport, parse};

use super::super::{Context, print_json, print_text, progress};
use super::{InspectArgs, codec, size};
use crate::source::collection::from_paths;
use crate::source::flows::{FlowSet, LabelledFlow, ReadLimits, read_flows};

#[derive(Debug, Serialize)]
struct Report {
    captures: usize,
    captures_failed: usize,
    captures_left_out: usize,
    packets: u64,
    /// Of packets that are in flows, as long as they were on the wire.
    bytes: u64,
    flows: usize,
    counters: FlowCounters,
    labels: Vec<Label>,
    /// IP protocol number → flows.
    protocols: BTreeMap<u8, u64>,
    longest: Vec<LongFlow>,
    warnings: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct Label {
    label: String,
    flows: u64,
    packets: u64,
    bytes: u64,
    tokens: u64,
    tokens_per_packet: f64,
    tokens_per_flow_max: u64,
    /// TCP segments without payload; only codecs that say where a packet begins can tell.
    empty_segments: u64,
    tokens_of_empty_segments: u64,
}

#[derive(Debug, Serialize)]
struct LongFlow {
    /// Number for `--tokens`.
    flow: usize,
    label: String,
    tuple: String,
    packets: usize,
    bytes: u64,
    seconds: f64,
    ended: &'static str,
}

pub(super) fn run(args: &InspectArgs, context: &Context) -> Result<()> {
    let captures = from_paths(&args.paths, args.label.as_deref())?;
    let bar = progress::bar(context.quiet, None, "reading");
    let set = read_flows(&captures, &ReadLimits::default(), |p| bar.set_position(p.packets))?;
    bar.finish_and_clear();
    let report = report(&set, codec(args, &set)?.as_ref(), args.top);
    if args.json { print_json(&report) } else { print_text(&text(&report)) }
}

fn report(set: &FlowSet, codec: &dyn Codec, top: usize) -> Report {
    let mut labels: Vec<Label> =
        set.labels.iter().map(|label| Label { label: label.clone(), ..Label::default() }).collect();
    let mut protocols = BTreeMap::new();
    let mut tokens = Vec::new();
    for flow in &set.flows {
        let label = &mut labels[flow.label];
        tokens.clear();
        // Only the count is of interest, so any label that the codec knows will do.
        let packets = codec.encode(LabelId(0), &Session::from(flow.flow.clone()), &mut tokens);
        if codec.grammar().is_some() {
            count_empty_segments(flow, packets, &tokens, codec, label);
        }
        label.flows += 1;
        label.packets += flow.flow.packets.len() as u64;
        label.bytes += flow.flow.wire_bytes();
        label.tokens += tokens.len() as u64;
        label.tokens_per_flow_max = label.tokens_per_flow_max.max(tokens.len() as u64);
        *protocols.entry(flow.flow.tuple.protocol).or_default() += 1;
    }
    for label in &mut labels {
        label.tokens_per_packet = label.tokens as f64 / label.packets.max(1) as f64;
    }
    let mut longest: Vec<(usize, &LabelledFlow)> = set.flows.iter().enumerate().collect();
    longest.sort_by_key(|(i, f)| (std::cmp::Reverse(f.flow.packets.len()), *i));
    Report {
        captures: set.captures_read,
        captures_failed: set.captures_failed,
        captures_left_out: set.captures_left_out,
        packets: set.counters.packets,
        bytes: set.flows.iter().map(|f| f.flow.wire_bytes()).sum(),
        flows: set.flows.len(),
        counters: set.counters,
        labels,
        protocols,
        longest: longest.into_iter().take(top).map(|(i, f)| long_flow(i, f, &set.labels)).collect(),
        warnings: set.warnings.iter().map(|w| format!("{}: {}", w.path.display(), w.problem)).collect(),
    }
}

/// Counts TCP segments without payload, and their tokens.
fn count_empty_segments(flow: &LabelledFlow, packets: usize, tokens: &[Token], codec: &dyn Codec, label: &mut Label) {
    let body = &tokens[1..tokens.len() - 1];
    let begins = |a: &Token, b: &Token| codec.begins_packet(*b) && !codec.begins_packet(*a);
    let blocks = body.chunk_by(|a, b| !begins(a, b));
    // Packets without structure have no tokens.
    let frames: Vec<_> = flow.flow.packets.iter().filter_map(|(_, p)| parse(p).ok()).collect();
    if frames.len() != packets {
        return;
    }
    for (frame, block) in frames.iter().zip(blocks) {
        if matches!(frame.transport, Transport::Tcp(_)) && frame.payload_len == 0 {
            label.empty_segments += 1;
            label.tokens_of_empty_segments += block.len() as u64;
        }
    }
}

fn long_flow(index: usize, flow: &LabelledFlow, labels: &[String]) -> LongFlow {
    let packets = &flow.flow.packets;
    let last = packets.last().map_or(flow.flow.start(), |(_, p)| p.ts);
    LongFlow {
        flow: index,
        label: labels[flow.label].clone(),
        tuple: flow.flow.tuple.to_string(),
        packets: packets.len(),
        bytes: flow.flow.wire_bytes(),
        seconds: last.nanos_since(flow.flow.start()) as f64 / 1e9,
        ended: match flow.flow.end {
            FlowEnd::Closed => "closed",
            FlowEnd::Idle => "idle",
            FlowEnd::Evicted => "evicted",
            FlowEnd::EndOfInput => "end of input",
        },
    }
}

fn text(r: &Report) -> String {
    let mut text = format!("{} captures, {} packets, {}, {} flows\n\n", r.captures, r.packets, size(r.bytes), r.flows);
    let rows = [
        ("truncated packets", r.counters.packets_truncated),
        ("packets that are no IP", r.counters.packets_not_ip),
        ("packets with malformed headers", r.counters.packets_malformed),
        ("packets whose headers are cut", r.counters.packets_headers_cut),
        ("packets of link types not read", r.counters.packets_unsupported_linktype),
        ("packets beyond a flow's limit", r.counters.packets_over_flow_max),
        ("flows closed by FIN or RST", r.counters.flows_closed),
        ("flows gone idle", r.counters.flows_idle),
        ("flows evicted", r.counters.flows_evicted),
        ("flows open at the end", r.counters.flows_end_of_input),
        ("captures that could not be read", r.captures_failed as u64),
        ("captures left out by a limit", r.captures_left_out as u64),
    ];
    // Writing to a string cannot fail.
    for (what, count) in rows.into_iter().filter(|(_, count)| *count > 0) {
        let _ = writeln!(text, "{count:>12} {what}");
    }
    for (protocol, flows) in &r.protocols {
        let _ = writeln!(text, "{flows:>12} flows of {}", protocol_name(*protocol));
    }
    let width = r.labels.iter().map(|l| l.label.len()).max().unwrap_or(0).max("label".len()) + 1;
    let _ = writeln!(
        text,
        "\n{:<width$}{:>9}{:>11}{:>13}{:>14}{:>11}",
        "label", "flows", "packets", "bytes", "tokens/packet", "empty TCP"
    );
    for l in &r.labels {
        let bytes = size(l.bytes);
        let empty = match l.empty_segments {
            0 => "-".to_owned(),
            count => format!("{:.1}", l.tokens_of_empty_segments as f64 / count as f64),
        };
        let _ = writeln!(
            text,
            "{:<width$}{:>9}{:>11}{:>13}{:>14.1}{empty:>11}",
            l.label, l.flows, l.packets, bytes, l.tokens_per_packet
        );
    }
    if !r.longest.is_empty() {
        let _ = writeln!(
            text,
            "\n{:>6}  {:<width$}{:>9}{:>13}{:>11}  longest flows",
            "flow", "label", "packets", "bytes", "seconds"
        );
    }
    for f in &r.longest {
        let bytes = size(f.bytes);
        let _ = writeln!(
            text,
            "{:>6}  {:<width$}{:>9}{bytes:>13}{:>11.3}  {} ({})",
            f.flow, f.label, f.packets, f.seconds, f.tuple, f.ended
        );
    }
    for warning in &r.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 => "ICMP".into(),
        2 => "IGMP".into(),
        6 => "TCP".into(),
        17 => "UDP".into(),
        47 => "GRE".into(),
        58 => "ICMPv6".into(),
        132 => "SCTP".into(),
        n => format!("IP protocol {n}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wiremamba_model::codec::bytes::{BytesCodec, Keep, Vocab};
    use wiremamba_model::flow::{Direction, FiveTuple, Flow};
    use wiremamba_model::packet::{LinkType, Packet, Timestamp};

    #[test]
    fn counts_are_those_of_the_flows() {
        let ip = |last| std::net::IpAddr::from([10, 0, 0, last]);
        let tuple = FiveTuple { orig: ip(1), resp: ip(2), orig_port: 1000, resp_port: 53, protocol: 17 };
        let packet = |seconds, bytes: usize| {
            let data = vec![0; bytes];
            Packet { ts: Timestamp::from_parts(seconds, 0), linktype: LinkType::ETHERNET, len: bytes as u32, data }
        };
        let packets = vec![(Direction::Orig, packet(1, 60)), (Direction::Resp, packet(3, 80))];
        let flow = Flow { tuple, packets, end: FlowEnd::Idle };
        let set = FlowSet {
            labels: vec!["dns".into()],
            flows: vec![LabelledFlow { label: 0, capture: 0, flow }],
            ..FlowSet::default()
        };
        let codec = BytesCodec::fit(Vocab::Byte, 0, Keep::Whole, set.labels.clone(), &[]).unwrap();
        let report = report(&set, &codec, 5);
        // 140 bytes, the label, one packet separator, the end.
        assert_eq!((report.labels[0].tokens, report.labels[0].bytes), (143, 140));
        assert_eq!((report.longest[0].seconds, report.longest[0].packets), (2.0, 2));
        assert!(text(&report).contains("10.0.0.1:1000 > 10.0.0.2:53 UDP (idle)"), "{}", text(&report));
    }
}

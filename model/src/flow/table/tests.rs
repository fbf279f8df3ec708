//! Promises of the flow table. Packets are raw IPv4, built by hand from RFC 791, 768 and 9293.

use proptest::prelude::*;

use super::*;
use crate::packet::LinkType;

const S: i64 = 1_000_000_000;
const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];

fn ip(ts: i64, src: [u8; 4], dst: [u8; 4], protocol: u8, payload: &[u8]) -> Packet {
    let mut data = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    data.extend(src);
    data.extend(dst);
    data.extend(payload);
    data[3] = data.len() as u8;
    Packet { ts: Timestamp(ts), linktype: LinkType::RAW, len: data.len() as u32, data }
}

fn udp(ts: i64, from: ([u8; 4], u8), to: ([u8; 4], u8)) -> Packet {
    ip(ts, from.0, to.0, 17, &[0, from.1, 0, to.1, 0, 8, 0, 0])
}

fn tcp(ts: i64, from: ([u8; 4], u8), to: ([u8; 4], u8), flags: u8) -> Packet {
    let mut segment = [0; 20];
    (segment[1], segment[3], segment[12], segment[13]) = (from.1, to.1, 0x50, flags);
    ip(ts, from.0, to.0, 6, &segment)
}

/// Client and server of most tests.
const C: ([u8; 4], u8) = (A, 200);
const D: ([u8; 4], u8) = (B, 80);

fn split(limits: FlowLimits, packets: impl IntoIterator<Item = Packet>) -> (Vec<Flow>, FlowCounters) {
    let mut flows = Vec::new();
    let mut table = FlowTable::new(limits);
    for packet in packets {
        table.push(packet, &mut |flow| flows.push(flow));
    }
    table.finish(&mut |flow| flows.push(flow));
    assert_eq!((table.len(), table.buffered_packets(), table.buffered_bytes()), (0, 0, 0));
    (flows, *table.counters())
}

/// Ends and lengths of the flows.
fn shape(flows: &[Flow]) -> Vec<(FlowEnd, usize)> {
    flows.iter().map(|f| (f.end, f.packets.len())).collect()
}

#[test]
fn both_directions_are_one_flow_from_the_first_senders_view() {
    let (flows, _) = split(FlowLimits::default(), [udp(0, D, C), udp(1, C, D), udp(2, D, C)]);
    assert_eq!(shape(&flows), [(FlowEnd::EndOfInput, 3)]);
    assert_eq!((flows[0].tuple.orig, flows[0].tuple.orig_port), (B.into(), 80));
    let directions: Vec<_> = flows[0].packets.iter().map(|(d, _)| *d).collect();
    assert_eq!(directions, [Direction::Orig, Direction::Resp, Direction::Orig]);
}

#[test]
fn fin_both_ways_closes_and_the_last_ack_still_belongs_to_the_flow() {
    let connection = |t| {
        [
            tcp(t, C, D, TCP_SYN),
            tcp(t + 1, D, C, TCP_SYN | TCP_ACK),
            tcp(t + 2, C, D, TCP_ACK),
            tcp(t + 3, C, D, TCP_FIN | TCP_ACK),
            tcp(t + 4, D, C, TCP_FIN | TCP_ACK),
            tcp(t + 5, C, D, TCP_ACK),
        ]
    };
    // The same ports again at once, as a busy client does: the SYN begins the second flow.
    let (flows, counters) = split(FlowLimits::default(), connection(0).into_iter().chain(connection(10)));
    assert_eq!(shape(&flows), [(FlowEnd::Closed, 6), (FlowEnd::Closed, 6)]);
    assert_eq!(counters.flows_closed, 2);
}

#[test]
fn stragglers_after_rst_open_no_new_flow_within_the_linger_time() {
    let packets = [
        tcp(0, C, D, TCP_SYN),
        tcp(1, D, C, TCP_RST | TCP_ACK),
        tcp(S, C, D, TCP_ACK),
        tcp(7 * S, C, D, TCP_ACK), // more than 5 s after the last
    ];
    let (flows, _) = split(FlowLimits::default(), packets);
    assert_eq!(shape(&flows), [(FlowEnd::Closed, 3), (FlowEnd::EndOfInput, 1)]);
}

#[test]
fn two_fins_of_one_side_do_not_close() {
    let packets = [tcp(0, C, D, TCP_FIN), tcp(1, C, D, TCP_FIN), tcp(2, C, D, TCP_SYN)];
    assert_eq!(shape(&split(FlowLimits::default(), packets).0), [(FlowEnd::EndOfInput, 3)]);
}

#[test]
fn flow_expires_by_packet_time_not_wall_time() {
    let limits = FlowLimits { udp_idle_timeout_ns: 10 * S, ..FlowLimits::default() };
    let mut flows = Vec::new();
    let mut table = FlowTable::new(limits);
    table.push(udp(0, C, D), &mut |f| flows.push(f));
    table.push(udp(10 * S, C, D), &mut |f| flows.push(f));
    assert_eq!(flows.len(), 0); // a gap of exactly the timeout
    table.push(tcp(20 * S + 1, C, D, TCP_ACK), &mut |f| flows.push(f)); // another flow's packet
    assert_eq!(shape(&flows), [(FlowEnd::Idle, 2)]);
}

#[test]
fn a_flood_that_nobody_answers_drives_out_itself() {
    let limits = FlowLimits { flows_max: 50, ..FlowLimits::default() };
    let mut flows = Vec::new();
    let mut table = FlowTable::new(limits);
    table.push(udp(0, C, D), &mut |f| flows.push(f));
    table.push(udp(1, D, C), &mut |f| flows.push(f));
    for i in 0..5000_u16 {
        let [high, low] = i.to_be_bytes();
        table.push(udp(2, ([11, 0, high, low], 9), D), &mut |f| flows.push(f));
    }
    assert_eq!(flows.len(), 4951);
    assert!(flows.iter().all(|flow| flow.packets.len() == 1), "the answered flow stays");
}

#[test]
fn a_flow_that_never_ends_is_handed_out_in_parts() {
    let limits = FlowLimits { active_timeout_ns: 10 * S, ..FlowLimits::default() };
    let packets = (0..25).map(|t| udp(t * S, C, D));
    let (flows, _) = split(limits, packets);
    assert_eq!(shape(&flows), [(FlowEnd::Evicted, 11), (FlowEnd::Evicted, 11), (FlowEnd::EndOfInput, 3)]);
}

#[test]
fn timeouts_differ_by_protocol() {
    let limits = FlowLimits {
        tcp_idle_timeout_ns: 30 * S,
        udp_idle_timeout_ns: 20 * S,
        other_idle_timeout_ns: 10 * S,
        ..FlowLimits::default()
    };
    let icmp = ip(0, A, B, 1, &[8, 0, 0, 0, 0, 0, 0, 0]);
    let arp = |t| Packet { ts: Timestamp(t), linktype: LinkType::ETHERNET, len: 14, data: vec![8; 14] };
    let mut ended = Vec::new();
    let mut table = FlowTable::new(limits);
    for packet in [tcp(0, C, D, TCP_ACK), udp(0, C, D), icmp, arp(15 * S), arp(25 * S), arp(35 * S)] {
        let now = packet.ts.0 / S;
        table.push(packet, &mut |f| ended.push((now, f.tuple.protocol)));
    }
    assert_eq!(ended, [(15, 1), (25, 17), (35, 6)]);
    assert_eq!(table.counters().packets_not_ip, 3);
}

#[test]
fn a_packet_from_the_past_neither_ends_its_flow_nor_ages_it() {
    let packets = [udp(1000 * S, C, D), udp(0, C, D), udp(1001 * S, C, D)];
    assert_eq!(shape(&split(FlowLimits::default(), packets).0), [(FlowEnd::EndOfInput, 3)]);
}

#[test]
fn extreme_times_do_not_overflow() {
    let packets = [udp(i64::MIN, C, D), udp(i64::MAX, C, D), udp(i64::MIN, C, D)];
    assert_eq!(shape(&split(FlowLimits::default(), packets).0), [(FlowEnd::Idle, 1), (FlowEnd::EndOfInput, 2)]);
}

#[test]
fn a_full_table_evicts_the_least_recently_used_flow_and_counts_it() {
    let limits = FlowLimits { flows_max: 2, ..FlowLimits::default() };
    let other = (A, 7);
    let (flows, counters) = split(limits, [udp(0, C, D), tcp(1, C, D, TCP_ACK), udp(2, D, C), udp(3, other, D)]);
    // The TCP flow is younger than the UDP flow, but was used longer ago.
    assert_eq!((flows[0].tuple.protocol, flows[0].end), (6, FlowEnd::Evicted));
    assert_eq!((counters.evictions, counters.flows_evicted), (1, 1));
}

#[test]
fn closed_flows_are_evicted_first_and_as_closed() {
    let limits = FlowLimits { flows_max: 2, ..FlowLimits::default() };
    let packets = [udp(0, C, D), tcp(1, C, D, TCP_SYN), tcp(2, D, C, TCP_RST), udp(3, (A, 7), D)];
    let (flows, counters) = split(limits, packets);
    assert_eq!((flows[0].tuple.protocol, flows[0].end), (6, FlowEnd::Closed));
    assert_eq!(counters.evictions, 0);
}

#[test]
fn buffered_packets_and_bytes_are_bounded() {
    for limits in [
        FlowLimits { buffered_packets_max: 3, ..FlowLimits::default() },
        FlowLimits { buffered_bytes_max: 3 * 28, ..FlowLimits::default() }, // 20 + 8 bytes each
    ] {
        let mut table = FlowTable::new(limits);
        let mut out = 0;
        for i in 0..50 {
            table.push(udp(i, (A, i as u8 % 7), D), &mut |f| out += f.packets.len());
            assert!(table.buffered_packets() <= 3 && table.buffered_bytes() <= 84);
        }
        assert_eq!(out + table.buffered_packets(), 50);
        assert!(table.counters().evictions > 0);
    }
}

#[test]
fn a_packet_larger_than_the_whole_buffer_still_comes_out() {
    let limits = FlowLimits { buffered_bytes_max: 1, ..FlowLimits::default() };
    assert_eq!(shape(&split(limits, [udp(0, C, D), udp(1, C, D)]).0), [(FlowEnd::Evicted, 1); 2]);
}

#[test]
fn packets_beyond_the_flows_limit_are_cut_and_counted() {
    let limits = FlowLimits { packets_per_flow_max: 2, ..FlowLimits::default() };
    let (flows, counters) = split(limits.clone(), (0..5).map(|t| udp(t, C, D)));
    assert_eq!(shape(&flows), [(FlowEnd::Evicted, 2)]);
    assert_eq!((counters.packets_over_flow_max, counters.evictions), (3, 0));
    // A flow of exactly the limit lost nothing.
    assert_eq!(shape(&split(limits, (0..2).map(|t| udp(t, C, D))).0), [(FlowEnd::EndOfInput, 2)]);
}

#[test]
fn packets_without_a_flow_are_counted_by_reason() {
    let cut = Packet { len: 60, data: vec![0x45; 12], ..udp(0, C, D) };
    let unknown = Packet { linktype: LinkType(147), ..udp(0, C, D) };
    let bad = Packet { data: vec![0x41; 40], ..udp(0, C, D) };
    let (flows, counters) = split(FlowLimits::default(), [cut, unknown, bad]);
    assert_eq!(flows.len(), 0);
    assert_eq!((counters.packets_headers_cut, counters.packets_truncated), (1, 1));
    assert_eq!((counters.packets_unsupported_linktype, counters.packets_malformed), (1, 1));
    assert_eq!(counters.packets_without_flow(), 3);
}

prop_compose! {
    /// A packet between few hosts and ports, of any flags; some are no IP at all.
    fn any_packet()(ts in 0..200_i64, kind in 0..8_u8, a in 0..3_u8, b in 0..3_u8, p in 0..2_u8, q in 0..2_u8, flags in 0..32_u8)
        -> Packet
    {
        let (from, to) = (([10, 0, 0, a], p), ([10, 0, 0, b], q));
        match kind {
            0 => Packet { ts: Timestamp(ts * S), linktype: LinkType::ETHERNET, len: 9, data: vec![0; 9] },
            1..4 => udp(ts * S, from, to),
            _ => tcp(ts * S, from, to, flags),
        }
    }
}

proptest! {
    #[test]
    fn no_packet_is_lost_and_order_within_a_flow_is_that_of_the_capture(
        packets in prop::collection::vec(any_packet(), 0..120),
        flows_max in 1..6_usize,
        packets_per_flow_max in 1..20_usize,
        buffered_packets_max in 1..60_usize,
    ) {
        let limits = FlowLimits { flows_max, packets_per_flow_max, buffered_packets_max, ..FlowLimits::default() };
        // The place in the capture travels in `len`, which the table does not interpret.
        let numbered = packets.iter().enumerate().map(|(i, p)| Packet { len: 1000 + i as u32, ..p.clone() });
        let (flows, counters) = split(limits, numbered);
        let in_flows: usize = flows.iter().map(|f| f.packets.len()).sum();
        prop_assert_eq!(counters.packets, packets.len() as u64);
        prop_assert_eq!(
            in_flows as u64 + counters.packets_without_flow() + counters.packets_over_flow_max,
            counters.packets
        );
        prop_assert_eq!(counters.flows(), flows.len() as u64);
        for flow in &flows {
            prop_assert!(!flow.packets.is_empty() && flow.packets.len() <= packets_per_flow_max);
            prop_assert!(flow.packets.is_sorted_by_key(|(_, p)| p.len));
            for (direction, packet) in &flow.packets {
                let tuple = dissect(packet.linktype, &packet.data).unwrap().tuple;
                let expected = if *direction == Direction::Orig { flow.tuple } else { flow.tuple.reversed() };
                prop_assert_eq!(tuple, expected);
                prop_assert_eq!(&packet.data, &packets[packet.len as usize - 1000].data);
            }
        }
    }

    #[test]
    fn without_pressure_each_key_is_one_flow(
        packets in prop::collection::vec(any_packet(), 0..120),
    ) {
        let udp_only = packets.into_iter().filter(|p| p.data.get(9) == Some(&17)).map(|p| Packet { ts: Timestamp(0), ..p });
        let (flows, _) = split(FlowLimits::default(), udp_only);
        let keys: std::collections::HashSet<_> = flows.iter().map(|f| f.tuple.key()).collect();
        prop_assert_eq!(keys.len(), flows.len());
    }
}

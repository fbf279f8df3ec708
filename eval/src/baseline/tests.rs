use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use wiremamba_model::flow::{Direction, FlowLimits, FlowTable};
use wiremamba_model::packet::LinkType;
use wiremamba_model::wire::parse::{Frame, ICMP, ICMPV6, Ip, Tcp, Transport, parse};
use wiremamba_model::wire::render::render;

use super::*;
use crate::view::{TCP, TcpView, UDP, View};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 5));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
const MAC_PAIR: [u8; 12] = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 5];

fn packet(ts_us: i64, src: IpAddr, dst: IpAddr, transport: Transport<'_>, payload: &[u8]) -> Packet {
    let protocol = match transport {
        Transport::Tcp(_) => TCP,
        Transport::Udp { .. } => UDP,
        Transport::Icmp if src.is_ipv4() => ICMP,
        Transport::Icmp => ICMPV6,
    };
    let ip = Ip { src, dst, protocol, tos: 0, ttl: 64, id: if src.is_ipv4() { 700 } else { 0 }, df: true };
    let mut link = MAC_PAIR.to_vec();
    link.extend_from_slice(if src.is_ipv4() { &[8, 0] } else { &[0x86, 0xdd] });
    let mut data = Vec::new();
    render(&Frame { link: &link, ip, transport, payload, payload_len: payload.len() }, &mut data);
    data.resize(data.len().max(60), 0);
    let ts = Timestamp::from_parts(1_600_000_000, ts_us * 1000);
    Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data }
}

fn tcp(port: u16, from_client: bool, seq: u32, ack: u32, flags: u8, options: &[u8]) -> Transport<'_> {
    let (src_port, dst_port) = if from_client { (port, 443) } else { (443, port) };
    Transport::Tcp(Tcp { src_port, dst_port, seq, ack, flags, window: 500, urgent: 0, options })
}

/// A whole connection with a hole that a SACK block tells of, and that is filled.
fn connection(port: u16, start_us: i64) -> Vec<Packet> {
    let (c, s) = (4_294_967_290_u32, 1000_u32); // the client's numbers wrap
    let mut sack = vec![1, 1, 5, 10];
    sack.extend_from_slice(&(s + 5).to_be_bytes());
    sack.extend_from_slice(&(s + 9).to_be_bytes());
    let at = |n: i64| start_us + n * 1000;
    let (up, down) = (CLIENT, SERVER);
    vec![
        packet(at(0), up, down, tcp(port, true, c, 0, 0x02, &[4, 2, 1, 1]), &[]),
        packet(at(1), down, up, tcp(port, false, s, c.wrapping_add(1), 0x12, &[]), &[]),
        packet(at(2), up, down, tcp(port, true, c.wrapping_add(1), s + 1, 0x10, &[]), &[]),
        packet(at(3), up, down, tcp(port, true, c.wrapping_add(1), s + 1, 0x18, &[]), b"question"),
        packet(at(4), down, up, tcp(port, false, s + 5, c.wrapping_add(9), 0x18, &[]), b"wer!"),
        packet(at(5), up, down, tcp(port, true, c.wrapping_add(9), s + 1, 0x10, &sack), &[]),
        packet(at(6), down, up, tcp(port, false, s + 1, c.wrapping_add(9), 0x18, &[]), b"answ"),
        packet(at(7), up, down, tcp(port, true, c.wrapping_add(9), s + 9, 0x11, &[]), &[]),
        packet(at(8), down, up, tcp(port, false, s + 9, c.wrapping_add(10), 0x11, &[]), &[]),
    ]
}

fn arp(ts_us: i64) -> Packet {
    let mut data = vec![0xff; 60];
    data[12..14].copy_from_slice(&[8, 6]);
    let ts = Timestamp::from_parts(1_600_000_000, ts_us * 1000);
    Packet { ts, linktype: LinkType::ETHERNET, len: 60, data }
}

/// Flows and strays of a capture.
fn captured(mut packets: Vec<Packet>) -> (Vec<Flow>, Vec<Packet>) {
    packets.sort_by_key(|p| p.ts);
    let strays = packets.iter().filter(|p| View::new(p).tuple.is_none()).cloned().collect();
    (into_flows(packets), strays)
}

fn into_flows(packets: Vec<Packet>) -> Vec<Flow> {
    let mut table = FlowTable::new(FlowLimits::default());
    let mut flows = Vec::new();
    packets.into_iter().for_each(|p| table.push(p, &mut |f| flows.push(f)));
    table.finish(&mut |f| flows.push(f));
    flows.sort_by_key(Flow::start);
    flows
}

/// TCP, DNS, ping, an ICMP error, IPv6, and ARP.
fn mixed() -> (Vec<Flow>, Vec<Packet>) {
    let mut packets: Vec<Packet> = (0..20_u16).flat_map(|i| connection(40_000 + i, i64::from(i) * 7000)).collect();
    let dns = |src_port, dst_port| Transport::Udp { src_port, dst_port };
    packets.push(packet(100, CLIENT, SERVER, dns(5000, 53), b"a name"));
    packets.push(packet(900, SERVER, CLIENT, dns(53, 5000), b"an address, and another"));
    packets.push(packet(1000, CLIENT, SERVER, Transport::Icmp, &[8, 0, 0, 0, 0, 7, 0, 1, 9, 9]));
    packets.push(packet(1500, SERVER, CLIENT, Transport::Icmp, &[0, 0, 0, 0, 0, 7, 0, 1, 9, 9]));
    let mut error = vec![3, 1, 0, 0, 0, 0, 0, 0];
    error.extend_from_slice(&connection(50_000, 0)[0].data[14..42]);
    packets.push(packet(3000, "203.0.113.77".parse().unwrap(), CLIENT, Transport::Icmp, &error));
    let six = |n| IpAddr::V6(Ipv6Addr::new(0x2a00, 1, 2, 3, 0, 0, 0, n));
    packets.push(packet(2000, six(1), six(2), tcp(41_000, true, 5, 0, 0x02, &[]), &[]));
    packets.push(packet(2100, six(2), six(1), tcp(41_000, false, 9, 6, 0x14, &[]), &[]));
    packets.push(arp(50));
    captured(packets)
}

fn make(baseline: Baseline, real: &(Vec<Flow>, Vec<Packet>), options: &Options) -> Generated {
    generate(baseline, &real.0, &real.1, options).unwrap()
}

/// Lengths and checksums are those that would be computed, and nothing but padding is behind the packet.
fn assert_sealed(packet: &Packet) {
    let frame = parse(packet).unwrap();
    let mut again = Vec::new();
    render(&frame, &mut again);
    let (same, padding) = packet.data.split_at(again.len());
    assert_eq!(same, again);
    assert!(padding.iter().all(|b| *b == 0) && (padding.is_empty() || packet.data.len() == 60));
}

#[test]
fn same_seed_same_packets_and_another_seed_others() {
    let real = mixed();
    for baseline in Baseline::ALL {
        let [one, again, other] =
            [1, 1, 2].map(|seed| make(baseline, &real, &Options { seed, ..Options::default() }).packets);
        assert_eq!(one, again, "{baseline}");
        assert_ne!(one, other, "{baseline}");
        assert_eq!(baseline.to_string(), serde_json::to_value(baseline).unwrap());
    }
}

#[test]
fn without_packets_there_is_an_error_that_says_so() {
    for baseline in Baseline::ALL {
        let error = generate(baseline, &[], &[], &Options::default()).unwrap_err();
        assert!(error.to_string().ends_with("and there is no packet"), "{error}");
    }
}

#[test]
fn one_packet_is_enough() {
    let real = captured(vec![connection(40_000, 0).remove(0)]);
    for baseline in Baseline::ALL {
        assert_eq!(make(baseline, &real, &Options::default()).packets.len(), 1, "{baseline}");
    }
}

#[test]
fn packets_without_ip_are_frames_but_no_flows() {
    let real = captured(vec![arp(1), arp(2)]);
    for baseline in Baseline::ALL {
        match generate(baseline, &real.0, &real.1, &Options::default()) {
            Ok(made) => assert!(!baseline.makes_flows() && made.packets.len() == 2),
            Err(error) => {
                assert!(baseline.makes_flows());
                assert!(error.to_string().ends_with("none of 2 packets is of use for it"), "{error}");
            }
        }
    }
}

#[test]
fn random_keeps_lengths_and_times_and_nothing_else() {
    let real = mixed();
    let made = make(Baseline::Random, &real, &Options::default());
    let sizes = |packets: &[&Packet]| packets.iter().map(|p| (p.ts, p.len, p.data.len())).collect::<Vec<_>>();
    let order = in_time_order(&real.0, &real.1);
    assert_eq!(sizes(&made.packets.iter().collect::<Vec<_>>()), sizes(&order));
    let bytes: Vec<u8> = made.packets.iter().flat_map(|p| &p.data).copied().collect();
    let ones: u32 = bytes.iter().map(|b| b.count_ones()).sum();
    // Some 11,000 bytes: the share of ones has a standard deviation of 0.0017.
    assert!((f64::from(ones) / (bytes.len() * 8) as f64 - 0.5).abs() < 0.01);
}

#[test]
fn shuffle_is_a_permutation_over_the_same_times() {
    let real = mixed();
    let made = make(Baseline::Shuffle, &real, &Options::default()).packets;
    let order = in_time_order(&real.0, &real.1);
    assert!(made.iter().zip(&order).all(|(a, b)| a.ts == b.ts));
    let sorted = |mut data: Vec<Vec<u8>>| {
        data.sort();
        data
    };
    let before: Vec<_> = order.iter().map(|p| p.data.clone()).collect();
    let after: Vec<_> = made.into_iter().map(|p| p.data).collect();
    assert_ne!(before, after);
    assert_eq!(sorted(before), sorted(after));
}

#[test]
fn shuffle_makes_ethernet_of_several_link_types() {
    let mut raw = connection(40_000, 0).remove(3);
    raw.data.drain(..14);
    raw.len -= 14;
    raw.linktype = LinkType::RAW;
    let strange = Packet { linktype: LinkType(9999), ..arp(5) };
    let made = generate(Baseline::Shuffle, &[], &[raw, strange, arp(7)], &Options::default()).unwrap();
    assert!(made.packets.iter().all(|p| p.linktype == LinkType::ETHERNET));
    assert_eq!((made.packets.len(), made.counters.packets_left_out), (2, 1));
}

#[test]
fn independent_bits_have_the_real_frequencies() {
    let real = mixed();
    let options = Options { packets: Some(4000), ..Options::default() };
    let made = make(Baseline::IndependentBits, &real, &options).packets;
    assert_eq!(made.len(), 4000);
    assert!(made.windows(2).all(|pair| pair[0].ts <= pair[1].ts) && made[0].ts == options.start);
    let share = |packets: &[&Packet], byte: usize, bit: usize| {
        let bits = packets.iter().filter_map(|p| p.data.get(byte)).map(|b| f64::from(b >> bit & 1));
        let (n, sum) = bits.fold((0.0, 0.0), |(n, sum), b| (n + 1.0, sum + b));
        (n > 1500.0 || packets.len() < 1500).then(|| sum / n)
    };
    let (order, made) = (in_time_order(&real.0, &real.1), made.iter().collect::<Vec<_>>());
    for byte in 0..60 {
        for bit in 0..8 {
            let (Some(real), Some(made)) = (share(&order, byte, bit), share(&made, byte, bit)) else { continue };
            // 4,000 draws: a standard deviation of at most 0.008, five of them.
            assert!((real - made).abs() < 0.04, "byte {byte}, bit {bit}: {real} and {made}");
            assert!(real.fract() != 0.0 || real == made, "a constant bit stays constant");
        }
    }
}

#[test]
fn markov_keeps_the_numbers_of_both_ends_consistent() {
    let real = mixed();
    let options = Options { flows: Some(300), ..Options::default() };
    let made = make(Baseline::Markov, &real, &options);
    assert_eq!((made.counters.flows, made.counters.packets_left_out), (300, 1));
    made.packets.iter().for_each(assert_sealed);
    let mut handshakes = 0;
    for flow in into_flows(made.packets) {
        let mut next: [Option<u32>; 2] = [None; 2];
        for (direction, packet) in &flow.packets {
            let frame = parse(packet).unwrap();
            let Transport::Tcp(tcp) = frame.transport else { continue };
            let (own, other) = if *direction == Direction::Orig { (0, 1) } else { (1, 0) };
            assert!(next[own].is_none_or(|next| next == tcp.seq));
            if tcp.flags & TcpView::ACK != 0
                && let Some(next) = next[other]
            {
                assert_eq!(tcp.ack, next);
            }
            handshakes += u32::from(tcp.flags == 0x12);
            let used = frame.payload_len as u32 + u32::from(tcp.flags & 1 != 0) + u32::from(tcp.flags & 2 != 0);
            next[own] = Some(tcp.seq.wrapping_add(used));
        }
    }
    assert!(handshakes > 150, "{handshakes}");
}

#[test]
fn bootstrap_moves_every_host_and_seals_every_packet() {
    let real = mixed();
    let options = Options { flows: Some(200), ..Options::default() };
    let made = make(Baseline::Bootstrap, &real, &options);
    assert_eq!((made.counters.flows, made.counters.flows_left_out, made.counters.packets_left_out), (200, 0, 1));
    made.packets.iter().for_each(assert_sealed);
    let hosts: HashSet<IpAddr> = real.0.iter().flat_map(|f| [f.tuple.orig, f.tuple.resp]).collect();
    for packet in &made.packets {
        for host in &hosts {
            let octets = match host {
                IpAddr::V4(a) => a.octets().to_vec(),
                IpAddr::V6(a) => a.octets().to_vec(),
            };
            assert!(packet.data.windows(octets.len()).all(|w| w != octets), "{host} is still there");
        }
        assert!(packet.data.windows(6).all(|w| w != &MAC_PAIR[..6] && w != &MAC_PAIR[6..]));
    }
    assert_eq!(into_flows(made.packets).len(), 200, "no two copies share a 5-tuple");
}

#[test]
fn bootstrap_keeps_payload_gaps_and_sequence_deltas() {
    let real = captured(connection(40_000, 0));
    let options = Options { flows: Some(5), ..Options::default() };
    let made = into_flows(make(Baseline::Bootstrap, &real, &options).packets);
    assert_eq!(made.len(), 5);
    // Sequence number, acknowledgement and first SACK edge, each less the initial number that it counts from.
    let relative = |flow: &Flow| {
        let tcp = |i: usize| match parse(&flow.packets[i].1).unwrap().transport {
            Transport::Tcp(tcp) => tcp,
            other => panic!("{other:?}"),
        };
        let isn = [tcp(0).seq, tcp(1).seq];
        let each = |(i, (direction, _)): (usize, &(Direction, Packet))| {
            let (own, other) = if *direction == Direction::Orig { (0, 1) } else { (1, 0) };
            let edge = tcp(i).options.get(4..8).map(|e| u32::from_be_bytes(e.try_into().unwrap()) - isn[other]);
            let ack = if i == 0 { tcp(i).ack } else { tcp(i).ack.wrapping_sub(isn[other]) };
            (tcp(i).seq.wrapping_sub(isn[own]), ack, tcp(i).flags, edge)
        };
        flow.packets.iter().enumerate().map(each).collect::<Vec<_>>()
    };
    let body = |flow: &Flow| {
        let each = |(direction, packet): &(Direction, Packet)| {
            (*direction, packet.ts.nanos_since(flow.start()), parse(packet).unwrap().payload.to_vec())
        };
        flow.packets.iter().map(each).collect::<Vec<_>>()
    };
    for copy in &made {
        assert_eq!(relative(copy), relative(&real.0[0]));
        assert_eq!(body(copy), body(&real.0[0]));
        assert_eq!(copy.tuple.resp_port, 443);
    }
    let isns: HashSet<u32> = made.iter().map(|f| View::new(&f.packets[0].1).tcp().unwrap().seq()).collect();
    assert_eq!(isns.len(), 5);
}

#[test]
fn bootstrap_keeps_what_a_snaplen_left() {
    let mut packets = connection(40_000, 0);
    packets[3].data.truncate(56); // two bytes of the payload of eight
    let made = make(Baseline::Bootstrap, &captured(packets.clone()), &Options::default()).packets;
    assert_eq!((made[3].data.len(), made[3].len), (56, 62));
    let frame = parse(&made[3]).unwrap();
    assert_eq!((frame.payload, frame.payload_len), (&b"qu"[..], 8));
}

#[test]
fn bootstrap_copies_ipv4_of_protocols_that_do_not_depend_on_addresses() {
    let mut packet = connection(40_000, 0).remove(3);
    packet.data[14 + 9] = 50; // ESP
    let gre = |mut p: Packet| {
        p.data[14 + 9] = 47;
        p
    };
    let real = captured(vec![packet.clone(), gre(packet.clone())]);
    let made = make(Baseline::Bootstrap, &real, &Options::default());
    assert_eq!((made.counters.flows_left_out, made.counters.packets_left_out), (1, 1));
    let ip = &made.packets[0].data[14..];
    assert_eq!(ip[20..], packet.data[34..]);
    let sum: u32 = ip[..20].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    assert_eq!((sum >> 16) + (sum & 0xffff), 0xffff, "RFC 1071: the sum over a right header is all ones");
}

#[test]
fn what_an_icmp_error_quotes_is_moved_with_its_checksums() {
    let quoted = connection(40_000, 0).remove(3);
    let six = |n| IpAddr::V6(Ipv6Addr::new(0x2a00, 1, 2, 3, 0, 0, 0, n));
    let dns = Transport::Udp { src_port: 5000, dst_port: 53 };
    let quoted_six = packet(0, six(1), six(2), dns, b"a name of eighteen");
    let error = |kind: u8, quoted: &Packet| [&[kind, 4, 0, 0, 0, 0, 0, 0], &quoted.data[14..]].concat();
    let packets = vec![
        packet(0, SERVER, CLIENT, Transport::Icmp, &error(3, &quoted)),
        packet(1, six(2), six(1), Transport::Icmp, &error(1, &quoted_six)),
    ];
    let made = make(Baseline::Bootstrap, &captured(packets), &Options { flows: Some(20), ..Options::default() });
    let mut versions = HashSet::new();
    for outer in &made.packets {
        assert_sealed(outer);
        let frame = parse(outer).unwrap();
        let data = [&outer.data[..14], &frame.payload[8..]].concat();
        let inner = Packet { len: data.len() as u32, data, ..outer.clone() };
        assert_sealed(&inner);
        let inner = parse(&inner).unwrap().ip;
        assert_eq!((inner.src, inner.dst), (frame.ip.dst, frame.ip.src), "the hosts of the error are those quoted");
        versions.insert(inner.src.is_ipv6());
    }
    assert_eq!(versions.len(), 2);
}

#[test]
fn limits_on_packets_and_bytes_hold() {
    let real = mixed();
    for baseline in Baseline::ALL {
        let made = make(baseline, &real, &Options { packets: Some(50), ..Options::default() });
        assert_eq!(made.packets.len(), 50, "{baseline}");
        let made = make(baseline, &real, &Options { bytes_max: 200, ..Options::default() });
        assert!(made.counters.bytes_max_reached && made.packets.len() < 30, "{baseline}");
    }
}

proptest! {
    /// Valid packets with bytes changed and ends cut, and bytes of no meaning at all, in any order of time.
    #[test]
    fn hostile_packets_do_not_panic(
        changes in prop::collection::vec((0_usize..200, 0_usize..90, any::<u8>(), 0_usize..90, any::<i64>()), 1..100),
        noise in prop::collection::vec((any::<Vec<u8>>(), 0_u32..100_000, 0_u16..150), 0..5),
        seed in any::<u64>(),
    ) {
        let (flows, mut strays) = mixed();
        let mut packets: Vec<Packet> = flows.into_iter().flat_map(|f| f.packets).map(|(_, p)| p).collect();
        for (packet, at, byte, cut, ts) in changes {
            let n = packets.len();
            let packet = &mut packets[packet % n];
            if let Some(b) = packet.data.get_mut(at) {
                *b = byte;
            }
            if cut > 30 {
                packet.data.truncate(cut);
            }
            if cut % 4 == 0 {
                packet.ts = Timestamp(ts);
                packet.len = u32::from(byte) * 300;
            }
        }
        strays.extend(noise.into_iter().map(|(data, len, linktype)| {
            Packet { ts: Timestamp(i64::from(len)), linktype: LinkType(linktype), len, data }
        }));
        let flows = into_flows(packets);
        for baseline in Baseline::ALL {
            let _ = generate(baseline, &flows, &strays, &Options { seed, ..Options::default() });
        }
    }
}

//! Each rule: what is right passes, and one damage breaks the rule that it should, and no other.

mod hostile;
mod make;
mod payload;
mod tcp;

use wiremamba_model::flow::Direction::{Orig, Resp};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

use super::Validity;
use crate::view::View;
use make::{ACK, FIN, IP, L4, RST, SYN, SYN_OPTIONS, fix, fix_ip, flow, judge, packet, packet_faults, seg, tcp, udp};

/// A rule, and what breaks it in a frame whose checksums are put right afterwards.
type Damage = (&'static str, fn(&mut Vec<u8>));

fn data() -> Packet {
    tcp(&seg(Orig, ACK, 1, 1, b"some data"), 9000)
}

fn assert_each_breaks_its_rule(whole: &Packet, damages: &[Damage]) {
    assert_eq!(packet_faults(whole), [] as [&str; 0]);
    for (name, damage) in damages {
        let mut damaged = whole.clone();
        damage(&mut damaged.data);
        fix(&mut damaged.data);
        assert_eq!(packet_faults(&damaged), [*name]);
    }
}

#[test]
fn one_damage_to_an_ip_header_breaks_one_rule() {
    let damages: [Damage; 6] = [
        ("IP version", |f| f[12..14].copy_from_slice(&[0x86, 0xdd])),
        ("IPv4 reserved bit", |f| f[IP + 6] |= 0x80),
        ("TTL zero", |f| f[IP + 8] = 0),
        ("source not unicast", |f| f[IP + 12] = 224),
        ("source not unicast", |f| f[IP + 12..IP + 16].fill(255)),
        ("IPv4 total length", |f| f[IP + 3] += 1),
    ];
    assert_each_breaks_its_rule(&data(), &damages);

    let mut unknown = data();
    unknown.data[IP + 9] = 200;
    fix_ip(&mut unknown.data);
    assert_eq!(packet_faults(&unknown), ["unknown protocol"]);
}

#[test]
fn one_damage_to_a_tcp_header_breaks_one_rule() {
    let damages: [Damage; 10] = [
        ("port zero", |f| f[L4..L4 + 2].fill(0)),
        ("TCP reserved bits", |f| f[L4 + 12] |= 4),
        ("TCP header length", |f| f[L4 + 12] = 0x40),
        ("TCP header length", |f| f[L4 + 12] = 0xf0),
        ("TCP no flags", |f| f[L4 + 13] = 0),
        ("TCP flags SYN+FIN", |f| f[L4 + 13] = SYN | FIN | ACK),
        ("TCP flags SYN+RST", |f| f[L4 + 13] = SYN | RST),
        ("TCP flags FIN+RST", |f| f[L4 + 13] = FIN | RST | ACK),
        ("TCP flags FIN without ACK", |f| f[L4 + 13] = FIN),
        ("TCP flags without ACK", |f| f[L4 + 13] = 8),
    ];
    assert_each_breaks_its_rule(&data(), &damages);

    let first = tcp(&seg(Orig, SYN, 1, 0, b"").with(&SYN_OPTIONS), 9000);
    let damages: [Damage; 5] = [
        ("TCP option length", |f| f[L4 + 21] = 1),
        ("TCP option length", |f| f[L4 + 21] = 40),
        ("TCP option length", |f| f[L4 + 21] = 5),
        ("TCP option length", |f| f[L4 + 27] = 4),
        ("TCP option of a SYN elsewhere", |f| f[L4 + 13] = ACK),
    ];
    assert_each_breaks_its_rule(&first, &damages);
}

#[test]
fn one_damage_to_udp_or_icmp_breaks_one_rule() {
    let mut datagram = udp(Orig, 9000, b"some data");
    let damages: [Damage; 2] = [("port zero", |f| f[L4 + 2..L4 + 4].fill(0)), ("UDP length", |f| f[L4 + 5] += 1)];
    assert_each_breaks_its_rule(&datagram, &damages);
    datagram.data[L4 + 6..L4 + 8].fill(0);
    assert!(packet_faults(&datagram).is_empty(), "over IPv4 a datagram may do without checksum");

    let echo = packet(make::frame(1, 2, 1, &[8, 0, 0, 0, 0, 1, 0, 1, 99]), 0);
    let damages: [Damage; 1] = [("ICMP type", |f| f[L4] = 77)];
    assert_each_breaks_its_rule(&echo, &damages);
    let mut damaged = echo.clone();
    damaged.data[L4 + 8] = 98;
    assert_eq!(packet_faults(&damaged), ["ICMP checksum"]);
}

#[test]
fn a_checksum_that_is_wrong_and_one_left_to_the_card_have_names_of_their_own() {
    let mut damaged = data();
    damaged.data[L4 + 16] ^= 1;
    assert_eq!(packet_faults(&damaged), ["TCP checksum"]);
    damaged.data[L4 + 16..L4 + 18].fill(0);
    assert_eq!(packet_faults(&damaged), ["TCP checksum left to hardware"]);

    // 10.0.0.1 to 192.0.2.1, protocol 6, 29 bytes: 0a00 + 0001 + c000 + 0201 + 0006 + 001d, what Linux leaves there.
    damaged.data[L4 + 16..L4 + 18].copy_from_slice(&0xcc25_u16.to_be_bytes());
    assert_eq!(packet_faults(&damaged), ["TCP checksum left to hardware"]);

    let mut damaged = data();
    damaged.data[IP + 10] ^= 1;
    assert_eq!(packet_faults(&damaged), ["IPv4 checksum"]);
    let mut damaged = udp(Orig, 9000, b"x");
    damaged.data[L4 + 6] ^= 1;
    assert_eq!(packet_faults(&damaged), ["UDP checksum"]);
}

/// An ICMPv6 echo request whose checksum was added up by hand.
#[test]
fn ipv6_is_judged_like_ipv4() {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 64];
    frame.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    // 2 * (2001 + 0db8) + 1 + 2 + 0008 + 003a + 8000 + 0001 + 0001 = dbb9, whose complement is 2446.
    frame.extend([128, 0, 0x24, 0x46, 0, 1, 0, 1]);
    let whole = packet(frame, 0);
    assert_eq!(packet_faults(&whole), [] as [&str; 0]);
    let damages: [(usize, u8, &[&str]); 6] = [
        (IP + 7, 0, &["TTL zero"]),
        (IP + 8, 0xff, &["ICMPv6 checksum", "source not unicast"]),
        (IP + 5, 9, &["IPv6 payload length"]),
        (IP + 5, 0, &["IPv6 payload length zero"]),
        (IP + 6, 2, &["unknown protocol"]),
        (IP + 47, 2, &["ICMPv6 checksum"]),
    ];
    for (at, value, faults) in damages {
        let mut damaged = whole.clone();
        damaged.data[at] = value;
        assert_eq!(packet_faults(&damaged), faults, "byte {at}");
    }
}

#[test]
fn what_the_snaplen_cut_is_not_judged() {
    let whole = data();
    for keep in L4 + 4..whole.data.len() {
        let mut cut = whole.clone();
        cut.data.truncate(keep);
        assert_eq!(packet_faults(&cut), [] as [&str; 0], "{keep} bytes");
        let report = judge(&flow(6, 9000, vec![(Orig, cut)]));
        assert_eq!(
            (report.checksums_not_checked, report.packets_valid),
            (u64::from(keep >= L4 + 20), 1),
            "{keep} bytes"
        );
    }
    let mut cut = whole.clone();
    cut.data.truncate(L4 + 2);
    let mut validity = Validity::default();
    validity.packet_without_flow(&View::new(&cut));
    assert_eq!((validity.report().packets, validity.report().packets_cut), (0, 1));
}

#[test]
fn padding_and_fragments_are_fine() {
    let mut padded = data();
    padded.data.extend([0; 11]);
    padded.len += 11;
    assert_eq!(packet_faults(&padded), [] as [&str; 0]);

    let mut later = data();
    later.data[IP + 7] = 100;
    later.data[L4..].fill(0xee);
    fix_ip(&mut later.data);
    assert_eq!(packet_faults(&later), [] as [&str; 0]);
}

#[test]
fn frames_without_a_flow_are_other_protocols_or_malformed() {
    let mut validity = Validity::default();
    let mut see = |data: Vec<u8>| validity.packet_without_flow(&View::new(&packet(data, 0)));
    see([&[0xff; 12][..], &[8, 6], &[0; 28]].concat()); // ARP
    let mut bad = data().data;
    bad[IP] = 0x44;
    see(bad.clone());
    bad[IP] = 0x55;
    see(bad);
    see(data().data[..30].to_vec());
    let report = validity.report();
    assert_eq!((report.packets, report.packets_valid, report.packets_not_ip), (3, 0, 1));
    assert_eq!(
        report.packet_faults.into_iter().collect::<Vec<_>>(),
        [("frame shorter than its headers", 1), ("malformed headers", 2)]
    );
    let other = Packet { ts: Timestamp(0), linktype: LinkType(999), len: 3, data: vec![1, 2, 3] };
    let mut validity = Validity::default();
    validity.packet_without_flow(&View::new(&other));
    assert_eq!(validity.report().packets_not_ip, 1);
}

#[test]
fn parts_add_up_to_the_whole_and_nothing_has_no_share() {
    let flows = [
        make::tcp_flow(&tcp::conversation(), 9000),
        make::tcp_flow(&tcp::conversation()[..5], 9000),
        flow(17, 53, vec![(Orig, udp(Orig, 53, b"no message")), (Resp, udp(Resp, 53, b"neither"))]),
    ];
    let (mut whole, mut merged) = (Validity::default(), Validity::default());
    for one in &flows {
        whole.flow(one);
        let mut part = Validity::default();
        part.flow(one);
        merged.merge(part);
    }
    let report = whole.report();
    assert_eq!(report, merged.report());
    assert_eq!((report.flows, report.flows_valid, report.tcp_flows, report.tcp_complete), (3, 2, 2, 1));
    assert_eq!(report.tcp_complete_pct, Some(50.0));
    assert_eq!(report.flow_faults.get("DNS message"), Some(&1));

    let empty = serde_json::to_value(Validity::default().report()).unwrap();
    assert!(empty["packets_valid_pct"].is_null() && empty["netssm"]["fin_seen"]["pct"].is_null());
}

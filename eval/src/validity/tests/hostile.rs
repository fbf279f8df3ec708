//! Nothing that comes from outside makes the judge fall over.

use proptest::prelude::*;
use wiremamba_model::flow::Direction::{Orig, Resp};
use wiremamba_model::flow::{Flow, FlowEnd};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

use super::super::{Validity, dns, http, quic};
use super::make::{ACK, Seg, flow, seg, tcp, tcp_flow, udp};
use super::tcp::conversation;
use crate::view::View;

fn see(packet: &Packet) {
    let mut validity = Validity::default();
    let view = View::new(packet);
    match view.tuple {
        Some(tuple) => {
            let packets = vec![(Orig, packet.clone()), (Resp, packet.clone())];
            validity.flow(&Flow { tuple, packets, end: FlowEnd::EndOfInput });
        }
        None => validity.packet_without_flow(&view),
    }
    let report = validity.report();
    assert!(report.packets_valid <= report.packets);
}

fn any_segment() -> impl Strategy<Value = Seg> {
    let near = prop_oneof![any::<u32>(), 0..2_000_u32, u32::MAX - 1_000..=u32::MAX];
    (any::<bool>(), any::<u8>(), near.clone(), near, prop::collection::vec(any::<u8>(), 0..60), 0..3_000_i64).prop_map(
        |(up, flags, seq, ack, mut bytes, ms)| {
            let options = bytes.split_off(bytes.len().saturating_sub(40) / 4 * 4);
            let options = &options[..options.len() / 4 * 4];
            seg(if up { Orig } else { Resp }, flags, seq, ack, &bytes).with(options).at_ms(ms)
        },
    )
}

proptest! {
    #[test]
    fn random_bytes_are_judged(data in prop::collection::vec(any::<u8>(), 0..200), more in 0..100_u32, link in 0..3_usize) {
        let linktype = [LinkType::ETHERNET, LinkType::RAW, LinkType::IPV6][link];
        let len = data.len() as u32 + more;
        see(&Packet { ts: Timestamp(0), linktype, len, data });
    }

    #[test]
    fn damaged_frames_are_judged(
        which in 0..12_usize, at in 12..90_usize, value: u8, cut in 0..90_usize, more in 0..2_u32, len: u32,
    ) {
        let mut packet = match conversation().get(which) {
            Some(segment) => tcp(segment, 443),
            None => udp(Orig, if which == 10 { 53 } else { 443 }, &[0xc3; 40]),
        };
        if let Some(byte) = packet.data.get_mut(at) {
            *byte = value;
        }
        packet.data.truncate(packet.data.len().saturating_sub(cut));
        packet.len = if more == 0 { len } else { packet.len };
        see(&packet);
    }

    #[test]
    fn random_segments_are_judged(segments in prop::collection::vec(any_segment(), 1..60), port in 0..3_usize) {
        let flow = tcp_flow(&segments, [53, 443, 80][port]);
        let mut validity = Validity::default();
        validity.flow(&flow);
        prop_assert_eq!(validity.report().tcp_flows, 1);
    }

    #[test]
    fn random_payloads_are_parsed(bytes in prop::collection::vec(any::<u8>(), 0..300), start in 0..4_usize) {
        let start: &[u8] = [&b"\x16\x03\x01\0\x05"[..], b"GET / ", b"\xc0\0\0\0\x01", b"\0\x20\0\0\0\0\0\x01\0\x01"][start];
        let bytes = [start, &bytes].concat();
        dns::is_message(&bytes);
        quic::is_first_datagram(&bytes);
        http::first_line(&bytes);
        for port in [53, 443, 80] {
            let segments = [seg(Orig, ACK, 5, 1, &bytes[..4]), seg(Orig, ACK, 9, 1, &bytes[4..])];
            let mut validity = Validity::default();
            validity.flow(&tcp_flow(&segments, port));
            validity.flow(&flow(17, port, vec![(Orig, udp(Orig, port, &bytes))]));
            prop_assert_eq!(validity.report().packets_valid, 3);
        }
    }
}

/// 65,535 records announced in a message of pointers: each is looked at once, and the message ends first.
#[test]
fn a_message_that_announces_much_is_read_no_further_than_its_end() {
    let mut message = vec![0; 65_535];
    message[4..12].fill(0xff);
    for at in (12..65_534).step_by(2) {
        message[at..at + 2].copy_from_slice(&[0xff, 0xff]);
    }
    assert!(!dns::is_message(&message));
    // Pointers of pointers: the longest chain in reach of a pointer.
    for at in (12..16_383).step_by(2) {
        let target = (at - 2) as u16 | 0xc000;
        message[at..at + 2].copy_from_slice(&target.to_be_bytes());
    }
    assert!(!dns::is_message(&message));
}

//! Made-up packets and flows for the tests: valid ones, to be damaged.

use std::net::Ipv4Addr;

use wiremamba_model::flow::{Direction, FiveTuple, Flow, FlowEnd};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};

use super::super::{Validity, ValidityReport};
use crate::view::View;

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;
/// Options of a SYN: MSS 1460, SACK permitted, window scale 7, padding.
pub(super) const SYN_OPTIONS: [u8; 12] = [2, 4, 5, 180, 4, 2, 3, 3, 7, 1, 1, 1];

/// Bytes of the Ethernet and of the IPv4 header.
pub(super) const IP: usize = 14;
pub(super) const L4: usize = 34;

/// A TCP segment from the client (`Orig`) or the server (`Resp`).
#[derive(Debug, Clone)]
pub(super) struct Seg {
    pub(super) from: Direction,
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) ms: i64,
}

pub(super) fn seg(from: Direction, flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Seg {
    Seg { from, flags, seq, ack, options: Vec::new(), payload: payload.to_vec(), ms: 0 }
}

impl Seg {
    pub(super) fn with(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    pub(super) fn clocks(self, value: u32, echo: u32) -> Self {
        let mut options = vec![1, 1, 8, 10];
        options.extend(value.to_be_bytes());
        options.extend(echo.to_be_bytes());
        self.with(&options)
    }

    pub(super) fn at_ms(mut self, ms: i64) -> Self {
        self.ms = ms;
        self
    }
}

/// The one's complement sum, written the slow way.
fn sum(bytes: &[u8]) -> u16 {
    let mut ret = 0_u64;
    for (i, byte) in bytes.iter().enumerate() {
        ret += u64::from(*byte) << if i % 2 == 0 { 8 } else { 0 };
    }
    (ret % 0xffff) as u16
}

/// Puts checksums right in an Ethernet frame with an IPv4 header of 20 bytes.
pub(super) fn fix(frame: &mut [u8]) {
    let field = match frame[IP + 9] {
        1 => 2,
        6 => 16,
        _ => 6,
    };
    let total = usize::from(u16::from_be_bytes([frame[IP + 2], frame[IP + 3]])).min(frame.len() - IP);
    frame[L4 + field..L4 + field + 2].fill(0);
    let mut covered = Vec::new();
    if frame[IP + 9] != 1 {
        covered.extend_from_slice(&frame[IP + 12..IP + 20]);
        covered.extend_from_slice(&[0, frame[IP + 9]]);
        covered.extend_from_slice(&((total - 20) as u16).to_be_bytes());
    }
    covered.extend_from_slice(&frame[L4..IP + total]);
    let transport = !sum(&covered);
    frame[L4 + field..L4 + field + 2].copy_from_slice(&transport.to_be_bytes());
    fix_ip(frame);
}

/// Puts the checksum of the IPv4 header right, and no other.
pub(super) fn fix_ip(frame: &mut [u8]) {
    frame[IP + 10..IP + 12].fill(0);
    let header = !sum(&frame[IP..L4]);
    frame[IP + 10..IP + 12].copy_from_slice(&header.to_be_bytes());
}

/// An Ethernet frame from `src` to `dst`, with right checksums.
pub(super) fn frame(src: u32, dst: u32, protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut ret = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    ret.extend(((20 + transport.len()) as u16).to_be_bytes());
    ret.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    ret.extend(src.to_be_bytes());
    ret.extend(dst.to_be_bytes());
    ret.extend_from_slice(transport);
    fix(&mut ret);
    ret
}

pub(super) fn packet(data: Vec<u8>, ms: i64) -> Packet {
    let len = data.len() as u32;
    Packet { ts: Timestamp(ms * 1_000_000), linktype: LinkType::ETHERNET, len, data }
}

const CLIENT: u32 = 0x0a00_0001;
const SERVER: u32 = 0xc000_0201;

fn ends(from: Direction, client_port: u16, server_port: u16) -> (u32, u32, [u8; 4]) {
    let ([a, b], [c, d]) = (client_port.to_be_bytes(), server_port.to_be_bytes());
    match from {
        Direction::Orig => (CLIENT, SERVER, [a, b, c, d]),
        Direction::Resp => (SERVER, CLIENT, [c, d, a, b]),
    }
}

pub(super) fn tcp(seg: &Seg, port: u16) -> Packet {
    let (src, dst, ports) = ends(seg.from, 40_000, port);
    let mut header = ports.to_vec();
    header.extend(seg.seq.to_be_bytes());
    header.extend(seg.ack.to_be_bytes());
    header.extend([((20 + seg.options.len()) as u8 / 4) << 4, seg.flags, 0x20, 0, 0, 0, 0, 0]);
    header.extend(&seg.options);
    header.extend(&seg.payload);
    packet(frame(src, dst, 6, &header), seg.ms)
}

pub(super) fn udp(from: Direction, port: u16, payload: &[u8]) -> Packet {
    let (src, dst, ports) = ends(from, 40_000, port);
    let mut header = ports.to_vec();
    header.extend(((8 + payload.len()) as u16).to_be_bytes());
    header.extend([0, 0]);
    header.extend(payload);
    packet(frame(src, dst, 17, &header), 0)
}

pub(super) fn flow(protocol: u8, port: u16, packets: Vec<(Direction, Packet)>) -> Flow {
    let tuple = FiveTuple {
        orig: Ipv4Addr::from(CLIENT).into(),
        resp: Ipv4Addr::from(SERVER).into(),
        orig_port: 40_000,
        resp_port: port,
        protocol,
    };
    Flow { tuple, packets, end: FlowEnd::EndOfInput }
}

pub(super) fn tcp_flow(segments: &[Seg], port: u16) -> Flow {
    flow(6, port, segments.iter().map(|s| (s.from, tcp(s, port))).collect())
}

/// The report on one flow.
pub(super) fn judge(flow: &Flow) -> ValidityReport {
    let mut validity = Validity::default();
    validity.flow(flow);
    validity.report()
}

/// The faults of a frame, as a flow of its own where it has a 5-tuple.
pub(super) fn packet_faults(packet: &Packet) -> Vec<&'static str> {
    let view = View::new(packet);
    let mut validity = Validity::default();
    match view.tuple {
        Some(tuple) => {
            validity.flow(&Flow { tuple, packets: vec![(Direction::Orig, packet.clone())], end: FlowEnd::EndOfInput })
        }
        None => validity.packet_without_flow(&view),
    }
    validity.report().packet_faults.into_keys().collect()
}

pub(super) fn flow_faults(segments: &[Seg]) -> Vec<&'static str> {
    judge(&tcp_flow(segments, 9000)).flow_faults.into_keys().collect()
}

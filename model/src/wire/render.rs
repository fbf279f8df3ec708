//! From the fields of a frame to its bytes: lengths and checksums are computed here and nowhere else.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;

use super::parse::{Frame, ICMPV6, TCP, Transport, UDP};

/// Appends the frame: `render(parse(x))` is `x` for every whole frame with right lengths and checksums and without
/// bytes behind its end.
///
/// The payload of ICMP begins with type, code and two bytes that the checksum replaces.
///
/// # Panics
/// When header and payload together exceed 65,535 bytes, or addresses are of different families.
pub fn render(frame: &Frame<'_>, ret: &mut Vec<u8>) {
    ret.extend_from_slice(frame.link);
    let ip_at = ret.len();
    let transport_len = match &frame.transport {
        Transport::Tcp(tcp) => 20 + tcp.options.len().next_multiple_of(4),
        Transport::Udp { .. } => 8,
        Transport::Icmp => 0,
    };
    let above_len = transport_len + frame.payload.len();
    let ip = &frame.ip;
    match (ip.src, ip.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = u16::try_from(20 + above_len).expect("fits into IPv4");
            ret.extend_from_slice(&[0x45, ip.tos]);
            ret.extend_from_slice(&total.to_be_bytes());
            ret.extend_from_slice(&ip.id.to_be_bytes());
            ret.extend_from_slice(&[if ip.df { 0x40 } else { 0 }, 0, ip.ttl, ip.protocol, 0, 0]);
            ret.extend_from_slice(&src.octets());
            ret.extend_from_slice(&dst.octets());
            let sum = Sum16BitWords::new().add_slice(&ret[ip_at..]).ones_complement();
            ret[ip_at + 10..ip_at + 12].copy_from_slice(&sum.to_ne_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let len = u16::try_from(above_len).expect("fits into IPv6");
            ret.extend_from_slice(&[0x60 | ip.tos >> 4, ip.tos << 4, 0, 0]);
            ret.extend_from_slice(&len.to_be_bytes());
            ret.extend_from_slice(&[ip.protocol, ip.ttl]);
            ret.extend_from_slice(&src.octets());
            ret.extend_from_slice(&dst.octets());
        }
        _ => panic!("{} and {} are of different families", ip.src, ip.dst),
    }
    let at = ret.len();
    let checksum_at = match &frame.transport {
        Transport::Tcp(tcp) => {
            ret.extend_from_slice(&tcp.src_port.to_be_bytes());
            ret.extend_from_slice(&tcp.dst_port.to_be_bytes());
            ret.extend_from_slice(&tcp.seq.to_be_bytes());
            ret.extend_from_slice(&tcp.ack.to_be_bytes());
            ret.extend_from_slice(&[(transport_len as u8 / 4) << 4, tcp.flags]);
            ret.extend_from_slice(&tcp.window.to_be_bytes());
            ret.extend_from_slice(&[0, 0]);
            ret.extend_from_slice(&tcp.urgent.to_be_bytes());
            ret.extend_from_slice(tcp.options);
            ret.resize(at + transport_len, 0);
            16
        }
        Transport::Udp { src_port, dst_port } => {
            ret.extend_from_slice(&src_port.to_be_bytes());
            ret.extend_from_slice(&dst_port.to_be_bytes());
            ret.extend_from_slice(&(above_len as u16).to_be_bytes());
            ret.extend_from_slice(&[0, 0]);
            6
        }
        Transport::Icmp => 2,
    };
    ret.extend_from_slice(frame.payload);
    if let Some(field) = ret.get_mut(at + checksum_at..at + checksum_at + 2) {
        field.fill(0);
        let sum = checksum(frame, &ret[at..]);
        ret[at + checksum_at..at + checksum_at + 2].copy_from_slice(&sum);
    }
}

/// The checksum of what is above IP (RFC 768, RFC 792, RFC 4443, RFC 9293), with its own field zero.
fn checksum(frame: &Frame<'_>, above: &[u8]) -> [u8; 2] {
    let ip = &frame.ip;
    let len = above.len() as u16;
    let pseudo = [0, ip.protocol];
    let has_pseudo_header = matches!(ip.protocol, TCP | UDP | ICMPV6);
    let sum = match (ip.src, ip.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) if has_pseudo_header => {
            Sum16BitWords::new().add_4bytes(src.octets()).add_4bytes(dst.octets())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) if has_pseudo_header => {
            Sum16BitWords::new().add_16bytes(src.octets()).add_16bytes(dst.octets())
        }
        _ => Sum16BitWords::new(),
    };
    let sum = if has_pseudo_header { sum.add_2bytes(pseudo).add_2bytes(len.to_be_bytes()) } else { sum };
    let sum = sum.add_slice(above);
    // A UDP checksum of zero would mean that there is none.
    if ip.protocol == UDP { sum.to_ones_complement_with_no_zero() } else { sum.ones_complement() }.to_ne_bytes()
}

//! From the fields of a frame to its bytes: lengths and checksums are computed here and nowhere else.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;

use super::parse::{Frame, ICMPV6, Ip, TCP, Transport, UDP};

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

/// The headers of a frame whose payload is written to its place before they are: the bytes are those of [`render`], which is the
/// plain way to the same frame and what this is tested against.
///
/// First [`reserve`](Self::reserve), then append the payload, then [`fill`](Self::fill).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Headers {
    bytes: [u8; HEADERS_MAX],
    /// Where IP begins, what is above it, and the payload.
    ip_at: usize,
    above_at: usize,
    len: usize,
    /// Where in the bytes the checksum of what is above IP stands.
    checksum_at: usize,
    protocol: u8,
}

/// Longest headers: a link header with two VLAN tags, IPv6, TCP with all options.
const HEADERS_MAX: usize = 22 + 40 + 60;

impl Headers {
    /// The headers of a packet but for lengths and checksums.
    ///
    /// # Panics
    /// When the link header has more than 22 bytes, the options more than 40, or addresses are of different families.
    pub(crate) fn new(link: &[u8], ip: &Ip, transport: &Transport<'_>) -> Self {
        let mut bytes = [0; HEADERS_MAX];
        let ip_at = link.len();
        bytes[..ip_at].copy_from_slice(link);
        let above_at = match (ip.src, ip.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let [id_high, id_low] = ip.id.to_be_bytes();
                let df = if ip.df { 0x40 } else { 0 };
                let fixed = [0x45, ip.tos, 0, 0, id_high, id_low, df, 0, ip.ttl, ip.protocol, 0, 0];
                let header = &mut bytes[ip_at..ip_at + 20];
                header[..12].copy_from_slice(&fixed);
                header[12..16].copy_from_slice(&src.octets());
                header[16..].copy_from_slice(&dst.octets());
                ip_at + 20
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = &mut bytes[ip_at..ip_at + 40];
                let fixed = [0x60 | ip.tos >> 4, ip.tos << 4, 0, 0, 0, 0, ip.protocol, ip.ttl];
                header[..8].copy_from_slice(&fixed);
                header[8..24].copy_from_slice(&src.octets());
                header[24..].copy_from_slice(&dst.octets());
                ip_at + 40
            }
            _ => panic!("{} and {} are of different families", ip.src, ip.dst),
        };
        let above = &mut bytes[above_at..];
        let (above_len, checksum_at) = match transport {
            Transport::Tcp(tcp) => {
                let len = 20 + tcp.options.len().next_multiple_of(4);
                above[..2].copy_from_slice(&tcp.src_port.to_be_bytes());
                above[2..4].copy_from_slice(&tcp.dst_port.to_be_bytes());
                above[4..8].copy_from_slice(&tcp.seq.to_be_bytes());
                above[8..12].copy_from_slice(&tcp.ack.to_be_bytes());
                above[12] = (len as u8 / 4) << 4;
                above[13] = tcp.flags;
                above[14..16].copy_from_slice(&tcp.window.to_be_bytes());
                above[18..20].copy_from_slice(&tcp.urgent.to_be_bytes());
                above[20..20 + tcp.options.len()].copy_from_slice(tcp.options);
                (len, 16)
            }
            Transport::Udp { src_port, dst_port } => {
                above[..2].copy_from_slice(&src_port.to_be_bytes());
                above[2..4].copy_from_slice(&dst_port.to_be_bytes());
                (8, 6)
            }
            Transport::Icmp => (0, 2),
        };
        let (len, checksum_at) = (above_at + above_len, above_at + checksum_at);
        Self { bytes, ip_at, above_at, len, checksum_at, protocol: ip.protocol }
    }

    /// Bytes of the headers.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes room for the headers at the beginning of an empty `ret`.
    pub(crate) fn reserve(&self, ret: &mut Vec<u8>) {
        ret.extend_from_slice(&self.bytes[..self.len]);
    }

    /// Completes the frame in `ret`, which has the payload in its place.
    ///
    /// # Panics
    /// When header and payload together exceed 65,535 bytes.
    pub(crate) fn fill(&self, ret: &mut [u8]) {
        let (ip_at, above_at) = (self.ip_at, self.above_at);
        let above_len = ret.len() - above_at;
        let is_v4 = above_at - ip_at == 20;
        let addresses = if is_v4 { ip_at + 12..above_at } else { ip_at + 8..above_at };
        if is_v4 {
            let total = u16::try_from(20 + above_len).expect("fits into IPv4");
            ret[ip_at + 2..ip_at + 4].copy_from_slice(&total.to_be_bytes());
            let sum = folded(sum(&ret[ip_at..above_at]));
            ret[ip_at + 10..ip_at + 12].copy_from_slice(&(!sum).to_ne_bytes());
        } else {
            let len = u16::try_from(above_len).expect("fits into IPv6");
            ret[ip_at + 4..ip_at + 6].copy_from_slice(&len.to_be_bytes());
        }
        let len = (above_len as u16).to_be_bytes();
        if self.protocol == UDP {
            ret[above_at + 4..above_at + 6].copy_from_slice(&len);
        }
        if ret.len() < self.checksum_at + 2 {
            return;
        }
        ret[self.checksum_at..self.checksum_at + 2].fill(0);
        let mut all = sum(&ret[above_at..]);
        if matches!(self.protocol, TCP | UDP | ICMPV6) {
            let pseudo = u64::from(u16::from_ne_bytes([0, self.protocol])) + u64::from(u16::from_ne_bytes(len));
            all += sum(&ret[addresses]) + pseudo;
        }
        let checksum = match !folded(all) {
            // A UDP checksum of zero would mean that there is none.
            0 if self.protocol == UDP => 0xffff,
            checksum => checksum,
        };
        ret[self.checksum_at..self.checksum_at + 2].copy_from_slice(&checksum.to_ne_bytes());
    }
}

/// The sum of the 16-bit words of `bytes` as they stand in memory (RFC 1071, section 2: the order does not matter); small
/// enough that those of one packet can be added.
fn sum(bytes: &[u8]) -> u64 {
    // Words of 32 bits in lanes of 64 cannot overflow below 2^32 of them, and have the same sum modulo 65,535.
    let (mut chunks, mut lanes) = (bytes.chunks_exact(32), [0u64; 8]);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut ret: u64 = lanes.iter().sum();
    let mut rest = chunks.remainder().chunks_exact(2);
    for word in &mut rest {
        ret += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = rest.remainder() {
        ret += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    ret
}

/// Folds a sum into 16 bits.
fn folded(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse::Tcp;
    use super::*;

    fn transports(options: &[u8], kind: u8, flags: u8) -> Transport<'_> {
        match kind {
            0 => {
                let (seq, ack) = (0xfedc_ba98, 0x1234_5678);
                Transport::Tcp(Tcp {
                    src_port: 50_000,
                    dst_port: 443,
                    seq,
                    ack,
                    flags,
                    window: 501,
                    urgent: 0,
                    options,
                })
            }
            1 => Transport::Udp { src_port: 50_000, dst_port: 53 },
            _ => Transport::Icmp,
        }
    }

    proptest! {
        /// Filling headers in gives what rendering gives, whatever the lengths are.
        #[test]
        fn headers_around_a_payload_are_those_of_the_plain_way(
            payload in proptest::collection::vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 0..1600),
            options in proptest::collection::vec(any::<u8>(), 0..=40),
            link in 0usize..=22, kind in 0u8..3, v6: bool, id: u16, flags: u8, df: bool, tos: u8,
        ) {
            let (src, dst): (IpAddr, IpAddr) = if v6 {
                ("2001:db8::1".parse().unwrap(), "2001:db8:ffff:ffff:ffff::2".parse().unwrap())
            } else {
                ("10.0.0.1".parse().unwrap(), "198.18.255.254".parse().unwrap())
            };
            let protocol = [TCP, UDP, if v6 { ICMPV6 } else { super::super::parse::ICMP }][usize::from(kind)];
            let ip = Ip { src, dst, protocol, tos, ttl: 64, id, df };
            let transport = transports(&options, kind, flags);
            let link = &[0x5a; 22][..link];
            let mut plain = Vec::new();
            render(&Frame { link, ip, transport, payload: &payload, payload_len: payload.len() }, &mut plain);
            let headers = Headers::new(link, &ip, &transport);
            let mut fast = Vec::new();
            headers.reserve(&mut fast);
            fast.extend_from_slice(&payload);
            headers.fill(&mut fast);
            prop_assert_eq!(fast, plain);
        }
    }

    #[test]
    fn a_udp_checksum_is_never_zero() {
        // The payload is chosen so that the sum is 0xffff: 16 bits of it run through all values.
        let ip = Ip {
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
            protocol: UDP,
            tos: 0,
            ttl: 1,
            id: 0,
            df: false,
        };
        let transport = Transport::Udp { src_port: 1, dst_port: 2 };
        let headers = Headers::new(&[], &ip, &transport);
        let mut seen = 0;
        for value in 0..=u16::MAX {
            let payload = value.to_be_bytes();
            let (mut plain, mut fast) = (Vec::new(), Vec::new());
            render(&Frame { link: &[], ip, transport, payload: &payload, payload_len: 2 }, &mut plain);
            headers.reserve(&mut fast);
            fast.extend_from_slice(&payload);
            headers.fill(&mut fast);
            assert_eq!(fast, plain);
            assert_ne!(fast[26..28], [0, 0]);
            seen += u32::from(fast[26..28] == [0xff, 0xff]);
        }
        assert_eq!(seen, 1, "0xffff is what 0 becomes; only zeros have it themselves");
    }
}

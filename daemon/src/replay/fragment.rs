//! UDP datagrams and ICMP messages that are longer than the MTU: sent in fragments, as a host's IP layer does it.

use wiremamba_model::packet::{LinkType, Packet};
use wiremamba_model::wire::parse::Frame;

use crate::source::{Tag, Tagged};

/// Length of the IPv4 header, which has no options here.
const IPV4: usize = 20;
/// Length of the IPv6 header.
const IPV6: usize = 40;
/// Length of IPv6's fragment header (RFC 8200, section 4.5).
const FRAGMENT: usize = 8;
/// Offsets are told in units of this many bytes.
const UNIT: usize = 8;

/// Cuts IP packets, and numbers those that have no number of their own.
#[derive(Debug, Default)]
pub(super) struct Fragmenter {
    last_id: u32,
}

impl Fragmenter {
    /// Leaves the fragments of `tagged` in `ret`, none of them longer than `mtu`; `false` where it must not be cut (IPv4's "don't
    /// fragment") or is not there as a whole. `frame` is the packet, parsed; it is longer than `mtu`.
    ///
    /// Fragments of one packet have its identification, which is its own where it has one (RFC 791, section 2.3; RFC 6864: it
    /// must not be shared with another one under way), and else counted here.
    pub(super) fn cut(&mut self, tagged: &Tagged, frame: &Frame<'_>, mtu: usize, ret: &mut Vec<Tagged>) -> bool {
        let (link, ip) = (frame.link, &tagged.packet.data[frame.link.len()..]);
        let is_v6 = frame.ip.src.is_ipv6();
        let (header, more) = if is_v6 { (IPV6, FRAGMENT) } else { (IPV4, 0) };
        let be16 = |at: usize| usize::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
        let len = if is_v6 { IPV6 + be16(4) } else { be16(2) };
        let most = mtu.saturating_sub(header + more) / UNIT * UNIT;
        if (!is_v6 && frame.ip.df) || len <= mtu || len > ip.len() || most == 0 {
            return false;
        }
        let id = if frame.ip.id == 0 { self.next_id() } else { u32::from(frame.ip.id) };
        let body = &ip[header..len];
        let count = body.len().div_ceil(most);
        ret.resize_with(count, Tagged::default);
        for (i, (chunk, part)) in body.chunks(most).zip(ret.iter_mut()).enumerate() {
            let is_last = i + 1 == count;
            let offset = ((i * most) / UNIT) as u16;
            let Tagged { packet: Packet { ts, linktype, len, data }, tag } = part;
            data.clear();
            data.extend_from_slice(link);
            data.extend_from_slice(&ip[..header]);
            let head = &mut data[link.len()..];
            if is_v6 {
                head[4..6].copy_from_slice(&((FRAGMENT + chunk.len()) as u16).to_be_bytes());
                let next = std::mem::replace(&mut head[6], 44);
                data.extend_from_slice(&[next, 0]);
                data.extend_from_slice(&(offset << 3 | u16::from(!is_last)).to_be_bytes());
                data.extend_from_slice(&id.to_be_bytes());
            } else {
                head[2..4].copy_from_slice(&((IPV4 + chunk.len()) as u16).to_be_bytes());
                head[4..6].copy_from_slice(&(id as u16).to_be_bytes());
                head[6..8].copy_from_slice(&(offset | u16::from(!is_last) << 13).to_be_bytes());
                head[10..12].fill(0);
                let sum = checksum(head);
                head[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            data.extend_from_slice(chunk);
            (*ts, *linktype, *len) = (tagged.packet.ts, LinkType::ETHERNET, data.len() as u32);
            *tag = Tag { is_last: tagged.tag.is_last && is_last, ..tagged.tag };
        }
        true
    }

    /// The next number, of which neither the whole nor the lower half is zero.
    fn next_id(&mut self) -> u32 {
        self.last_id = self.last_id.wrapping_add(1);
        if self.last_id as u16 == 0 {
            self.last_id = self.last_id.wrapping_add(1);
        }
        self.last_id
    }
}

/// Internet checksum of a header of whole words (RFC 1071).
fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use wiremamba_model::packet::Timestamp;
    use wiremamba_model::wire::parse::{Ip, Transport, parse};
    use wiremamba_model::wire::render::render;

    use super::*;

    const LINK: &[u8] = &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    const LINK6: &[u8] = &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 5, 0x86, 0xdd];

    /// A UDP datagram of `payload` bytes.
    fn datagram(payload: usize, id: u16, df: bool, is_v6: bool) -> Tagged {
        let (src, dst) = match is_v6 {
            true => ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()),
            false => ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()),
        };
        let ip = Ip { src, dst, protocol: 17, tos: 4, ttl: 64, id, df };
        let payload: Vec<u8> = (0..payload).map(|i| (i % 251) as u8).collect();
        let transport = Transport::Udp { src_port: 5000, dst_port: 53 };
        let link = if is_v6 { LINK6 } else { LINK };
        let mut data = Vec::new();
        render(&Frame { link, ip, transport, payload: &payload, payload_len: payload.len() }, &mut data);
        let packet = Packet { ts: Timestamp(5), linktype: LinkType::ETHERNET, len: data.len() as u32, data };
        Tagged { packet, tag: Tag { session: 3, is_last: true, ..Tag::default() } }
    }

    fn cut(fragmenter: &mut Fragmenter, whole: &Tagged, mtu: usize) -> Option<Vec<Tagged>> {
        let mut ret = vec![Tagged::default(); 9];
        let frame = parse(&whole.packet).unwrap();
        fragmenter.cut(whole, &frame, mtu, &mut ret).then_some(ret)
    }

    #[test]
    fn the_fragments_are_the_datagram_in_pieces_that_fit() {
        for (is_v6, link, header) in [(false, 14, 20), (true, 18, 48)] {
            let whole = datagram(4000, if is_v6 { 0 } else { 0xbeef }, is_v6, is_v6);
            let mut body = Vec::new();
            let parts = cut(&mut Fragmenter::default(), &whole, 1500).unwrap();
            // 4008 bytes with UDP's header, 1480 and 1448 at a time.
            assert_eq!(parts.len(), 3);
            for (i, part) in parts.iter().enumerate() {
                let (data, is_last) = (&part.packet.data, i == 2);
                assert_eq!((part.packet.len as usize, &data[..link]), (data.len(), &whole.packet.data[..link]));
                let ip = &data[link..];
                assert!(ip.len() <= 1500 && (is_last || ip.len() > 1500 - UNIT - header % UNIT));
                let be16 = |at: usize| usize::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
                if is_v6 {
                    assert_eq!((be16(4), ip[6], ip[40], ip[41]), (ip.len() - 40, 44, 17, 0));
                    assert_eq!(be16(42), body.len() | usize::from(!is_last));
                    assert_eq!(ip[44..48], [0, 0, 0, 1]);
                } else {
                    assert_eq!((be16(2), be16(4)), (ip.len(), 0xbeef));
                    assert_eq!(be16(6), (body.len() / 8) | if is_last { 0 } else { 0x2000 });
                    assert_eq!(checksum(&ip[..20]), 0);
                }
                assert_eq!((part.tag.is_last, part.tag.session), (is_last, 3));
                body.extend_from_slice(&ip[header..]);
            }
            assert_eq!(body, whole.packet.data[link + if is_v6 { 40 } else { 20 }..]);
        }
    }

    #[test]
    fn what_must_not_be_cut_is_not() {
        let mut fragmenter = Fragmenter::default();
        assert!(cut(&mut fragmenter, &datagram(4000, 7, true, false), 1500).is_none(), "don't fragment");
        assert!(cut(&mut fragmenter, &datagram(1472, 7, false, false), 1500).is_none(), "it fits");
        assert!(cut(&mut fragmenter, &datagram(1473, 7, false, false), 1500).is_some());
        assert!(cut(&mut fragmenter, &datagram(100, 7, false, false), 27).is_none(), "no room");
        let mut short = datagram(4000, 7, false, false);
        short.packet.data.truncate(3000);
        assert!(cut(&mut fragmenter, &short, 1500).is_none(), "not there as a whole");
    }

    #[test]
    fn packets_without_a_number_get_one_each() {
        let mut fragmenter = Fragmenter { last_id: 0xfffe };
        let mut id = |is_v6| {
            let parts = cut(&mut fragmenter, &datagram(2000, 0, is_v6, is_v6), 1500).unwrap();
            // IPv4's 16 bits follow the length.
            let (at, mask) = if is_v6 { (18 + 44, u32::MAX) } else { (14 + 2, 0xffff) };
            let of = |part: &Tagged| u32::from_be_bytes(part.packet.data[at..at + 4].try_into().unwrap()) & mask;
            assert!(parts.iter().all(|part| of(part) == of(&parts[0])));
            of(&parts[0])
        };
        assert_eq!((id(false), id(true), id(false)), (0xffff, 0x1_0001, 2));
    }
}

//! Packets that are longer than the MTU, as captures have them that were made where the network card cuts segments (TSO) or puts
//! them together (GRO), or on a link with a longer one: TCP is cut as the card does it, everything else as IP does.

use wiremamba_model::packet::{LinkType, Packet};
use wiremamba_model::wire::parse::{Frame, Ip, Tcp, Transport, parse};
use wiremamba_model::wire::render::render;

use super::fragment::Fragmenter;
use crate::source::{Tag, Tagged};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;
/// Least payload of a segment that is worth cutting: a smaller MTU leaves no room for the headers.
const PAYLOAD_MIN: usize = 8;

/// What to do with a packet that is longer than the MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Oversize {
    /// The sink refuses it, and counts it.
    #[default]
    Refuse,
    /// TCP segments are cut, UDP and ICMP go in fragments unless that is forbidden; everything else is refused.
    Split,
}

/// Cuts packets into such that fit, in buffers of its own.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    parts: Vec<Tagged>,
    fragmenter: Fragmenter,
}

/// What became of a packet that was too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut<'a> {
    /// Segments of the same stream.
    Segments(&'a [Tagged]),
    /// Fragments of the same IP packet.
    Fragments(&'a [Tagged]),
}

impl Splitter {
    /// The parts of a packet whose IP packet has more than `mtu` bytes; `None` where it fits, or cannot be cut: it is not over
    /// Ethernet, has no right lengths, is not there as a whole, or may not be.
    pub(super) fn split(&mut self, tagged: &Tagged, mtu: u32) -> Option<Cut<'_>> {
        let packet = &tagged.packet;
        let mtu = mtu as usize;
        // Shorter than IP alone may be: nothing to look at.
        if packet.data.len() <= mtu || packet.linktype != LinkType::ETHERNET || packet.is_truncated() {
            return None;
        }
        let frame = parse(packet).ok()?;
        match frame.transport {
            Transport::Tcp(tcp) => self.segments(tagged, &frame, tcp, mtu).map(Cut::Segments),
            Transport::Udp { .. } | Transport::Icmp => {
                self.fragmenter.cut(tagged, &frame, mtu, &mut self.parts).then_some(Cut::Fragments(&self.parts))
            }
        }
    }

    /// A TCP segment as several; `None` as above, and where it has flags that belong to one segment.
    ///
    /// Sequence numbers count on, and so do identifications, unless they are zero. Each part has the header's options; what is
    /// urgent is not cut. CWR is in the first part only, PSH and FIN in the last (RFC 9293; RFC 3168, section 6.1.2).
    fn segments(&mut self, tagged: &Tagged, frame: &Frame<'_>, tcp: Tcp<'_>, mtu: usize) -> Option<&[Tagged]> {
        let packet = &tagged.packet;
        let headers = if frame.ip.src.is_ipv6() { 40 } else { 20 } + 20 + tcp.options.len().next_multiple_of(4);
        let most = mtu.checked_sub(headers).filter(|most| *most >= PAYLOAD_MIN)?;
        let is_whole = frame.payload.len() == frame.payload_len;
        if frame.payload.len() <= most || !is_whole || tcp.flags & (SYN | RST | URG) != 0 {
            return None;
        }
        let count = frame.payload.len().div_ceil(most);
        self.parts.resize_with(count, Tagged::default);
        for (i, payload) in frame.payload.chunks(most).enumerate() {
            let (is_first, is_last) = (i == 0, i + 1 == count);
            let mut flags = tcp.flags;
            flags &= if is_first { !0 } else { !CWR };
            flags &= if is_last { !0 } else { !(PSH | FIN) };
            let id = if frame.ip.id == 0 { 0 } else { frame.ip.id.wrapping_add(i as u16) };
            let seq = tcp.seq.wrapping_add((i * most) as u32);
            let part = Frame {
                ip: Ip { id, ..frame.ip },
                transport: Transport::Tcp(Tcp { seq, flags, ..tcp }),
                payload,
                payload_len: payload.len(),
                ..*frame
            };
            let Tagged { packet: Packet { ts, linktype, len, data }, tag } = &mut self.parts[i];
            data.clear();
            render(&part, data);
            (*ts, *linktype, *len) = (packet.ts, packet.linktype, data.len() as u32);
            *tag = Tag { is_last: tagged.tag.is_last && is_last, ..tagged.tag };
        }
        Some(&self.parts)
    }
}

#[cfg(test)]
mod tests {
    use wiremamba_model::packet::Timestamp;

    use super::*;

    /// A segment of `payload` bytes behind a link header of `link` bytes.
    fn segment(payload: usize, flags: u8, options: &[u8], v6: bool, link: &[u8]) -> Tagged {
        let (src, dst) = match v6 {
            true => ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()),
            false => ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()),
        };
        let ip = Ip { src, dst, protocol: 6, tos: 2, ttl: 64, id: if v6 { 0 } else { 0xfffe }, df: true };
        let (seq, ack) = (0xffff_ff00, 7);
        let tcp = Tcp { src_port: 5000, dst_port: 80, seq, ack, flags, window: 500, urgent: 0, options };
        let payload: Vec<u8> = (0..payload).map(|i| (i % 251) as u8).collect();
        let frame = Frame { link, ip, transport: Transport::Tcp(tcp), payload: &payload, payload_len: payload.len() };
        let mut data = Vec::new();
        render(&frame, &mut data);
        let packet = Packet { ts: Timestamp(5), linktype: LinkType::ETHERNET, len: data.len() as u32, data };
        Tagged { packet, tag: Tag { session: 3, is_last: true, ..Tag::default() } }
    }

    const LINK: &[u8] = &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    const LINK6: &[u8] = &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 5, 0x86, 0xdd];
    const OPTIONS: &[u8] = &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

    #[test]
    fn the_parts_are_the_stream_in_segments_that_fit() {
        for (v6, link, headers) in [(false, LINK, 20 + 32), (true, LINK6, 40 + 32)] {
            let whole = segment(4000, 0x19 | CWR, OPTIONS, v6, link);
            let mut splitter = Splitter::default();
            let Some(Cut::Segments(parts)) = splitter.split(&whole, 1500) else { panic!("not cut") };
            let most = 1500 - headers;
            assert_eq!(parts.len(), 4000usize.div_ceil(most));
            let (mut stream, mut at) = (Vec::new(), 0xffff_ff00u32);
            for (i, part) in parts.iter().enumerate() {
                assert!(part.packet.data.len() <= 1500 + link.len());
                assert_eq!(&part.packet.data[..link.len()], link);
                let frame = parse(&part.packet).unwrap();
                let mut again = Vec::new();
                render(&frame, &mut again);
                assert_eq!(again, part.packet.data, "lengths and checksums are right");
                let Transport::Tcp(tcp) = frame.transport else { panic!("no TCP") };
                let is_last = i + 1 == parts.len();
                let expected = 0x10 | if is_last { 0x09 } else { 0 } | if i == 0 { CWR } else { 0 };
                assert_eq!((tcp.seq, tcp.flags, tcp.options), (at, expected, OPTIONS), "{i}");
                assert_eq!(frame.ip.id, if v6 { 0 } else { 0xfffeu16.wrapping_add(i as u16) });
                assert_eq!((part.tag.is_last, part.tag.session), (is_last, 3));
                at = at.wrapping_add(frame.payload.len() as u32);
                stream.extend_from_slice(frame.payload);
            }
            assert_eq!(stream, parse(&whole.packet).unwrap().payload);
        }
    }

    #[test]
    fn what_fits_or_cannot_be_cut_is_left_alone() {
        let mut splitter = Splitter::default();
        let mut none = |tagged: &Tagged, mtu| assert!(splitter.split(tagged, mtu).is_none());
        none(&segment(1448, 0x18, OPTIONS, false, LINK), 1500);
        none(&segment(3000, 0x12, &[], false, LINK), 1500); // a SYN with data
        none(&segment(3000, 0x14, &[], false, LINK), 1500); // a reset
        none(&segment(3000, 0x38, &[], false, LINK), 1500); // urgent
        none(&segment(3000, 0x18, OPTIONS, false, LINK), 59); // no room
        let mut cut = segment(3000, 0x18, &[], false, LINK);
        cut.packet.data.truncate(2000);
        none(&cut, 1500);
        let mut alien = segment(3000, 0x18, &[], false, LINK);
        alien.packet.data[23] = 17; // says UDP
        none(&alien, 1500);
        // As many bytes as fit exactly are not cut, one more is.
        assert!(splitter.split(&segment(1449, 0x18, OPTIONS, false, LINK), 1500).is_some());
    }
}

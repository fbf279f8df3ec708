//! Whether a packet by itself is one that a correct sender could have sent.
//!
//! Each rule has a name, and a packet can break several. Nothing here looks at other packets. What the snaplen cut is
//! not held against the packet: rules judge what was captured, and a checksum over bytes that are missing is counted as
//! not checked.

use std::net::IpAddr;

use wiremamba_model::flow::{NoFlow, dissect};
use wiremamba_model::packet::{LinkType, Packet};

use super::checksum::{fold, pseudo_header, sum};
use crate::view::{ICMP, TCP, TcpView, UDP, View};

const ICMPV6: u8 = 58;
/// Highest protocol number judged known: 145 is NSH, the last but for two recent experiments
/// (<https://www.iana.org/assignments/protocol-numbers>).
const PROTOCOL_MAX: u8 = 145;

/// What was found out about a packet.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Names of the rules that it breaks, each once.
    pub(super) faults: Vec<&'static str>,
    /// Checksums over bytes that were not captured, or that are in other fragments.
    pub(super) checksums_not_checked: u64,
}

impl Findings {
    fn fault(&mut self, name: &'static str) {
        self.faults.push(name);
    }

    fn rule(&mut self, name: &'static str, holds: bool) {
        if !holds {
            self.fault(name);
        }
    }
}

/// Judges a packet that has a 5-tuple.
pub(super) fn judge(view: &View<'_>) -> Findings {
    let mut ret = Findings::default();
    let Some(tuple) = view.tuple else { return ret };
    let expected = version_below(view.packet);
    ret.rule("IP version", expected.is_none_or(|v| v == view.ip_version()));
    let is_v4 = view.ip_version() == 4;
    let ip_len = if is_v4 { ipv4(view, &mut ret) } else { ipv6(view, &mut ret) };
    ret.rule("source not unicast", is_source(tuple.orig));
    ret.rule("unknown protocol", is_known(tuple.protocol, is_v4));
    let fragment = if is_v4 { Fragment::of_ipv4(view) } else { Fragment::of_ipv6(view) };
    if view.later_fragment {
        return ret;
    }
    let at = view.ip.len() - view.payload.len() - view.transport.len();
    let segment = Segment {
        view,
        bytes: &view.ip[at..],
        len: ip_len.saturating_sub(at),
        is_whole: ip_len == view.ip.len() && !fragment.is_part,
        is_fragment: fragment.is_part,
        pseudo: (!fragment.is_routed)
            .then_some(move |protocol, len| pseudo_header(tuple.orig, tuple.resp, protocol, len)),
    };
    match tuple.protocol {
        TCP => segment.tcp(&mut ret),
        UDP => segment.udp(&mut ret),
        ICMP if is_v4 => segment.icmp(false, &mut ret),
        ICMPV6 if !is_v4 => segment.icmp(true, &mut ret),
        _ => {}
    }
    ret
}

/// What a frame without a 5-tuple is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// It carries no IP, or the link layer is not read: nothing to judge.
    NotIp,
    /// The snaplen cut its headers: cannot be judged.
    Cut,
    /// It breaks the named rule.
    Bad(&'static str),
}

/// Judges a frame that has no 5-tuple.
pub(super) fn judge_frame(packet: &Packet) -> Frame {
    match dissect(packet.linktype, &packet.data) {
        Ok(_) | Err(NoFlow::NotIp | NoFlow::UnsupportedLinkType) => Frame::NotIp,
        Err(NoFlow::Truncated) if packet.is_truncated() => Frame::Cut,
        Err(NoFlow::Truncated) => Frame::Bad("frame shorter than its headers"),
        Err(_) => Frame::Bad("malformed headers"),
    }
}

/// IP version that the layer below announces, where it is Ethernet (with or without VLAN tags) or IP by itself.
fn version_below(packet: &Packet) -> Option<u8> {
    match packet.linktype {
        LinkType::IPV4 => return Some(4),
        LinkType::IPV6 => return Some(6),
        LinkType::ETHERNET => {}
        _ => return None,
    }
    let ether_types = packet.data.get(12..)?.chunks_exact(4).take(9).map(|tag| u16::from_be_bytes([tag[0], tag[1]]));
    match ether_types.into_iter().find(|kind| !matches!(kind, 0x8100 | 0x88a8 | 0x9100 | 0x9200))? {
        0x0800 => Some(4),
        0x86dd => Some(6),
        _ => None,
    }
}

/// Judges the IPv4 header (RFC 791, section 3.1); returns the length of the IP packet.
fn ipv4(view: &View<'_>, ret: &mut Findings) -> usize {
    let header = view.ip_header;
    ret.rule("IPv4 reserved bit", header[6] & 0x80 == 0);
    ret.rule("TTL zero", header[8] != 0);
    if header.len() < usize::from(header[0] & 15) * 4 {
        ret.checksums_not_checked += 1;
    } else if fold(sum(header, 0)) != 0xffff {
        // Some drivers leave the field at zero for the card to fill in.
        ret.fault(if header[10..12] == [0, 0] { "IPv4 checksum left to hardware" } else { "IPv4 checksum" });
    }
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    ret.rule("IPv4 total length zero", len != 0);
    ret.rule("IPv4 total length", len <= on_wire(view));
    len
}

/// Judges the IPv6 header (RFC 8200, section 3); returns the length of the IP packet.
fn ipv6(view: &View<'_>, ret: &mut Findings) -> usize {
    let header = view.ip_header;
    ret.rule("TTL zero", header[7] != 0);
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    // Without length: a jumbogram, which a hop-by-hop header must announce (RFC 2675), or nothing at all.
    ret.rule("IPv6 payload length zero", len != 0 || matches!(header[6], 0 | 59));
    ret.rule("IPv6 payload length", 40 + len <= on_wire(view));
    if len == 0 && header[6] == 0 { view.ip.len() } else { 40 + len }
}

/// Bytes on the wire from the IP header to the end of the frame, or of the IP packet where it ends before.
fn on_wire(view: &View<'_>) -> usize {
    view.ip.len() + (view.packet.len as usize).saturating_sub(view.packet.data.len())
}

/// Whether an address may send: no group, no broadcast. The unspecified address may, before there is another one.
fn is_source(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !a.is_multicast() && !a.is_broadcast(),
        IpAddr::V6(a) => !a.is_multicast(),
    }
}

/// Whether IANA has assigned the number, and for this version of IP.
fn is_known(protocol: u8, is_v4: bool) -> bool {
    let is_foreign = if is_v4 { matches!(protocol, 0 | 43 | 44 | 58 | 59 | 60) } else { matches!(protocol, 1 | 2) };
    protocol <= PROTOCOL_MAX && !is_foreign
}

/// What IP does to the segment within.
#[derive(Debug, Default)]
struct Fragment {
    /// Whether it is a part of a larger packet.
    is_part: bool,
    /// Whether a routing header changes the destination, and with it the pseudo header.
    is_routed: bool,
}

impl Fragment {
    fn of_ipv4(view: &View<'_>) -> Self {
        let field = u16::from_be_bytes([view.ip_header[6], view.ip_header[7]]);
        Self { is_part: field & 0x3fff != 0, is_routed: false }
    }

    fn of_ipv6(view: &View<'_>) -> Self {
        let mut ret = Self::default();
        let (mut kind, mut at) = (view.ip_header[6], 40);
        for _ in 0..16 {
            let Some(extension) = view.ip.get(at..).and_then(<[u8]>::first_chunk::<8>) else { break };
            let len = usize::from(extension[1]);
            at += match kind {
                0 | 60 | 135 | 139 | 140 => (len + 1) * 8,
                43 => {
                    ret.is_routed |= extension[3] != 0; // segments left
                    (len + 1) * 8
                }
                44 => {
                    ret.is_part |= u16::from_be_bytes([extension[2], extension[3]]) & 0xfff9 != 0;
                    8
                }
                51 => (len + 2) * 4,
                _ => break,
            };
            kind = extension[0];
        }
        ret
    }
}

/// What is above IP.
struct Segment<'v, 'a, F> {
    view: &'v View<'a>,
    /// As captured.
    bytes: &'a [u8],
    /// Length according to IP.
    len: usize,
    /// Whether all of it was captured, and in this packet.
    is_whole: bool,
    is_fragment: bool,
    /// Pseudo header sum of a protocol and a length; `None` where the packet does not tell.
    pseudo: Option<F>,
}

impl<F: Fn(u8, usize) -> u32> Segment<'_, '_, F> {
    /// Whether bytes are missing because of the capture, not because of the sender.
    fn is_cut(&self) -> bool {
        self.view.payload_len > self.view.payload.len() || self.bytes.len() < self.len
    }

    /// Judges the checksum in `field` over `covered` bytes. A field with the sum of the pseudo header alone, or zero,
    /// is what a driver hands to a card that completes it; captures on the sending host have many of them.
    fn checksum(&self, protocol: u8, covered: usize, field: usize, names: [&'static str; 2], ret: &mut Findings) {
        let (Some(pseudo), Some(covered), true) = (&self.pseudo, self.bytes.get(..covered), self.is_whole) else {
            ret.checksums_not_checked += 1;
            return;
        };
        let pseudo = pseudo(protocol, covered.len());
        if fold(sum(covered, pseudo)) == 0xffff {
            return;
        }
        let value = u16::from_be_bytes([covered[field], covered[field + 1]]);
        let is_partial = value == 0 || value == fold(pseudo);
        ret.fault(names[usize::from(is_partial)]);
    }

    fn tcp(&self, ret: &mut Findings) {
        let Some(tcp) = self.view.tcp() else {
            ret.rule("TCP header length", self.is_cut());
            return;
        };
        self.ports(ret);
        let header_len = tcp.header_len();
        if header_len < 20 || header_len > self.len.max(self.bytes.len()) {
            ret.fault("TCP header length");
        } else if tcp.0.len() >= header_len {
            tcp_options(tcp, ret);
        }
        // Three bits: the fourth is AE (RFC 9768, section 3).
        ret.rule("TCP reserved bits", tcp.0[12] & 0x0e == 0);
        ret.faults.extend(tcp_flags(tcp.flags()));
        self.checksum(TCP, self.bytes.len(), 16, ["TCP checksum", "TCP checksum left to hardware"], ret);
    }

    fn udp(&self, ret: &mut Findings) {
        let Some(udp) = self.view.udp() else {
            ret.rule("UDP length", self.is_cut());
            return;
        };
        self.ports(ret);
        let len = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
        let is_right = len >= 8 && (self.is_fragment || self.len == 0 || len <= self.len);
        ret.rule("UDP length", is_right);
        if udp[6..8] == [0, 0] {
            // None, which only IPv4 allows (RFC 768; RFC 8200, section 8.1).
            ret.rule("UDP checksum missing over IPv6", self.view.ip_version() == 4);
        } else if is_right {
            self.checksum(UDP, len, 6, ["UDP checksum", "UDP checksum left to hardware"], ret);
        }
    }

    fn icmp(&self, is_v6: bool, ret: &mut Findings) {
        let Some(header) = self.bytes.first_chunk::<8>() else {
            ret.rule("ICMP header length", self.is_cut());
            return;
        };
        if is_v6 {
            ret.rule("ICMPv6 type", matches!(header[0], 1..=4 | 128..=161));
            self.checksum(ICMPV6, self.bytes.len(), 2, ["ICMPv6 checksum", "ICMPv6 checksum left to hardware"], ret);
            return;
        }
        ret.rule("ICMP type", matches!(header[0], 0 | 3..=5 | 8..=18 | 30 | 40 | 42 | 43));
        if self.is_whole {
            ret.rule("ICMP checksum", fold(sum(self.bytes, 0)) == 0xffff);
        } else {
            ret.checksums_not_checked += 1;
        }
    }

    fn ports(&self, ret: &mut Findings) {
        ret.rule("port zero", self.view.tuple.is_some_and(|t| t.orig_port != 0 && t.resp_port != 0));
    }
}

/// The rule that a combination of flags breaks. Every segment after the first one of a connection has ACK (RFC 9293,
/// section 3.1), except for resets.
pub(super) fn tcp_flags(flags: u8) -> Option<&'static str> {
    let has = |wanted| flags & wanted == wanted;
    Some(match flags & 0x3f {
        0 => "TCP no flags",
        _ if has(TcpView::SYN | TcpView::FIN) => "TCP flags SYN+FIN",
        _ if has(TcpView::SYN | TcpView::RST) => "TCP flags SYN+RST",
        _ if has(TcpView::FIN | TcpView::RST) => "TCP flags FIN+RST",
        _ if flags & (TcpView::SYN | TcpView::RST | TcpView::ACK) != 0 => return None,
        _ if has(TcpView::FIN) => "TCP flags FIN without ACK",
        _ => "TCP flags without ACK",
    })
}

/// Judges lengths of options, and where the kinds of a SYN are.
fn tcp_options(tcp: TcpView<'_>, ret: &mut Findings) {
    let is_syn = tcp.flags() & TcpView::SYN != 0;
    let (mut lengths, mut places) = (true, true);
    for option in tcp.each_option() {
        let Ok((kind, value)) = option else {
            lengths = false;
            break;
        };
        lengths &= match kind {
            2 => value.len() == 2, // MSS (RFC 9293, 3.7.1)
            3 => value.len() == 1, // window scale (RFC 7323, 2.2)
            4 => value.is_empty(), // SACK permitted (RFC 2018, 2)
            5 => !value.is_empty() && value.len().is_multiple_of(8) && value.len() <= 32, // SACK (RFC 2018, 3)
            8 => value.len() == 8, // timestamps (RFC 7323, 3.2)
            _ => true,
        };
        places &= is_syn || !matches!(kind, 2..=4);
    }
    ret.rule("TCP option length", lengths);
    ret.rule("TCP option of a SYN elsewhere", places);
}

/// Whether a packet is a fragment, the first or a later one.
pub(super) fn is_fragment(view: &View<'_>) -> bool {
    match view.ip_version() {
        4 => Fragment::of_ipv4(view).is_part,
        6 => Fragment::of_ipv6(view).is_part,
        _ => false,
    }
}

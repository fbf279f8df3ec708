//! From link-layer bytes to the 5-tuple: just enough to tell flows apart.
//!
//! Only the outer headers are read: a packet inside a GRE, VXLAN or IP-in-IP tunnel belongs to the flow of the
//! tunnel. Nothing is allocated and every walk is bounded, because this runs once for every captured packet. The
//! link layers are in `link`; what a codec needs to know of a header beyond this is its own business.

mod link;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::ip_number::{
    AUTHENTICATION_HEADER, HIP, ICMP, IPV6_DESTINATION_OPTIONS, IPV6_FRAGMENTATION_HEADER, IPV6_HEADER_HOP_BY_HOP,
    IPV6_ICMP, IPV6_ROUTE_HEADER, SCTP, SHIM6, TCP, UDP,
};
use etherparse::{EtherType, IpNumber};

use super::FiveTuple;
use crate::packet::{LinkType, Packet};

pub(super) const TCP_FIN: u8 = 0x01;
pub(super) const TCP_SYN: u8 = 0x02;
pub(super) const TCP_RST: u8 = 0x04;
pub(super) const TCP_ACK: u8 = 0x10;

/// Headers between the IP header and the transport header that are walked at most. RFC 8200, section 4.1, expects
/// seven at most; a longer chain is an attack or noise.
const EXTENSIONS_MAX: usize = 16;

/// What the flow table needs of a packet. Offsets count from the first captured byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dissected {
    /// Who sent the packet (`orig`) to whom (`resp`), and their ports. Ports are 0 for protocols other than TCP,
    /// UDP and SCTP, and for every fragment but the first.
    pub tuple: FiveTuple,
    /// The flags byte of the TCP header (RFC 9293, section 3.1); `None` for other protocols, later fragments, and
    /// where the capture ends before it.
    pub tcp_flags: Option<u8>,
    /// Where the IP header begins.
    pub ip_offset: usize,
    /// Where the header above IP begins, behind options and extension headers; it may lie beyond the captured bytes.
    pub transport_offset: usize,
    /// Where the captured part of the IP packet ends: what lies behind it is padding or a check sequence.
    pub ip_end: usize,
    /// Where the headers end: after the TCP (with options), UDP, SCTP common or ICMP header, else after the IP header
    /// and its extensions. Never beyond the captured bytes nor beyond the end of the IP packet.
    pub payload_offset: usize,
    /// Whether the capture ends before the headers do (the snaplen cut them), so that `payload_offset` is too small.
    pub headers_cut: bool,
    /// Whether this is a fragment other than the first one. It carries no ports, so it does not join the flow of the
    /// first fragment but the one between the same hosts with ports 0.
    pub later_fragment: bool,
}

/// Why a packet belongs to no flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoFlow {
    /// The frame carries something other than IPv4 or IPv6 (ARP, LLDP, an encrypted 802.11 frame, …), or carries it
    /// below more tags than are read.
    NotIp,
    /// The capture ends before the 5-tuple is complete, usually because of the snaplen.
    Truncated,
    /// A header contradicts itself: wrong IP version, a header length below the minimum, an IP packet too short for
    /// the ports that its protocol has, too many extension headers.
    Malformed,
    /// A link layer that is not read. See [`dissect`] for those that are.
    UnsupportedLinkType,
}

/// Returns the 5-tuple of a packet, and where its headers are.
///
/// | link type | |
/// |---|---|
/// | `EN10MB` | VLAN tags (0x8100, 0x88a8, 0x9100, 0x9200; up to 8), 802.2 LLC and SNAP, PPPoE sessions, MPLS |
/// | `LINUX_SLL`, `LINUX_SLL2` | the same below their protocol field |
/// | `RAW`, `IPV4`, `IPV6` | and the old numbers 12 and 14 for `RAW` |
/// | `NULL`, `LOOP` | address family in either byte order |
/// | `PPP`, `PPP_HDLC`, `PPP_ETHER`, `C_HDLC` | |
/// | `IEEE802_11`, `IEEE802_11_RADIOTAP` | data frames that are neither encrypted nor aggregated |
///
/// # Errors
/// [`NoFlow`] says why the packet has no 5-tuple.
///
/// ```
/// use wiremamba_model::{flow::{NoFlow, dissect}, packet::LinkType};
/// assert_eq!(dissect(LinkType::RAW, &[]), Err(NoFlow::Truncated));
/// ```
pub fn dissect(linktype: LinkType, data: &[u8]) -> Result<Dissected, NoFlow> {
    let ip_offset = link::ip_offset(linktype, data)?;
    let layer = match data.get(ip_offset).ok_or(NoFlow::Truncated)? >> 4 {
        4 => ipv4(data, ip_offset)?,
        6 => ipv6(data, ip_offset)?,
        _ => return Err(NoFlow::Malformed),
    };
    transport(data, ip_offset, layer)
}

/// The packet as an Ethernet frame, or `None` when it carries no IP and is not Ethernet.
///
/// Ethernet packets come back as they are. An IP packet of another link type gets an Ethernet header with the
/// locally administered addresses 02:00:00:00:00:02 (to) and 02:00:00:00:00:01 (from) in place of its own link
/// layer; bytes behind the end of the IP packet (a frame check sequence, padding) are left out, and `len` is that of the
/// new frame.
pub fn to_ethernet(packet: &Packet) -> Option<Packet> {
    if packet.linktype == LinkType::ETHERNET {
        return Some(packet.clone());
    }
    let ip_offset = link::ip_offset(packet.linktype, &packet.data).ok()?;
    let ip = packet.data.get(ip_offset..)?;
    // The same reading of the header as in `dissect`, but a packet whose transport header is broken is sent as well.
    let (ether_type, layer_end) = match ip.first()? >> 4 {
        4 => (EtherType::IPV4, ipv4(&packet.data, ip_offset).ok().and_then(|l| l.wire_end)),
        6 => (EtherType::IPV6, ipv6(&packet.data, ip_offset).ok().and_then(|l| l.wire_end)),
        _ => return None,
    };
    let on_wire = (packet.len as usize).max(packet.data.len()) - ip_offset;
    let ip_len = layer_end.map_or(on_wire, |end| on_wire.min(end - ip_offset));
    let captured = &ip[..ip.len().min(ip_len)];

    let mut data = Vec::with_capacity(link::ETHERNET_LEN + captured.len());
    data.extend_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    data.extend_from_slice(&ether_type.0.to_be_bytes());
    data.extend_from_slice(captured);
    let len = u32::try_from(link::ETHERNET_LEN + ip_len).ok()?;
    Some(Packet { ts: packet.ts, linktype: LinkType::ETHERNET, len, data })
}

/// What the IP header says.
struct IpLayer {
    src: IpAddr,
    dst: IpAddr,
    protocol: IpNumber,
    /// Where the header of `protocol` begins; it may lie beyond the captured bytes.
    next_offset: usize,
    /// Where the IP packet ends on the wire; `None` when its length field is 0 (segmentation offload, jumbograms).
    wire_end: Option<usize>,
    later_fragment: bool,
}

/// Reads an IPv4 header with its options (RFC 791, section 3.1).
#[inline]
fn ipv4(data: &[u8], offset: usize) -> Result<IpLayer, NoFlow> {
    let header: &[u8; 20] = data[offset..].first_chunk().ok_or(NoFlow::Truncated)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total_len = usize::from(be16(header, 2));
    if header_len < 20 || (total_len != 0 && total_len < header_len) {
        return Err(NoFlow::Malformed);
    }
    let fragment_offset = be16(header, 6) & 0x1fff;
    Ok(IpLayer {
        src: IpAddr::V4(Ipv4Addr::from(array::<4>(header, 12))),
        dst: IpAddr::V4(Ipv4Addr::from(array::<4>(header, 16))),
        protocol: IpNumber(header[9]),
        next_offset: offset + header_len,
        wire_end: (total_len != 0).then_some(offset + total_len),
        later_fragment: fragment_offset != 0,
    })
}

/// Reads an IPv6 header (RFC 8200, section 3) and walks its extension headers.
fn ipv6(data: &[u8], offset: usize) -> Result<IpLayer, NoFlow> {
    let header: &[u8; 40] = data[offset..].first_chunk().ok_or(NoFlow::Truncated)?;
    let payload_len = usize::from(be16(header, 4));
    let mut layer = IpLayer {
        src: IpAddr::V6(Ipv6Addr::from(array::<16>(header, 8))),
        dst: IpAddr::V6(Ipv6Addr::from(array::<16>(header, 24))),
        protocol: IpNumber(header[6]),
        next_offset: offset + 40,
        wire_end: (payload_len != 0).then_some(offset + 40 + payload_len),
        later_fragment: false,
    };
    for _ in 0..EXTENSIONS_MAX {
        // Every extension header begins with the number of the next one and, but for the fragment header, a length.
        let at = layer.next_offset;
        let is_extension = matches!(
            layer.protocol,
            IPV6_HEADER_HOP_BY_HOP
                | IPV6_ROUTE_HEADER
                | IPV6_DESTINATION_OPTIONS
                | IPV6_FRAGMENTATION_HEADER
                | AUTHENTICATION_HEADER
                | HIP
                | SHIM6
        );
        if !is_extension {
            return Ok(layer);
        }
        let extension: &[u8; 8] = data.get(at..).and_then(<[u8]>::first_chunk).ok_or(NoFlow::Truncated)?;
        layer.next_offset = at
            + match layer.protocol {
                IPV6_FRAGMENTATION_HEADER => 8,
                AUTHENTICATION_HEADER => (usize::from(extension[1]) + 2) * 4, // RFC 4302, section 2.2
                _ => (usize::from(extension[1]) + 1) * 8,
            };
        let fragment = layer.protocol == IPV6_FRAGMENTATION_HEADER && be16(extension, 2) >> 3 != 0;
        layer.protocol = IpNumber(extension[0]);
        if fragment {
            layer.later_fragment = true;
            return Ok(layer);
        }
    }
    Err(NoFlow::Malformed)
}

/// Reads ports and flags, and finds the end of the transport header.
#[inline]
fn transport(data: &[u8], ip_offset: usize, ip: IpLayer) -> Result<Dissected, NoFlow> {
    let at = ip.next_offset;
    let captured_end = data.len();
    // Bytes behind the IP packet are padding: they must not be read as ports.
    let readable_end = ip.wire_end.map_or(captured_end, |end| end.min(captured_end));
    let header = data.get(at..readable_end).unwrap_or(&[]);
    // The capture, and not the sender, is the reason why bytes are missing.
    let cut_by_capture = ip.wire_end.is_none_or(|end| end > captured_end);

    let mut ports = (0, 0);
    let mut tcp_flags = None;
    let mut header_len = 0;
    if !ip.later_fragment {
        if matches!(ip.protocol, TCP | UDP | SCTP) {
            let Some(&[a, b, c, d]) = header.first_chunk() else {
                return Err(if cut_by_capture { NoFlow::Truncated } else { NoFlow::Malformed });
            };
            ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        }
        header_len = match ip.protocol {
            TCP => {
                tcp_flags = header.get(13).copied();
                // A data offset below the minimum is the sender's error; the fixed header is there all the same.
                header.get(12).map_or(20, |b| usize::from(b >> 4) * 4).max(20)
            }
            UDP | ICMP | IPV6_ICMP => 8,
            SCTP => 12,
            _ => 0,
        };
    }
    Ok(Dissected {
        tuple: FiveTuple {
            orig: ip.src,
            resp: ip.dst,
            orig_port: ports.0,
            resp_port: ports.1,
            protocol: ip.protocol.0,
        },
        tcp_flags,
        ip_offset,
        transport_offset: at,
        ip_end: readable_end,
        payload_offset: (at + header_len).min(readable_end),
        headers_cut: at + header_len > readable_end && cut_by_capture,
        later_fragment: ip.later_fragment,
    })
}

#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The `N` bytes of a header from `at` on. Only called with ranges inside fixed-size headers.
#[inline]
fn array<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    *header[at..].first_chunk().expect("the fixed-size header reaches further than its addresses")
}

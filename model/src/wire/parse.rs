//! From captured bytes to the fields of a frame: IPv4 or IPv6 with TCP, UDP or ICMP.
//!
//! Everything else (ARP, fragments, IP options and extension headers, other protocols, contradictions) has no structure
//! here and says so with layer and offset; a codec carries it as it is.

use std::net::IpAddr;

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, TcpHeaderSlice, UdpHeaderSlice};

use crate::flow::{NoFlow, dissect};
use crate::packet::Packet;

/// IP protocol numbers.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;

/// A frame, taken apart. Slices point into the captured bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Everything before the IP header.
    pub link: &'a [u8],
    /// The IP header.
    pub ip: Ip,
    /// The header above it.
    pub transport: Transport<'a>,
    /// Payload as captured: shorter than `payload_len` where the snaplen cut it. For ICMP, the whole message.
    pub payload: &'a [u8],
    /// Length of the payload on the wire, in bytes.
    pub payload_len: usize,
}

/// The fields of an IP header that are no constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// Sender.
    pub src: IpAddr,
    /// Receiver.
    pub dst: IpAddr,
    /// Protocol number.
    pub protocol: u8,
    /// DSCP and ECN, or the traffic class.
    pub tos: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Identification; 0 for IPv6.
    pub id: u16,
    /// Don't fragment; true for IPv6.
    pub df: bool,
}

/// The header above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport<'a> {
    /// TCP.
    Tcp(Tcp<'a>),
    /// UDP.
    Udp {
        /// Sender's port.
        src_port: u16,
        /// Receiver's port.
        dst_port: u16,
    },
    /// ICMP or ICMPv6; type and code are the first two bytes of the payload.
    Icmp,
}

/// A TCP header (RFC 9293, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp<'a> {
    /// Sender's port.
    pub src_port: u16,
    /// Receiver's port.
    pub dst_port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// The flags byte.
    pub flags: u8,
    /// Window, as in the field.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options with their padding.
    pub options: &'a [u8],
}

/// Why a frame has no structure that is read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{layer} at byte {offset}: {why}")]
pub struct Unstructured {
    /// The layer.
    pub layer: &'static str,
    /// Where it begins.
    pub offset: usize,
    /// What is wrong, or simply not read.
    pub why: &'static str,
}

/// Takes a frame of any link type that [`dissect`] reads apart.
///
/// # Errors
/// [`Unstructured`] names the layer, its offset and the reason.
pub fn parse(packet: &Packet) -> Result<Frame<'_>, Unstructured> {
    let data = &packet.data[..];
    let fail = |layer, offset, why| Unstructured { layer, offset, why };
    let dissected = dissect(packet.linktype, data).map_err(|e| match e {
        NoFlow::NotIp => fail("link", 0, "carries no IP"),
        NoFlow::Truncated => fail("link or IP", 0, "the capture ends inside a header"),
        NoFlow::Malformed => fail("IP", 0, "the header contradicts itself"),
        NoFlow::UnsupportedLinkType => fail("link", 0, "a link type that is not read"),
    })?;
    let at = dissected.ip_offset;
    let on_wire = (packet.len as usize).max(data.len()) - at;
    let (ip, header_len, ip_len) = if data[at] >> 4 == 4 { ipv4(data, at, on_wire) } else { ipv6(data, at, on_wire) }
        .map_err(|why| fail("IP", at, why))?;
    if ip_len > on_wire {
        return Err(fail("IP", at, "the length goes beyond the frame"));
    }
    let above = at + header_len;
    let end = (at + ip_len).min(data.len());
    let body = data.get(above..end).ok_or(fail("IP", at, "the capture ends inside the header"))?;
    let (transport, transport_len) = match ip.protocol {
        TCP => {
            let (tcp, len) = tcp(body).map_err(|why| fail("TCP", above, why))?;
            (Transport::Tcp(tcp), len)
        }
        UDP => {
            let udp = UdpHeaderSlice::from_slice(body).map_err(|_| fail("UDP", above, "the header is cut"))?;
            if usize::from(udp.length()) != ip_len - header_len {
                return Err(fail("UDP", above, "the length differs from IP's"));
            }
            (Transport::Udp { src_port: udp.source_port(), dst_port: udp.destination_port() }, 8)
        }
        ICMP if ip.src.is_ipv4() && body.len() >= 4 => (Transport::Icmp, 0),
        ICMPV6 if ip.src.is_ipv6() && body.len() >= 4 => (Transport::Icmp, 0),
        _ => return Err(fail("IP", at, "a protocol that is not read")),
    };
    let payload_len = (ip_len - header_len).checked_sub(transport_len);
    let payload_len = payload_len.ok_or(fail("TCP", above, "the header goes beyond the packet"))?;
    Ok(Frame { link: &data[..at], ip, transport, payload: &body[transport_len..], payload_len })
}

type IpParts = (Ip, usize, usize);

fn ipv4(data: &[u8], at: usize, on_wire: usize) -> Result<IpParts, &'static str> {
    let header = Ipv4HeaderSlice::from_slice(&data[at..]).map_err(|_| "the header contradicts itself")?;
    if header.ihl() != 5 {
        return Err("IPv4 options are not read");
    }
    if header.more_fragments() || header.fragments_offset().value() != 0 || data[at + 6] & 0x80 != 0 {
        return Err("fragments are not read");
    }
    let ip = Ip {
        src: header.source_addr().into(),
        dst: header.destination_addr().into(),
        protocol: header.protocol().0,
        tos: data[at + 1],
        ttl: header.ttl(),
        id: header.identification(),
        df: header.dont_fragment(),
    };
    // Segmentation offload leaves the length 0: the frame tells it then.
    let len = if header.total_len() == 0 { on_wire } else { usize::from(header.total_len()) };
    if len > 65_535 { Err("longer than IP can be") } else { Ok((ip, 20, len)) }
}

fn ipv6(data: &[u8], at: usize, on_wire: usize) -> Result<IpParts, &'static str> {
    let header = Ipv6HeaderSlice::from_slice(&data[at..]).map_err(|_| "the header contradicts itself")?;
    let ip = Ip {
        src: header.source_addr().into(),
        dst: header.destination_addr().into(),
        protocol: header.next_header().0,
        tos: header.traffic_class(),
        ttl: header.hop_limit(),
        id: 0,
        df: true,
    };
    let len = if header.payload_length() == 0 { on_wire } else { 40 + usize::from(header.payload_length()) };
    if len > 65_535 { Err("longer than is read") } else { Ok((ip, 40, len)) }
}

fn tcp(body: &[u8]) -> Result<(Tcp<'_>, usize), &'static str> {
    let header = TcpHeaderSlice::from_slice(body).map_err(|_| "the header is cut or contradicts itself")?;
    if body[12] & 0x0f != 0 {
        return Err("reserved bits are set");
    }
    let tcp = Tcp {
        src_port: header.source_port(),
        dst_port: header.destination_port(),
        seq: header.sequence_number(),
        ack: header.acknowledgment_number(),
        flags: body[13],
        window: header.window_size(),
        urgent: header.urgent_pointer(),
        options: &body[20..header.slice().len()],
    };
    Ok((tcp, 20 + tcp.options.len()))
}

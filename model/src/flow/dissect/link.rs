//! Where the IP header begins, for each link type that is read.

use super::{NoFlow, be16};
use crate::packet::LinkType;
use etherparse::EtherType;

/// Bytes of an Ethernet header without tags.
pub(super) const ETHERNET_LEN: usize = 14;

/// VLAN tags and PPPoE headers in front of one packet that are read at most; more than two tags are already exotic.
const TAGS_MAX: usize = 8;
/// MPLS labels that are read at most.
const LABELS_MAX: usize = 16;

// Further numbers of <https://www.tcpdump.org/linktypes.html>. 12 and 14 are what DLT_RAW is on some systems;
// libpcap writes 101 instead, other programs do not.
const RAW_12: LinkType = LinkType(12);
const RAW_14: LinkType = LinkType(14);
const PPP: LinkType = LinkType(9);
const PPP_HDLC: LinkType = LinkType(50);
const PPP_ETHER: LinkType = LinkType(51);
const C_HDLC: LinkType = LinkType(104);
const IEEE802_11: LinkType = LinkType(105);
const IEEE802_11_RADIOTAP: LinkType = LinkType(127);

// EtherTypes that etherparse does not name.
const QINQ_9200: u16 = 0x9200;
const PPPOE_SESSION: u16 = 0x8864;
const MPLS: u16 = 0x8847;
const MPLS_UPSTREAM: u16 = 0x8848;

// PPP protocol numbers (RFC 1332, section 2; RFC 5072, section 3).
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
const PPP_MPLS: u16 = 0x0281;

/// Offset of the IP header. The bytes there are not looked at, except in MPLS, where nothing else tells.
#[inline]
pub(super) fn ip_offset(linktype: LinkType, data: &[u8]) -> Result<usize, NoFlow> {
    match linktype {
        LinkType::ETHERNET => below_ether_type(data, 12),
        LinkType::LINUX_SLL => below_ether_type(data, 14),
        LinkType::LINUX_SLL2 => {
            let protocol = read16(data, 0)?;
            below(data, protocol, 20)
        }
        LinkType::RAW | RAW_12 | RAW_14 | LinkType::IPV4 | LinkType::IPV6 => Ok(0),
        LinkType::NULL | LinkType::LOOP => loopback(data),
        PPP | PPP_HDLC => ppp(data, 0),
        PPP_ETHER => ppp(data, 6),
        C_HDLC => below_ether_type(data, 2),
        IEEE802_11 => ieee802_11(data, 0, false),
        IEEE802_11_RADIOTAP => radiotap(data),
        _ => Err(NoFlow::UnsupportedLinkType),
    }
}

/// The payload of a header that ends with an EtherType at `at`.
#[inline]
fn below_ether_type(data: &[u8], at: usize) -> Result<usize, NoFlow> {
    let ether_type = read16(data, at)?;
    if ether_type == EtherType::IPV4.0 {
        return Ok(at + 2); // nearly every packet
    }
    below(data, ether_type, at + 2)
}

/// Walks tags, from an EtherType and the offset of what it describes.
fn below(data: &[u8], mut ether_type: u16, mut at: usize) -> Result<usize, NoFlow> {
    const VLAN: u16 = EtherType::VLAN_TAGGED_FRAME.0;
    const PROVIDER: u16 = EtherType::PROVIDER_BRIDGING.0;
    const DOUBLE: u16 = EtherType::VLAN_DOUBLE_TAGGED_FRAME.0;
    const IPV4: u16 = EtherType::IPV4.0;
    const IPV6: u16 = EtherType::IPV6.0;
    for _ in 0..=TAGS_MAX {
        match ether_type {
            IPV4 | IPV6 => return Ok(at),
            VLAN | PROVIDER | DOUBLE | QINQ_9200 => {
                ether_type = read16(data, at + 2)?;
                at += 4;
            }
            PPPOE_SESSION => return ppp(data, at + 6), // RFC 2516, section 4
            MPLS | MPLS_UPSTREAM => return mpls(data, at),
            // Up to 1500 it is a length (IEEE 802.3, clause 3.2.6), in cooked captures 4; an 802.2 header follows.
            0..=1500 => return llc(data, at),
            _ => return Err(NoFlow::NotIp),
        }
    }
    Err(NoFlow::NotIp)
}

/// An 802.2 LLC header: IP's own SAP (0x06), or SNAP with the OUI of RFC 1042 or of 802.1H.
fn llc(data: &[u8], at: usize) -> Result<usize, NoFlow> {
    match data.get(at..at + 3).ok_or(NoFlow::Truncated)? {
        [0x06, 0x06, 0x03] => Ok(at + 3),
        [0xaa, 0xaa, 0x03] => {
            if !matches!(data.get(at + 3..at + 6).ok_or(NoFlow::Truncated)?, [0, 0, 0] | [0, 0, 0xf8]) {
                return Err(NoFlow::NotIp);
            }
            let ether_type = read16(data, at + 6)?;
            // A length here would be an LLC header in an LLC header.
            if ether_type <= 1500 { Err(NoFlow::NotIp) } else { below(data, ether_type, at + 8) }
        }
        _ => Err(NoFlow::NotIp),
    }
}

/// A PPP header, with or without address and control bytes, with or without protocol compression (RFC 1661,
/// sections 3.1 and 6.5).
fn ppp(data: &[u8], at: usize) -> Result<usize, NoFlow> {
    let at = if matches!(data.get(at..at + 2), Some([0xff, 0x03])) { at + 2 } else { at };
    let first = *data.get(at).ok_or(NoFlow::Truncated)?;
    let (protocol, at) = if first & 1 == 1 { (u16::from(first), at + 1) } else { (read16(data, at)?, at + 2) };
    match protocol {
        PPP_IPV4 | PPP_IPV6 => Ok(at),
        PPP_MPLS => mpls(data, at),
        _ => Err(NoFlow::NotIp),
    }
}

/// A stack of MPLS labels (RFC 3032, section 2.1). What follows is not named anywhere: 4 and 6 in the first nibble
/// are taken for IP; a pseudowire (RFC 4385, section 3: nibble 0) is a tunnel.
fn mpls(data: &[u8], mut at: usize) -> Result<usize, NoFlow> {
    for _ in 0..LABELS_MAX {
        let bottom = data.get(at + 2).ok_or(NoFlow::Truncated)? & 1 == 1;
        at += 4;
        if bottom {
            return match data.get(at).ok_or(NoFlow::Truncated)? >> 4 {
                4 | 6 => Ok(at),
                _ => Err(NoFlow::NotIp),
            };
        }
    }
    Err(NoFlow::NotIp)
}

/// The 4-byte address family of BSD loopback. `NULL` has it in the byte order of the capturing machine, which the
/// file does not tell, so that both are tried; AF_INET6 is 10 on Linux, 24, 28 or 30 on the BSDs.
fn loopback(data: &[u8]) -> Result<usize, NoFlow> {
    let family: [u8; 4] = *data.first_chunk().ok_or(NoFlow::Truncated)?;
    let family = u32::from_be_bytes(family).min(u32::from_le_bytes(family));
    if matches!(family, 2 | 10 | 24 | 28 | 30) { Ok(4) } else { Err(NoFlow::NotIp) }
}

/// A radiotap header (<https://www.radiotap.org>), read for its length and for the flag that says whether the 802.11
/// header is padded.
fn radiotap(data: &[u8]) -> Result<usize, NoFlow> {
    const TSFT: u32 = 1 << 0;
    const FLAGS: u32 = 1 << 1;
    const MORE_WORDS: u32 = 1 << 31;
    const DATA_PAD: u8 = 0x20;
    let header: &[u8; 8] = data.first_chunk().ok_or(NoFlow::Truncated)?;
    let len = usize::from(u16::from_le_bytes([header[2], header[3]]));
    if header[0] != 0 || len < 8 {
        return Err(NoFlow::Malformed);
    }
    let present = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let mut at = 8;
    let mut word = present;
    while word & MORE_WORDS != 0 && at + 4 <= len {
        let more = data.get(at..at + 4).ok_or(NoFlow::Truncated)?;
        word = u32::from_le_bytes([more[0], more[1], more[2], more[3]]);
        at += 4;
    }
    if present & TSFT != 0 {
        at = at.next_multiple_of(8) + 8; // fields are aligned to their size
    }
    let padded = present & FLAGS != 0 && at < len && data.get(at).is_some_and(|flags| flags & DATA_PAD != 0);
    ieee802_11(data, len, padded)
}

/// An 802.11 MAC header (IEEE 802.11-2020, clause 9.2.4) of a data frame, then LLC.
fn ieee802_11(data: &[u8], at: usize, padded: bool) -> Result<usize, NoFlow> {
    let &[control, flags] = data.get(at..).and_then(<[u8]>::first_chunk).ok_or(NoFlow::Truncated)?;
    let (kind, subtype) = (control >> 2 & 3, control >> 4);
    let (is_null, is_qos) = (subtype & 4 != 0, subtype & 8 != 0);
    let (protected, order) = (flags & 0x40 != 0, flags & 0x80 != 0);
    if kind != 2 || is_null || protected {
        return Err(NoFlow::NotIp);
    }
    let mut len = 24;
    if flags & 3 == 3 {
        len += 6; // from one access point to another: a fourth address
    }
    if is_qos {
        if data.get(at + len).ok_or(NoFlow::Truncated)? & 0x80 != 0 {
            return Err(NoFlow::NotIp); // an aggregate holds many packets, and this function finds one
        }
        len += 2;
        if order {
            len += 4; // HT control
        }
    }
    if padded {
        len = len.next_multiple_of(4);
    }
    llc(data, at + len)
}

#[inline]
fn read16(data: &[u8], at: usize) -> Result<u16, NoFlow> {
    if data.len() < at + 2 { Err(NoFlow::Truncated) } else { Ok(be16(data, at)) }
}

//! Which bytes of a packet become tokens, and how long a frame says it is.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::flow::{dissect, to_ethernet};
use crate::packet::{LinkType, Packet};

/// Which bytes of a packet are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The whole frame, trailing padding included.
    Whole,
    /// Up to the end of the transport header: no byte of payload. A frame in which that end cannot be found is left
    /// out, so that no payload slips through.
    Headers,
    /// The first `n` bytes, at least 1.
    First(usize),
}

/// The bytes of `packet` that are kept, from the Ethernet header on; none when the packet is left out.
///
/// IP packets of other link types are given an Ethernet header. Left out are packets of other link types that hold no
/// IP, empty ones, and with [`Keep::Headers`] those whose headers cannot be read.
pub(super) fn kept_bytes(packet: &Packet, keep: Keep) -> Option<Cow<'_, [u8]>> {
    let data: Cow<'_, [u8]> = if packet.linktype == LinkType::ETHERNET {
        Cow::Borrowed(&packet.data)
    } else {
        Cow::Owned(to_ethernet(packet)?.data)
    };
    let kept = match keep {
        Keep::Whole => data.len(),
        Keep::Headers => dissect(LinkType::ETHERNET, &data).ok()?.payload_offset,
        Keep::First(n) => n,
    };
    let kept = kept.min(data.len());
    if kept == 0 {
        return None;
    }
    Some(match data {
        Cow::Borrowed(data) => Cow::Borrowed(&data[..kept]),
        Cow::Owned(mut data) => {
            data.truncate(kept);
            Cow::Owned(data)
        }
    })
}

/// Length on the wire that the IP header of an Ethernet frame claims, link header included.
///
/// None without an IP header, with a length of 0 (segmentation offload, jumbograms) or one that is shorter than the
/// header itself. At most 65,535 plus what stands before the IP header (IPv6: plus its 40 bytes).
pub(super) fn claimed_len(frame: &[u8]) -> Option<usize> {
    let be16 = |at: usize| frame.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    // Ethernet II: two addresses, then the type; up to two VLAN tags (802.1Q, 802.1ad) of 4 bytes before it.
    let mut type_at = 12;
    while type_at < 20 && matches!(be16(type_at)?, 0x8100 | 0x88a8 | 0x9100) {
        type_at += 4;
    }
    let ip_at = type_at + 2;
    let (len, len_min) = match be16(type_at)? {
        0x0800 => (usize::from(be16(ip_at + 2)?), 20), // RFC 791 section 3.1: total length
        0x86dd => (usize::from(be16(ip_at + 4)?) + 40, 41), // RFC 8200 section 3: payload length
        _ => return None,
    };
    (len >= len_min).then_some(ip_at + len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Timestamp;

    fn packet(linktype: LinkType, data: Vec<u8>) -> Packet {
        Packet { ts: Timestamp(0), linktype, len: data.len() as u32, data }
    }

    /// Ethernet, IPv4, UDP, `payload` and padding to 60 bytes, as a NIC sends it.
    fn udp(payload: &[u8]) -> Vec<u8> {
        let mut data = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0, 0x45, 0, 0, 28 + payload.len() as u8];
        data.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 53, 0, 53, 0, 8, 0, 0]);
        data.extend(payload);
        data.resize(data.len().max(60), 0);
        data
    }

    #[test]
    fn whole_keeps_padding_first_keeps_a_prefix_headers_keep_no_payload() {
        let packet = packet(LinkType::ETHERNET, udp(b"secret"));
        assert_eq!(kept_bytes(&packet, Keep::Whole).as_deref(), Some(packet.data.as_slice()));
        assert_eq!(kept_bytes(&packet, Keep::First(20)).as_deref(), Some(&packet.data[..20]));
        assert_eq!(kept_bytes(&packet, Keep::First(9000)).as_deref(), Some(packet.data.as_slice()));
        // 14 bytes of Ethernet, 20 of IPv4, 8 of UDP.
        assert_eq!(kept_bytes(&packet, Keep::Headers).as_deref(), Some(&packet.data[..42]));
    }

    #[test]
    fn raw_ip_gets_an_ethernet_header_and_what_has_no_bytes_or_no_ip_is_left_out() {
        let frame = udp(b"x");
        let raw = packet(LinkType::RAW, frame[14..].to_vec());
        // 20 of IPv4, 8 of UDP, 1 of payload; what follows was the other link layer's padding.
        assert_eq!(kept_bytes(&raw, Keep::Whole).map(|d| d[14..].to_vec()), Some(raw.data[..29].to_vec()));
        assert_eq!(kept_bytes(&raw, Keep::Headers).map(|d| d.len()), Some(42));
        assert_eq!(kept_bytes(&packet(LinkType(220), vec![1; 60]), Keep::Whole), None); // USB
        assert_eq!(kept_bytes(&packet(LinkType::ETHERNET, vec![]), Keep::Whole), None);
        assert_eq!(kept_bytes(&packet(LinkType::ETHERNET, vec![1; 13]), Keep::Headers), None);
    }

    #[test]
    fn the_ip_header_tells_the_length_behind_vlan_tags_too() {
        let frame = udp(b"secret");
        assert_eq!(claimed_len(&frame), Some(14 + 34));
        let mut tagged = frame[..12].to_vec();
        tagged.extend([0x88, 0xa8, 0, 1, 0x81, 0, 0, 2]);
        tagged.extend(&frame[12..]);
        assert_eq!(claimed_len(&tagged), Some(22 + 34));
        let mut v6 = vec![0; 12];
        v6.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0x05, 0x00, 6, 64]);
        assert_eq!(claimed_len(&v6), Some(14 + 40 + 0x500));
    }

    #[test]
    fn frames_that_claim_no_length_or_end_early_have_none() {
        let frame = udp(b"secret");
        for n in 0..18 {
            assert_eq!(claimed_len(&frame[..n]), None);
        }
        let mut offloaded = frame.clone();
        offloaded[17] = 0;
        assert_eq!(claimed_len(&offloaded), None);
        let mut arp = frame;
        arp[13] = 6;
        assert_eq!(claimed_len(&arp), None);
    }
}

//! Which frames may go onto a network device, and the reasons against, in the words of the counters.

use wiremamba_model::flow::to_ethernet;
use wiremamba_model::packet::{LinkType, Packet};

use super::SinkReport;

/// Bytes of an Ethernet header without tags; a tap refuses less (`tun_get_user` in the kernel).
pub(super) const ETHERNET_HEADER: usize = 14;
/// Bytes of one VLAN tag (IEEE 802.1Q, clause 9.3).
const VLAN_TAG: usize = 4;
/// Tags that may come on top of the MTU: one, or two stacked ones.
const VLAN_TAGS_MAX: usize = 2;

/// Longer than the interface's MTU allows: captures of a host with segmentation offload hold such frames.
pub const REFUSED_TOO_LONG: &str = "longer than the MTU allows";
/// The kernel takes nothing shorter than an Ethernet header.
pub const REFUSED_TOO_SHORT: &str = "shorter than an Ethernet header";
/// A packet without IP, of a link type other than Ethernet.
pub const REFUSED_NOT_ETHERNET: &str = "no Ethernet frame can be made of it";
/// See [`Truncated::Skip`].
pub const REFUSED_TRUNCATED: &str = "truncated in the capture";
/// Out of memory or buffers, several times in a row.
pub const REFUSED_BUSY: &str = "no room in the kernel";
/// For a reason of its own.
pub const REFUSED_KERNEL: &str = "refused by the kernel";

/// What to do with a packet of which the capture holds only the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncated {
    /// Fill it with zeros to its length on the wire, so that sizes and rates are those of the traffic. Headers
    /// stay true to their length fields; checksums over the missing bytes are wrong. Counted as `padded`.
    #[default]
    Pad,
    /// Refuse it.
    Skip,
}

/// Why one packet cannot go onto the device. It is counted and the next one is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    TooLong { len: usize, max: usize },
    TooShort,
    NotEthernet,
    Truncated,
    Busy,
    Kernel,
}

impl Refusal {
    /// The reason in the words of [`SinkReport::refused`](crate::sink::SinkReport::refused).
    pub(super) fn reason(self) -> &'static str {
        match self {
            Refusal::TooLong { .. } => REFUSED_TOO_LONG,
            Refusal::TooShort => REFUSED_TOO_SHORT,
            Refusal::NotEthernet => REFUSED_NOT_ETHERNET,
            Refusal::Truncated => REFUSED_TRUNCATED,
            Refusal::Busy => REFUSED_BUSY,
            Refusal::Kernel => REFUSED_KERNEL,
        }
    }
}

/// What a frame that was sent counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Framed {
    /// Bytes that were sent.
    pub(super) bytes: usize,
    is_padded: bool,
    is_reframed: bool,
}

impl SinkReport {
    /// Counts a frame that was sent.
    pub(super) fn count(&mut self, frame: Framed) {
        self.packets += 1;
        self.bytes += frame.bytes as u64;
        self.padded += u64::from(frame.is_padded);
        self.reframed += u64::from(frame.is_reframed);
    }
}

/// The Ethernet frame of a packet, for a device with this MTU: the packet's own bytes, or those that it leaves in `scratch` where
/// the frame has to be made or filled up.
pub(super) fn frame_of<'a>(
    packet: &'a Packet,
    truncated: Truncated,
    mtu: u32,
    scratch: &'a mut Vec<u8>,
) -> Result<(&'a [u8], Framed), Refusal> {
    let is_reframed = packet.linktype != LinkType::ETHERNET;
    let made = if is_reframed { Some(to_ethernet(packet).ok_or(Refusal::NotEthernet)?) } else { None };
    let whole = made.as_ref().unwrap_or(packet);
    let is_padded = whole.is_truncated();
    if is_padded && truncated == Truncated::Skip {
        return Err(Refusal::Truncated);
    }
    let bytes = if is_padded { whole.len as usize } else { whole.data.len() };
    // Before the buffer grows to as many.
    check_frame(&whole.data, bytes, mtu)?;
    let framed = Framed { bytes, is_padded, is_reframed };
    match made {
        None if !is_padded => return Ok((&packet.data, framed)),
        None => scratch.clone_from(&packet.data),
        Some(made) => *scratch = made.data,
    }
    scratch.resize(bytes, 0);
    Ok((scratch, framed))
}

/// Whether a frame of `len` bytes that begins with `head` may go onto an interface with this MTU.
fn check_frame(head: &[u8], len: usize, mtu: u32) -> Result<(), Refusal> {
    if head.len() < ETHERNET_HEADER {
        return Err(Refusal::TooShort);
    }
    let max = mtu as usize + ETHERNET_HEADER;
    if len <= max {
        return Ok(());
    }
    let max = max + VLAN_TAG * vlan_tags(head);
    if len <= max { Ok(()) } else { Err(Refusal::TooLong { len, max }) }
}

/// How many VLAN tags the frame begins with, two at most.
fn vlan_tags(head: &[u8]) -> usize {
    let is_tag = |i: &usize| {
        let at = 12 + i * VLAN_TAG;
        // 802.1Q, 802.1ad, and the number used for stacked tags before 802.1ad.
        matches!(head.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8] | [0x91, 0x00]))
    };
    (0..VLAN_TAGS_MAX).take_while(is_tag).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1500 + 14, and 4 more for each tag: IEEE 802.3 clause 3.2.7 and 802.1Q.
    #[test]
    fn frame_limits_count_vlan_tags() {
        let plain = [0u8; 60];
        let mut tagged = plain;
        tagged[12..14].copy_from_slice(&[0x81, 0x00]);
        let mut stacked = plain;
        stacked[12..14].copy_from_slice(&[0x88, 0xa8]);
        stacked[16..18].copy_from_slice(&[0x81, 0x00]);
        for (head, max) in [(plain, 1514), (tagged, 1518), (stacked, 1522)] {
            assert_eq!(check_frame(&head, max, 1500), Ok(()));
            assert_eq!(check_frame(&head, max + 1, 1500), Err(Refusal::TooLong { len: max + 1, max }));
        }
        assert_eq!(check_frame(&plain[..13], 60, 1500), Err(Refusal::TooShort));
    }
}

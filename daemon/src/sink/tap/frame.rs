//! Which frames may go onto a tap, and the reasons against, in the words of the counters.

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
/// See [`Truncated::Skip`](super::Truncated::Skip).
pub const REFUSED_TRUNCATED: &str = "truncated in the capture";
/// Out of memory or buffers, several times in a row.
pub const REFUSED_BUSY: &str = "no room in the kernel";
/// For a reason of its own.
pub const REFUSED_KERNEL: &str = "refused by the kernel";

/// Why one packet cannot go onto the tap. It is counted and the next one is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sink) enum Refusal {
    TooLong { len: usize, max: usize },
    TooShort,
    NotEthernet,
    Truncated,
    Busy,
    Kernel,
}

impl Refusal {
    /// The reason in the words of [`SinkReport::refused`](crate::sink::SinkReport::refused).
    pub(in crate::sink) fn reason(self) -> &'static str {
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

/// Whether a frame of `len` bytes that begins with `head` may go onto an interface with this MTU.
pub(in crate::sink) fn check_frame(head: &[u8], len: usize, mtu: u32) -> Result<(), Refusal> {
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

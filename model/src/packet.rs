//! Captured packets as they came: bytes, time, link type. Nothing is judged here.

use serde::{Deserialize, Serialize};

/// Nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time `seconds` and `nanos` after the epoch.
    pub fn from_parts(seconds: i64, nanos: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    /// Nanoseconds from `earlier` to `self`; negative when `self` comes first.
    pub fn nanos_since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The time `nanos` later.
    pub fn plus_nanos(self, nanos: i64) -> Self {
        Self(self.0.saturating_add(nanos))
    }
}

/// A link-layer header type, numbered as libpcap's `LINKTYPE_` values in files
/// (<https://www.tcpdump.org/linktypes.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LinkType(pub u16);

impl LinkType {
    /// BSD loopback: a 4-byte address family in host byte order of the capturing machine.
    pub const NULL: LinkType = LinkType(0);
    /// Ethernet.
    pub const ETHERNET: LinkType = LinkType(1);
    /// Raw IP: the first nibble tells the version.
    pub const RAW: LinkType = LinkType(101);
    /// OpenBSD loopback: a 4-byte address family in network byte order.
    pub const LOOP: LinkType = LinkType(108);
    /// Linux cooked capture, version 1.
    pub const LINUX_SLL: LinkType = LinkType(113);
    /// Linux cooked capture, version 2.
    pub const LINUX_SLL2: LinkType = LinkType(276);
    /// Raw IPv4.
    pub const IPV4: LinkType = LinkType(228);
    /// Raw IPv6.
    pub const IPV6: LinkType = LinkType(229);
}

impl std::fmt::Display for LinkType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            LinkType::NULL => f.write_str("NULL"),
            LinkType::ETHERNET => f.write_str("EN10MB"),
            LinkType::RAW => f.write_str("RAW"),
            LinkType::LOOP => f.write_str("LOOP"),
            LinkType::LINUX_SLL => f.write_str("LINUX_SLL"),
            LinkType::LINUX_SLL2 => f.write_str("LINUX_SLL2"),
            LinkType::IPV4 => f.write_str("IPV4"),
            LinkType::IPV6 => f.write_str("IPV6"),
            LinkType(n) => write!(f, "linktype {n}"),
        }
    }
}

/// A captured packet: owned bytes, unjudged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// When it was captured.
    pub ts: Timestamp,
    /// What the first byte of `data` belongs to.
    pub linktype: LinkType,
    /// Length on the wire in bytes; `data.len()` is the captured length (`caplen`).
    pub len: u32,
    /// The captured bytes.
    pub data: Vec<u8>,
}

impl Packet {
    /// Whether the capture holds fewer bytes than were on the wire.
    pub fn is_truncated(&self) -> bool {
        (self.data.len() as u64) < u64::from(self.len)
    }
}

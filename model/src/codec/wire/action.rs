//! What a packet's tokens decide, with everything that is relative resolved to numbers.

use super::vocab::Proto;

/// A packet as its sender decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Action {
    /// Time since the packet before, in nanoseconds.
    pub(super) gap_ns: i64,
    /// Which flow.
    pub(super) slot: u8,
    /// Whether the flow's opener sent it.
    pub(super) from_orig: bool,
    /// The flow, where this packet opens it.
    pub(super) opens: Option<Open>,
    /// TCP, UDP or ICMP.
    pub(super) proto: Proto,
    /// IPv6.
    pub v6: bool,
    /// Time to live.
    pub(super) ttl: u8,
    /// DSCP and ECN.
    pub(super) tos: u8,
    /// Don't fragment.
    pub(super) df: bool,
    /// The identification is 0 and does not count.
    pub(super) id_zero: bool,
    /// The TCP header.
    pub(super) tcp: Option<Segment>,
    /// ICMP type and code.
    pub(super) icmp: [u8; 2],
    /// Payload in bytes (ICMP: what follows the checksum).
    pub(super) len: u16,
    /// How many of them were sent, or skipped, before: they come from the stream and have no pieces.
    pub(super) len_known: u16,
    /// Where the payload stands in the sender's stream.
    pub(super) stream_at: i64,
    /// The new payload, in order; together `len - len_known` bytes.
    pub(super) pieces: Vec<Piece>,
    /// Whether the new payload begins a message, so that it is what `same` and `peer` refer to from now on.
    pub(super) is_message: bool,
}

/// How a flow begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Open {
    /// Responder's port; `None` for an ephemeral one.
    pub(super) port: Option<u16>,
    /// Opener's port.
    pub(super) sport: Sport,
    /// Responder.
    pub(super) host: Host,
}

/// Opener's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sport {
    /// Drawn.
    Ephemeral,
    /// The responder's.
    Same,
    /// This one.
    Number(u16),
}

/// A responder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    /// The host of the session with this number.
    Known(u32),
    /// A group address; IPv4 has the first four bytes.
    Group([u8; 16]),
    /// The client network's broadcast address.
    Broadcast,
}

/// The TCP header. Numbers are relative: the SYN has 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Sequence number.
    pub(super) seq: i64,
    /// Whether that is the next one: then, and only then, a captured number tells where the stream begins.
    pub(super) is_next: bool,
    /// Bytes left out before it.
    pub(super) hole: u16,
    /// Acknowledgement number; 0 where the flag is not set.
    pub(super) ack: i64,
    /// Flags.
    pub(super) flags: u8,
    /// Window as in the field.
    pub(super) window: u16,
    /// Options, in order.
    pub(super) options: Vec<Opt>,
}

/// A TCP option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opt {
    /// Maximum segment size.
    Mss(u16),
    /// Window scale.
    Ws(u8),
    /// SACK permitted.
    SackOk,
    /// Timestamps.
    Ts,
    /// No operation.
    Nop,
    /// End of the list.
    Eol,
    /// SACK blocks, as many as the count says.
    Sack(u8, [(i64, i64); 4]),
    /// Kind, and length with kind and length.
    Other(u8, u8),
}

impl Opt {
    /// Bytes in the header.
    pub(super) fn len(self) -> usize {
        match self {
            Opt::Mss(_) => 4,
            Opt::Ws(_) => 3,
            Opt::SackOk => 2,
            Opt::Ts => 10,
            Opt::Nop | Opt::Eol => 1,
            Opt::Sack(n, _) => 2 + 8 * usize::from(n),
            Opt::Other(_, len) => usize::from(len.max(2)),
        }
    }
}

/// A piece of payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// A byte.
    Byte(u8),
    /// A string of the dictionary.
    Str(u16),
    /// From this side's last message, same place.
    Same(u16),
    /// From the other side's last message, same place.
    Peer(u16),
    /// Two bytes of this side's last message, plus one.
    Inc2,
    /// Drawn bytes.
    Opaque(u16),
    /// Drawn text.
    Text(u16),
    /// Zeros.
    Zero(u16),
    /// An IPv4 address in text of this length.
    Quad(u8),
    /// A name of the session: number, length of its text, as DNS labels.
    Name(u32, u8, bool),
    /// A quoted packet.
    Quote(u16),
    /// A TLS record header: type, minor version, length.
    Tls(u8, u8, u16),
}

impl Piece {
    /// Bytes of payload.
    pub(super) fn len(self, strings: &[Box<[u8]>]) -> u16 {
        match self {
            Piece::Byte(_) => 1,
            Piece::Str(i) => strings[usize::from(i)].len() as u16,
            Piece::Inc2 => 2,
            Piece::Quad(n) => u16::from(n),
            Piece::Name(_, n, as_labels) => u16::from(n) + u16::from(as_labels),
            Piece::Tls(..) => 5,
            Piece::Same(n) | Piece::Peer(n) | Piece::Opaque(n) | Piece::Text(n) | Piece::Zero(n) | Piece::Quote(n) => n,
        }
    }
}

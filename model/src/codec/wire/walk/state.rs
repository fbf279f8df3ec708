//! What is kept while tokens come: the stage, the packet under way, the flows.

use super::super::action::{Action, Opt};
use super::super::outlook::{Ends, Outlook};
use super::super::side::Side;
use super::super::vocab::Proto;

/// What a token led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Step {
    /// The packet goes on, or is being skipped.
    More,
    /// A packet is complete; [`Walk::action`] is it. A patch can follow.
    Packet,
    /// A patch for the last packet is complete: [`Walk::bytes`].
    Fix,
    /// A packet without structure is complete: [`Walk::gap_ns`] and [`Walk::bytes`].
    Raw,
    /// The sample ends.
    End,
    /// The token has no place here; the packet that it was to be part of is dropped.
    Bad,
}

/// What a byte that has to follow belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Operand {
    Port,
    Sport,
    Group,
    Ttl,
    Tos,
    Hole,
    Window,
    Mss,
    Ws,
    Other,
    IcmpCode,
    LenLow,
    LenBig,
    TextName,
    DnsName,
    Record,
    FixLen,
    RawLen,
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Stage {
    /// Between packets.
    Gap,
    /// After `back`.
    GapExponent,
    Mantissa,
    Who,
    Port,
    Sport,
    Host,
    /// How the flow that opens ends, and then how many packets it has; either can be left out, as everything is that is not known.
    Ends,
    Size,
    /// Header fields from this rank on.
    Head(u8),
    /// So many bytes of a number.
    Operand(Operand, u8),
    /// The length of a TLS record.
    Record,
    Pieces,
    /// So many bytes of a patch, or of a packet without structure.
    Bytes(u32, bool),
    /// Until the next packet begins.
    Skip,
    Done,
}

/// Ranks of header fields, in the order in which they may come.
pub(in super::super) mod rank {
    pub(in super::super::super) const TTL: u8 = 0;
    pub(in super::super::super) const TOS: u8 = 1;
    pub(in super::super::super) const DF: u8 = 2;
    pub(in super::super::super) const ID: u8 = 3;
    pub(in super::super::super) const SEQ: u8 = 4;
    pub(in super::super::super) const FLAGS: u8 = 5;
    pub(in super::super::super) const ACK: u8 = 6;
    pub(in super::super::super) const WINDOW: u8 = 7;
    pub(in super::super::super) const OPTIONS: u8 = 8;
    pub(in super::super::super) const LEN: u8 = 9;
}

/// How the sequence number was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) enum Seq {
    #[default]
    Next,
    Keep,
    Hole(u16),
    Re(i64),
}

/// How the acknowledgement number was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum AckBy {
    #[default]
    Contiguous,
    Same,
    Bound(i64),
}

/// A flow of the session.
#[derive(Debug, Clone)]
pub(in super::super) struct Slot {
    pub(in super::super) proto: Proto,
    pub v6: bool,
    /// The responder's port; `None` for an ephemeral one.
    pub(in super::super) port: Option<u16>,
    /// Whether the responder is a group or a broadcast, which answers nobody.
    pub(in super::super) to_group: bool,
    /// Opener, responder.
    pub(in super::super) sides: [Side; 2],
    /// RST, or FIN and its acknowledgement both ways.
    pub(in super::super) closed: bool,
    /// What was told of it.
    pub(in super::super) outlook: Option<Outlook>,
    /// Packets so far.
    pub(in super::super) packets: u32,
    pub(super) used: u64,
    /// Who sent the last payload: 0 the opener.
    pub(super) last_payload: Option<u8>,
}

/// The packet under way.
#[derive(Debug, Clone)]
pub(in super::super) struct Current {
    pub(in super::super) action: Action,
    /// How the flow ends that opens, and what is told of it in all.
    pub(in super::super) ends: Ends,
    pub(in super::super) outlook: Option<Outlook>,
    pub(in super::super) seq: Seq,
    pub(super) ack: AckBy,
    pub(in super::super) flags: u8,
    pub(in super::super) window: u16,
    /// Options as given; `None` for the default.
    pub(in super::super) options: Option<Vec<Opt>>,
    pub(super) number: u32,
    pub(super) group: [u8; 16],
    /// New payload bytes so far, and still to come.
    pub(in super::super) done: u16,
    pub(in super::super) left: u16,
    pub(in super::super) record_left: u16,
    pub(in super::super) framed: bool,
    pub(in super::super) tls: (u8, u8),
}

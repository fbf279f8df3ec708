//! Flows and sessions: which packets belong together.
//!
//! Assembly is pure (packets in, flows out, time from the packets) and has one implementation for training,
//! inspection and the live service alike.

mod dissect;
mod session;
mod table;

use std::net::IpAddr;

use crate::packet::{Packet, Timestamp};

pub use dissect::{Dissected, NoFlow, dissect, to_ethernet};
pub use session::{SessionLimits, into_sessions};
pub use table::{FlowCounters, FlowLimits, FlowTable};

/// The 5-tuple of a flow, from the point of view of the sender of its first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// Sender of the first packet seen.
    pub orig: IpAddr,
    /// The other side.
    pub resp: IpAddr,
    /// Port of `orig`; 0 for protocols without ports.
    pub orig_port: u16,
    /// Port of `resp`; 0 for protocols without ports.
    pub resp_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl FiveTuple {
    /// The same flow seen from the other side.
    pub fn reversed(self) -> Self {
        Self { orig: self.resp, resp: self.orig, orig_port: self.resp_port, resp_port: self.orig_port, ..self }
    }

    /// The key of the flow: the same for both directions.
    pub fn key(self) -> FlowKey {
        if (self.orig, self.orig_port) <= (self.resp, self.resp_port) {
            FlowKey(self)
        } else {
            FlowKey(self.reversed())
        }
    }
}

impl std::fmt::Display for FiveTuple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.protocol {
            1 => "ICMP",
            6 => "TCP",
            17 => "UDP",
            58 => "ICMPv6",
            132 => "SCTP",
            n => return write!(f, "{}:{} > {}:{} proto {n}", self.orig, self.orig_port, self.resp, self.resp_port),
        };
        write!(f, "{}:{} > {}:{} {name}", self.orig, self.orig_port, self.resp, self.resp_port)
    }
}

/// A 5-tuple that forgets direction. Made by [`FiveTuple::key`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey(FiveTuple);

/// Who sent a packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the sender of the first packet seen.
    Orig,
    /// From the other side.
    Resp,
}

/// Why a flow was taken out of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlowEnd {
    /// TCP FIN in both directions, or RST.
    Closed,
    /// No packet for the idle timeout, by packet time.
    Idle,
    /// The table, or the flow, was at its limit of packets or of time.
    Evicted,
    /// The input ended.
    EndOfInput,
}

/// The packets of one 5-tuple, both directions, in the order in which they were captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Who talks to whom.
    pub tuple: FiveTuple,
    /// The packets with their directions; never empty.
    pub packets: Vec<(Direction, Packet)>,
    /// Why it ended.
    pub end: FlowEnd,
}

impl Flow {
    /// Time of the first packet.
    pub fn start(&self) -> Timestamp {
        self.packets[0].1.ts
    }

    /// Bytes on the wire, all packets together.
    pub fn wire_bytes(&self) -> u64 {
        self.packets.iter().map(|(_, p)| u64::from(p.len)).sum()
    }
}

/// One client's flows, interleaved, in time order. A single flow is the special case with one entry in `flows`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The flows, in the order of their first packets.
    pub flows: Vec<FiveTuple>,
    /// The packets in the order of their times; never empty.
    pub packets: Vec<SessionPacket>,
}

/// A packet of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPacket {
    /// Index into [`Session::flows`].
    pub flow: usize,
    /// Who sent it.
    pub direction: Direction,
    /// The packet.
    pub packet: Packet,
}

impl From<Flow> for Session {
    fn from(flow: Flow) -> Self {
        let packets =
            flow.packets.into_iter().map(|(direction, packet)| SessionPacket { flow: 0, direction, packet }).collect();
        Self { flows: vec![flow.tuple], packets }
    }
}

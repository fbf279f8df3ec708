//! The eleven counters with which NetSSM's authors look at TCP state in generated traces, as rates.
//!
//! They are coarser than the rules of [`ValidityReport`](super::ValidityReport) and overlap with them; they are here so
//! that figures can be compared. What happens once per connection is counted by flow, what can happen in any packet by
//! packet.

use serde::Serialize;
use wiremamba_model::flow::Direction;

use super::packet::tcp_flags;
use super::report::Rate;
use super::tcp::{Segment, Tracker};
use crate::view::TcpView;

/// The rates.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NetssmReport {
    /// TCP flows with SYN, SYN-ACK and ACK whose numbers match, of all TCP flows.
    pub correct_handshakes: Rate,
    /// TCP packets whose acknowledgement is not below the last one of their direction, of those that have a predecessor.
    pub ack_progress: Rate,
    /// TCP packets whose sequence number is not below the last one of their direction, of those that have a predecessor.
    pub seq_progress: Rate,
    /// TCP flows with a FIN, of all TCP flows.
    pub fin_seen: Rate,
    /// TCP flows in which a FIN was acknowledged, of all TCP flows.
    pub fin_ack_observed: Rate,
    /// TCP packets with flags that contradict each other (the packet rules on flags), of all TCP packets.
    pub conflicting_flags: Rate,
    /// TCP flows with a SACK block although a SYN did not permit it, of those that begin with a SYN.
    pub sack_without_permitted: Rate,
    /// TCP flows with a new SYN after the connection was established (or joined in its middle), of all TCP flows.
    pub syn_after_established: Rate,
    /// TCP packets without SYN that have an MSS option, of all TCP packets.
    pub mss_outside_handshake: Rate,
    /// TCP packets without SYN that have a window scale option, of all TCP packets.
    pub window_scale_outside_handshake: Rate,
    /// TCP flows with a RST after the connection was established and before it was closed, of all TCP flows.
    pub rst_in_established: Rate,
}

impl NetssmReport {
    /// All rates with their names, for tables.
    pub fn rates(&self) -> [(&'static str, Rate); 11] {
        [
            ("correct_handshakes", self.correct_handshakes),
            ("ack_progress", self.ack_progress),
            ("seq_progress", self.seq_progress),
            ("fin_seen", self.fin_seen),
            ("fin_ack_observed", self.fin_ack_observed),
            ("conflicting_flags", self.conflicting_flags),
            ("sack_without_permitted", self.sack_without_permitted),
            ("syn_after_established", self.syn_after_established),
            ("mss_outside_handshake", self.mss_outside_handshake),
            ("window_scale_outside_handshake", self.window_scale_outside_handshake),
            ("rst_in_established", self.rst_in_established),
        ]
    }
}

/// The counts so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Netssm {
    flows: u64,
    flows_begun: u64,
    packets: u64,
    acks: u64,
    seqs: u64,
    correct_handshakes: u64,
    ack_progress: u64,
    seq_progress: u64,
    fin_seen: u64,
    fin_ack_observed: u64,
    conflicting_flags: u64,
    sack_without_permitted: u64,
    syn_after_established: u64,
    mss_outside_handshake: u64,
    window_scale_outside_handshake: u64,
    rst_in_established: u64,
}

/// What is remembered of the flow at hand.
#[derive(Debug, Default)]
pub(super) struct InFlow {
    last_ack: [Option<u32>; 2],
    last_seq: [Option<u32>; 2],
    fin_seen: bool,
    sack_seen: bool,
}

impl Netssm {
    pub(super) fn packet(&mut self, flow: &mut InFlow, direction: Direction, segment: &Segment) {
        let is_syn = segment.has(TcpView::SYN);
        self.packets += 1;
        self.conflicting_flags += u64::from(tcp_flags(segment.flags).is_some());
        self.mss_outside_handshake += u64::from(segment.has_mss && !is_syn);
        self.window_scale_outside_handshake += u64::from(segment.has_scale && !is_syn);
        flow.fin_seen |= segment.has(TcpView::FIN);
        flow.sack_seen |= segment.has_sack;

        let goes_on = |last: u32, now: u32| u64::from(now.wrapping_sub(last).cast_signed() >= 0);
        if let Some(last) = flow.last_seq[direction as usize].replace(segment.seq) {
            self.seqs += 1;
            self.seq_progress += goes_on(last, segment.seq);
        }
        if segment.has(TcpView::ACK)
            && let Some(last) = flow.last_ack[direction as usize].replace(segment.ack)
        {
            self.acks += 1;
            self.ack_progress += goes_on(last, segment.ack);
        }
    }

    pub(super) fn flow(&mut self, flow: &InFlow, tracker: &Tracker) {
        self.flows += 1;
        self.flows_begun += u64::from(tracker.has_begun());
        self.correct_handshakes += u64::from(tracker.has_handshake());
        self.fin_seen += u64::from(flow.fin_seen);
        self.fin_ack_observed += u64::from(tracker.has_fin_acked());
        self.sack_without_permitted += u64::from(flow.sack_seen && tracker.forbids_sack());
        self.syn_after_established += u64::from(tracker.syn_after_established);
        self.rst_in_established += u64::from(tracker.reset_in_established);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.flows += other.flows;
        self.flows_begun += other.flows_begun;
        self.packets += other.packets;
        self.acks += other.acks;
        self.seqs += other.seqs;
        self.correct_handshakes += other.correct_handshakes;
        self.ack_progress += other.ack_progress;
        self.seq_progress += other.seq_progress;
        self.fin_seen += other.fin_seen;
        self.fin_ack_observed += other.fin_ack_observed;
        self.conflicting_flags += other.conflicting_flags;
        self.sack_without_permitted += other.sack_without_permitted;
        self.syn_after_established += other.syn_after_established;
        self.mss_outside_handshake += other.mss_outside_handshake;
        self.window_scale_outside_handshake += other.window_scale_outside_handshake;
        self.rst_in_established += other.rst_in_established;
    }

    pub(super) fn report(&self) -> NetssmReport {
        let (flow, packet) = (|n| Rate::new(n, self.flows), |n| Rate::new(n, self.packets));
        NetssmReport {
            correct_handshakes: flow(self.correct_handshakes),
            ack_progress: Rate::new(self.ack_progress, self.acks),
            seq_progress: Rate::new(self.seq_progress, self.seqs),
            fin_seen: flow(self.fin_seen),
            fin_ack_observed: flow(self.fin_ack_observed),
            conflicting_flags: packet(self.conflicting_flags),
            sack_without_permitted: Rate::new(self.sack_without_permitted, self.flows_begun),
            syn_after_established: flow(self.syn_after_established),
            mss_outside_handshake: packet(self.mss_outside_handshake),
            window_scale_outside_handshake: packet(self.window_scale_outside_handshake),
            rst_in_established: flow(self.rst_in_established),
        }
    }
}

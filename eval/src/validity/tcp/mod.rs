//! Whether the packets of a TCP flow follow from each other (RFC 9293, RFC 7323).
//!
//! The tracker watches both sides as someone on the path does: it sees what was sent, not what arrived. What two correct
//! hosts can do to each other over a network that loses, delays and repeats packets is no fault: retransmissions,
//! segments out of order, keep-alives, window probes. A flow that begins in its middle has no handshake to break.

mod segment;
mod side;

use wiremamba_model::flow::Direction;

use crate::view::TcpView;
use side::{Side, ahead};

pub(super) use segment::Segment;

/// How long packets of the other side may still arrive after a RST that it has not seen, in nanoseconds: a long round
/// trip (RFC 6298, section 2.1, starts from one second for an unknown one).
const IN_FLIGHT_NS: i64 = 1_000_000_000;
/// Largest shift count of a window (RFC 7323, section 2.3).
const SHIFT_MAX: u8 = 14;

/// Watches one flow.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    sides: [Side; 2],
    /// Whether the flow began with a SYN; `None` before its first segment.
    begun: Option<bool>,
    /// Whether both SYNs were acknowledged, or the flow was joined in its middle.
    established: bool,
    /// Whether data may come before that.
    fast_open: bool,
    /// What a challenge ACK acknowledged.
    challenge: Option<u32>,
    /// What was wrong, each once.
    faults: Vec<&'static str>,
    pub(super) syn_after_established: bool,
    pub(super) reset_in_established: bool,
}

impl Tracker {
    /// Takes in the next segment.
    pub(super) fn push(&mut self, direction: Direction, segment: &Segment) {
        let (syn, ack) = (segment.has(TcpView::SYN), segment.has(TcpView::ACK));
        let begun = *self.begun.get_or_insert(syn && !ack && !segment.has(TcpView::RST));
        self.established |= !begun;
        let me = direction as usize;
        if self.is_challenge(me, segment) {
            self.challenge = Some(segment.ack);
            return;
        }
        if segment.has(TcpView::RST) {
            return self.reset(me, segment);
        }
        if syn && !self.syn(me, segment) {
            return;
        }
        let window = self.window(me);
        if self.sides[me].jumps(segment.seq, window) {
            return self.fault("sequence jump");
        }
        let is_old = self.sides[me].is_old(segment.seq);
        if ack {
            self.ack(me, segment, is_old);
        }
        self.data(me, segment);
        self.clocks(me, segment, is_old);
        self.sides[me].sends(segment.seq, segment.end());
        if segment.has(TcpView::FIN) {
            self.sides[me].fin.get_or_insert(segment.end().wrapping_sub(1));
        }
    }

    /// The faults of the whole flow, each once.
    pub(super) fn finish(&mut self) -> &[&'static str] {
        if self.sides.iter().any(Side::has_holes) {
            self.fault("hole");
        }
        &self.faults
    }

    /// Whether all three packets of the handshake were seen and right.
    pub(super) fn has_handshake(&self) -> bool {
        self.begun == Some(true) && self.sides.iter().all(|s| s.syn_acked)
    }

    /// Whether the flow began with a SYN.
    pub(super) fn has_begun(&self) -> bool {
        self.begun == Some(true)
    }

    /// Whether the connection ended: FIN both ways, or a RST.
    pub(super) fn is_over(&self) -> bool {
        self.sides.iter().all(|s| s.fin.is_some()) || self.sides.iter().any(|s| s.reset.is_some())
    }

    /// Whether a FIN was acknowledged.
    pub(super) fn has_fin_acked(&self) -> bool {
        self.sides.iter().any(|s| s.fin_acked)
    }

    /// Whether both SYNs were seen and one of them did not permit SACK.
    pub(super) fn forbids_sack(&self) -> bool {
        self.sides.iter().all(|s| s.syn.is_some() && !s.syn_cut) && self.sides.iter().any(|s| !s.sack_permitted)
    }

    /// Number of the first byte that a side sends, where its SYN was seen.
    pub(super) fn first_byte(&self, direction: Direction) -> Option<u32> {
        self.sides[direction as usize].syn.map(|syn| syn.wrapping_add(1))
    }

    /// Number of the FIN of a side.
    pub(super) fn fin(&self, direction: Direction) -> Option<u32> {
        self.sides[direction as usize].fin
    }

    /// Notes a fault of the flow.
    fn fault(&mut self, name: &'static str) {
        if !self.faults.contains(&name) {
            self.faults.push(name);
        }
    }

    /// How far `me` may be ahead of what was seen of it, in bytes: the largest window that its peer can offer (RFC 7323,
    /// section 2.3). A shift count counts when both SYNs have one; the largest is assumed where a SYN was not seen, or
    /// not all of it.
    fn window(&self, me: usize) -> i64 {
        let is_known = self.sides.iter().all(|s| s.syn.is_some() && !s.syn_cut);
        let shift = match (self.sides[me].scale, self.sides[1 - me].scale) {
            _ if !is_known => SHIFT_MAX,
            (Some(_), Some(shift)) => shift.min(SHIFT_MAX),
            _ => 0,
        };
        0xffff << shift
    }

    /// Whether a segment answers a SYN with an ACK alone, as a host does that still has an older connection of these
    /// ports: the other side answers with a RST and tries again (RFC 9293, section 3.5.1, and 3.10.7.4 on challenges).
    fn is_challenge(&self, me: usize, segment: &Segment) -> bool {
        let (own, peer) = (&self.sides[me], &self.sides[1 - me]);
        let is_answer = !self.established && own.next.is_none() && peer.syn.is_some();
        is_answer && segment.flags & 0x3f == TcpView::ACK && segment.len == 0
    }

    /// A RST ends the connection. What it acknowledges is not looked at: in answer to a segment out of nowhere it may be
    /// anything.
    fn reset(&mut self, me: usize, segment: &Segment) {
        if self.challenge != Some(segment.seq) && self.sides[me].jumps(segment.seq, self.window(me)) {
            return self.fault("sequence jump");
        }
        self.reset_in_established |= self.established && !self.is_over();
        self.sides[me].reset.get_or_insert(segment.ts);
    }

    /// Takes in a SYN, with or without ACK. Returns whether the rest is to be judged.
    fn syn(&mut self, me: usize, segment: &Segment) -> bool {
        if self.sides[me].syn == Some(segment.seq) {
            return true; // sent again
        }
        // The first that is seen of a flow may be an answer.
        let is_joined = self.begun == Some(false) && self.sides.iter().all(|s| s.next.is_none());
        if (self.established && !is_joined) || self.is_over() {
            self.syn_after_established |= self.established;
            self.fault(if self.is_over() { "packet after close" } else { "SYN after established" });
            return false;
        }
        let is_first = !segment.has(TcpView::ACK);
        let tried_before = self.sides[me].syn.is_some();
        if is_first && tried_before {
            // Tried again from the same port: what was before does not count.
            self.sides = [Side::default(), Side::default()];
        } else if tried_before {
            self.fault("broken handshake");
            return false;
        }
        let peer = &self.sides[1 - me];
        if !is_first
            && let (Some(syn), Some(next)) = (peer.syn, peer.next)
            && (ahead(segment.ack, syn) < 1 || ahead(segment.ack, next) > 0)
        {
            self.fault("broken handshake");
        }
        self.fast_open |= segment.fast_open;
        if segment.len > 0 && !self.fast_open {
            self.fault("data before handshake");
        }
        let side = &mut self.sides[me];
        side.syn = Some(segment.seq);
        side.syn_cut = segment.is_cut;
        side.scale = segment.scale;
        side.sack_permitted = segment.sack_permitted;
        true
    }

    /// Takes in what is acknowledged.
    fn ack(&mut self, me: usize, segment: &Segment, is_old: bool) {
        let is_syn = segment.has(TcpView::SYN);
        let [own, peer] = pair(&mut self.sides, me);
        let mut fault = None;
        match peer.next {
            None if !self.established => {
                // Neither side of a handshake goes on before the other one has spoken.
                fault = Some(if segment.len > 0 { "data before handshake" } else { "broken handshake" });
                self.established = true;
                peer.acked_unseen = Some(segment.ack);
            }
            None => {
                if peer.acked_unseen.is_none_or(|a| ahead(segment.ack, a) > 0) {
                    peer.acked_unseen = Some(segment.ack);
                }
            }
            Some(next) => {
                let beyond = ahead(segment.ack, next);
                if peer.syn.is_none() && own.ack.is_none() && beyond > 0 {
                    // The first word about data from before the capture.
                    peer.reaches(segment.ack);
                } else if beyond > 0 && !is_syn {
                    fault = Some("ack of unseen data");
                }
            }
        }
        if fault.is_none() && !is_syn && !is_old && own.ack.is_some_and(|last| ahead(segment.ack, last) < 0) {
            fault = Some("ack goes back");
        }
        let acked = |number: Option<u32>| number.is_some_and(|n| ahead(segment.ack, n) > 0);
        if fault.is_none() {
            if peer.syn.is_some() && !acked(peer.syn) && !is_syn && !self.established {
                fault = Some("broken handshake");
            }
            peer.syn_acked |= acked(peer.syn);
            peer.fin_acked |= acked(peer.fin);
            if own.ack.is_none_or(|last| ahead(segment.ack, last) > 0) {
                own.ack = Some(segment.ack);
            }
        }
        self.established |= self.has_handshake();
        if let Some(name) = fault {
            self.fault(name);
        }
    }

    /// Judges whether data, or an end, may come here.
    fn data(&mut self, me: usize, segment: &Segment) {
        let (own, peer) = (&self.sides[me], &self.sides[1 - me]);
        let is_syn = segment.has(TcpView::SYN);
        let has_data = segment.len > 0 || segment.has(TcpView::FIN);
        if !has_data || is_syn {
            return;
        }
        let is_again = own.next.is_some_and(|next| ahead(segment.end(), next) <= 0);
        let is_in_flight = peer.reset.is_some_and(|at| segment.ts.nanos_since(at) <= IN_FLIGHT_NS);
        let is_closed =
            own.reset.is_some() || (peer.reset.is_some() && !is_in_flight) || (own.fin_acked && peer.fin_acked);
        let behind_fin = own.fin.is_some_and(|fin| ahead(segment.end(), fin) > 1);
        if !self.established && !self.fast_open {
            self.fault("data before handshake");
        } else if is_closed && !(is_again && segment.has(TcpView::FIN)) {
            self.fault("packet after close");
        } else if behind_fin {
            self.fault("data after FIN");
        }
    }

    /// Judges the timestamps option (RFC 7323, section 3).
    fn clocks(&mut self, me: usize, segment: &Segment, is_old: bool) {
        let [own, peer] = pair(&mut self.sides, me);
        let Some((clock, echo)) = segment.clocks else {
            own.clocks_missing |= segment.is_cut;
            return;
        };
        let turns_back = !is_old && own.turns_back(clock);
        let never_sent = segment.has(TcpView::ACK) && echo != 0 && peer.never_sent(echo);
        own.ticks(clock);
        if turns_back {
            self.fault("timestamp goes back");
        }
        if never_sent {
            self.fault("echo of a timestamp never sent");
        }
    }
}

/// A side and its peer.
fn pair(sides: &mut [Side; 2], me: usize) -> [&mut Side; 2] {
    let [orig, resp] = sides;
    if me == 0 { [orig, resp] } else { [resp, orig] }
}

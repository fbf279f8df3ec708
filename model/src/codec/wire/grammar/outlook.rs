//! What was told of a flow where it opened is kept: it ends so, and has about so many packets. Near the end of both that and the room for
//! the sample a TCP connection is brought to its close (RFC 9293, section 3.6): records to their ends, then FINs and their
//! acknowledgements; where that takes too long, or was told, a reset.

use super::super::outlook::{ENDS, Ends, Outlook, SIZES};
use super::super::side::{FIN, RST, Side};
use super::super::vocab::{Proto, Tok};
use super::super::walk::{Seq, Slot};
use super::mask::Mask;
use super::{PACKET_TOKENS, Strict};

/// Packets that a connection takes to close: two FINs and their acknowledgements.
const CLOSING_PACKETS: u32 = 4;
/// Packets beyond those that were told after which a connection is reset.
const PATIENCE: u32 = 16;
/// Packets of a connection that both sides finish, at least: three to open, and two FINs.
const FINISHED_MIN: u32 = 5;

/// How near its end a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urge {
    /// It may go on.
    None,
    /// It has to be brought to its end.
    Close,
    /// It has to end with the next packet.
    Reset,
}

impl Strict {
    /// Packets that a flow has at most.
    fn most(&self, outlook: Outlook) -> u32 {
        outlook.most().min(self.packets_max)
    }

    /// How near its end a flow is when `tokens_left` more tokens can be taken.
    fn urge_of(&self, slot: &Slot, tokens_left: usize) -> Urge {
        let Some(outlook) = slot.outlook else { return Urge::None };
        let (packets, most) = (slot.packets, self.most(outlook));
        // Tokens that are left for each of the flows that may have to be closed.
        let share = tokens_left / self.walk.slots.len().max(1);
        let (close, reset) = match outlook.ends {
            Ends::Open => return Urge::None,
            Ends::Rst => (0, 0),
            Ends::Fin => (CLOSING_PACKETS, PATIENCE),
        };
        let is_last = packets.saturating_add(1) >= self.packets_max || share < 3 * PACKET_TOKENS;
        if packets.saturating_add(1) >= most.saturating_add(reset) || is_last {
            Urge::Reset
        } else if packets.saturating_add(close) >= most || share < (4 + CLOSING_PACKETS as usize) * PACKET_TOKENS {
            Urge::Close
        } else {
            Urge::None
        }
    }

    /// The same for the flow of the packet under way.
    pub(super) fn urge(&self, tokens_left: usize) -> Urge {
        self.slot().map_or(Urge::None, |slot| self.urge_of(slot, tokens_left))
    }

    /// Packets that the flow of the packet under way may have before it has to close.
    pub(super) fn packets_to_close(&self) -> u32 {
        let told = self.slot().and_then(|slot| Some((slot, slot.outlook?)));
        told.filter(|(_, outlook)| outlook.ends == Ends::Fin).map_or(u32::MAX, |(slot, outlook)| {
            self.most(outlook).saturating_sub(slot.packets.saturating_add(CLOSING_PACKETS))
        })
    }

    /// The flow of the packet under way, unless that opens it.
    pub(super) fn slot(&self) -> Option<&Slot> {
        let action = &self.walk.current.action;
        self.walk.slots.get(usize::from(action.slot)).filter(|_| action.opens.is_none())
    }

    /// Whether the sample may end as far as its flows are concerned.
    pub(super) fn may_end(&self) -> bool {
        let has_begun = self.walk.packets() > 0 || !self.walk.vocab().foretells;
        let can_end = |slot: &Slot| {
            let Some(outlook) = slot.outlook.filter(|_| !slot.closed) else { return true };
            match outlook.ends {
                Ends::Open => slot.packets >= outlook.least().min(self.packets_max),
                Ends::Fin | Ends::Rst => self.is_over(slot),
            }
        };
        has_begun && self.walk.slots.iter().all(can_end)
    }

    /// Whether no flow has anything left to say, and another one cannot open.
    pub(super) fn is_at_its_end(&self) -> bool {
        let slots = &self.walk.slots;
        !slots.is_empty() && slots.iter().all(|slot| self.is_over(slot)) && !self.may_open()
    }

    /// Whether a flow has nothing left to say.
    fn is_over(&self, slot: &Slot) -> bool {
        let has_ended = |outlook: Outlook| match outlook.ends {
            Ends::Open => true,
            Ends::Fin => slot.sides.iter().all(|side| side.fin.is_some()),
            Ends::Rst => false,
        };
        slot.closed || slot.outlook.is_some_and(|outlook| slot.packets >= self.most(outlook) && has_ended(outlook))
    }

    /// Whether a side of a flow, which may send as far as TCP is concerned, is the one that goes on.
    pub(super) fn goes_on(&self, slot: &Slot, from_orig: bool, tokens_left: usize) -> bool {
        if self.is_over(slot) {
            return false;
        }
        let [orig, resp] = &slot.sides;
        match self.urge_of(slot, tokens_left) {
            Urge::None => true,
            // Nobody has answered yet: the answer is a reset, or opens what can then be closed.
            _ if !resp.has_sent => !from_orig,
            _ if resp.syn && orig.acked == 0 => from_orig,
            Urge::Reset => true,
            Urge::Close => {
                let (me, peer) = if from_orig { (orig, resp) } else { (resp, orig) };
                closes_next(me, peer) || !closes_next(peer, me)
            }
        }
    }

    /// Whether another flow may open.
    pub(super) fn may_open(&self) -> bool {
        self.habits.as_ref().is_none_or(|habits| self.walk.opened() < habits.flows.max(1))
    }

    /// Of `flags`, which a sender may set, those that go with what was told.
    pub(super) fn told_flags(&self, flags: &[u8], seq: Seq, tokens_left: usize) -> Vec<u8> {
        let Some((slot, outlook)) = self.slot().and_then(|slot| Some((slot, slot.outlook?))) else {
            return flags.to_vec();
        };
        let (side, peer) = self.walk.sides();
        let urge = self.urge_of(slot, tokens_left);
        let is_early = |more: u32| slot.packets.saturating_add(more) < outlook.least().min(self.packets_max);
        let is_told = |flags: &u8| {
            let (fin, rst) = (flags & FIN != 0, flags & RST != 0);
            match outlook.ends {
                Ends::Open => !(rst || fin && peer.fin.is_some()),
                Ends::Rst if urge >= Urge::Close => rst,
                Ends::Rst => !(fin && peer.fin.is_some() || rst && is_early(1)),
                Ends::Fin => match urge {
                    Urge::Reset => rst,
                    _ if rst => false,
                    // The handshake comes first.
                    Urge::Close => fin || side.fin.is_some() || side.acked == 0 || seq != Seq::Next,
                    Urge::None => !(fin && is_early(CLOSING_PACKETS)),
                },
            }
        };
        // A side that is in the middle of a record cannot finish, and one whose SYN is forgotten can only give up.
        let is_mild = |flags: &u8| flags & RST == 0;
        let of = |is_right: &dyn Fn(&u8) -> bool| flags.iter().copied().filter(is_right).collect::<Vec<u8>>();
        [of(&is_told), of(&is_mild)].into_iter().find(|left| !left.is_empty()).unwrap_or_else(|| flags.to_vec())
    }

    /// How the flow that opens may end.
    pub(super) fn endings(&self, m: &mut Mask<'_>) {
        let (proto, port) = self.service();
        let sizes = |ends| self.habits.as_ref().and_then(|habits| habits.sizes(proto, port, ends));
        let is_known = ENDS.iter().any(|ends| sizes(*ends).is_some());
        for ends in ENDS {
            if !is_known || sizes(ends).is_some() {
                m.allow(Tok::Ends(ends));
            }
        }
    }

    /// How many packets the flow that opens may have.
    pub(super) fn sizes(&self, m: &mut Mask<'_>) {
        let ((proto, port), ends) = (self.service(), self.walk.current.ends);
        let known = self.habits.as_ref().and_then(|habits| habits.sizes(proto, port, ends));
        let (least, most) = known.unwrap_or((0, SIZES as u8 - 1));
        for size in least..=most {
            let outlook = Outlook { ends, size };
            let is_enough = ends != Ends::Fin || known.is_some() || outlook.most() >= FINISHED_MIN;
            if size == least || is_enough && outlook.least() <= self.packets_max {
                m.allow(Tok::Size(size));
            }
        }
    }

    /// Where the flow goes that opens.
    fn service(&self) -> (Proto, Option<u16>) {
        let action = &self.walk.current.action;
        (action.proto, action.opens.and_then(|open| open.port).or((action.proto == Proto::Icmp).then_some(0)))
    }
}

/// Whether `me` has a part in closing that it can do now: its FIN, or to acknowledge the other one's.
fn closes_next(me: &Side, peer: &Side) -> bool {
    let window = peer.edge.map_or(i64::MAX, |edge| edge - me.next);
    let is_stuck = me.record_left > 0 && window <= 0;
    match (me.fin, peer.fin) {
        (None, _) => !is_stuck,
        (Some(_), Some(fin)) => me.acked <= fin,
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests;

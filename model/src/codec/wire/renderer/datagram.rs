//! What the headers around a datagram, and the ones before it, determine of its payload.

use super::{Rendered, Renderer};
use crate::codec::wire::action::{Action, Piece};
use crate::packet::Timestamp;
use crate::wire::{dhcp, isakmp, ntp, quic};

impl Renderer {
    /// Fills it in, of a payload that side `me` sends at the time `now`.
    pub(super) fn complete(&mut self, action: &Action, me: usize, now: Timestamp, message: &mut [u8]) {
        let Rendered { facts, quic, ntp, .. } = &mut self.slots[usize::from(action.slot)];
        let tuple = facts.tuple;
        let isakmp = isakmp::is_isakmp([tuple.resp_port, tuple.orig_port]);
        let is_dhcp = dhcp::is_dhcp([tuple.orig_port, tuple.resp_port]);
        let is_ntp = ntp::is_ntp([tuple.orig_port, tuple.resp_port]);
        let begins = action.opens.is_some() && quic::Conversation::can_begin(message, tuple.resp_port);
        if isakmp.is_none() && !is_dhcp && !is_ntp && quic.is_none() && !begins {
            return;
        }
        let mut drawn = Vec::with_capacity(message.len());
        for piece in &action.pieces {
            let is_drawn = match piece {
                Piece::Opaque(_) => true,
                // The grammar knows no other rests.
                Piece::Text(_) | Piece::Quad(_) => isakmp.is_some(),
                _ => false,
            };
            drawn.resize(drawn.len() + usize::from(piece.len(&self.strings)), is_drawn);
        }
        let is_drawn = |at: usize| drawn.get(at) == Some(&true);
        if begins {
            let conversation = quic::Conversation::begin(message, &is_drawn, tuple.resp_port, &mut self.rng);
            *quic = conversation.map(Box::new);
        }
        if let Some(quic) = quic {
            quic.complete(me == 1, message, &is_drawn, &mut self.rng);
        } else if let Some(is_behind_nat) = isakmp {
            isakmp::complete(message, is_behind_nat, is_drawn);
        } else if is_dhcp {
            let tuple = if action.from_orig { tuple } else { tuple.reversed() };
            let around = dhcp::Around { link: &self.link, src: tuple.orig, dst: tuple.resp };
            dhcp::complete(message, is_drawn, around);
        } else if is_ntp {
            ntp.complete(message, me == 1, now, is_drawn, &mut self.rng);
        }
    }
}

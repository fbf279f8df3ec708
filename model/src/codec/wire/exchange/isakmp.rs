//! ISAKMP over UDP (RFC 2408, 7296), at its port and behind NAT (RFC 3948), where ESP and keepalives have the same port.
//!
//! Byte by byte, as for DNS. Which bytes make a message stands in [`crate::wire::isakmp`]; here is what may be drawn of it: the numbers
//! of the header, what nothing is asked of, and from any place behind the header on all the rest, as it is completed when it is
//! rendered. Only the beginning of such a message is literal, and the rest is as long as proposals, keys and nonces are.

use super::{Source, Sym};
use crate::wire::isakmp::{self as wire, HEAD_AT, HEADER_LEN, ID_AT, KEEPALIVE, LENGTH_AT, MARKER, SPI_LEN};

/// Bytes in front of a message behind NAT.
const MARKER_LEN: u16 = MARKER.len() as u16;
/// Fewest bytes of ESP: numbers of association and packet, and a cipher's block or a hash (RFC 4303, section 2).
const ESP_MIN: u16 = 28;

/// What the next byte is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// What tells a message from ESP; whether it was zeros so far.
    Marker(bool),
    Esp,
    /// Behind a keepalive.
    Keepalive,
    Message,
    /// Drawn to the end.
    Drawn,
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    state: State,
    len: u16,
    at: u16,
    /// Where the message itself begins.
    start: u16,
    message: wire::Message,
    is_reply: bool,
    /// Whether it answers a message that is known.
    is_answer: bool,
}

impl Message {
    /// A datagram of `len` bytes, of the flow's responder or its opener, that answers a message whose number ended at `echo`.
    pub(super) fn new(is_behind_nat: bool, is_reply: bool, len: u16, echo: u16) -> Self {
        let (state, start) = if is_behind_nat { (State::Marker(true), MARKER_LEN) } else { (State::Message, 0) };
        let message = wire::Message::new(is_reply, len.saturating_sub(start));
        Self { state, len, at: 0, start, message, is_reply, is_answer: echo > 0 }
    }

    /// The same whose payloads may be any: some have forms that are not made.
    pub(super) fn with_any_payload(self) -> Self {
        Self { message: self.message.with_any_payload(), ..self }
    }

    /// Where the number of a message ended, so that an answer can repeat it; 0 of anything else.
    pub(super) fn question_end(&self) -> u16 {
        let is_message = self.state == State::Message || self.state == State::Drawn;
        if is_message && !self.is_reply { self.start + LENGTH_AT } else { 0 }
    }

    /// Lengths that datagrams have: a keepalive, or anything from the shortest on.
    pub(super) fn lengths(is_behind_nat: bool, most: u32) -> [(u32, u32); 2] {
        let least = if is_behind_nat { ESP_MIN } else { wire::Message::len_min() };
        [if is_behind_nat { (1, 1) } else { (1, 0) }, (least.into(), most)]
    }

    /// Whether the datagram is complete.
    pub(super) fn is_done(&self) -> bool {
        let is_ended = match self.state {
            State::Marker(_) => false,
            State::Message => self.message.is_done(),
            State::Esp | State::Keepalive | State::Drawn => true,
        };
        self.at == self.len && is_ended
    }

    /// In how many tokens the rest can be said at most, where it is drawn as soon as that can be.
    pub(super) fn tokens_most(&self) -> usize {
        usize::from((self.start + HEADER_LEN).saturating_sub(self.at)) + 1
    }

    /// So many bytes come of which nothing is asked.
    pub(super) fn free(&self) -> u16 {
        match self.state {
            State::Esp => self.len - self.at,
            State::Message => self.message.free(),
            State::Marker(_) | State::Keepalive | State::Drawn => 0,
        }
    }

    /// Takes `n` of them, but not the last.
    pub(super) fn pass(&mut self, n: u16) {
        self.at += n;
        if self.state == State::Message {
            self.message.pass(n);
        }
    }

    /// Bytes of the other side's message that come next without a break: who began it has the same number in all (RFC 2408, section
    /// 3.1), and an answer the message's (RFC 7296, section 2.2).
    pub(super) fn still_to_repeat(&self) -> u16 {
        match self.at.checked_sub(self.start) {
            Some(at) if !self.is_answer || self.state != State::Message || at >= LENGTH_AT => 0,
            Some(at) if at < SPI_LEN => SPI_LEN - at,
            Some(at) if at >= ID_AT && self.message.has_its_number() => LENGTH_AT - at,
            _ => 0,
        }
    }

    /// Whether this can be the next byte.
    pub(super) fn allows(&self, sym: Sym, source: Source) -> bool {
        let is_drawn = sym == Sym::Drawn && source == Source::Said;
        let is_any = matches!(sym, Sym::Known(_) | Sym::Drawn | Sym::Text);
        if self.at >= self.len {
            return false;
        }
        match (self.state, sym) {
            (State::Marker(_), Sym::Known(b)) if self.len == 1 => b == KEEPALIVE,
            (State::Marker(_), _) if self.len == 1 => is_drawn,
            (State::Marker(zeros), sym) => is_any && self.allows_in_marker(zeros, sym == Sym::Known(0)),
            (State::Esp, _) => is_any,
            (State::Keepalive, _) => false,
            (State::Drawn, _) => is_drawn,
            (State::Message, _) if self.still_to_repeat() > 0 => is_any && source == Source::Peer,
            (State::Message, Sym::Known(b)) => self.message.allows(b),
            (State::Message, sym) => match self.message.header_at() {
                Some(0..HEAD_AT) => is_any,
                // What is drawn of it is not zero.
                Some(ID_AT..LENGTH_AT) => is_any && (1..=255).all(|b| self.message.allows(b)),
                Some(_) => false,
                None if self.message.free() > 0 => is_any,
                None => is_drawn && sym == Sym::Drawn,
            },
        }
    }

    /// A byte of the number of ESP, of which the first 255 are reserved (RFC 4303, section 2.1), or of the marker in its place.
    fn allows_in_marker(&self, zeros: bool, is_zero: bool) -> bool {
        let (can_be_esp, can_be_message) = (self.len >= ESP_MIN, self.len >= MARKER_LEN + wire::Message::len_min());
        match (zeros, is_zero) {
            (true, true) if self.at < 2 => can_be_esp || can_be_message,
            (true, true) => can_be_message,
            (true, false) => can_be_esp && self.at < 3,
            (false, _) => can_be_esp,
        }
    }

    /// Takes the next byte. False where it cannot come.
    pub(super) fn hear(&mut self, sym: Sym, source: Source) -> bool {
        if !self.allows(sym, source) {
            return false;
        }
        // What is drawn of a number is not zero.
        let b = if let Sym::Known(b) = sym { b } else { 1 };
        self.at += 1;
        self.state = match self.state {
            State::Marker(_) if self.len == 1 => State::Keepalive,
            State::Marker(zeros) => match (self.at == MARKER_LEN, zeros && b == 0) {
                (false, zeros) => State::Marker(zeros),
                (true, true) => State::Message,
                (true, false) => State::Esp,
            },
            State::Message if self.message.header_at().is_none() && self.message.free() == 0 && sym == Sym::Drawn => {
                State::Drawn
            }
            State::Message => {
                self.message.take(b);
                State::Message
            }
            state => state,
        };
        true
    }
}

#[cfg(test)]
mod tests;

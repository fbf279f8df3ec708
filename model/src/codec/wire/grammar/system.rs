//! Fields of the headers that are a matter of their sender's system: time to live, DSCP and ECN, windows. They have values that were
//! seen of the label, where those are few.

use std::collections::BTreeSet;

use super::super::habits::headers::Headers;
use super::super::side::RST;
use super::super::steps::window_byte;
use super::super::vocab::{Tok, WINDOWS};
use super::super::walk::rank;
use super::Strict;
use super::mask::Mask;

/// Whether a field may change from what it is, and whether it has to, as what it is was not seen. A side that has it from a prompt keeps
/// it.
fn changes(known: Option<&BTreeSet<u16>>, now: u16, is_first: bool) -> (bool, bool) {
    match known.map(|known| (known.contains(&now), known.len())) {
        None => (true, false),
        Some((true, count)) => (count > 1, false),
        Some((false, _)) => (is_first, is_first),
    }
}

impl Strict {
    /// What headers had that this side sent.
    fn headers(&self) -> Option<&Headers> {
        self.habits.as_ref()?.headers(usize::from(!self.walk.current.action.from_orig))
    }

    /// Whether the packet under way is the first one of its side.
    fn is_first(&self) -> bool {
        !self.walk.sides().0.has_sent
    }

    /// The windows of this side, but where only those of resets are known: a window of 0 is no answer.
    fn windows(&self) -> Option<&BTreeSet<u16>> {
        let known = self.headers()?.windows.known()?;
        (self.walk.current.flags & RST != 0 || known.iter().any(|window| *window > 0)).then_some(known)
    }

    /// Allows what may be said of the IP header's fields behind `at`. True where something has to be.
    pub(super) fn ip_fields(&self, at: u8, m: &mut Mask<'_>) -> bool {
        let (headers, a) = (self.headers(), &self.walk.current.action);
        let fields = [
            (rank::TTL, Tok::Ttl, headers.and_then(|headers| headers.ttl.known()), a.ttl),
            (rank::TOS, Tok::Tos, headers.and_then(|headers| headers.tos.known()), a.tos),
        ];
        for (_, tok, known, now) in fields.into_iter().filter(|(rank, ..)| at <= *rank) {
            let (may, must) = changes(known, now.into(), self.is_first());
            if may {
                m.allow(tok);
            }
            if must {
                return true;
            }
        }
        false
    }

    pub(super) fn ttl(&self, m: &mut Mask<'_>) {
        let known = self.headers().and_then(|headers| headers.ttl.known());
        byte(known, self.walk.current.action.ttl, 1, m);
    }

    pub(super) fn tos(&self, m: &mut Mask<'_>) {
        let known = self.headers().and_then(|headers| headers.tos.known());
        byte(known, self.walk.current.action.tos, 0, m);
    }

    /// Allows classes of windows. True where one has to be said.
    pub(super) fn window_classes(&self, m: &mut Mask<'_>) -> bool {
        let Some(known) = self.windows() else {
            m.run(Tok::Win(0), WINDOWS);
            return false;
        };
        let now = self.walk.current.window;
        known.iter().filter(|window| **window != now).for_each(|window| m.allow(Tok::Win(window_byte(*window).0)));
        changes(Some(known), now, self.is_first()).1
    }

    /// Allows bytes of the window whose class was said.
    pub(super) fn window_bytes(&self, m: &mut Mask<'_>) {
        let now = self.walk.sides().0.window;
        let known = self.windows().into_iter().flatten().copied();
        let of_class =
            |window: u16| Some(window_byte(window)).filter(|(class, _)| u32::from(*class) == self.walk.number());
        let mut bytes = known.filter(|window| *window != now).filter_map(of_class).map(|(_, byte)| byte).peekable();
        // A prompt may have begun with another class.
        if bytes.peek().is_none() {
            return m.bytes(0, 255);
        }
        bytes.for_each(|byte| m.bytes(byte, byte));
    }
}

/// A value of a field that is `now` another one; `least` and all above where none is known.
fn byte(known: Option<&BTreeSet<u16>>, now: u8, least: u8, m: &mut Mask<'_>) {
    let others = known.into_iter().flatten().filter_map(|value| u8::try_from(*value).ok());
    let mut others = others.filter(|value| *value != now && *value >= least).peekable();
    if others.peek().is_none() {
        return m.bytes(least, 255);
    }
    others.for_each(|value| m.bytes(value, value));
}

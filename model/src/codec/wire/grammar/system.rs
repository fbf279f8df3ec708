//! Fields of the headers that are a matter of their sender's system: time to live, DSCP and ECN, windows. They have values that were
//! seen of the label, where those are few.

use std::collections::BTreeSet;

use super::super::habits::headers::Headers;
use super::super::steps::window_byte;
use super::super::vocab::{Tok, WINDOWS};
use super::super::walk::rank;
use super::Strict;
use super::mask::Mask;

/// Whether a field may change from what it is, and whether it has to.
fn changes(known: Option<&BTreeSet<u16>>, now: u16) -> (bool, bool) {
    let must = known.is_some_and(|known| !known.contains(&now));
    (must || known.is_none_or(|known| known.len() > 1), must)
}

impl Strict {
    /// What headers had that this side sent.
    fn headers(&self) -> Option<&Headers> {
        self.habits.as_ref()?.headers(usize::from(!self.walk.current.action.from_orig))
    }

    /// Allows what may be said of the IP header's fields behind `at`. True where something has to be.
    pub(super) fn ip_fields(&self, at: u8, m: &mut Mask<'_>) -> bool {
        let (headers, a) = (self.headers(), &self.walk.current.action);
        let fields = [
            (rank::TTL, Tok::Ttl, headers.and_then(|headers| headers.ttl.known()), a.ttl),
            (rank::TOS, Tok::Tos, headers.and_then(|headers| headers.tos.known()), a.tos),
        ];
        for (_, tok, known, now) in fields.into_iter().filter(|(rank, ..)| at <= *rank) {
            let (may, must) = changes(known, now.into());
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
        // Nothing is sent whose time is over (RFC 1122, section 3.2.1.7).
        byte(known, self.walk.current.action.ttl, 1, m);
    }

    pub(super) fn tos(&self, m: &mut Mask<'_>) {
        let known = self.headers().and_then(|headers| headers.tos.known());
        byte(known, self.walk.current.action.tos, 0, m);
    }

    /// Allows classes of windows. True where one has to be said.
    pub(super) fn window_classes(&self, m: &mut Mask<'_>) -> bool {
        let Some(known) = self.headers().and_then(|headers| headers.windows.known()) else {
            m.run(Tok::Win(0), WINDOWS);
            return false;
        };
        let now = self.walk.current.window;
        known.iter().filter(|window| **window != now).for_each(|window| m.allow(Tok::Win(window_byte(*window).0)));
        changes(Some(known), now).1
    }

    /// Allows bytes of the window whose class was said.
    pub(super) fn window_bytes(&self, m: &mut Mask<'_>) {
        let now = self.walk.sides().0.window;
        let known = self.headers().and_then(|headers| headers.windows.known()).into_iter().flatten().copied();
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

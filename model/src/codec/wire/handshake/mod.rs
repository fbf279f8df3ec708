//! Handshakes of TLS: what a record of one holds is a hello, or a message, from its first byte to its last, until its sender ciphers.
//!
//! [`Handshakes`] follows a [`Walk`], token by token, and says which pieces of payload may come, and which records begin. A record
//! that its segment does not hold whole goes on with bytes of which nothing is asked, so nothing but such bytes is cut.

mod content;
mod extensions;
pub(super) mod shown;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use self::content::Content;
use super::action::{Action, Piece};
use super::exchange::Sym;
use super::side::SYN;
use super::vocab::{Proto, TLS_TYPES, Tok};
use super::walk::{Step, Walk};

/// Types of records (RFC 8446, section 5.1; RFC 5246, section 7.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// How far a side's handshake has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its beginning was not seen, or it lacks bytes.
    Lost,
    /// It has said no hello.
    Silent,
    /// It has, and says more that can be read.
    Plain,
    /// What it says is ciphered.
    Sealed,
}

impl Phase {
    /// After a record of a type.
    fn after(self, kind: u8) -> Self {
        match (self, kind) {
            (Self::Lost, _) => Self::Lost,
            (Self::Silent, HANDSHAKE) => Self::Plain,
            (_, CHANGE_CIPHER_SPEC | APPLICATION_DATA) => Self::Sealed,
            _ => self,
        }
    }
}

/// The segment under way.
#[derive(Debug, Clone, Copy)]
struct Draft {
    phase: Phase,
    content: Option<Content>,
    keep_names: bool,
    /// How many of its pieces are taken into account.
    pieces: usize,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Handshakes {
    keep_names: bool,
    /// By slot, the opener's first.
    phases: Vec<[Phase; 2]>,
    draft: Option<Draft>,
}

impl Handshakes {
    /// No flow yet, of a codec that keeps names or has them drawn.
    pub(super) fn new(keep_names: bool) -> Self {
        Self { keep_names, phases: Vec::new(), draft: None }
    }

    /// Takes into account what `walk` made of its last token.
    pub(super) fn follow(&mut self, walk: &Walk, step: Step) {
        let action = walk.action();
        if action.proto != Proto::Tcp {
            self.draft = None;
            return;
        }
        if self.draft.is_some_and(|draft| draft.pieces > action.pieces.len()) {
            self.draft = None;
        }
        if !action.pieces.is_empty() && action.opens.is_none() {
            let mut draft = self.draft.unwrap_or_else(|| self.begin(action));
            for piece in &action.pieces[draft.pieces..] {
                draft.take(walk, action, *piece);
            }
            draft.pieces = action.pieces.len();
            self.draft = Some(draft);
        }
        if step == Step::Packet {
            self.complete(action);
        }
    }

    /// Takes a whole packet into account, of which the pieces say `payload`; adds to `ret` the types of the messages that its side, 0 the opener,
    /// says in the clear behind its hello.
    pub(super) fn see(&mut self, action: &Action, strings: &[Box<[u8]>], payload: &[u8], ret: &mut [BTreeSet<u8>; 2]) {
        if action.proto != Proto::Tcp {
            return;
        }
        if !action.pieces.is_empty() && action.opens.is_none() {
            let mut draft = self.begin(action);
            let mut at = 0;
            for piece in &action.pieces {
                at += usize::from(piece.len(strings));
                let Piece::Tls(kind, ..) = *piece else { continue };
                if kind == HANDSHAKE && draft.phase == Phase::Plain {
                    let message = payload.get(at).filter(|b| Content::is_message(!action.from_orig, **b));
                    ret[usize::from(!action.from_orig)].extend(message);
                }
                draft.phase = draft.phase.after(kind);
            }
            self.draft = Some(draft);
        }
        self.complete(action);
    }

    fn phase(&self, action: &Action) -> Phase {
        let phases = self.phases.get(usize::from(action.slot)).filter(|_| action.opens.is_none());
        let has_hole = action.tcp.as_ref().is_some_and(|segment| segment.hole > 0);
        phases.filter(|_| !has_hole).map_or(Phase::Lost, |phases| phases[usize::from(!action.from_orig)])
    }

    fn begin(&self, action: &Action) -> Draft {
        Draft { phase: self.phase(action), content: None, keep_names: self.keep_names, pieces: 0 }
    }

    fn complete(&mut self, action: &Action) {
        let slot = usize::from(action.slot);
        if action.opens.is_some() {
            if self.phases.len() <= slot {
                self.phases.resize(slot + 1, [Phase::Lost; 2]);
            }
            let is_whole = action.len == 0 && action.tcp.as_ref().is_some_and(|s| s.flags & SYN != 0);
            self.phases[slot] = [if is_whole { Phase::Silent } else { Phase::Lost }; 2];
        }
        if let (Some(phases), Some(draft)) = (self.phases.get_mut(slot), self.draft.take()) {
            phases[usize::from(!action.from_orig)] = draft.phase;
        }
    }

    /// The record of a handshake under way whose content is followed.
    pub(super) fn asked(&self, walk: &Walk) -> Option<&Content> {
        let draft = self.draft.as_ref().filter(|_| walk.action().proto == Proto::Tcp)?;
        draft.content.as_ref().filter(|_| walk.current.record_left > 0)
    }

    /// Lengths of a record of a handshake that can begin: at least, and at most where it goes on behind the segment; `None` where
    /// nothing is asked of it.
    fn lengths(&self, walk: &Walk) -> Option<(u16, u16)> {
        let action = walk.action();
        let phase = self.draft.map_or_else(|| self.phase(action), |draft| draft.phase);
        let is_hello = match phase {
            Phase::Silent => true,
            Phase::Plain => false,
            Phase::Lost | Phase::Sealed => return None,
        };
        Some(Content::lengths(!action.from_orig, is_hello))
    }

    /// Whether a record of this type can begin here, where its side is known to say no other messages in the clear behind its hello than
    /// those of the types `messages`.
    pub(super) fn permits_record(&self, walk: &Walk, tok: Tok, messages: Option<&BTreeSet<u8>>) -> bool {
        let Tok::Tls(i, _) = tok else { return true };
        let phase = self.draft.map_or_else(|| self.phase(walk.action()), |draft| draft.phase);
        if TLS_TYPES[usize::from(i)] != HANDSHAKE {
            return walk.current.left >= 5;
        }
        let is_known = phase != Phase::Plain || messages.is_none_or(|messages| !messages.is_empty());
        is_known && walk.current.left >= 5 + self.lengths(walk).map_or(0, |lengths| lengths.0)
    }

    /// Whether the next byte is the type of a message behind its side's hello.
    pub(super) fn is_at_message(&self, walk: &Walk) -> bool {
        self.asked(walk).is_some_and(Content::is_at_message)
    }

    /// Of `ranges`, those of the lengths that a record that was begun can have: whole in its segment, or going on behind it.
    pub(super) fn records(&self, walk: &Walk, [whole, on]: [(u32, u32); 2]) -> [(u32, u32); 3] {
        // The one that ends with the segment is the least of those that may go on.
        let (ends, on) = ((on.0, on.0), (on.0 + 1, on.1));
        let (least, cut) = self.lengths(walk).filter(|_| walk.current.tls.0 == HANDSHAKE).unwrap_or((0, 1));
        let on = if cut == 0 { (1, 0) } else { (on.0.max(cut.into()), on.1) };
        [(whole.0.max(least.into()), whole.1), ends, on]
    }

    /// Whether a name of this length can be said, where one is.
    pub(super) fn permits_name(&self, walk: &Walk, len: u8) -> bool {
        self.asked(walk).is_none_or(|content| content.takes_name(len.into()))
    }
}

impl Draft {
    fn take(&mut self, walk: &Walk, action: &Action, piece: Piece) {
        if let Piece::Tls(kind, _, len) = piece {
            let which = (!action.from_orig, self.phase == Phase::Silent);
            let is_plain = kind == HANDSHAKE && matches!(self.phase, Phase::Silent | Phase::Plain);
            self.content = Content::new(which, self.keep_names, len, walk.limit()).filter(|_| is_plain);
            self.phase = self.phase.after(kind);
            return;
        }
        let Some(content) = &mut self.content else { return };
        let n = usize::from(piece.len(walk.strings()));
        let is_right = match piece {
            Piece::Byte(b) => content.hear(Sym::Known(b)),
            Piece::Str(i) => walk.strings()[usize::from(i)].iter().all(|b| content.hear(Sym::Known(*b))),
            Piece::Zero(_) => (0..n).all(|_| content.hear(Sym::Known(0))),
            Piece::Name(_, _, false) => (0..n).all(|_| content.hear(Sym::Text)),
            Piece::Opaque(_) => content.takes(n, content.drawn()),
            _ => content.takes(n, content.free()),
        };
        if !is_right {
            self.content = None;
        }
    }
}

impl Content {
    /// Takes `n` bytes where so many can come. False where something is asked of one of them.
    fn takes(&mut self, n: usize, most: u16) -> bool {
        let is_free = n <= usize::from(most);
        if is_free {
            self.pass(n as u16);
        }
        is_free
    }

    fn takes_name(&self, len: u16) -> bool {
        len > 0 && self.name() == len
    }

    /// Whether `tok` may be the next piece of payload.
    pub(super) fn permits(&self, walk: &Walk, tok: Tok) -> bool {
        let (limit, free) = (walk.limit(), self.free());
        let name = |i: u8| walk.names.get(usize::from(i)).map_or(0, |name| u16::from(name.1));
        match tok {
            Tok::Byte(b) => self.allows(Sym::Known(b)),
            Tok::Str(s) => {
                let string = &walk.strings()[usize::from(s)];
                let mut content = *self;
                string.first().is_some_and(|b| self.allows(Sym::Known(*b)))
                    && string.iter().all(|b| content.hear(Sym::Known(*b)))
            }
            Tok::Opaque(n) => u16::from(n) <= self.drawn(),
            Tok::OpaqueRest => limit <= self.drawn(),
            Tok::Same(n) | Tok::Peer(n) => u16::from(n) <= free,
            Tok::Quad(n) => u16::from(n) <= free,
            Tok::Inc2 => free >= 2,
            Tok::SameRest | Tok::PeerRest | Tok::TextRest => limit <= free,
            Tok::ZeroRest => {
                let mut content = *self;
                limit <= free || (0..limit).all(|_| content.hear(Sym::Known(0)))
            }
            Tok::TextRef(i) => self.takes_name(name(i)),
            Tok::TextName => (1..=253).contains(&self.name()),
            _ => false,
        }
    }
}

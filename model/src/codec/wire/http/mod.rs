//! HTTP/1 over TCP: the head of every request and response is well formed, and ends in its segment.
//!
//! [`Heads`] follows a [`Walk`], token by token, and says which pieces of payload may come. A request that has no body ends with
//! its segment. What is behind a head is nobody's business here, nor is a message whose segment is too short for one.

mod head;
#[cfg(test)]
mod tests;

use self::head::Head;
#[cfg(test)]
pub(super) use self::head::METHODS;
use super::action::{Action, Piece};
use super::exchange::{Sym, said};
use super::side::MESSAGE_MAX;
use super::vocab::{Proto, Tok};
use super::walk::{Seq, Stage, Step, Walk};

/// Tokens that have to be left behind a head: for what follows it in its segment, and for the sample's end.
const BEHIND: usize = 2;

/// A flow of HTTP as far as it was followed.
#[derive(Debug, Clone, Default)]
struct Flow {
    /// The last message of each side, the opener's first, as far as later ones can refer to it.
    messages: [Vec<Sym>; 2],
    /// Who sent the last payload.
    last: Option<usize>,
    /// Whether the opener's next message may go on with the body of its last.
    is_body_due: bool,
    /// Whether a tunnel was asked for, so that it is over with the answer.
    asks_tunnel: bool,
    /// Whether both sides say what they like.
    is_over: bool,
}

/// The payload of the packet under way.
#[derive(Debug, Clone)]
struct Draft {
    head: Option<Head>,
    syms: Vec<Sym>,
    /// How many of its pieces are in it.
    pieces: usize,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Heads {
    /// By slot.
    flows: Vec<Flow>,
    draft: Option<Draft>,
}

/// What is asked of the next piece.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    head: Head,
    own: &'a [Sym],
    peer: &'a [Sym],
    left: u16,
    tokens_left: usize,
}

impl Heads {
    /// Takes into account what `walk` made of its last token, in a flow that is of HTTP or not.
    pub(super) fn follow(&mut self, walk: &Walk, step: Step, is_http: bool) {
        let action = walk.action();
        if action.proto != Proto::Tcp {
            self.draft = None;
            return;
        }
        if self.draft.as_ref().is_some_and(|draft| draft.pieces > action.pieces.len()) {
            self.draft = None;
        }
        if is_http && action.opens.is_none() && !action.pieces.is_empty() {
            self.write(walk, action);
        }
        if step == Step::Packet {
            self.complete(action);
        }
    }

    fn write(&mut self, walk: &Walk, action: &Action) {
        let mut draft = self.draft.take().unwrap_or_else(|| self.begin(walk, action));
        for piece in &action.pieces[draft.pieces..] {
            let syms = self.syms(walk, action, *piece, draft.syms.len());
            draft.head = draft.head.and_then(|head| hears(head, &syms));
            draft.syms.extend_from_slice(&syms);
        }
        draft.pieces = action.pieces.len();
        self.draft = Some(draft);
    }

    fn begin(&self, walk: &Walk, action: &Action) -> Draft {
        let me = usize::from(!action.from_orig);
        let left = action.len - action.len_known;
        let flow = self.flow(action).filter(|flow| !flow.is_over && flow.last != Some(me));
        let is_new = walk.current.seq == Seq::Next && action.len_known == 0;
        let begins = flow.is_some_and(|flow| is_new && !(me == 0 && flow.is_body_due));
        let head = Head::new(me == 1);
        Draft { head: Some(head).filter(|head| begins && head.can_end(left)), syms: Vec::new(), pieces: 0 }
    }

    fn flow(&self, action: &Action) -> Option<&Flow> {
        self.flows.get(usize::from(action.slot)).filter(|_| action.opens.is_none())
    }

    fn complete(&mut self, action: &Action) {
        let slot = usize::from(action.slot);
        if action.opens.is_some() {
            if self.flows.len() <= slot {
                self.flows.resize_with(slot + 1, Flow::default);
            }
            self.flows[slot] = Flow::default();
        }
        let draft = self.draft.take();
        let Some(flow) = self.flows.get_mut(slot).filter(|_| action.len > action.len_known) else { return };
        let me = usize::from(!action.from_orig);
        let is_first = flow.last != Some(me);
        flow.last = Some(me);
        let Some(mut draft) = draft else { return };
        if is_first && me == 0 {
            flow.is_body_due = !flow.is_body_due && draft.head.is_some_and(|head| head.has_body());
        }
        let ends_http = draft.head.is_some_and(|head| head.ends_http());
        flow.is_over |= me == 1 && (flow.asks_tunnel || ends_http);
        flow.asks_tunnel |= me == 0 && ends_http;
        if action.is_message {
            draft.syms.truncate(MESSAGE_MAX);
            flow.messages[me] = draft.syms;
        }
    }

    /// The last message of a side.
    fn message(&self, action: &Action, side: usize) -> &[Sym] {
        self.flow(action).map_or(&[], |flow| &flow.messages[side])
    }

    /// The bytes of a piece at place `at`, as far as they are known.
    fn syms(&self, walk: &Walk, action: &Action, piece: Piece, at: usize) -> Vec<Sym> {
        let me = usize::from(!action.from_orig);
        let copy = |side, n: u16| {
            let message = self.message(action, side);
            (at..at + usize::from(n)).map(|i| message.get(i).copied().unwrap_or(Sym::Drawn)).collect()
        };
        match piece {
            Piece::Same(n) => copy(me, n),
            Piece::Peer(n) => copy(1 - me, n),
            Piece::Quad(n) => vec![Sym::Text; usize::from(n)],
            piece => said(walk, piece),
        }
    }

    /// What is asked of the payload that comes next, in a flow of HTTP, where the sample has so many tokens left; `None` where anything may come.
    pub(super) fn asked(&self, walk: &Walk, tokens_left: usize) -> Option<Asked<'_>> {
        let action = walk.action();
        let is_payload = matches!(walk.stage, Stage::Pieces | Stage::Operand(..));
        if !is_payload || action.proto != Proto::Tcp || action.opens.is_some() {
            return None;
        }
        let (head, at) = match &self.draft {
            Some(draft) => (draft.head, draft.syms.len()),
            None => (self.begin(walk, action).head, 0),
        };
        let left = walk.limit();
        let head = head.filter(|head| !head.is_done() && head.tokens_most(left) + BEHIND <= tokens_left)?;
        let me = usize::from(!action.from_orig);
        let rest = |side| self.message(action, side).get(at..).unwrap_or_default();
        Some(Asked { head, own: rest(me), peer: rest(1 - me), left, tokens_left })
    }
}

impl Asked<'_> {
    /// Whether drawn text may be all the rest of the segment.
    pub(super) fn takes_rest(&self) -> bool {
        self.head.takes_rest(self.left)
    }

    /// Whether a name in text of so many bytes may come.
    pub(super) fn takes_name(&self, len: u8) -> bool {
        self.takes(&vec![Sym::Text; usize::from(len)])
    }

    fn takes(&self, syms: &[Sym]) -> bool {
        !syms.is_empty() && syms.len() <= usize::from(self.left) && self.goes_on(syms.len(), hears(self.head, syms))
    }

    /// Whether `n` bytes that make it `head` leave room, and tokens, for its end.
    fn goes_on(&self, n: usize, head: Option<Head>) -> bool {
        let left = self.left - n as u16;
        head.is_some_and(|head| head.can_end(left) && head.tokens_most(left) + BEHIND < self.tokens_left)
    }

    fn takes_known(&self, bytes: &[u8]) -> bool {
        let mut head = self.head;
        bytes.len() <= usize::from(self.left)
            && bytes.iter().all(|b| head.hear(Sym::Known(*b)))
            && self.goes_on(bytes.len(), Some(head))
    }

    /// Whether `tok` may be the next piece of payload.
    pub(super) fn permits(&self, walk: &Walk, tok: Tok) -> bool {
        let name = |i: u8| walk.names.get(usize::from(i)).map_or(0, |name| name.1);
        let copied = |from: &[Sym], n: u16| from.get(..usize::from(n)).is_some_and(|syms| self.takes(syms));
        match tok {
            Tok::Byte(b) => self.takes_known(&[b]),
            Tok::Str(s) => self.takes_known(&walk.strings()[usize::from(s)]),
            Tok::Same(n) => copied(self.own, n.into()),
            Tok::SameRest => copied(self.own, self.left),
            Tok::Peer(n) => copied(self.peer, n.into()),
            Tok::PeerRest => copied(self.peer, self.left),
            Tok::Quad(n) => self.takes_name(n),
            Tok::TextRef(i) => self.takes_name(name(i)),
            // Its length is another token.
            Tok::TextName => Self { tokens_left: self.tokens_left - 1, ..*self }.takes_name(1),
            Tok::TextRest => self.takes_rest(),
            _ => false,
        }
    }
}

fn hears(mut head: Head, syms: &[Sym]) -> Option<Head> {
    syms.iter().all(|sym| head.hear(*sym)).then_some(head)
}

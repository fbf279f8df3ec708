//! Messages over UDP whose form is known: every one that is generated has the form that its header promises, and ends with its
//! datagram. So do those of DNS over TCP, each of which is a segment.
//!
//! [`Exchanges`] follows a [`Walk`], token by token, and says which pieces of payload may come in a message. What is asked of the
//! bytes themselves stands with each protocol: [`dns`](super::dns), [`coap`], [`dhcp`],
//! [`isakmp`], [`netbios`].

mod coap;
mod dhcp;
mod isakmp;
mod message;
mod netbios;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::message::Message;
#[cfg(test)]
pub(super) use self::message::is_message;
pub(super) use self::message::{Protocol, Source, Sym, judge};
use super::action::{Action, Piece, Segment, Sport};
use super::dns::message::Names;
use super::habits;
use super::side::MESSAGE_MAX;
use super::vocab::{Proto, RUN_MAX, Tok};
use super::walk::{Operand, Stage, Step, Walk};

/// Longest name that a token can have drawn, in text (see [`Tok::DnsName`]).
const NAME_MAX: u8 = 253;

/// What holds in a flow.
#[derive(Debug, Clone, Copy)]
struct Rules {
    protocol: Protocol,
    /// Whether the opener answers: the flow began with an answer to what was not captured.
    opener_replies: bool,
}

/// A flow of messages.
#[derive(Debug, Clone)]
struct Exchange {
    rules: Rules,
    /// The last message of each side, as far as later ones can refer to it, and where its question ended; 0 where that is not known.
    messages: [Vec<Sym>; 2],
    question_ends: [u16; 2],
}

/// The message of the packet under way.
#[derive(Debug, Clone)]
struct Draft {
    /// `None` where it is no message, so that nothing is asked.
    message: Option<Message>,
    syms: Vec<Sym>,
    /// How many of the packet's pieces are in it.
    pieces: usize,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Exchanges {
    names: Names,
    departures: Vec<u16>,
    habits: Option<Arc<habits::Label>>,
    /// By slot.
    flows: Vec<Option<Exchange>>,
    draft: Option<Draft>,
}

/// What is asked of the next piece of a message.
pub(super) struct Asked<'a> {
    message: &'a Message,
    /// How many bytes of each kind may come, as bits, and whether they may fill the message.
    own: Reach,
    peer: Reach,
    drawn: Reach,
    zeros: Reach,
}

/// Lengths of a run that may come.
#[derive(Debug, Clone, Copy, Default)]
struct Reach {
    /// Bit n: a run of n bytes, up to [`RUN_MAX`].
    runs: u64,
    most: u16,
    is_rest: bool,
}

const _: () = assert!(RUN_MAX < 64);

impl Reach {
    /// A run of `n` bytes may come, as all shorter ones may.
    fn add(&mut self, n: usize) {
        self.most = n as u16;
        self.runs |= u64::from(n <= RUN_MAX) << (n & 63);
    }

    fn holds(self, n: u8) -> bool {
        self.runs >> n & 1 == 1
    }
}

impl Exchanges {
    /// No flow yet, of a codec that keeps names or has them drawn.
    pub(super) fn new(keep_names: bool) -> Self {
        let names = if keep_names { Names::Literal } else { Names::Drawn };
        Self { names, departures: Vec::new(), habits: None, flows: Vec::new(), draft: None }
    }

    /// From now on the flows that begin are of a label with these departures, which are those of UDP, and habits.
    pub(super) fn heed(&mut self, departures: &[u16], habits: Option<&Arc<habits::Label>>) {
        self.departures = departures.to_vec();
        self.habits = habits.cloned();
    }

    /// Takes into account what `walk` made of its last token.
    pub(super) fn follow(&mut self, walk: &Walk, step: Step) {
        let action = walk.action();
        let is_payload = matches!(walk.stage, Stage::Pieces | Stage::Operand(Operand::TextName | Operand::DnsName, _));
        if action.proto != Proto::Icmp && (is_payload || step == Step::Packet) {
            self.write(walk, action);
        }
        if step == Step::Packet {
            self.send(action);
        } else if !is_payload {
            self.draft = None;
        }
    }

    /// What holds in the flow of the packet under way, if they are messages.
    fn rules(&self, action: &Action) -> Option<Rules> {
        let Some(open) = action.opens else {
            return Some(self.flows.get(usize::from(action.slot))?.as_ref()?.rules);
        };
        match action.proto {
            Proto::Udp => {}
            Proto::Tcp => {
                let is_other = |port| self.habits.as_ref().is_some_and(|habits| habits.application(port).is_some());
                let port = open.port.filter(|port| !is_other(*port))?;
                return Some(Rules { protocol: Protocol::over_tcp(port)?, opener_replies: false });
            }
            Proto::Icmp => return None,
        }
        let sport = if let Sport::Number(port) = open.sport { Some(port) } else { None };
        let at = |port: Option<u16>, opener_replies| {
            let port = port.filter(|port| !self.departures.contains(port))?;
            Protocol::at(port).map(|protocol| Rules { protocol, opener_replies })
        };
        let server = open.port.and_then(Protocol::server_of);
        at(open.port, false).or_else(|| at(sport, true)).or_else(|| at(server, true))
    }

    /// The same of a packet that can be a message, and whether its sender answers.
    fn rules_of_sender(&self, action: &Action) -> Option<(Protocol, bool)> {
        let rules = self.rules(action).filter(|_| action.proto == Proto::Udp || action.is_message)?;
        Some((rules.protocol, action.from_orig == rules.opener_replies))
    }

    /// Whether the packet under way belongs to a connection of TCP whose every segment is a message; a prompt may have records of
    /// TLS at such a port.
    pub(super) fn is_framed(&self, walk: &Walk) -> bool {
        walk.action().proto == Proto::Tcp && !walk.current.framed && self.rules(walk.action()).is_some()
    }

    /// Where the question ended that the packet under way answers; 0 where it answers none that is known.
    fn echo(&self, action: &Action) -> u16 {
        let is_answer = self.rules_of_sender(action).is_some_and(|(protocol, is_reply)| is_reply && protocol.repeats());
        let flow = self.flows.get(usize::from(action.slot)).filter(|_| is_answer && action.opens.is_none());
        flow.and_then(Option::as_ref).map_or(0, |flow| flow.question_ends[usize::from(action.from_orig)])
    }

    /// Takes the pieces that were added last.
    fn write(&mut self, walk: &Walk, action: &Action) {
        if self.draft.is_none() {
            let is_next = |segment: &Segment| segment.is_next && action.len_known == 0 && !walk.current.framed;
            let is_new = action.tcp.as_ref().is_none_or(is_next);
            let Some((protocol, is_reply)) = self.rules_of_sender(action).filter(|_| action.len > 0 && is_new) else {
                return;
            };
            let message = Some(protocol.message(self.names, is_reply, action.len, self.echo(action)));
            self.draft = Some(Draft { message, syms: Vec::with_capacity(usize::from(action.len)), pieces: 0 });
        }
        let Some(mut draft) = self.draft.take() else { return };
        for piece in action.pieces.get(draft.pieces..).unwrap_or_default() {
            let at = draft.syms.len();
            let (syms, source) = self.syms(walk, action, *piece, at);
            draft.message = draft.message.and_then(|message| hears(&message, syms.iter().copied(), source));
            draft.syms.extend_from_slice(&syms);
        }
        draft.pieces = action.pieces.len();
        self.draft = Some(draft);
    }

    /// The packet is complete.
    fn send(&mut self, action: &Action) {
        let slot = usize::from(action.slot);
        if action.opens.is_some() {
            if self.flows.len() <= slot {
                self.flows.resize(slot + 1, None);
            }
            self.flows[slot] =
                self.rules(action).map(|rules| Exchange { rules, messages: Default::default(), question_ends: [0; 2] });
        }
        let draft = self.draft.take();
        if let (Some(Some(flow)), Some(mut draft)) = (self.flows.get_mut(slot), draft) {
            draft.syms.truncate(MESSAGE_MAX);
            let me = usize::from(!action.from_orig);
            flow.messages[me] = draft.syms;
            let end = draft.message.map_or(0, |message| message.question_end());
            flow.question_ends[me] = if usize::from(end) <= MESSAGE_MAX { end } else { 0 };
        }
    }

    /// The last message of the sender's side, or of the other.
    fn last(&self, action: &Action, source: Source) -> &[Sym] {
        let side = usize::from(action.from_orig == (source == Source::Peer));
        let flow = self.flows.get(usize::from(action.slot)).filter(|_| action.opens.is_none());
        flow.and_then(Option::as_ref).map_or(&[], |flow| &flow.messages[side])
    }

    /// The bytes of a piece at place `at`, as far as they are known, and where they come from.
    fn syms(&self, walk: &Walk, action: &Action, piece: Piece, at: usize) -> (Vec<Sym>, Source) {
        let copy = |source, n: u16| {
            let message = self.last(action, source);
            let syms = (at..at + usize::from(n)).map(|i| message.get(i).copied().unwrap_or(Sym::Drawn));
            (syms.collect(), source)
        };
        let syms = match piece {
            Piece::Same(n) => return copy(Source::Own, n),
            Piece::Peer(n) => return copy(Source::Peer, n),
            Piece::Inc2 => match self.last(action, Source::Own).get(at..at + 2) {
                Some(&[Sym::Known(a), Sym::Known(b)]) => {
                    u16::from_be_bytes([a, b]).wrapping_add(1).to_be_bytes().map(Sym::Known).to_vec()
                }
                _ => vec![Sym::Drawn; 2],
            },
            Piece::Name(_, n, true) => {
                let rest = std::iter::repeat_n(Sym::InName, usize::from(n));
                std::iter::once(Sym::Name(n)).chain(rest).collect()
            }
            piece => said(walk, piece),
        };
        (syms, Source::Said)
    }

    /// What is asked of the payload that comes next; `None` where anything may come.
    pub(super) fn asked(&self, walk: &Walk) -> Option<Asked<'_>> {
        let message = self.draft.as_ref()?.message.as_ref()?;
        let (action, at, limit) = (walk.action(), self.draft.as_ref()?.syms.len(), usize::from(walk.limit()));
        let copied = |source| reach(message, self.last(action, source).get(at..).unwrap_or_default(), source, limit);
        let filled = |sym| filled(message, sym, limit);
        Some(Asked {
            message,
            own: copied(Source::Own),
            peer: copied(Source::Peer),
            drawn: filled(Sym::Drawn),
            zeros: filled(Sym::Known(0)),
        })
    }

    /// Whether the length of a name may be `len`, where one is being said.
    pub(super) fn permits_name(&self, as_labels: bool, len: u8) -> bool {
        let Some(message) = self.draft.as_ref().and_then(|draft| draft.message.as_ref()) else { return true };
        if as_labels {
            return hears_name(message, len);
        }
        let (least, most) = message.text().unwrap_or((1, u16::MAX));
        let is_right = (least..=most).contains(&u16::from(len)) && len > 0;
        is_right && hears(message, std::iter::repeat_n(Sym::Text, usize::from(len)), Source::Said).is_some()
    }

    /// Whether the packet under way is a message; then these are its lengths, of which `told` bytes can be told in two tokens each,
    /// and `most` sent.
    pub(super) fn lengths(&self, walk: &Walk, told: u32, most: u32) -> Option<[(u32, u32); 2]> {
        let (protocol, is_reply) = self.rules_of_sender(walk.action())?;
        Some(protocol.lengths(is_reply, self.echo(walk.action()), told, most))
    }
}

impl Asked<'_> {
    /// In how many tokens the rest of the message can be said at most.
    pub(super) fn tokens_most(&self) -> usize {
        self.message.tokens_most()
    }

    /// Whether the packet may be brought to its end with what is drawn.
    pub(super) fn can_close(&self) -> bool {
        self.message.ends_at_will() && self.drawn.is_rest
    }

    /// Whether a name in text of so many bytes may come.
    fn takes_text(&self, len: u8) -> bool {
        let (least, most) = self.message.text().unwrap_or((1, self.drawn.most));
        (least.max(1)..=most).contains(&len.into())
    }

    /// Whether `tok` may be the next piece of payload.
    pub(super) fn permits(&self, walk: &Walk, tok: Tok) -> bool {
        let name = |i: u8| walk.names.get(usize::from(i)).map_or(0, |name| name.1);
        let at_once = usize::from(self.message.at_once());
        match tok {
            Tok::Same(n) | Tok::Peer(n) | Tok::Opaque(n) if usize::from(n) < at_once.min(RUN_MAX) => false,
            Tok::Byte(_) | Tok::Str(_) | Tok::Inc2 | Tok::Quad(_) if at_once > 0 => false,
            Tok::Byte(_) if self.message.free() > 0 => true,
            Tok::Byte(b) => self.message.allows(Sym::Known(b), Source::Said),
            Tok::Str(s) if walk.strings()[usize::from(s)].len() <= usize::from(self.message.free()) => true,
            Tok::Str(s) => {
                let string = walk.strings()[usize::from(s)].iter().map(|b| Sym::Known(*b));
                string.clone().next().is_none_or(|sym| self.message.allows(sym, Source::Said))
                    && hears(self.message, string, Source::Said).is_some()
            }
            Tok::Same(n) => self.own.holds(n),
            Tok::SameRest => self.own.is_rest,
            // What is repeated is said in as few tokens as it can be, as the encoder does.
            Tok::Peer(n) => {
                self.peer.holds(n) && usize::from(n) >= usize::from(self.message.still_to_repeat()).min(RUN_MAX)
            }
            Tok::PeerRest => self.peer.is_rest,
            Tok::Opaque(n) => self.drawn.holds(n),
            Tok::OpaqueRest | Tok::TextRest => self.drawn.is_rest,
            Tok::ZeroRest => self.zeros.is_rest,
            Tok::Quad(n) => u16::from(n) <= self.drawn.most,
            Tok::TextRef(i) => self.takes_text(name(i)),
            Tok::TextName => (1..=NAME_MAX).any(|n| self.takes_text(n)),
            Tok::DnsRef(i) => hears_name(self.message, name(i)),
            Tok::DnsName => (1..=NAME_MAX).any(|n| hears_name(self.message, n)),
            _ => false,
        }
    }
}

/// The bytes of a piece that refers to no other message, as far as they are known.
pub(super) fn said(walk: &Walk, piece: Piece) -> Vec<Sym> {
    match piece {
        Piece::Byte(b) => vec![Sym::Known(b)],
        Piece::Str(i) => walk.strings()[usize::from(i)].iter().map(|b| Sym::Known(*b)).collect(),
        Piece::Zero(n) => vec![Sym::Known(0); usize::from(n)],
        Piece::Name(_, n, false) => vec![Sym::Text; usize::from(n)],
        piece => vec![Sym::Drawn; usize::from(piece.len(walk.strings()))],
    }
}

/// The message with these bytes more, if they can come.
fn hears(message: &Message, mut syms: impl Iterator<Item = Sym>, source: Source) -> Option<Message> {
    let mut message = *message;
    syms.all(|sym| message.hear(sym, source)).then_some(message)
}

fn hears_name(message: &Message, len: u8) -> bool {
    message.allows(Sym::Name(len), Source::Said)
}

/// How many of `syms` can come, of which at most `limit` fit.
fn reach(message: &Message, syms: &[Sym], source: Source, limit: usize) -> Reach {
    let (mut message, mut ret) = (*message, Reach::default());
    // Longer runs than a token has are of use only where they fill the message.
    let count = if syms.len() < limit { syms.len().min(RUN_MAX) } else { limit };
    for (i, sym) in syms[..count].iter().enumerate() {
        // A drawn name whose end is beyond what is remembered of the message cannot be copied.
        let is_cut = matches!(sym, Sym::Name(n) if i + usize::from(*n) >= syms.len());
        if is_cut || !message.hear(*sym, source) {
            break;
        }
        ret.add(i + 1);
        ret.is_rest = i + 1 == limit && !message.is_inside_name();
    }
    ret
}

/// How many bytes that are all `sym` can come, of which `limit` fit.
fn filled(message: &Message, sym: Sym, limit: usize) -> Reach {
    let (mut message, mut ret) = (*message, Reach::default());
    let free = message.free().saturating_sub(1);
    if free > 0 {
        message.pass(free);
    }
    (1..=usize::from(free)).for_each(|n| ret.add(n));
    for n in usize::from(free) + 1..=limit {
        if !message.hear(sym, Source::Said) {
            break;
        }
        ret.add(n);
        ret.is_rest = n == limit;
    }
    ret
}

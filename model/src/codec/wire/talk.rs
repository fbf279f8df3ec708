//! Who talks what in each TCP flow of a session: both sides begin as one application, and as the one that the port promises.
//!
//! [`Talks`] follows a [`Walk`], token by token, and says which pieces of payload may come where a side has not begun yet.
//! What a side says after its opening is nobody's business here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::LabelId;
use super::action::{Action, Piece};
use super::application::{Application, Heard, OPENING_MAX, Openings, promised};
use super::habits;
use super::side::SYN;
use super::vocab::{Proto, TLS_TYPES, Tok};
use super::walk::{Seq, Stage, Step, Walk};

/// Ports at which flows of a label do not begin as promised, by label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Departures(Arc<[Vec<u16>]>);

impl Departures {
    /// These ports, each label's own.
    pub(super) fn new(ports: Vec<Vec<u16>>) -> Self {
        Self(ports.into())
    }

    /// These and those of `more`, for `labels` labels.
    pub(super) fn with(&self, more: &Self, labels: usize) -> Self {
        let both = |label: usize| {
            let label = Some(LabelId(label as u16));
            self.of(label).iter().chain(more.of(label)).copied().collect::<BTreeSet<_>>().into_iter().collect()
        };
        Self::new((0..labels).map(both).collect())
    }

    /// The ports of a label.
    pub(super) fn of(&self, label: Option<LabelId>) -> &[u16] {
        label.and_then(|label| self.0.get(usize::from(label.0))).map_or(&[], Vec::as_slice)
    }
}

/// How far a side has come with its opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing is known of it, or it cannot be followed: anything may come.
    Lost,
    /// Bytes so far, and what they can still become at any port, and as the promised application.
    Begins { at: usize, plain: Openings, promised: Openings },
    /// It has begun.
    Begun(Option<Application>),
}

/// The beginning of a message, as far as its bytes are known before it is rendered.
type Start = [Option<u8>; OPENING_MAX];

/// One side of a flow.
#[derive(Debug, Clone, Copy)]
struct Voice {
    progress: Progress,
    /// Its last message.
    message: Start,
}

/// A flow.
#[derive(Debug, Clone)]
struct Talk {
    port: u16,
    promised: Option<Application>,
    voices: [Voice; 2],
    /// Whether it was counted, and whether it was as a departure.
    counted: [bool; 2],
}

impl Talk {
    const LOST: Self = {
        let voice = Voice { progress: Progress::Lost, message: [None; OPENING_MAX] };
        Self { port: 0, promised: None, voices: [voice, voice], counted: [false; 2] }
    };

    /// A flow that begins here, towards `port`.
    fn begin(port: Option<u16>, departures: &[u16], habits: Option<&habits::Label>) -> Self {
        let seen = port.and_then(|port| habits?.application(port));
        let promised = seen.or_else(|| port.filter(|port| !departures.contains(port)).and_then(promised));
        let voice = |side| {
            let of_promised = promised.map(|application| Openings::of_application(side, application));
            let plain = Openings::plain(side);
            let progress = Progress::Begins { at: 0, plain, promised: of_promised.unwrap_or(Openings::NONE) };
            Voice { progress, message: [None; OPENING_MAX] }
        };
        Self { port: port.unwrap_or(0), promised, voices: [voice(0), voice(1)], counted: [false; 2] }
    }

    /// The application that side `me` has to begin as: the other side's, else what the port promises.
    fn expected(&self, me: usize) -> Option<Application> {
        match self.voices[1 - me].progress {
            Progress::Begun(Some(application)) => Some(application),
            _ => self.promised,
        }
    }

    /// Whether side `me` has said nothing yet.
    fn is_silent(&self, me: usize) -> bool {
        matches!(self.voices[me].progress, Progress::Begins { at: 0, .. })
    }

    /// Whether side `me` has to wait for the other side's first bytes.
    fn must_wait(&self, me: usize) -> bool {
        me == 1 && self.is_silent(0) && self.is_silent(1) && self.promised.is_some_and(Application::opener_first)
    }

    /// Whether both sides have begun, or are lost.
    fn is_settled(&self) -> bool {
        self.voices.iter().all(|voice| !matches!(voice.progress, Progress::Begins { .. }))
    }
}

/// What the sender of the packet under way still has to say: bytes of its opening so far, and how it can go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    application: Application,
    at: usize,
    left: Openings,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Talks {
    departures: Vec<u16>,
    habits: Option<Arc<habits::Label>>,
    /// By slot.
    talks: Vec<Talk>,
    /// The sender's voice in the packet under way, and how many of the packet's pieces it has said.
    now: Option<(Voice, Start, usize)>,
}

impl Talks {
    /// From now on the flows that begin are of a label with these departures and habits.
    pub(super) fn heed(&mut self, departures: &[u16], habits: Option<&Arc<habits::Label>>) {
        self.departures = departures.to_vec();
        self.habits = habits.cloned();
    }

    /// What the opener of a slot's flow has begun as, once that is known.
    pub(super) fn begun(&self, slot: u8) -> Option<Option<Application>> {
        match self.talks.get(usize::from(slot))?.voices[0].progress {
            Progress::Begun(application) => Some(application),
            _ => None,
        }
    }

    /// Takes into account what `walk` made of its last token.
    pub(super) fn follow(&mut self, walk: &Walk, step: Step) {
        let action = walk.action();
        if action.proto != Proto::Tcp {
            return;
        }
        let told = self.now.as_ref().map_or(0, |now| now.2);
        let is_settled = self.talks.get(usize::from(action.slot)).is_none_or(Talk::is_settled);
        if is_settled || action.pieces.is_empty() || action.pieces.len() < told {
            self.now = None;
        } else if action.pieces.len() > told {
            self.say(walk, action);
        }
        if step == Step::Packet {
            self.complete(action);
        }
    }

    /// The pieces that were added last.
    fn say(&mut self, walk: &Walk, action: &Action) {
        let (mut voice, mut message, told) = match self.now {
            Some(now) => now,
            None => (self.voice(walk, action), [None; OPENING_MAX], 0),
        };
        let strings = walk.strings();
        let mut at: usize = action.pieces[..told].iter().map(|p| usize::from(p.len(strings))).sum();
        for piece in &action.pieces[told..] {
            let len = usize::from(piece.len(strings));
            // Bytes beyond the longest opening matter to nobody.
            for i in 0..len.min(OPENING_MAX) {
                let byte = self.byte(walk, action, *piece, at, i);
                if let Some(place) = message.get_mut(at + i) {
                    *place = byte;
                }
                voice.progress = voice.progress.hear(byte, follow(action, at + i));
            }
            at += len;
        }
        self.now = Some((voice, message, action.pieces.len()));
    }

    /// Byte `i` of a piece at place `at` of the payload, where that is known.
    fn byte(&self, walk: &Walk, action: &Action, piece: Piece, at: usize, i: usize) -> Option<u8> {
        let me = usize::from(!action.from_orig);
        let of =
            |side: usize, at: usize| self.talks.get(usize::from(action.slot))?.voices[side].message.get(at).copied()?;
        match piece {
            Piece::Byte(b) => Some(b),
            Piece::Str(s) => walk.strings()[usize::from(s)].get(i).copied(),
            Piece::Same(_) => of(me, at + i),
            Piece::Peer(_) => of(1 - me, at + i),
            Piece::Zero(_) => Some(0),
            Piece::Inc2 => {
                let number = u16::from_be_bytes([of(me, at)?, of(me, at + 1)?]).wrapping_add(1);
                Some(number.to_be_bytes()[i])
            }
            Piece::Tls(kind, minor, len) => [kind, 3, minor, (len >> 8) as u8, len as u8].get(i).copied(),
            _ => None,
        }
    }

    /// The sender's voice before the packet under way; lost where this packet does not go on where it was.
    fn voice(&self, walk: &Walk, action: &Action) -> Voice {
        let lost = Talk::LOST.voices[0];
        let Some(talk) = self.talks.get(usize::from(action.slot)).filter(|_| action.opens.is_none()) else {
            return lost;
        };
        let voice = talk.voices[usize::from(!action.from_orig)];
        match voice.progress {
            // A stream begins at 1, after the SYN.
            Progress::Begins { at, .. }
                if walk.current.seq != Seq::Keep
                    && action.tcp.as_ref().is_none_or(|s| s.hole == 0)
                    && action.stream_at + i64::from(action.len_known) == 1 + at as i64 =>
            {
                voice
            }
            Progress::Begins { .. } => Voice { progress: Progress::Lost, ..voice },
            _ => voice,
        }
    }

    fn complete(&mut self, action: &Action) {
        let slot = usize::from(action.slot);
        if action.opens.is_some() {
            if self.talks.len() <= slot {
                self.talks.resize(slot + 1, Talk::LOST);
            }
            let is_whole = action.len == 0 && action.tcp.as_ref().is_some_and(|s| s.flags & SYN != 0);
            let port = action.opens.and_then(|open| open.port);
            self.talks[slot] =
                if is_whole { Talk::begin(port, &self.departures, self.habits.as_deref()) } else { Talk::LOST };
        }
        let now = self.now.take();
        let (Some(talk), Some((voice, message, _))) = (self.talks.get_mut(slot), now) else { return };
        let place = &mut talk.voices[usize::from(!action.from_orig)];
        place.progress = voice.progress;
        if action.is_message {
            place.message = message;
        }
    }

    /// What is asked of the payload that comes next; `None` where anything may come.
    pub(super) fn asked(&self, walk: &Walk) -> Option<Asked> {
        let action = walk.action();
        if walk.stage != Stage::Pieces || action.proto != Proto::Tcp {
            return None;
        }
        let talk = self.talks.get(usize::from(action.slot)).filter(|_| action.opens.is_none())?;
        let voice = match &self.now {
            Some((voice, ..)) => *voice,
            None => self.voice(walk, action),
        };
        let Progress::Begins { at, plain, promised } = voice.progress else { return None };
        let me = usize::from(!action.from_orig);
        // A record whose header was cut by a segment's end cannot be followed.
        let application = talk.expected(me).filter(|application| at == 0 || *application != Application::Tls)?;
        let left = match talk.promised == Some(application) {
            true => promised,
            false => plain.and(Openings::of_application(me, application)),
        };
        (!left.is_empty()).then_some(Asked { application, at, left })
    }

    /// Whether `tok` may be the next piece of payload of which `asked` is asked.
    pub(super) fn permits(&self, walk: &Walk, asked: &Asked, tok: Tok) -> bool {
        let (action, limit, at) = (walk.action(), walk.limit(), usize::from(walk.current.done));
        // Records have tokens of their own, with their lengths.
        if matches!(tok, Tok::Tls(..)) != (asked.application == Application::Tls) {
            return false;
        }
        let run = |piece: Piece| {
            let mut left = asked.left;
            for i in 0..usize::from(piece.len(walk.strings())) {
                match left.hear(asked.at + i, self.byte(walk, action, piece, at, i), follow(action, at + i)) {
                    Heard::Possible(openings) => left = openings,
                    Heard::Known(_) => return true,
                    Heard::Other => return false,
                }
            }
            true
        };
        match tok {
            Tok::Byte(b) => run(Piece::Byte(b)),
            Tok::Str(s) => run(Piece::Str(s)),
            Tok::Same(n) => run(Piece::Same(u16::from(n))),
            Tok::SameRest => run(Piece::Same(limit)),
            Tok::Peer(n) => run(Piece::Peer(u16::from(n))),
            Tok::PeerRest => run(Piece::Peer(limit)),
            Tok::Inc2 => run(Piece::Inc2),
            Tok::ZeroRest => run(Piece::Zero(limit)),
            Tok::Tls(i, minor) => run(Piece::Tls(TLS_TYPES[usize::from(i)], minor, 0)),
            // What is drawn begins no application.
            _ => false,
        }
    }

    /// Whether the sender of the packet under way has nothing to say yet, as the other side has to begin.
    pub(super) fn must_wait(&self, walk: &Walk) -> bool {
        let action = walk.action();
        let talk = self.talks.get(usize::from(action.slot));
        action.proto == Proto::Tcp
            && action.opens.is_none()
            && talk.is_some_and(|talk| talk.must_wait(usize::from(!action.from_orig)))
    }

    /// Whether the sender of the packet under way can leave bytes out: what is sent in their place later is drawn, and begins no
    /// application.
    pub(super) fn may_skip(&self, walk: &Walk) -> bool {
        let action = walk.action();
        let me = usize::from(!action.from_orig);
        let talk = self.talks.get(usize::from(action.slot)).filter(|_| action.opens.is_none());
        talk.is_none_or(|talk| {
            let has_begun = !matches!(talk.voices[me].progress, Progress::Begins { .. });
            let is_asked = |application| !Openings::of_application(me, application).is_empty();
            has_begun || !talk.must_wait(me) && !talk.expected(me).is_some_and(is_asked)
        })
    }

    /// The application of the flow of the packet under way: the one that the opener has begun as, else the responder, else the one that the port
    /// promises; `None` where the sender's opening came in parts.
    pub(super) fn application(&self, walk: &Walk) -> Option<Application> {
        let action = walk.action();
        let talk = self.talks.get(usize::from(action.slot)).filter(|_| action.opens.is_none())?;
        if matches!(talk.voices[usize::from(!action.from_orig)].progress, Progress::Begins { at: 1.., .. }) {
            return None;
        }
        let now = self.now.as_ref().filter(|_| action.from_orig).map(|now| now.0.progress);
        match (now.unwrap_or(talk.voices[0].progress), talk.voices[1].progress) {
            (Progress::Begun(application), _) => application,
            (Progress::Begins { .. }, Progress::Begun(application)) => application,
            (Progress::Begins { .. }, Progress::Begins { .. }) => talk.promised,
            _ => None,
        }
    }

    /// The application that the sender of the packet under way has to begin as, where it has said nothing yet.
    pub(super) fn begins_as(&self, walk: &Walk) -> Option<Application> {
        let action = walk.action();
        let me = usize::from(!action.from_orig);
        let talk =
            self.talks.get(usize::from(action.slot)).filter(|talk| action.opens.is_none() && talk.is_silent(me))?;
        talk.expected(me)
            .filter(|application| action.proto == Proto::Tcp && !Openings::of_application(me, *application).is_empty())
    }
}

/// Bytes of the segment that follow place `at` of its new payload.
fn follow(action: &Action, at: usize) -> usize {
    usize::from(action.len - action.len_known).saturating_sub(at + 1)
}

/// Flows towards ports that promise an application: by port how many there were, and how many began as no such flow would.
pub(super) type Tally = BTreeMap<u16, [u64; 2]>;

impl Talks {
    /// Counts the flow of the packet under way, to which `tok` is to be added.
    pub(super) fn count(&mut self, walk: &Walk, tok: Tok, ret: &mut Tally) {
        let action = walk.action();
        if walk.stage != Stage::Pieces || action.proto != Proto::Tcp || action.opens.is_some() {
            return;
        }
        let is_wrong = |asked| !self.permits(walk, &asked, tok);
        // The encoder says no literal bytes of what is no message, so it tells nothing.
        let departs = action.is_message && self.asked(walk).is_some_and(is_wrong) || self.must_wait(walk);
        let Some(talk) = self.talks.get_mut(usize::from(action.slot)).filter(|talk| talk.promised.is_some()) else {
            return;
        };
        for (i, is_new) in [!talk.counted[0], departs && !talk.counted[1]].into_iter().enumerate() {
            if is_new {
                talk.counted[i] = true;
                ret.entry(talk.port).or_default()[i] += 1;
            }
        }
    }
}

impl Progress {
    fn hear(self, byte: Option<u8>, follow: usize) -> Self {
        let Self::Begins { at, plain, promised } = self else { return self };
        // What the port promises is asked for first.
        match (promised.hear(at, byte, follow), plain.hear(at, byte, follow)) {
            (Heard::Known(application), _) | (_, Heard::Known(application)) => Self::Begun(Some(application)),
            (Heard::Other, Heard::Other) => Self::Begun(None),
            (promised, plain) => {
                let left = |heard| if let Heard::Possible(openings) = heard { openings } else { Openings::NONE };
                Self::Begins { at: at + 1, plain: left(plain), promised: left(promised) }
            }
        }
    }
}

#[cfg(test)]
mod tests;

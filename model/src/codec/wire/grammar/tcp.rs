//! The TCP header: what a correct sender may say next (RFC 9293).

use super::super::action::Opt;
use super::super::habits::layouts::Kind;
use super::super::side::{ACK, FIN, PSH, RST, SYN};
use super::super::vocab::{BOUNDS, Tok};
use super::super::walk::{OPTIONS_MAX, Seq, Slot, options_len, rank};
use super::mask::Mask;
use super::outlook::Urge;
use super::{CLOSING_TOKENS, Strict};

const RST_ACK: u8 = RST | ACK;
const SYN_ACK: u8 = SYN | ACK;
/// ECN on SYN and on SYN-ACK (RFC 3168, section 6.1.1).
const SYN_ECN: u8 = SYN | 0xc0;
const SYN_ACK_ECN: u8 = SYN_ACK | 0x40;

impl Strict {
    pub(super) fn tcp(&self, at: u8, tokens_left: usize, m: &mut Mask<'_>) {
        let c = &self.walk.current;
        let closing = tokens_left < CLOSING_TOKENS;
        let (side, peer) = self.walk.sides();
        let is_urged = self.urge(tokens_left) > Urge::None;
        if at <= rank::FLAGS {
            if at <= rank::SEQ {
                self.sequence(closing || is_urged, m);
            }
            let flags = self.flags(at, tokens_left);
            self.told_flags(&flags, c.seq, tokens_left).into_iter().for_each(|flags| m.allow(Tok::Flags(flags)));
            return;
        }
        if at <= rank::ACK && c.flags & ACK != 0 && !closing && !is_urged {
            if side.acked > 0 {
                m.allow(Tok::AckSame);
            }
            let arrived = peer.contiguous();
            for k in 0..BOUNDS as u8 {
                match peer.bound(k) {
                    Some(b) if b > 0 && b >= side.acked && b <= arrived => m.allow(Tok::AckLag(k)),
                    Some(_) => {}
                    None => break,
                }
            }
        }
        if at <= rank::WINDOW && !closing && self.window_classes(m) {
            return;
        }
        let known = self.known_options();
        if at <= rank::OPTIONS && !closing {
            self.options(known.as_deref(), m);
        }
        if at > rank::OPTIONS || closing || self.may_be_all_options(known.as_deref()) {
            self.length(tokens_left, m);
        }
    }

    /// What may stand behind the options that were said, by what was seen of the label and what this sender may say; `None` where
    /// anything may. What goes without saying is not among it.
    fn known_options(&self) -> Option<Vec<&[Kind]>> {
        let c = &self.walk.current;
        let said = c.options.as_deref().unwrap_or_default();
        let layouts = self.habits.as_ref()?.layouts.of(c.flags)?.iter();
        let room = OPTIONS_MAX.saturating_sub(options_len(said));
        let least = |rest: &[Kind]| rest.iter().map(|kind| kind.least_len()).sum::<usize>();
        let is_right = |rest: &&[Kind]| least(rest) <= room && rest.iter().all(|kind| self.may_have(*kind));
        let others = layouts.filter(|layout| !layout.is_of(self.walk.default_options()));
        Some(others.filter_map(|layout| layout.after(said)).filter(is_right).collect())
    }

    /// Whether what was said of the options may be all: as seen of the label, or nothing that was seen can be said.
    fn may_be_all_options(&self, known: Option<&[&[Kind]]>) -> bool {
        let Some(known) = known else { return true };
        let usual = || {
            let layouts = self.habits.as_ref().and_then(|habits| habits.layouts.of(self.walk.current.flags));
            layouts.is_some_and(|layouts| layouts.iter().any(|layout| layout.is_of(self.walk.default_options())))
        };
        known.is_empty()
            || if self.walk.current.options.is_none() { usual() } else { known.iter().any(|rest| rest.is_empty()) }
    }

    /// Whether this sender may have an option of that kind.
    fn may_have(&self, kind: Kind) -> bool {
        let flags = self.walk.current.flags;
        let (side, peer) = self.walk.sides();
        let is_syn = flags & SYN != 0;
        // An answer has only what was offered (RFC 7323, section 1.3; RFC 2018, section 2).
        let is_answer = is_syn && flags & ACK != 0;
        match kind {
            Kind::Nop | Kind::Eol => true,
            Kind::Ts if is_syn => !is_answer || peer.ts,
            Kind::Ts => side.ts && peer.ts,
            Kind::Mss | Kind::Ws => is_syn,
            Kind::SackOk => is_syn && (!is_answer || peer.sack),
            Kind::Sack => !is_syn && flags & ACK != 0 && side.sack && peer.sack && self.sack_blocks() > 0,
        }
    }

    /// SACK blocks that this sender has to report: as many as there are behind the first hole; `ack` is at most there.
    fn sack_blocks(&self) -> u8 {
        let peer = self.walk.sides().1;
        peer.sack_blocks(peer.contiguous()).1
    }

    /// Phases of a handshake (RFC 9293, section 3.5), for whoever sends the packet under way.
    fn phase(&self) -> Phase {
        let a = &self.walk.current.action;
        if a.opens.is_some() {
            return Phase::Begin;
        }
        phase(&self.walk.slots[usize::from(a.slot)], a.from_orig)
    }

    fn sequence(&self, closing: bool, m: &mut Mask<'_>) {
        let (side, _) = self.walk.sides();
        let bounds = (0..BOUNDS as u8).map_while(|k| Some((k, side.bound(k)?)));
        match self.phase() {
            Phase::Begin | Phase::Answer => {}
            Phase::RepeatSyn => {
                if let Some((k, _)) = bounds.into_iter().find(|b| b.1 == 0) {
                    m.allow(Tok::SeqRe(k));
                }
            }
            Phase::Open => {
                if closing {
                    return;
                }
                let seen = self.habits.as_ref().and_then(|habits| habits.disorder);
                let may_repeat = seen.is_none_or(|seen| seen.repeats);
                if may_repeat && side.next > 2 && side.fin.is_none() && side.len_max > 0 {
                    m.allow(Tok::SeqKeep);
                }
                // What nobody sends again is never acknowledged.
                let may_skip = seen.is_none_or(|seen| seen.leaves_out && seen.repeats)
                    && (side.len_max > 0 || self.said().is_none())
                    && !self.exchanges.is_framed(&self.walk);
                let can_skip =
                    may_skip && if side.framed { side.record_left > 1 } else { self.talks.may_skip(&self.walk) };
                if side.fin.is_none() && can_skip && side.holes.len() < 4 && self.room(side.next_for(0)) > 1 {
                    m.allow(Tok::SeqHole);
                }
                for (k, b) in bounds.filter(|_| may_repeat) {
                    if b >= 1 && (b < side.data_end() || Some(b) == side.fin) {
                        m.allow(Tok::SeqRe(k));
                    }
                }
            }
        }
    }

    /// Flags that TCP allows; nothing is pushed where nothing can be said.
    fn flags(&self, at: u8, tokens_left: usize) -> Vec<u8> {
        let c = &self.walk.current;
        let (side, _) = self.walk.sides();
        let from_orig = c.action.from_orig;
        let mut ret = Vec::new();
        let mut allow = |flags: &[u8]| ret.extend_from_slice(flags);
        let syn: &[u8] = if from_orig { &[SYN, SYN_ECN] } else { &[SYN_ACK, SYN_ACK_ECN] };
        match (self.phase(), c.seq) {
            (Phase::Begin, _) => allow(syn),
            (Phase::Answer, _) => {
                allow(syn);
                allow(&[RST_ACK]);
            }
            // Only after `seq:re` to the SYN, which is the only one allowed there.
            (Phase::RepeatSyn, Seq::Re(_)) => allow(syn),
            (Phase::RepeatSyn, _) => {
                // The SYN may have left the ring of bounds: the handshake is given up.
                let has_syn = (0..BOUNDS as u8).map_while(|k| side.bound(k)).any(|b| b == 0);
                if !has_syn || at > rank::SEQ {
                    allow(&[RST]);
                }
            }
            (Phase::Open, Seq::Keep) => allow(&[ACK]),
            (Phase::Open, Seq::Hole(_)) => allow(&[ACK, ACK | PSH]),
            (Phase::Open, Seq::Re(at)) if Some(at) == side.fin => allow(&[FIN | ACK]),
            (Phase::Open, Seq::Re(_)) => allow(&[ACK, ACK | PSH]),
            (Phase::Open, Seq::Next) => {
                allow(&[ACK, RST, RST_ACK]);
                if side.fin.is_none() {
                    let can_push = |flags: &u8| flags & PSH == 0 || self.may_say(*flags, tokens_left);
                    let finishing: &[u8] = if side.record_left == 0 { &[FIN | ACK, FIN | ACK | PSH] } else { &[] };
                    ret.extend([ACK | PSH].iter().chain(finishing).copied().filter(can_push));
                }
            }
        }
        ret
    }

    fn options(&self, known: Option<&[&[Kind]]>, m: &mut Mask<'_>) {
        let c = &self.walk.current;
        let said = c.options.as_deref().unwrap_or_default();
        if said.last() == Some(&Opt::Eol) || c.options.as_ref().is_some_and(|o| o.is_empty()) {
            return;
        }
        let room = OPTIONS_MAX - options_len(said);
        // Whether an option of so many bytes may follow, with what is known to stand behind it.
        let fits = |kind: Kind, len: usize| {
            let least = |rest: &[Kind]| rest.iter().map(|kind| kind.least_len()).sum::<usize>();
            let follows = |rest: &&[Kind]| rest.first() == Some(&kind) && len + least(&rest[1..]) <= room;
            len <= room && self.may_have(kind) && known.is_none_or(|known| known.iter().any(follows))
        };
        let is_new = |kind: Kind| said.iter().all(|option| Kind::of(option) != Some(kind));
        if c.options.is_none() && known.is_none_or(|known| known.iter().any(|rest| rest.is_empty())) {
            m.allow(Tok::OptNone);
        }
        if fits(Kind::Nop, 1) {
            m.allow(Tok::Nop);
        }
        if !said.is_empty() && fits(Kind::Eol, 1) {
            m.allow(Tok::Eol);
        }
        let once = [(Kind::Ts, Tok::Ts), (Kind::Mss, Tok::Mss), (Kind::Ws, Tok::Ws), (Kind::SackOk, Tok::SackOk)];
        for (kind, tok) in once {
            if is_new(kind) && fits(kind, kind.least_len()) {
                m.allow(tok);
            }
        }
        if is_new(Kind::Sack) {
            for n in (1..=self.sack_blocks()).filter(|n| fits(Kind::Sack, 2 + 8 * usize::from(*n))) {
                m.allow(Tok::Sack(n));
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The opener's SYN.
    Begin,
    /// Nothing but the SYN again.
    RepeatSyn,
    /// The responder's first segment.
    Answer,
    /// Everything else.
    Open,
}

fn phase(slot: &Slot, from_orig: bool) -> Phase {
    let [orig, resp] = &slot.sides;
    match from_orig {
        true if orig.syn && !resp.has_sent => Phase::RepeatSyn,
        false if !resp.has_sent => Phase::Answer,
        false if resp.syn && orig.acked == 0 => Phase::RepeatSyn,
        _ => Phase::Open,
    }
}

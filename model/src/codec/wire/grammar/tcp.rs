//! The TCP header: what a correct sender may say next (RFC 9293).

use super::super::action::Opt;
use super::super::side::{ACK, FIN, PSH, RST, SYN};
use super::super::vocab::{BOUNDS, Tok, WINDOWS};
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
            let flags = self.flags(at);
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
        if at <= rank::WINDOW && !closing {
            m.run(Tok::Win(0), WINDOWS);
        }
        if at <= rank::OPTIONS && !closing {
            self.options(m);
        }
        self.length(tokens_left, m);
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
                if side.next > 2 && side.fin.is_none() && side.len_max > 0 {
                    m.allow(Tok::SeqKeep);
                }
                let can_skip = if side.framed { side.record_left > 1 } else { self.talks.may_skip(&self.walk) };
                if side.fin.is_none() && can_skip && side.holes.len() < 4 && self.room(side.next_for(0)) > 1 {
                    m.allow(Tok::SeqHole);
                }
                for (k, b) in bounds {
                    if b >= 1 && (b < side.data_end() || Some(b) == side.fin) {
                        m.allow(Tok::SeqRe(k));
                    }
                }
            }
        }
    }

    /// Flags that TCP allows.
    fn flags(&self, at: u8) -> Vec<u8> {
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
                    allow(&[ACK | PSH]);
                    if side.record_left == 0 {
                        allow(&[FIN | ACK, FIN | ACK | PSH]);
                    }
                }
            }
        }
        ret
    }

    fn options(&self, m: &mut Mask<'_>) {
        let c = &self.walk.current;
        let (side, peer) = self.walk.sides();
        let said = c.options.as_deref().unwrap_or_default();
        if said.last() == Some(&Opt::Eol) || c.options.as_ref().is_some_and(|o| o.is_empty()) {
            return;
        }
        let room = OPTIONS_MAX - options_len(said);
        let has = |f: fn(&Opt) -> bool| said.iter().any(f);
        let is_syn = c.flags & SYN != 0;
        // An answer has only what was offered (RFC 7323, section 1.3; RFC 2018, section 2).
        let is_answer = is_syn && c.flags & ACK != 0;
        if c.options.is_none() {
            m.allow(Tok::OptNone);
        }
        if room >= 1 {
            m.allow(Tok::Nop);
            if !said.is_empty() {
                m.allow(Tok::Eol);
            }
        }
        let can_ts = if is_syn { !is_answer || peer.ts } else { side.ts && peer.ts };
        if room >= 10 && can_ts && !has(|o| *o == Opt::Ts) {
            m.allow(Tok::Ts);
        }
        if is_syn {
            if room >= 4 && !has(|o| matches!(o, Opt::Mss(_))) {
                m.allow(Tok::Mss);
            }
            if room >= 3 && !has(|o| matches!(o, Opt::Ws(_))) {
                m.allow(Tok::Ws);
            }
            if room >= 2 && !has(|o| *o == Opt::SackOk) && (!is_answer || peer.sack) {
                m.allow(Tok::SackOk);
            }
        } else if c.flags & ACK != 0 && side.sack && peer.sack && !has(|o| matches!(o, Opt::Sack(..))) {
            // As many blocks as there are behind the first hole; `ack` is at most there.
            let blocks = peer.sack_blocks(peer.contiguous()).1;
            for n in 1..=blocks {
                if room >= 2 + 8 * usize::from(n) {
                    m.allow(Tok::Sack(n));
                }
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

//! Which tokens may come next, so that every frame is valid and every TCP flow consistent without repair.
//!
//! [`Walk`] takes whatever has a meaning; this allows only what a correct sender would do. Whatever was taken so far,
//! something is allowed, and a sample ends in time.

use super::super::{Grammar, LabelId, Token};
use super::Plans;
use super::action::Opt;
use super::application::Application;
use super::exchange::Exchanges;
use super::side::{ACK, FIN, PSH, RST, SYN, Side};
use super::talk::{Departures, Talks};
use super::vocab::{BOUNDS, HOSTS, NAMES, PORTS, Proto, RUN_MAX, SLOTS, TLS_TYPES, Tok, WINDOWS};
use super::walk::{OPTIONS_MAX, Operand, Seq, Slot, Stage, Walk, options_len, rank};

/// Tokens that the longest packet header can take, and the payload that is said in the fewest: below this no packet is
/// begun.
const PACKET_TOKENS: usize = 112;
/// Below this a packet under way is brought to its end.
const CLOSING_TOKENS: usize = 32;
/// Longest gap between packets: an hour has 42 bits of nanoseconds.
const GAP_BITS: u8 = 42;
/// Longest TLS record (RFC 8446, section 5.2).
const RECORD_MAX: u32 = 16_640;

const RST_ACK: u8 = RST | ACK;
const SYN_ACK: u8 = SYN | ACK;
/// ECN on SYN and on SYN-ACK (RFC 3168, section 6.1.1).
const SYN_ECN: u8 = SYN | 0xc0;
const SYN_ACK_ECN: u8 = SYN_ACK | 0x40;

/// A set of tokens as bits.
struct Mask<'a> {
    walk: &'a Walk,
    bits: &'a mut [u64],
}

impl Mask<'_> {
    fn allow(&mut self, tok: Tok) {
        let id = self.walk.vocab().id(tok).0 as usize;
        self.bits[id / 64] |= 1 << (id % 64);
    }

    /// Keeps of what is allowed only what `is_right`.
    fn retain(&mut self, is_right: impl Fn(Tok) -> bool) {
        for (i, word) in self.bits.iter_mut().enumerate() {
            let mut left = *word;
            while left != 0 {
                let bit = left.trailing_zeros();
                left &= left - 1;
                let tok = self.walk.vocab().tok(Token(i as u32 * 64 + bit));
                if !tok.is_some_and(&is_right) {
                    *word &= !(1 << bit);
                }
            }
        }
    }

    /// `count` tokens from `first` on.
    fn run(&mut self, first: Tok, count: usize) {
        let from = self.walk.vocab().id(first).0 as usize;
        let to = from + count;
        let mut at = from;
        while at < to {
            let end = to.min((at / 64 + 1) * 64);
            let bits = if end - at == 64 { u64::MAX } else { ((1 << (end - at)) - 1) << (at % 64) };
            self.bits[at / 64] |= bits;
            at = end;
        }
    }

    fn bytes(&mut self, from: u8, to: u8) {
        self.run(Tok::Byte(from), usize::from(to - from) + 1);
    }

    /// The next byte of a number that has to lie in one of the ranges; `said` are the bytes before, `left` how many
    /// are to come, this one included.
    fn number(&mut self, ranges: &[(u32, u32)], said: u32, left: u8) {
        let shift = 8 * u32::from(left - 1);
        for &(from, to) in ranges {
            let base = said << 8;
            let (first, last) = (from >> shift, to >> shift);
            if from <= to && first <= base + 255 && last >= base {
                self.bytes(first.saturating_sub(base) as u8, (last - base).min(255) as u8);
            }
        }
    }
}

/// Ranges of payload lengths; at most three.
type Lengths = [(u32, u32); 2];
/// No length.
const NONE: (u32, u32) = (1, 0);

fn holds(ranges: &Lengths, n: u32) -> bool {
    ranges.iter().any(|r| r.0 <= n && n <= r.1)
}

/// The grammar of generated samples.
pub(super) struct Strict {
    walk: Walk,
    talks: Talks,
    exchanges: Exchanges,
    plans: Plans,
    departures: Departures,
    mtu: u32,
    /// Whether a flow may be rendered in the other version of IP, so that its payload has to fit below the longer header.
    is_either: bool,
}

impl Grammar for Strict {
    fn push(&mut self, token: Token) {
        if let Some(Tok::Label(label)) = self.walk.vocab().tok(token) {
            self.heed(Some(label));
        }
        let step = self.walk.push(token);
        self.talks.follow(&self.walk, step);
        self.exchanges.follow(&self.walk, step);
    }

    fn packets(&self) -> u64 {
        self.walk.packets()
    }

    fn must_end(&self, tokens_left: usize) -> bool {
        tokens_left < PACKET_TOKENS
    }

    fn allowed(&self, tokens_left: usize, mask: &mut [u64]) {
        mask.fill(0);
        let mut mask = Mask { walk: &self.walk, bits: mask };
        self.fill(tokens_left, &mut mask);
        // Only tokens that were not allowed, as a prompt may have, lead where nothing is right.
        if mask.bits.iter().all(|w| *w == 0) {
            mask.allow(Tok::End);
        }
    }
}

impl Strict {
    /// A grammar at the beginning of a sample whose IP packets are as long as the plan of its label allows.
    pub(super) fn new(walk: Walk, keep_names: bool, plans: Plans, departures: Departures) -> Self {
        let (talks, exchanges) = (Talks::default(), Exchanges::new(keep_names));
        let mut ret = Self { walk, talks, exchanges, plans, departures, mtu: 0, is_either: false };
        ret.heed(None);
        ret
    }

    /// Heeds what the plan of `label` asks for, and what its ports promise.
    fn heed(&mut self, label: Option<LabelId>) {
        self.talks.heed(self.departures.of(label));
        self.exchanges.heed(self.departures.of(label));
        let plan = self.plans.of(label);
        (self.mtu, self.is_either) = (u32::from(plan.mtu).max(576), plan.ipv6_percent.is_some());
    }

    fn fill(&self, tokens_left: usize, m: &mut Mask<'_>) {
        let closing = tokens_left < CLOSING_TOKENS;
        let c = &self.walk.current;
        match self.walk.stage {
            Stage::Gap => {
                m.allow(Tok::End);
                if tokens_left >= PACKET_TOKENS {
                    m.run(Tok::GapE(0), usize::from(GAP_BITS) + 1);
                }
            }
            Stage::Skip | Stage::Bytes(..) | Stage::GapExponent => m.allow(Tok::End),
            Stage::Done => m.allow(Tok::End),
            Stage::Mantissa => m.run(Tok::GapM(0), 64),
            Stage::Who => {
                for (i, slot) in self.walk.slots.iter().enumerate() {
                    for from_orig in [true, false] {
                        if may_send(slot, from_orig) {
                            m.allow(Tok::Flow(i as u8, from_orig));
                        }
                    }
                }
                for proto in [Proto::Tcp, Proto::Udp, Proto::Icmp] {
                    m.allow(Tok::Open(proto, false));
                    m.allow(Tok::Open(proto, true));
                }
            }
            Stage::Port => {
                m.run(Tok::Port(0), PORTS.len());
                m.allow(Tok::PortEph);
                m.allow(Tok::PortNum);
            }
            Stage::Sport => {
                m.allow(Tok::SportEph);
                m.allow(Tok::SportSame);
                m.allow(Tok::SportNum);
            }
            Stage::Host => {
                m.allow(Tok::HostNew);
                m.run(Tok::HostRef(0), self.walk.hosts(c.action.v6).len().min(HOSTS));
                // TCP has no groups (RFC 9293, section 3.9.2.3), nor has an echo that is answered.
                if c.action.proto == Proto::Udp {
                    m.allow(Tok::HostGroup);
                    if !c.action.v6 {
                        m.allow(Tok::HostBcast);
                    }
                }
            }
            Stage::Head(at) => self.head(at, tokens_left, m),
            Stage::Operand(operand, left) => self.operand(operand, left, tokens_left, m),
            Stage::Record => {
                m.allow(Tok::RecRest);
                if !closing {
                    m.number(&self.records(), 0, 2);
                }
            }
            Stage::Pieces => {
                let asked = self.talks.asked(&self.walk);
                let message = self.exchanges.asked(&self.walk).filter(|asked| tokens_left > asked.tokens());
                // An opening is short enough to be said to its end, and so was the message when it began.
                self.pieces(closing && asked.is_none() && message.is_none(), m);
                if let Some(asked) = asked {
                    m.retain(|tok| self.talks.permits(&self.walk, &asked, tok));
                }
                if let Some(asked) = message {
                    m.retain(|tok| asked.permits(&self.walk, tok));
                }
            }
        }
    }

    fn operand(&self, operand: Operand, left: u8, tokens_left: usize, m: &mut Mask<'_>) {
        let c = &self.walk.current;
        let said = self.walk.number();
        match operand {
            Operand::Port | Operand::Sport => m.number(&[(1, 0xffff)], said, left),
            Operand::Group if c.action.v6 => match left {
                16 => m.bytes(0xff, 0xff),
                // Flags and a scope that are not reserved (RFC 4291, section 2.7).
                15 => [0x01, 0x02, 0x05, 0x08, 0x0e, 0x12, 0x15].into_iter().for_each(|b| m.bytes(b, b)),
                _ => m.bytes(0, 255),
            },
            Operand::Group => match (left, self.walk.group()[0]) {
                (4, _) => {
                    m.bytes(224, 239);
                    m.bytes(255, 255);
                }
                (_, 255) => m.bytes(255, 255),
                _ => m.bytes(0, 255),
            },
            Operand::Ttl => m.bytes(1, 255),
            Operand::Tos | Operand::Window | Operand::Other | Operand::FixLen | Operand::RawLen => m.bytes(0, 255),
            Operand::Hole => {
                let side = self.walk.sides().0;
                let most = if side.framed { u32::from(side.record_left).saturating_sub(1) } else { 0x3fff };
                let most = most.min(self.room(side.next_for(0)).saturating_sub(1));
                m.number(&[(1, most.clamp(1, 0x3fff))], said, left);
            }
            Operand::Mss => m.number(&[(88, 65_495)], said, left),
            Operand::Ws => m.bytes(0, 14), // RFC 7323, section 2.3
            Operand::IcmpCode => match (c.action.v6, c.action.icmp[0]) {
                (false, 3) => m.bytes(0, 15),
                (true, 1) => m.bytes(0, 6),
                (false, 11) | (true, 3) => m.bytes(0, 1),
                _ => m.bytes(0, 0),
            },
            // As many as when its first token was said.
            Operand::LenLow | Operand::LenBig => m.number(&self.lengths(tokens_left + 1), said, left),
            Operand::TextName | Operand::DnsName => {
                let labels = u32::from(operand == Operand::DnsName);
                m.number(&[(1, (u32::from(self.walk.limit()) - labels).min(253))], said, left);
                m.retain(|tok| matches!(tok, Tok::Byte(len) if self.exchanges.permits_name(labels == 1, len)));
            }
            Operand::Record => m.number(&self.records(), said, left),
        }
    }

    fn head(&self, at: u8, tokens_left: usize, m: &mut Mask<'_>) {
        let c = &self.walk.current;
        let closing = tokens_left < CLOSING_TOKENS;
        let proto = c.action.proto;
        if at == rank::TTL && !closing {
            m.allow(Tok::Ttl);
        }
        if at <= rank::TOS && !closing {
            m.allow(Tok::Tos);
        }
        if at <= rank::ID && !closing && !c.action.v6 {
            if at <= rank::DF {
                m.allow(Tok::Df);
            }
            m.allow(Tok::IdMode);
        }
        match proto {
            Proto::Udp => self.length(tokens_left, m),
            Proto::Icmp if at <= rank::FLAGS => {
                let kinds: &[u8] = if c.action.v6 { &[1, 3, 128, 129] } else { &[0, 3, 8, 11] };
                kinds.iter().for_each(|k| m.bytes(*k, *k));
            }
            Proto::Icmp => self.length(tokens_left, m),
            Proto::Tcp => self.tcp(at, tokens_left, m),
        }
    }

    fn tcp(&self, at: u8, tokens_left: usize, m: &mut Mask<'_>) {
        let c = &self.walk.current;
        let closing = tokens_left < CLOSING_TOKENS;
        let (side, peer) = self.walk.sides();
        if at <= rank::FLAGS {
            if at <= rank::SEQ {
                self.sequence(closing, m);
            }
            self.flags(at, m);
            return;
        }
        if at <= rank::ACK && c.flags & ACK != 0 && !closing {
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

    fn flags(&self, at: u8, m: &mut Mask<'_>) {
        let c = &self.walk.current;
        let (side, _) = self.walk.sides();
        let from_orig = c.action.from_orig;
        let mut allow = |flags: &[u8]| flags.iter().for_each(|f| m.allow(Tok::Flags(*f)));
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

    fn length(&self, tokens_left: usize, m: &mut Mask<'_>) {
        let ranges = self.lengths(tokens_left);
        let side = self.walk.sides().0;
        if holds(&ranges, 0) {
            m.allow(Tok::Len0);
        }
        if side.len_max > 0 && holds(&ranges, u32::from(side.len_max)) {
            m.allow(Tok::LenMax);
        }
        if side.len_last > 0 && holds(&ranges, u32::from(side.len_last)) {
            m.allow(Tok::LenSame);
        }
        for high in 0..8u32 {
            let (from, to) = (high << 8, high << 8 | 255);
            if ranges.iter().any(|r| r.0 <= r.1 && r.0 <= to && r.1 >= from) {
                m.allow(Tok::LenHi(high as u8));
            }
        }
    }

    /// Payload lengths of the packet under way, where the first token of the length has so many tokens left.
    fn lengths(&self, tokens_left: usize) -> Lengths {
        let c = &self.walk.current;
        let ip = if c.action.v6 || self.is_either && c.action.proto != Proto::Icmp { 40 } else { 20 };
        match c.action.proto {
            Proto::Udp => {
                let most = self.mtu - ip - 8;
                // A message is said to its end, in at most two tokens a byte.
                let told = (tokens_left.saturating_sub(4) / 2).min(most as usize) as u32;
                self.exchanges.lengths(&self.walk, told).unwrap_or([(0, most), NONE])
            }
            Proto::Icmp => {
                let is_error = !matches!((c.action.v6, c.action.icmp[0]), (false, 0 | 8) | (true, 128 | 129));
                let quoted = if c.action.v6 { 48 } else { 28 };
                [
                    (if is_error { 4 + quoted } else { 4 }, self.mtu.min(if is_error { 576 } else { 1500 }) - ip - 4),
                    NONE,
                ]
            }
            Proto::Tcp => {
                let options = match &c.options {
                    Some(options) => options_len(options),
                    None => options_len(self.walk.default_options()),
                };
                let most = self.mtu - ip - 20 - options.next_multiple_of(4) as u32;
                let side = self.walk.sides().0;
                let room = match c.seq {
                    Seq::Next => self.room(side.next_for(c.flags)),
                    Seq::Keep => 1,
                    // These have a byte at least; a prompt may be in the wrong already.
                    Seq::Hole(n) => self.room(side.next_for(c.flags) + i64::from(n)).max(1),
                    Seq::Re(at) => self.room(at).max(1),
                };
                if self.talks.must_wait(&self.walk) {
                    return [(0, 0), NONE];
                }
                match (tcp_lengths(side, c.flags, c.seq, most.min(room)), self.talks.begins_as(&self.walk)) {
                    (lengths, Some(application)) if c.seq == Seq::Next => first_lengths(&lengths, application, c.flags),
                    (lengths, _) => lengths,
                }
            }
        }
    }

    /// Bytes that the sender may send from `at` on: what the other side has a window for (RFC 9293, section 3.8.6), where that is
    /// known.
    fn room(&self, at: i64) -> u32 {
        self.walk.sides().1.edge.map_or(0xffff, |edge| (edge - at).clamp(0, 0xffff) as u32)
    }

    /// Lengths of a TLS record that begins here: it ends with the segment, leaves room for another, or goes on.
    fn records(&self) -> [(u32, u32); 2] {
        let after = u32::from(self.walk.current.left) - 5;
        [if after > 6 { (1, after - 6) } else { NONE }, (after, RECORD_MAX)]
    }

    fn pieces(&self, closing: bool, m: &mut Mask<'_>) {
        let c = &self.walk.current;
        let is_icmp = c.action.proto == Proto::Icmp;
        if is_icmp && !matches!((c.action.v6, c.action.icmp[0]), (false, 0 | 8) | (true, 128 | 129)) {
            return m.allow(Tok::Quote);
        }
        let can_frame = c.action.proto == Proto::Tcp && c.record_left == 0 && c.left >= 6 && c.flags & FIN == 0;
        if c.framed && c.record_left == 0 && can_frame {
            return m.run(Tok::Tls(0, 1), 2 * TLS_TYPES.len());
        }
        m.allow(Tok::OpaqueRest);
        if closing {
            return;
        }
        if can_frame && c.done == 0 {
            m.run(Tok::Tls(0, 1), 2 * TLS_TYPES.len());
        }
        let limit = usize::from(self.walk.limit());
        m.allow(Tok::TextRest);
        m.allow(Tok::ZeroRest);
        m.bytes(0, 255);
        // The shortest strings are the first.
        let strings = self.walk.strings().partition_point(|s| s.len() <= limit);
        m.run(Tok::Str(0), strings);
        let (side, peer) = self.walk.sides();
        let at = usize::from(c.done);
        for (side, run, rest) in [(side, Tok::Same(1), Tok::SameRest), (peer, Tok::Peer(1), Tok::PeerRest)] {
            let reach = usize::from(side.message_len).saturating_sub(at);
            m.run(run, reach.min(limit).min(RUN_MAX));
            if reach >= limit {
                m.allow(rest);
            }
        }
        if limit >= 2 && at + 2 <= usize::from(side.message_len) {
            m.allow(Tok::Inc2);
        }
        m.run(Tok::Opaque(1), limit.min(RUN_MAX));
        m.run(Tok::Quad(7), limit.saturating_sub(6).min(9));
        m.allow(Tok::TextName);
        if limit >= 2 {
            m.allow(Tok::DnsName);
        }
        for (i, (_, len)) in self.walk.names.iter().enumerate().take(NAMES) {
            if usize::from(*len) <= limit {
                m.allow(Tok::TextRef(i as u8));
            }
            if usize::from(*len) < limit {
                m.allow(Tok::DnsRef(i as u8));
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

fn may_send(slot: &Slot, from_orig: bool) -> bool {
    let me = &slot.sides[usize::from(!from_orig)];
    match slot.proto {
        Proto::Tcp => !slot.closed && (me.has_sent || slot.sides[0].syn),
        // No packet comes from a group (RFC 1122, section 3.2.1.3; RFC 4291, section 2.7).
        Proto::Udp | Proto::Icmp => from_orig || !slot.to_group,
    }
}

/// Those of `lengths` that a side's first segment with payload has.
fn first_lengths(lengths: &Lengths, application: Application, flags: u8) -> Lengths {
    let (least, most) = application.first_length();
    // Records go on in other segments.
    let is_last = application == Application::Tls && flags & FIN != 0;
    let said = if is_last { NONE } else { (lengths[0].0.max(least), lengths[0].1.min(most)) };
    [if holds(lengths, 0) { (0, 0) } else { NONE }, said]
}

/// Payload lengths of a segment, up to `most`.
fn tcp_lengths(side: &Side, flags: u8, seq: Seq, most: u32) -> Lengths {
    let nothing = [(0, 0), NONE];
    if flags & (SYN | RST) != 0 {
        return nothing;
    }
    let framed = |left: u32, least: u32| {
        // A record header is not cut by a segment's end.
        [(least, left.min(most)), (left + 6, most)]
    };
    match seq {
        Seq::Keep => [(0, 1), NONE],
        Seq::Re(at) if Some(at) == side.fin => nothing,
        Seq::Re(at) => [(1, most.min((side.data_end() - at).clamp(1, 0xffff) as u32)), NONE],
        Seq::Hole(_) if !side.framed => [(1, most), NONE],
        Seq::Hole(n) => framed(u32::from(side.record_left.saturating_sub(n)), 1),
        Seq::Next if side.fin.is_some() => nothing,
        Seq::Next if !side.framed => [(0, most), NONE],
        Seq::Next if flags & FIN != 0 => nothing,
        Seq::Next => framed(u32::from(side.record_left), 0),
    }
}

const _: () = assert!(SLOTS <= 256 && CLOSING_TOKENS < PACKET_TOKENS);

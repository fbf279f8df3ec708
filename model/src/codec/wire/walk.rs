//! The grammar as an automaton: takes tokens one by one, keeps the state of the session, gives whole packets.
//!
//! Encoder, decoder and sampling all walk over the same tokens with it, so they cannot disagree about what a relative
//! decision means. State changes only when a packet is complete: one that is dropped leaves no trace.

use std::sync::Arc;

use super::super::Token;
use super::action::{Action, Host, Open, Opt, Piece, Segment, Sport};
use super::side::{ACK, MESSAGE_MAX, PSH, RST, SYN, Side};
use super::steps::{gap_value, window_within};
use super::vocab::{HOSTS, NAMES, PORTS, Proto, SLOTS, TLS_TYPES, Tok, Vocab, window};

/// Bytes of a patch or of a packet without structure.
const BYTES_MAX: usize = 1 << 20;
/// Options of a segment: more do not fit into a header.
pub(super) const OPTIONS_MAX: usize = 40;

/// What a token led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The packet goes on, or is being skipped.
    More,
    /// A packet is complete; [`Walk::action`] is it. A patch can follow.
    Packet,
    /// A patch for the last packet is complete: [`Walk::bytes`].
    Fix,
    /// A packet without structure is complete: [`Walk::gap_ns`] and [`Walk::bytes`].
    Raw,
    /// The sample ends.
    End,
    /// The token has no place here; the packet that it was to be part of is dropped.
    Bad,
}

/// What a byte that has to follow belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operand {
    Port,
    Sport,
    Group,
    Ttl,
    Tos,
    Hole,
    Window,
    Mss,
    Ws,
    Other,
    IcmpCode,
    LenLow,
    LenBig,
    TextName,
    DnsName,
    Record,
    FixLen,
    RawLen,
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Between packets.
    Gap,
    /// After `back`.
    GapExponent,
    Mantissa,
    Who,
    Port,
    Sport,
    Host,
    /// Header fields from this rank on.
    Head(u8),
    /// So many bytes of a number.
    Operand(Operand, u8),
    /// The length of a TLS record.
    Record,
    Pieces,
    /// So many bytes of a patch, or of a packet without structure.
    Bytes(u32, bool),
    /// Until the next packet begins.
    Skip,
    Done,
}

/// Ranks of header fields, in the order in which they may come.
pub(super) mod rank {
    pub(in super::super) const TTL: u8 = 0;
    pub(in super::super) const TOS: u8 = 1;
    pub(in super::super) const DF: u8 = 2;
    pub(in super::super) const ID: u8 = 3;
    pub(in super::super) const SEQ: u8 = 4;
    pub(in super::super) const FLAGS: u8 = 5;
    pub(in super::super) const ACK: u8 = 6;
    pub(in super::super) const WINDOW: u8 = 7;
    pub(in super::super) const OPTIONS: u8 = 8;
    pub(in super::super) const LEN: u8 = 9;
}

/// How the sequence number was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Seq {
    #[default]
    Next,
    Keep,
    Hole(u16),
    Re(i64),
}

/// How the acknowledgement number was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum AckBy {
    #[default]
    Contiguous,
    Same,
    Bound(i64),
}

/// A flow of the session.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) proto: Proto,
    pub v6: bool,
    /// Whether the responder is a group or a broadcast, which answers nobody.
    pub(super) to_group: bool,
    /// Opener, responder.
    pub(super) sides: [Side; 2],
    /// RST, or FIN and its acknowledgement both ways.
    pub(super) closed: bool,
    used: u64,
    /// Who sent the last payload: 0 the opener.
    last_payload: Option<u8>,
}

/// The packet under way.
#[derive(Debug, Clone)]
pub(super) struct Current {
    pub(super) action: Action,
    pub(super) seq: Seq,
    ack: AckBy,
    pub(super) flags: u8,
    window: u16,
    /// Options as given; `None` for the default.
    pub(super) options: Option<Vec<Opt>>,
    number: u32,
    group: [u8; 16],
    /// New payload bytes so far, and still to come.
    pub(super) done: u16,
    pub(super) left: u16,
    pub(super) record_left: u16,
    pub(super) framed: bool,
    tls: (u8, u8),
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    vocab: Vocab,
    strings: Arc<[Box<[u8]>]>,
    pub(super) slots: Vec<Slot>,
    tick: u64,
    packets: u64,
    hosts: [Vec<u32>; 2],
    pub(super) names: Vec<(u32, u8)>,
    next_host: u32,
    next_name: u32,
    /// Time to live, DSCP, don't fragment and zero identification as openers and responders had them last, by version.
    fresh: [[(u8, u8, bool, bool); 2]; 2],
    pub(super) stage: Stage,
    pub(super) current: Current,
    bytes: Vec<u8>,
    can_fix: bool,
}

const IDLE: Action = Action {
    gap_ns: 0,
    slot: 0,
    from_orig: true,
    opens: None,
    proto: Proto::Udp,
    v6: false,
    ttl: 64,
    tos: 0,
    df: true,
    id_zero: false,
    tcp: None,
    icmp: [0; 2],
    len: 0,
    len_known: 0,
    stream_at: 0,
    pieces: Vec::new(),
    is_message: false,
};

impl Walk {
    /// A session that has not begun.
    pub(super) fn new(vocab: Vocab, strings: Arc<[Box<[u8]>]>) -> Self {
        let current = Current {
            action: IDLE,
            seq: Seq::Next,
            ack: AckBy::Contiguous,
            flags: 0,
            window: 0,
            options: None,
            number: 0,
            group: [0; 16],
            done: 0,
            left: 0,
            record_left: 0,
            framed: false,
            tls: (0, 0),
        };
        Self {
            vocab,
            strings,
            slots: Vec::new(),
            tick: 0,
            packets: 0,
            hosts: [Vec::new(), Vec::new()],
            names: Vec::new(),
            next_host: 0,
            next_name: 0,
            fresh: [[(64, 0, true, false); 2]; 2],
            stage: Stage::Gap,
            current,
            bytes: Vec::new(),
            can_fix: false,
        }
    }

    /// The packet that was completed last.
    pub(super) fn action(&self) -> &Action {
        &self.current.action
    }

    /// Time before the packet under way, in nanoseconds.
    pub(super) fn gap_ns(&self) -> i64 {
        self.current.action.gap_ns
    }

    /// The bytes after `fix` or `raw`.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Complete packets so far.
    pub(super) fn packets(&self) -> u64 {
        self.packets
    }

    /// The strings of the dictionary.
    pub(super) fn strings(&self) -> &[Box<[u8]>] {
        &self.strings
    }

    pub(super) fn shared_strings(&self) -> Arc<[Box<[u8]>]> {
        self.strings.clone()
    }

    /// Whether the tokens of a patch are coming.
    pub(super) fn is_in_fix(&self) -> bool {
        matches!(self.stage, Stage::Operand(Operand::FixLen, _) | Stage::Bytes(_, true))
    }

    pub(super) fn vocab(&self) -> Vocab {
        self.vocab
    }

    /// The sender's side of the flow of the packet under way, and the other.
    pub(super) fn sides(&self) -> (&Side, &Side) {
        sides(&self.slots, &self.current.action)
    }

    /// The options of the segment under way, unless others are given.
    pub(super) fn default_options(&self) -> &'static [Opt] {
        let (side, peer) = self.sides();
        default_options(self.current.flags, side, peer)
    }

    /// Numbers of the hosts that can be referred to, the latest first.
    pub(super) fn hosts(&self, v6: bool) -> &[u32] {
        &self.hosts[usize::from(v6)]
    }

    /// The slot that the next flow gets: unused or closed, else the one that was silent longest.
    pub(super) fn slot_to_open(&self) -> usize {
        if let Some(closed) = self.slots.iter().position(|s| s.closed) {
            return closed;
        }
        if self.slots.len() < SLOTS {
            return self.slots.len();
        }
        (0..SLOTS).min_by_key(|s| self.slots[*s].used).unwrap_or(0)
    }

    /// The number that a host new to the session gets.
    pub(super) fn next_host(&self) -> u32 {
        self.next_host
    }

    /// Takes a token.
    pub(super) fn push(&mut self, token: Token) -> Step {
        let Some(tok) = self.vocab.tok(token) else { return self.bad() };
        match self.take(tok) {
            Some(step) => step,
            None => {
                let bad = self.bad();
                // What cannot go on can still begin.
                if matches!(tok, Tok::GapE(_) | Tok::Back | Tok::End) && self.stage == Stage::Skip {
                    self.stage = Stage::Gap;
                    self.take(tok);
                }
                bad
            }
        }
    }

    fn bad(&mut self) -> Step {
        if self.stage == Stage::Done {
            return Step::Bad;
        }
        let is_new = self.stage != Stage::Skip;
        self.stage = Stage::Skip;
        self.can_fix = false;
        if is_new { Step::Bad } else { Step::More }
    }

    /// `None` when the token has no place here.
    fn take(&mut self, tok: Tok) -> Option<Step> {
        match (self.stage, tok) {
            (Stage::Gap | Stage::Skip, Tok::GapE(_) | Tok::Back | Tok::End) => {
                self.can_fix = false;
                self.current.action.pieces.clear();
                self.current.action = Action { pieces: std::mem::take(&mut self.current.action.pieces), ..IDLE };
                match tok {
                    Tok::End => {
                        self.stage = Stage::Done;
                        return Some(Step::End);
                    }
                    Tok::Back => {
                        self.current.action.gap_ns = -1;
                        self.stage = Stage::GapExponent;
                    }
                    Tok::GapE(e) => self.gap(e),
                    _ => unreachable!("matched above"),
                }
            }
            (Stage::Gap, Tok::Label(_)) if self.packets == 0 => {}
            (Stage::Gap, Tok::Fix) if self.can_fix => self.operand(Operand::FixLen, 3),
            (Stage::GapExponent, Tok::GapE(e)) => self.gap(e),
            (Stage::Mantissa, Tok::GapM(m)) => {
                let a = &mut self.current.action;
                a.gap_ns = gap_value(a.gap_ns.unsigned_abs() as u8, m) * a.gap_ns.signum();
                self.stage = Stage::Who;
            }
            (Stage::Who, Tok::Flow(slot, from_orig)) => {
                self.slots.get(usize::from(slot))?;
                self.current.action.slot = slot;
                self.current.action.from_orig = from_orig;
                self.begin();
            }
            (Stage::Who, Tok::Open(proto, v6)) => {
                let a = &mut self.current.action;
                (a.proto, a.v6, a.from_orig) = (proto, v6, true);
                a.opens = Some(Open { port: None, sport: Sport::Ephemeral, host: Host::Broadcast });
                self.stage = if proto == Proto::Icmp { Stage::Host } else { Stage::Port };
            }
            (Stage::Who, Tok::Raw) => self.operand(Operand::RawLen, 3),
            (Stage::Port, Tok::Port(i)) => {
                self.open()?.port = Some(PORTS[usize::from(i)]);
                self.stage = Stage::Sport;
            }
            (Stage::Port, Tok::PortEph) => self.stage = Stage::Sport,
            (Stage::Port, Tok::PortNum) => self.operand(Operand::Port, 2),
            (Stage::Sport, Tok::SportEph) => self.stage = Stage::Host,
            (Stage::Sport, Tok::SportSame) => {
                self.open()?.sport = Sport::Same;
                self.stage = Stage::Host;
            }
            (Stage::Sport, Tok::SportNum) => self.operand(Operand::Sport, 2),
            (Stage::Host, Tok::HostNew) => {
                self.open()?.host = Host::Known(self.next_host);
                self.begin();
            }
            (Stage::Host, Tok::HostRef(i)) => {
                let host = *self.hosts(self.current.action.v6).get(usize::from(i))?;
                self.open()?.host = Host::Known(host);
                self.begin();
            }
            (Stage::Host, Tok::HostBcast) => self.begin(),
            (Stage::Host, Tok::HostGroup) => {
                self.current.group = [0; 16];
                self.operand(Operand::Group, if self.current.action.v6 { 16 } else { 4 });
            }
            (Stage::Head(at), tok) => return self.head(at, tok),
            (Stage::Operand(operand, left), Tok::Byte(b)) => return self.operand_byte(operand, left, b),
            (Stage::Record, Tok::RecRest) => {
                let len = self.current.left.checked_sub(5)?;
                return self.record(len);
            }
            (Stage::Record, Tok::Byte(b)) => {
                self.operand(Operand::Record, 2);
                return self.operand_byte(Operand::Record, 2, b);
            }
            (Stage::Pieces, tok) => return self.piece(tok),
            (Stage::Bytes(left, is_fix), Tok::Byte(b)) => {
                self.bytes.push(b);
                self.stage = Stage::Bytes(left - 1, is_fix);
                if left == 1 {
                    self.stage = Stage::Gap;
                    self.packets += u64::from(!is_fix);
                    return Some(if is_fix { Step::Fix } else { Step::Raw });
                }
            }
            (Stage::Skip, _) => {}
            _ => return None,
        }
        Some(Step::More)
    }

    fn open(&mut self) -> Option<&mut Open> {
        self.current.action.opens.as_mut()
    }

    fn operand(&mut self, operand: Operand, bytes: u8) {
        self.current.number = 0;
        self.stage = Stage::Operand(operand, bytes);
    }

    fn gap(&mut self, exponent: u8) {
        let a = &mut self.current.action;
        let sign = if a.gap_ns < 0 { -1 } else { 1 };
        if exponent < 2 {
            a.gap_ns = sign * i64::from(exponent);
            self.stage = Stage::Who;
        } else {
            a.gap_ns = sign * i64::from(exponent); // until the mantissa comes
            self.stage = Stage::Mantissa;
        }
    }

    /// The flow is known: what is not said is as before.
    fn begin(&mut self) {
        if self.current.action.opens.is_some() {
            self.current.action.slot = self.slot_to_open() as u8;
        }
        let c = &mut self.current;
        let me = usize::from(!c.action.from_orig);
        let (side, _) = sides(&self.slots, &c.action);
        let a = &mut c.action;
        a.is_message = true;
        if a.opens.is_none() {
            let slot = &self.slots[usize::from(a.slot)];
            (a.proto, a.v6) = (slot.proto, slot.v6);
            a.is_message = a.proto != Proto::Tcp || slot.last_payload != Some(me as u8) || side.pushed;
        }
        (a.ttl, a.tos, a.df, a.id_zero) =
            if side.has_sent { (side.ttl, side.tos, side.df, side.id_zero) } else { self.fresh[usize::from(a.v6)][me] };
        (c.window, c.record_left, c.framed) = (side.window, side.record_left, side.framed);
        (c.seq, c.ack, c.flags, c.options) = (Seq::Next, AckBy::Contiguous, 0, None);
        (c.done, c.left) = (0, 0);
        self.stage = Stage::Head(rank::TTL);
    }

    fn head(&mut self, at: u8, tok: Tok) -> Option<Step> {
        let is_tcp = self.current.action.proto == Proto::Tcp;
        let (rank, next) = match tok {
            Tok::Ttl => (rank::TTL, Stage::Operand(Operand::Ttl, 1)),
            Tok::Tos => (rank::TOS, Stage::Operand(Operand::Tos, 1)),
            Tok::Df => (rank::DF, Stage::Head(rank::ID)),
            Tok::IdMode => (rank::ID, Stage::Head(rank::SEQ)),
            Tok::SeqHole if is_tcp => (rank::SEQ, Stage::Operand(Operand::Hole, 2)),
            Tok::SeqKeep | Tok::SeqRe(_) if is_tcp => (rank::SEQ, Stage::Head(rank::FLAGS)),
            Tok::Flags(_) if is_tcp => (rank::FLAGS, Stage::Head(rank::ACK)),
            Tok::Byte(_) if self.current.action.proto == Proto::Icmp => {
                (rank::FLAGS, Stage::Operand(Operand::IcmpCode, 1))
            }
            Tok::AckSame | Tok::AckLag(_) if is_tcp => (rank::ACK, Stage::Head(rank::WINDOW)),
            Tok::Win(0..8) if is_tcp => (rank::WINDOW, Stage::Head(rank::OPTIONS)),
            Tok::Win(_) if is_tcp => (rank::WINDOW, Stage::Operand(Operand::Window, 1)),
            Tok::OptNone if is_tcp => (rank::OPTIONS, Stage::Head(rank::LEN)),
            Tok::SackOk | Tok::Ts | Tok::Nop | Tok::Eol | Tok::Sack(_) if is_tcp => {
                (rank::OPTIONS, Stage::Head(rank::OPTIONS))
            }
            Tok::Mss if is_tcp => (rank::OPTIONS, Stage::Operand(Operand::Mss, 2)),
            Tok::Ws if is_tcp => (rank::OPTIONS, Stage::Operand(Operand::Ws, 1)),
            Tok::OptOther if is_tcp => (rank::OPTIONS, Stage::Operand(Operand::Other, 2)),
            Tok::Len0 | Tok::LenMax | Tok::LenSame => (rank::LEN, Stage::Pieces),
            Tok::LenHi(_) => (rank::LEN, Stage::Operand(Operand::LenLow, 1)),
            Tok::LenBig => (rank::LEN, Stage::Operand(Operand::LenBig, 2)),
            _ => return None,
        };
        // Flags (and an ICMP type) can neither be left out nor come twice; UDP has none.
        let is_late = at > rank::FLAGS || self.current.action.proto == Proto::Udp;
        if rank < at || (rank > rank::FLAGS) != (is_late && rank > rank::FLAGS) {
            return None;
        }
        let c = &mut self.current;
        c.number = 0;
        match tok {
            Tok::Df => c.action.df ^= true,
            Tok::IdMode => c.action.id_zero ^= true,
            Tok::SeqKeep => c.seq = Seq::Keep,
            Tok::SeqRe(k) => self.current.seq = Seq::Re(self.sides().0.bound(k)?),
            Tok::Flags(flags) => c.flags = flags,
            Tok::Byte(b) => c.action.icmp[0] = b,
            Tok::AckSame => c.ack = AckBy::Same,
            Tok::AckLag(k) => self.current.ack = AckBy::Bound(self.sides().1.bound(k)?),
            Tok::Win(class) => (c.window, c.number) = (window(class), u32::from(class)),
            Tok::OptNone => c.options = Some(Vec::new()),
            Tok::SackOk => self.option(Opt::SackOk)?,
            Tok::Ts => self.option(Opt::Ts)?,
            Tok::Nop => self.option(Opt::Nop)?,
            Tok::Eol => self.option(Opt::Eol)?,
            Tok::Sack(n) => self.option(Opt::Sack(n, [(0, 0); 4]))?,
            Tok::Len0 => return self.payload(0),
            Tok::LenMax => return self.payload(self.sides().0.len_max),
            Tok::LenSame => return self.payload(self.sides().0.len_last),
            Tok::LenHi(h) => c.number = u32::from(h),
            _ => {}
        }
        self.stage = next;
        Some(Step::More)
    }

    fn option(&mut self, option: Opt) -> Option<()> {
        let options = self.current.options.get_or_insert_default();
        options.push(option);
        (options_len(options) <= OPTIONS_MAX).then_some(())
    }

    fn operand_byte(&mut self, operand: Operand, left: u8, b: u8) -> Option<Step> {
        let c = &mut self.current;
        if operand == Operand::Group {
            let len = if c.action.v6 { 16 } else { 4 };
            c.group[len - usize::from(left)] = b;
        } else {
            c.number = c.number << 8 | u32::from(b);
        }
        if left > 1 {
            self.stage = Stage::Operand(operand, left - 1);
            return Some(Step::More);
        }
        let number = c.number;
        match operand {
            Operand::Port => {
                self.open()?.port = Some(number as u16);
                self.stage = Stage::Sport;
            }
            Operand::Sport => {
                self.open()?.sport = Sport::Number(number as u16);
                self.stage = Stage::Host;
            }
            Operand::Group => {
                let group = c.group;
                self.open()?.host = Host::Group(group);
                self.begin();
            }
            Operand::Ttl => {
                c.action.ttl = b;
                self.stage = Stage::Head(rank::TOS);
            }
            Operand::Tos => {
                c.action.tos = b;
                self.stage = Stage::Head(rank::DF);
            }
            Operand::Hole => {
                if number == 0 {
                    return None;
                }
                c.seq = Seq::Hole(number as u16);
                self.stage = Stage::Head(rank::FLAGS);
            }
            Operand::Window => {
                c.window = window_within((number >> 8) as u8, b);
                self.stage = Stage::Head(rank::OPTIONS);
            }
            Operand::Mss => {
                self.option(Opt::Mss(number as u16))?;
                self.stage = Stage::Head(rank::OPTIONS);
            }
            Operand::Ws => {
                self.option(Opt::Ws(b))?;
                self.stage = Stage::Head(rank::OPTIONS);
            }
            Operand::Other => {
                self.option(Opt::Other((number >> 8) as u8, b))?;
                self.stage = Stage::Head(rank::OPTIONS);
            }
            Operand::IcmpCode => {
                c.action.icmp[1] = b;
                self.stage = Stage::Head(rank::LEN);
            }
            Operand::LenLow | Operand::LenBig => return self.payload(number as u16),
            Operand::TextName | Operand::DnsName => return self.name(b, operand == Operand::DnsName),
            Operand::Record => return self.record(number as u16),
            Operand::FixLen | Operand::RawLen => {
                let is_fix = operand == Operand::FixLen;
                if number == 0 || number as usize > BYTES_MAX {
                    return None;
                }
                self.can_fix = false;
                self.bytes.clear();
                self.stage = Stage::Bytes(number, is_fix);
            }
        }
        Some(Step::More)
    }

    /// The header is complete: resolves what is relative.
    fn payload(&mut self, len: u16) -> Option<Step> {
        let c = &mut self.current;
        let (side, peer) = sides(&self.slots, &c.action);
        let a = &mut c.action;
        a.len = len;
        (a.tcp, a.len_known, a.stream_at) = (None, 0, 0);
        if a.proto == Proto::Tcp {
            let next = side.next_for(c.flags);
            let seq = match c.seq {
                Seq::Next => next,
                Seq::Keep => next - 1,
                Seq::Hole(n) => next + i64::from(n),
                Seq::Re(at) => at,
            };
            let ack = match c.ack {
                _ if c.flags & ACK == 0 => 0,
                AckBy::Contiguous => peer.contiguous().max(1),
                AckBy::Same => side.acked,
                AckBy::Bound(at) => at,
            };
            let is_syn = c.flags & SYN != 0;
            let mut options = c.options.take().unwrap_or_else(|| default_options(c.flags, side, peer).to_vec());
            for option in &mut options {
                if let Opt::Sack(_, blocks) = option {
                    *blocks = peer.sack_blocks(ack).0;
                }
            }
            let hole = if let Seq::Hole(n) = c.seq { n } else { 0 };
            let is_next = c.seq == Seq::Next;
            a.stream_at = seq + i64::from(is_syn);
            a.len_known = (side.next.max(next) - a.stream_at).clamp(0, i64::from(len)) as u16;
            if hole > 0 {
                a.len_known = 0;
                c.framed &= hole <= c.record_left;
                c.record_left = c.record_left.saturating_sub(hole);
            }
            a.tcp = Some(Segment { seq, is_next, hole, ack, flags: c.flags, window: c.window, options });
        }
        c.left = a.len - a.len_known;
        self.stage = Stage::Pieces;
        if self.current.left == 0 { Some(self.complete()) } else { Some(Step::More) }
    }

    /// What was said of the number under way, and of the group.
    pub(super) fn number(&self) -> u32 {
        self.current.number
    }

    pub(super) fn group(&self) -> [u8; 16] {
        self.current.group
    }

    /// How far a piece can reach: to the end of the record, or of the packet.
    pub(super) fn limit(&self) -> u16 {
        let c = &self.current;
        if c.record_left > 0 { c.left.min(c.record_left) } else { c.left }
    }

    fn piece(&mut self, tok: Tok) -> Option<Step> {
        let limit = self.limit();
        let name_ref = |i: u8| self.names.get(usize::from(i)).copied();
        let piece = match tok {
            Tok::Byte(b) => Piece::Byte(b),
            Tok::Str(i) => Piece::Str(i),
            Tok::Same(n) => Piece::Same(u16::from(n)),
            Tok::SameRest => Piece::Same(limit),
            Tok::Peer(n) => Piece::Peer(u16::from(n)),
            Tok::PeerRest => Piece::Peer(limit),
            Tok::Inc2 => Piece::Inc2,
            Tok::Opaque(n) => Piece::Opaque(u16::from(n)),
            Tok::OpaqueRest => Piece::Opaque(limit),
            Tok::TextRest => Piece::Text(limit),
            Tok::ZeroRest => Piece::Zero(limit),
            Tok::Quad(n) => Piece::Quad(n),
            Tok::TextRef(i) | Tok::DnsRef(i) => {
                let (id, len) = name_ref(i)?;
                Piece::Name(id, len, matches!(tok, Tok::DnsRef(_)))
            }
            Tok::TextName => {
                self.operand(Operand::TextName, 1);
                return Some(Step::More);
            }
            Tok::DnsName => {
                self.operand(Operand::DnsName, 1);
                return Some(Step::More);
            }
            Tok::Quote if self.current.action.proto == Proto::Icmp => Piece::Quote(limit),
            Tok::Tls(i, minor) if self.current.action.proto == Proto::Tcp => {
                if self.current.record_left > 0 || self.current.left < 5 {
                    return None;
                }
                self.current.tls = (TLS_TYPES[usize::from(i)], minor);
                self.stage = Stage::Record;
                return Some(Step::More);
            }
            _ => return None,
        };
        self.add(piece)
    }

    fn name(&mut self, len: u8, as_labels: bool) -> Option<Step> {
        if len == 0 || u16::from(len) + u16::from(as_labels) > self.limit() {
            return None;
        }
        let id = self.next_name;
        self.next_name += 1;
        self.names.insert(0, (id, len));
        self.names.truncate(NAMES);
        self.add(Piece::Name(id, len, as_labels))
    }

    fn record(&mut self, len: u16) -> Option<Step> {
        let (kind, minor) = self.current.tls;
        self.add(Piece::Tls(kind, minor, len))
    }

    fn add(&mut self, piece: Piece) -> Option<Step> {
        let len = piece.len(&self.strings);
        let at = self.current.done;
        let (side, peer) = self.sides();
        let fits = match piece {
            Piece::Tls(..) => len <= self.current.left,
            Piece::Same(_) | Piece::Inc2 => len <= self.limit() && at + len <= side.message_len,
            Piece::Peer(_) => len <= self.limit() && at + len <= peer.message_len,
            _ => len <= self.limit(),
        };
        if !fits || len == 0 {
            return None;
        }
        let c = &mut self.current;
        match piece {
            Piece::Tls(_, _, record) => {
                c.record_left = record;
                c.framed = true;
            }
            _ if c.record_left > 0 => c.record_left -= len,
            _ => c.framed = false,
        }
        c.done += len;
        c.left -= len;
        c.action.pieces.push(piece);
        self.stage = Stage::Pieces;
        if self.current.left == 0 { Some(self.complete()) } else { Some(Step::More) }
    }

    /// Takes the packet into the session's state.
    fn complete(&mut self) -> Step {
        self.tick += 1;
        self.packets += 1;
        self.stage = Stage::Gap;
        self.can_fix = true;
        let c = &mut self.current;
        let a = &mut c.action;
        let version = usize::from(a.v6);
        if let Some(open) = a.opens {
            let slot = Slot {
                proto: a.proto,
                v6: a.v6,
                to_group: !matches!(open.host, Host::Known(_)),
                sides: [Side::blank(), Side::blank()],
                closed: false,
                used: 0,
                last_payload: None,
            };
            match self.slots.get_mut(usize::from(a.slot)) {
                Some(place) => *place = slot,
                None => self.slots.push(slot),
            }
            if let Host::Known(id) = open.host {
                self.next_host += u32::from(id == self.next_host);
                let hosts = &mut self.hosts[version];
                hosts.retain(|h| *h != id);
                hosts.insert(0, id);
                hosts.truncate(HOSTS);
            }
        }
        let slot = &mut self.slots[usize::from(a.slot)];
        slot.used = self.tick;
        let me = usize::from(!a.from_orig);
        let [orig, resp] = &mut slot.sides;
        let (side, peer) = if me == 0 { (orig, resp) } else { (resp, orig) };
        (side.ttl, side.tos, side.df, side.id_zero) = (a.ttl, a.tos, a.df, a.id_zero);
        self.fresh[version][me] = (a.ttl, a.tos, a.df, a.id_zero);
        (side.record_left, side.framed) = (c.record_left, c.framed);
        if let Some(segment) = &a.tcp {
            side.window = segment.window;
            side.next = side.next_for(segment.flags);
            side.send(segment, a.len);
            side.open_window(segment, peer.scale);
            if segment.flags & RST == 0 {
                side.ts = segment.options.contains(&Opt::Ts);
            }
            if segment.flags & ACK != 0 {
                peer.acknowledge(segment.ack);
            }
            let fin_acked = |a: &Side, b: &Side| a.fin.is_some_and(|fin| b.acked > fin);
            slot.closed |= segment.flags & RST != 0 || fin_acked(side, peer) && fin_acked(peer, side);
        }
        side.has_sent = true;
        if a.len > 0 {
            side.len_max = side.len_max.max(a.len);
            side.len_last = a.len;
            side.pushed = c.flags & PSH != 0;
            slot.last_payload = Some(me as u8);
        }
        a.is_message &= a.len > a.len_known;
        if a.is_message {
            side.message_len = (a.len - a.len_known).min(MESSAGE_MAX as u16);
        }
        Step::Packet
    }
}

/// Timestamps as last time, as long as both sides have them (RFC 7323, section 3.2).
fn default_options(flags: u8, side: &Side, peer: &Side) -> &'static [Opt] {
    let has_ts = flags & SYN == 0 && side.ts && (peer.ts || !peer.has_sent);
    if has_ts { &[Opt::Nop, Opt::Nop, Opt::Ts] } else { &[] }
}

/// The sender's side and the other; blank for a flow that is being opened.
fn sides<'a>(slots: &'a [Slot], action: &Action) -> (&'a Side, &'a Side) {
    static BLANK: Side = Side::blank();
    if action.opens.is_some() {
        return (&BLANK, &BLANK);
    }
    let me = usize::from(!action.from_orig);
    let sides = &slots[usize::from(action.slot)].sides;
    (&sides[me], &sides[1 - me])
}

/// Bytes of an option list without padding.
pub(super) fn options_len(options: &[Opt]) -> usize {
    options.iter().map(|o| o.len()).sum()
}

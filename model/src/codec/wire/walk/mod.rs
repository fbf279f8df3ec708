//! The grammar as an automaton: takes tokens one by one, keeps the state of the session, gives whole packets.
//!
//! Encoder, decoder and sampling all walk over the same tokens with it, so they cannot disagree about what a relative
//! decision means. State changes only when a packet is complete: one that is dropped leaves no trace.

mod complete;
mod header;
mod pieces;
mod state;

use std::sync::Arc;

use self::state::AckBy;
pub(super) use self::state::{Current, Operand, Seq, Slot, Stage, Step, rank};

use super::super::Token;
use super::action::{Action, Host, Open, Opt, Sport};
use super::habits;
use super::outlook::{Ends, Outlook};
use super::side::{SYN, Side};
use super::steps::gap_value;
use super::vocab::{PORTS, Proto, SLOTS, Tok, Vocab};

/// Bytes of a patch or of a packet without structure.
const BYTES_MAX: usize = 1 << 20;
/// Options of a segment: more do not fit into a header.
pub(super) const OPTIONS_MAX: usize = 40;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    vocab: Vocab,
    strings: Arc<[Box<[u8]>]>,
    habits: Option<Arc<habits::Label>>,
    pub(super) slots: Vec<Slot>,
    tick: u64,
    packets: u64,
    opened: u32,
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
            ends: Ends::Open,
            outlook: None,
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
            habits: None,
            slots: Vec::new(),
            tick: 0,
            packets: 0,
            opened: 0,
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

    /// The same for a sample of a label with these habits: its segments have the windows that are meant.
    pub(super) fn of_label(mut self, habits: Option<&Arc<habits::Label>>) -> Self {
        self.habits = habits.cloned();
        self
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

    /// Flows that were opened so far.
    pub(super) fn opened(&self) -> u32 {
        self.opened
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
                self.foretell();
            }
            (Stage::Host, Tok::HostRef(i)) => {
                let host = *self.hosts(self.current.action.v6).get(usize::from(i))?;
                self.open()?.host = Host::Known(host);
                self.foretell();
            }
            (Stage::Host, Tok::HostBcast) => self.foretell(),
            (Stage::Host, Tok::HostGroup) => {
                self.current.group = [0; 16];
                self.operand(Operand::Group, if self.current.action.v6 { 16 } else { 4 });
            }
            (Stage::Ends, Tok::Ends(ends)) => {
                self.current.ends = ends;
                self.stage = Stage::Size;
            }
            (Stage::Size, Tok::Size(size)) => {
                self.current.outlook = Some(Outlook { ends: self.current.ends, size });
                self.begin();
            }
            (Stage::Ends | Stage::Size, tok) => {
                self.leave_untold();
                return self.take(tok);
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

    /// The responder is known: what is told of the flow may follow.
    fn foretell(&mut self) {
        (self.current.ends, self.current.outlook) = (Ends::Open, None);
        self.stage = match (self.vocab.foretells, self.current.action.proto) {
            (true, Proto::Tcp) => Stage::Ends,
            (true, _) => Stage::Size,
            (false, _) => return self.begin(),
        };
    }

    /// Nothing is told of the flow that opens.
    pub(super) fn leave_untold(&mut self) {
        if matches!(self.stage, Stage::Ends | Stage::Size) {
            self.begin();
        }
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

    /// What was said of the number under way, and of the group.
    pub(super) fn number(&self) -> u32 {
        self.current.number
    }

    pub(super) fn group(&self) -> [u8; 16] {
        self.current.group
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

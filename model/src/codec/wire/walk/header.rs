//! The headers of the packet under way: fields in their order, operands, and what is relative resolved to numbers.

use super::super::action::{Host, Opt, Segment, Sport};
use super::super::side::{ACK, SYN};
use super::super::steps::window_within;
use super::super::vocab::{Proto, Tok, window};
use super::{
    AckBy, BYTES_MAX, OPTIONS_MAX, Operand, Seq, Stage, Step, Walk, default_options, options_len, rank, sides,
};

impl Walk {
    /// The flow is known: what is not said is as before.
    pub(super) fn begin(&mut self) {
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

    pub(super) fn head(&mut self, at: u8, tok: Tok) -> Option<Step> {
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

    pub(super) fn operand_byte(&mut self, operand: Operand, left: u8, b: u8) -> Option<Step> {
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
                self.foretell();
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
            let window = self.habits.as_ref().map_or(c.window, |habits| habits.window(c.window));
            a.tcp = Some(Segment { seq, is_next, hole, ack, flags: c.flags, window, options });
        }
        c.left = a.len - a.len_known;
        self.stage = Stage::Pieces;
        if self.current.left == 0 { Some(self.complete()) } else { Some(Step::More) }
    }
}

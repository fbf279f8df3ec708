//! The headers of a packet: what is not as before, and the numbers that are not the expected ones.

use super::super::super::Token;
use super::super::action::Opt;
use super::super::side::{ACK, FIN, RST, SYN};
use super::super::steps::{window_byte, window_quantised};
use super::super::vocab::Tok;
use super::Encoder;
use crate::wire::parse::{Frame, Tcp, Transport};

/// Sequence numbers that lie farther apart belong to another stream.
const STREAM_REACH: i64 = 1 << 20;

impl Encoder<'_> {
    pub(super) fn header(&mut self, frame: &Frame<'_>, ret: &mut Vec<Token>) {
        let ip = &frame.ip;
        let a = self.walk.action();
        let (ttl, tos) = (a.ttl != ip.ttl, a.tos != ip.tos);
        let (df, id) = (!a.v6 && a.df != ip.df, !a.v6 && a.id_zero != (ip.id == 0));
        if ttl {
            self.say(Tok::Ttl, ret);
            self.say(Tok::Byte(ip.ttl), ret);
        }
        if tos {
            self.say(Tok::Tos, ret);
            self.say(Tok::Byte(ip.tos), ret);
        }
        if df {
            self.say(Tok::Df, ret);
        }
        if id {
            self.say(Tok::IdMode, ret);
        }
        let mut len = frame.payload_len;
        match &frame.transport {
            Transport::Tcp(tcp) => self.tcp(tcp, len, ret),
            Transport::Udp { .. } => {}
            Transport::Icmp => {
                self.say(Tok::Byte(frame.payload[0]), ret);
                self.say(Tok::Byte(frame.payload[1]), ret);
                len -= 4;
            }
        }
        let side = self.walk.sides().0;
        let (len, max, last) = (len as u16, side.len_max, side.len_last);
        match len {
            0 => self.say(Tok::Len0, ret),
            _ if len == max => self.say(Tok::LenMax, ret),
            _ if len == last => self.say(Tok::LenSame, ret),
            1..2048 => {
                self.say(Tok::LenHi((len >> 8) as u8), ret);
                self.say(Tok::Byte(len as u8), ret);
            }
            _ => {
                self.say(Tok::LenBig, ret);
                self.say_short(len, ret);
            }
        }
    }

    fn tcp(&mut self, tcp: &Tcp<'_>, len: usize, ret: &mut Vec<Token>) {
        let (seq, ack) = self.numbers(tcp, len);
        match seq {
            Some(Tok::SeqHole) => {
                let isn = self.isn(true).unwrap_or(0);
                let next = self.walk.sides().0.next_for(tcp.flags);
                self.say(Tok::SeqHole, ret);
                self.say_short(tcp.seq.wrapping_sub(isn.wrapping_add(next as u32)) as u16, ret);
            }
            Some(tok) => self.say(tok, ret),
            None => {}
        }
        self.say(Tok::Flags(tcp.flags), ret);
        if let Some(tok) = ack {
            self.say(tok, ret);
        }
        let window = window_quantised(tcp.window);
        if window != self.walk.sides().0.window {
            let (class, byte) = window_byte(tcp.window);
            self.say(Tok::Win(class), ret);
            if class >= 8 {
                self.say(Tok::Byte(byte), ret);
            }
        }
        let options = options(tcp.options);
        let is_default = self.walk.default_options().len() == options.len()
            && self.walk.default_options().iter().zip(&options).all(|(a, b)| a == b);
        if is_default {
            return;
        }
        if options.is_empty() {
            return self.say(Tok::OptNone, ret);
        }
        for option in options {
            match option {
                Opt::Mss(n) => {
                    self.say(Tok::Mss, ret);
                    self.say_short(n, ret);
                }
                Opt::Ws(n) => {
                    self.say(Tok::Ws, ret);
                    self.say(Tok::Byte(n), ret);
                }
                Opt::SackOk => self.say(Tok::SackOk, ret),
                Opt::Ts => self.say(Tok::Ts, ret),
                Opt::Nop => self.say(Tok::Nop, ret),
                Opt::Eol => self.say(Tok::Eol, ret),
                Opt::Sack(n, _) => self.say(Tok::Sack(n), ret),
                Opt::Other(kind, len) => {
                    self.say(Tok::OptOther, ret);
                    self.say(Tok::Byte(kind), ret);
                    self.say(Tok::Byte(len), ret);
                }
            }
        }
    }

    /// What stands for 0 in the numbers of the sender (`own`) or of the other side.
    fn isn(&self, own: bool) -> Option<u32> {
        let a = self.walk.action();
        if a.opens.is_some() {
            return None;
        }
        self.facts[usize::from(a.slot)].isn[usize::from(a.from_orig != own)]
    }

    /// The tokens for sequence and acknowledgement number, where they are not the expected ones.
    fn numbers(&self, tcp: &Tcp<'_>, len: usize) -> (Option<Tok>, Option<Tok>) {
        let (side, peer) = self.walk.sides();
        let next = side.next_for(tcp.flags);
        let away =
            |number: u32, isn: u32, from: i64| i64::from(number.wrapping_sub(isn.wrapping_add(from as u32)) as i32);
        let find = |bounds: &std::collections::VecDeque<i64>, at| bounds.iter().rev().position(|b| *b == at);

        let off = self.isn(true).map_or(0, |isn| away(tcp.seq, isn, next));
        let seq = match off {
            0 => None,
            -1 if len <= 1 && tcp.flags & (SYN | FIN | RST) == 0 => Some(Tok::SeqKeep),
            ..0 => match find(&side.bounds, next + off) {
                Some(k) => Some(Tok::SeqRe(k as u8)),
                // An old one, too far back to be told apart.
                None => {
                    (off > -STREAM_REACH && !side.bounds.is_empty()).then(|| Tok::SeqRe(side.bounds.len() as u8 - 1))
                }
            },
            1..=0xffff if tcp.flags & SYN == 0 => Some(Tok::SeqHole),
            _ => None,
        };
        if tcp.flags & ACK == 0 {
            return (seq, None);
        }
        let expected = peer.contiguous().max(1);
        let off = self.isn(false).map_or(0, |isn| away(tcp.ack, isn, expected));
        let ack = match expected + off {
            at if at == expected => None,
            at if at == side.acked && side.acked > 0 => Some(Tok::AckSame),
            at => {
                let below = peer.bounds.iter().rev().enumerate().filter(|(_, b)| **b <= at && **b > 0);
                let nearest = below.max_by_key(|(_, b)| **b);
                // Beyond what arrived as a whole only when the sender has more than the capture.
                match nearest {
                    Some((k, b)) if *b == at || *b > expected => Some(Tok::AckLag(k as u8)),
                    _ => (off < 0 && side.acked > 0).then_some(Tok::AckSame),
                }
            }
        };
        (seq, ack)
    }
}

/// The options of a TCP header; ends at what is no option.
fn options(mut bytes: &[u8]) -> Vec<Opt> {
    let mut ret = Vec::new();
    while let [kind, rest @ ..] = bytes {
        if *kind == 1 {
            ret.push(Opt::Nop);
            bytes = rest;
            continue;
        }
        if *kind == 0 {
            ret.push(Opt::Eol);
            break;
        }
        let Some(len) = rest.first().map(|l| usize::from(*l)).filter(|l| (2..=bytes.len()).contains(l)) else { break };
        ret.push(match (kind, len) {
            (2, 4) => Opt::Mss(u16::from_be_bytes([bytes[2], bytes[3]])),
            (3, 3) => Opt::Ws(bytes[2]),
            (4, 2) => Opt::SackOk,
            (8, 10) => Opt::Ts,
            (5, 10 | 18 | 26 | 34) => Opt::Sack((len / 8) as u8, [(0, 0); 4]),
            _ => Opt::Other(*kind, len as u8),
        });
        bytes = &bytes[len..];
    }
    ret
}

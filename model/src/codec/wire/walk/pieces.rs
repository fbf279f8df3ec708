//! The pieces of the payload under way.

use super::super::action::Piece;
use super::super::vocab::{NAMES, Proto, TLS_TYPES, Tok};
use super::{Operand, Stage, Step, Walk};

impl Walk {
    /// How far a piece can reach: to the end of the record, or of the packet.
    pub(in super::super) fn limit(&self) -> u16 {
        let c = &self.current;
        if c.record_left > 0 { c.left.min(c.record_left) } else { c.left }
    }

    pub(super) fn piece(&mut self, tok: Tok) -> Option<Step> {
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

    pub(super) fn name(&mut self, len: u8, as_labels: bool) -> Option<Step> {
        if len == 0 || u16::from(len) + u16::from(as_labels) > self.limit() {
            return None;
        }
        let id = self.next_name;
        self.next_name += 1;
        self.names.insert(0, (id, len));
        self.names.truncate(NAMES);
        self.add(Piece::Name(id, len, as_labels))
    }

    pub(super) fn record(&mut self, len: u16) -> Option<Step> {
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
}

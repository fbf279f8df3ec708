//! What a datagram is made of: the kinds and sizes of its packets, as their headers say (RFC 9000, sections 12.2 and 17).

use super::varint;
use super::version::Version;

/// Longest connection identifier (RFC 9000, section 17.2).
pub(super) const ID_MAX: usize = 20;
/// What a long header begins with, and every header but that of version negotiation.
pub(super) const LONG: u8 = 0x80;
pub(super) const FIXED: u8 = 0x40;

/// Kinds of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Initial,
    ZeroRtt,
    /// This, and whatever else has a long header.
    Handshake,
    /// Of an established connection: it reaches to the end of its datagram.
    Short,
}

/// A packet in a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) kind: Kind,
    /// Bytes in all.
    pub(super) len: usize,
    /// Bytes of the receiver's and of the sender's identifier, and of the token. 0 where that cannot be read.
    pub(super) ids: [usize; 2],
    pub(super) token: usize,
}

/// A datagram as it was said: where it was left to chance, nothing of it was decided.
pub(super) struct Said<'a> {
    bytes: &'a [u8],
    is_drawn: &'a dyn Fn(usize) -> bool,
    /// What was read.
    at: usize,
}

impl<'a> Said<'a> {
    pub(super) fn new(bytes: &'a [u8], is_drawn: &'a dyn Fn(usize) -> bool) -> Self {
        Self { bytes, is_drawn, at: 0 }
    }

    /// The bytes that come next, where all of them were said.
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(n)?;
        let taken = self.bytes.get(self.at..end).filter(|_| !(self.at..end).any(self.is_drawn))?;
        self.at = end;
        Some(taken)
    }

    /// Passes over bytes, drawn or not.
    fn skip(&mut self, n: usize) -> Option<()> {
        self.at = self.at.checked_add(n).filter(|end| *end <= self.bytes.len())?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn varint(&mut self) -> Option<usize> {
        let width = 1 << (self.bytes.get(self.at)? >> 6);
        varint::read(self.take(width)?)?.0.try_into().ok()
    }

    /// The length of an identifier, which is passed over.
    fn id(&mut self) -> Option<usize> {
        let len = self.byte().map(usize::from).filter(|len| *len <= ID_MAX)?;
        self.skip(len)?;
        Some(len)
    }

    /// Bytes to come.
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The version that a long header names, with its first byte; `None` where one of both was not said.
    pub(super) fn version(&mut self) -> Option<(u8, u32)> {
        let [first, number @ ..] = self.take(5)? else { return None };
        Some((*first, u32::from_be_bytes(number.try_into().ok()?)))
    }

    /// The packets of the datagram. All of its bytes belong to one of them: what cannot be read, to the last.
    pub(super) fn parts(mut self, version: &Version) -> Vec<Part> {
        let mut ret: Vec<Part> = Vec::new();
        while self.left() > 0 {
            let begin = self.at;
            let (left, last) = (self.left(), ret.last_mut());
            let part = match (self.byte(), last) {
                (Some(first), _) if first & LONG > 0 => self.long(first, version, left),
                // What was not said is whatever can stand there.
                (None, Some(_)) => Part { kind: Kind::Handshake, ..Part::unknown(left) },
                (Some(first), Some(last)) if first & FIXED == 0 => {
                    last.len += left;
                    break;
                }
                _ => Part::unknown(left),
            };
            self.at = begin + part.len;
            ret.push(part);
        }
        ret
    }

    /// The packet with a long header whose first byte was read, with `left` bytes to the end of the datagram.
    fn long(&mut self, first: u8, version: &Version, left: usize) -> Part {
        let kind = match version.kinds.iter().position(|kind| *kind == first >> 4 & 3) {
            Some(0) => Kind::Initial,
            Some(1) => Kind::ZeroRtt,
            _ => Kind::Handshake,
        };
        let mut part = Part { kind, ..Part::unknown(left) };
        let end = self.at - 1 + left;
        let mut read = || {
            self.skip(4)?;
            part.ids = [self.id()?, self.id()?];
            let token = if kind == Kind::Initial { self.varint()? } else { 0 };
            self.skip(token)?;
            let len = self.varint().filter(|len| *len <= self.left())?;
            (part.token, part.len) = (token, left - (end - self.at - len));
            Some(())
        };
        // What could not be read is as it is where nothing is known.
        read().unwrap_or_default();
        part
    }
}

impl Part {
    /// One of `len` bytes of which nothing else is known.
    fn unknown(len: usize) -> Self {
        Self { kind: Kind::Short, len, ids: [0; 2], token: 0 }
    }
}

//! QUIC (RFC 9000, 9001, 9369): the Initial packets of a conversation, which everybody can read, made so that they can be read.
//!
//! A [`Conversation`] takes datagrams as they were said. Of those it keeps the size, the kinds and sizes of the packets in them and
//! the lengths of identifiers and tokens, as far as they were said; it makes the rest, as none of it can be said byte by byte: each
//! side's identifier, which the other calls it by; Initial packets with a hello of TLS, acknowledgements and padding, protected as
//! the version says; lengths that end where the datagram does. Other packets are sealed by keys that nobody else knows, so any bytes are right.

mod hello;
mod keys;
mod shape;
mod varint;
mod version;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

pub use self::keys::{Keys, TAG_LEN};
use self::shape::{FIXED, ID_MAX, Kind, LONG, Part, Said};
pub use self::version::Version;
use super::plan;

/// A client draws at least so many bytes for the server to be called by at first (RFC 9000, section 7.2).
const FIRST_ID_MIN: usize = 8;
/// Where nothing is said, servers call themselves, and are called, by so many bytes.
const ID_LEN: usize = 8;
/// QUIC's port on the Web, and bytes of a client's first datagram at least (RFC 9000, section 14.1).
const PORT: u16 = 443;
const FIRST_DATAGRAM_MIN: usize = 1200;
/// Bytes of a server's Initial packet, where more comes behind it: a hello and an acknowledgement.
const SERVER_INITIAL: usize = 160;
/// Letters of a server's name.
const NAME_LEN: std::ops::Range<usize> = 12..28;
/// Ports of DNS over QUIC (RFC 9250, section 8; its drafts), and what its clients say that they want to talk.
const DNS_PORTS: [u16; 3] = [853, 784, 8853];
const DNS: &[u8] = b"doq";

/// Frames (RFC 9000, section 19).
const PING: u8 = 1;
const ACK: u8 = 2;
const CRYPTO: u8 = 6;

/// The client's place among both sides.
const CLIENT: usize = 0;

/// A connection as both sides have made it so far.
pub struct Conversation {
    version: &'static Version,
    keys: [Keys; 2],
    /// How the client called the server before it knew better.
    first_id: Vec<u8>,
    sides: [Side; 2],
}

#[derive(Default)]
struct Side {
    /// How it calls itself, once it has spoken.
    id: Option<Vec<u8>>,
    /// Number of its next Initial packet, and in how many bytes that is sent.
    number: u32,
    number_len: usize,
    /// Its hello, and how much of that was sent.
    hello: Vec<u8>,
    sent: usize,
    /// How many datagrams it sent.
    datagrams: u64,
}

impl Conversation {
    /// Whether one may [begin](Self::begin) with `datagram`, whatever of it was said.
    pub fn can_begin(datagram: &[u8], port: u16) -> bool {
        let is_full = port == PORT && datagram.len() >= FIRST_DATAGRAM_MIN;
        is_full || Said::new(datagram, &|_| false).version().is_some_and(|(_, number)| Version::find(number).is_some())
    }

    /// A conversation that begins with `datagram`, sent to `port` of a server whose name is drawn. `None` where that is not the first
    /// one of a [`Version`] that is known.
    ///
    /// What `is_drawn` of the datagram was not said. Where that is the version, a datagram as long as a client's first one has to be
    /// is of version 1 on QUIC's port.
    pub fn begin(datagram: &[u8], is_drawn: &dyn Fn(usize) -> bool, port: u16, rng: &mut ChaCha8Rng) -> Option<Self> {
        let (version, [server, client]) = match Said::new(datagram, is_drawn).version() {
            Some((first, number)) => {
                let version = Version::find(number).filter(|_| first & (LONG | FIXED) == LONG | FIXED)?;
                let parts = Said::new(datagram, is_drawn).parts(version);
                (version, parts.first().filter(|part| part.kind == Kind::Initial)?.ids)
            }
            None if port == PORT && datagram.len() >= FIRST_DATAGRAM_MIN => (Version::find(1)?, [ID_LEN, 0]),
            None => return None,
        };
        let first_id = drawn(server.clamp(FIRST_ID_MIN, ID_MAX), rng);
        let id = drawn(client, rng);
        let alpn = if DNS_PORTS.contains(&port) { DNS } else { version.alpn };
        let name = plan::name(rng.random_range(NAME_LEN), rng);
        let hellos = [hello::client(version, &name, alpn, &id, rng), hello::server(rng)];
        let mut sides = hellos.map(|hello| Side { hello, number_len: rng.random_range(1..=4), ..Side::default() });
        sides[CLIENT].id = Some(id);
        Some(Self { version, keys: Keys::initial(version, &first_id), first_id, sides })
    }

    /// Makes what was said as `datagram`, and was not where `is_drawn` holds, the next one of the client, or of the server.
    pub fn complete(
        &mut self,
        is_server: bool,
        datagram: &mut [u8],
        is_drawn: &dyn Fn(usize) -> bool,
        rng: &mut ChaCha8Rng,
    ) {
        let me = usize::from(is_server);
        let mut parts = Said::new(datagram, is_drawn).parts(self.version);
        let Some(first) = parts.first_mut() else { return };
        if is_drawn(0) {
            self.decide(is_server, &mut parts);
        } else if self.sides[me].number == 0 {
            // Nothing else can be answered, and understood, before a side's hello.
            first.kind = Kind::Initial;
        }
        if self.sides[me].id.is_none() {
            let said = (!is_drawn(0) && datagram[0] & LONG > 0).then_some(parts[0].ids[1]);
            self.sides[me].id = Some(drawn(said.unwrap_or(ID_LEN), rng));
        }
        for part in parts.iter_mut().filter(|_| is_server) {
            part.token = 0;
            part.kind = if part.kind == Kind::ZeroRtt { Kind::Handshake } else { part.kind };
        }
        self.fit(me, &mut parts);
        let mut rest = datagram;
        for part in parts {
            let (packet, behind) = rest.split_at_mut(part.len);
            rest = behind;
            match part.kind {
                Kind::Short => self.short(me, packet),
                _ => self.long(me, part, packet, rng),
            }
        }
        self.sides[me].datagrams += 1;
    }

    /// What a datagram of which nothing was said consists of: a hello, behind which a server goes on with its handshake, also in full
    /// datagrams after that; a client's next full one is an acknowledgement with padding.
    fn decide(&self, is_server: bool, parts: &mut Vec<Part>) {
        let side = &self.sides[usize::from(is_server)];
        let [first, ..] = &mut parts[..] else { return };
        let is_full = first.len >= FIRST_DATAGRAM_MIN;
        first.kind = match (side.datagrams, is_server) {
            (0, _) | (1, false) if side.number == 0 || is_full => Kind::Initial,
            (1 | 2, true) if is_full => Kind::Handshake,
            _ => Kind::Short,
        };
        if is_server && first.kind == Kind::Initial && is_full {
            let behind = Part { kind: Kind::Handshake, len: first.len - SERVER_INITIAL, ..*first };
            first.len = SERVER_INITIAL;
            parts.push(behind);
        }
    }

    /// Packets that are too short for what they are get the bytes of the one behind, or give theirs to the one before; what is alone
    /// is of an established connection then.
    fn fit(&self, me: usize, parts: &mut Vec<Part>) {
        let mut i = 0;
        while i < parts.len() {
            if !self.is_long_enough(me, parts[i]) {
                parts[i].token = 0;
            }
            if self.is_long_enough(me, parts[i]) {
                i += 1;
            } else if parts.len() == 1 {
                parts[i].kind = Kind::Short;
            } else {
                let into = i.saturating_sub(1);
                parts[into].len += parts.remove(into + 1).len;
                i = into;
            }
        }
    }

    fn is_long_enough(&self, me: usize, part: Part) -> bool {
        let number_len = self.sides[me].number_len;
        // The sample for the header's protection begins four bytes behind the number's beginning.
        let rest = number_len + (4usize).saturating_sub(number_len).max(1) + TAG_LEN;
        part.kind == Kind::Short || part.len >= self.header_len(me, part) + rest
    }

    /// Bytes of a long header in front of the packet's number.
    fn header_len(&self, me: usize, part: Part) -> usize {
        let token = if part.kind == Kind::Initial { varint::bytes(part.token as u64).len() + part.token } else { 0 };
        let ids = self.other_id(me).len() + self.sides[me].id.as_ref().map_or(0, Vec::len);
        7 + ids + token + (1 << length_width(part.len))
    }

    /// How the other side is called.
    fn other_id(&self, me: usize) -> &[u8] {
        self.sides[1 - me].id.as_ref().unwrap_or(&self.first_id)
    }

    fn short(&self, me: usize, packet: &mut [u8]) {
        packet[0] = packet[0] & !LONG | FIXED;
        let id = self.other_id(me);
        if let Some(place) = packet.get_mut(1..1 + id.len()) {
            place.copy_from_slice(id);
        }
    }

    fn long(&mut self, me: usize, part: Part, packet: &mut [u8], rng: &mut ChaCha8Rng) {
        let side = &self.sides[me];
        let kind = match part.kind {
            Kind::Initial => 0,
            Kind::ZeroRtt => 1,
            Kind::Handshake | Kind::Short => 2,
        };
        let number_len = side.number_len;
        let mut header = vec![LONG | FIXED | self.version.kinds[kind] << 4 | (number_len - 1) as u8];
        header.extend_from_slice(&self.version.number.to_be_bytes());
        for id in [self.other_id(me), side.id.as_deref().unwrap_or_default()] {
            header.push(id.len() as u8);
            header.extend_from_slice(id);
        }
        if part.kind == Kind::Initial {
            header.extend(varint::bytes(part.token as u64));
            header.extend(drawn(part.token, rng));
        }
        let width = length_width(part.len);
        header.extend(varint::wide((part.len - header.len() - (1 << width)) as u64, width));
        if part.kind != Kind::Initial {
            header[0] ^= rng.next_u32() as u8 & 0x0f;
            packet[..header.len()].copy_from_slice(&header);
            return rng.fill_bytes(&mut packet[header.len()..][..number_len]);
        }
        let number = side.number;
        header.extend_from_slice(&number.to_be_bytes()[4 - number_len..]);
        packet[..header.len()].copy_from_slice(&header);
        let end = packet.len() - TAG_LEN;
        self.frames(me, &mut packet[header.len()..end], rng);
        self.keys[me].seal(packet, header.len(), number, number_len);
        self.sides[me].number += 1;
    }

    /// Fills an Initial packet's payload: what the other side sent is acknowledged, the hello goes on, and padding fills the rest.
    fn frames(&mut self, me: usize, payload: &mut [u8], rng: &mut ChaCha8Rng) {
        payload.fill(0);
        let mut frames = Vec::new();
        if let Some(largest) = self.sides[1 - me].number.checked_sub(1) {
            frames.push(ACK);
            frames.extend(varint::bytes(largest.into()));
            // After so many times 8 µs (section 19.3), all of them at once.
            frames.extend(varint::wide(rng.random_range(10..1000), 1));
            frames.push(0);
            frames.extend(varint::bytes(largest.into()));
        }
        frames.truncate(if frames.len() <= payload.len() { frames.len() } else { 0 });
        let is_heard = !frames.is_empty();
        let side = &mut self.sides[me];
        // One that was not answered is sent again.
        if side.sent == side.hello.len() && !is_heard {
            side.sent = 0;
        }
        let mut head = vec![CRYPTO];
        head.extend(varint::bytes(side.sent as u64));
        let room = payload.len().saturating_sub(frames.len() + head.len() + 2);
        let len = room.min(side.hello.len() - side.sent);
        if len > 0 {
            frames.extend(head);
            frames.extend(varint::wide(len as u64, 1));
            frames.extend_from_slice(&side.hello[side.sent..side.sent + len]);
            side.sent += len;
        } else if frames.is_empty() {
            frames.push(PING);
        }
        payload[..frames.len()].copy_from_slice(&frames);
    }
}

/// In which form a packet's length is said: in 2 bytes, as senders leave room for it, or in 4.
fn length_width(len: usize) -> u8 {
    if len < 1 << 14 { 1 } else { 2 }
}

fn drawn(len: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut ret = vec![0; len];
    rng.fill_bytes(&mut ret);
    ret
}

#[cfg(test)]
mod tests;

//! What chance draws under the rules is what a plain reader takes for a DNS message, and real messages stay allowed.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::super::{Codec, LabelId, Render, Token};
use super::super::WireCodec;
use super::super::dictionary::Dictionary;
use super::super::vocab::PORTS;
use super::records::{OPT, TYPES};
use super::*;
use crate::packet::Timestamp;
use crate::wire::parse::{Transport, parse};
use crate::wire::plan::Plan;

/// A reader that goes over the whole message at once, field by field.
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let ret = self.message[..self.end].get(self.at..self.at + n)?;
        self.at += n;
        Some(ret)
    }

    fn number(&mut self) -> Option<u16> {
        self.bytes(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn text(&mut self) -> Option<()> {
        let n = self.bytes(1)?[0];
        self.bytes(usize::from(n)).map(drop)
    }

    /// Bytes of the whole name.
    fn name(&mut self) -> Option<usize> {
        let (mut len, start) = (0, self.at);
        loop {
            match self.bytes(1)?[0] {
                0 => return (len < 255).then_some(len + 1),
                n @ 1..=63 => {
                    self.bytes(usize::from(n))?;
                    len += 1 + usize::from(n);
                }
                high @ 0xc0.. => {
                    let to = usize::from(high & 63) << 8 | usize::from(self.bytes(1)?[0]);
                    // Backwards, so that there is no loop.
                    let mut there = Reader { message: self.message, at: to, end: self.message.len() };
                    let rest = (12..start).contains(&to).then(|| there.name())??;
                    return (len + rest <= 255).then_some(len + rest);
                }
                _ => return None,
            }
        }
    }

    fn data(&mut self, kind: u16) -> Option<()> {
        match kind {
            1 => self.bytes(4).map(drop),
            28 => self.bytes(16).map(drop),
            2 | 5 | 12 | 39 => self.name().map(drop),
            6 => self.name().and(self.name()).and(self.bytes(20)).map(drop),
            13 => self.text().and(self.text()),
            15 => self.bytes(2).and(self.name()).map(drop),
            16 | 99 => {
                self.text()?;
                while self.at < self.end {
                    self.text()?;
                }
                Some(())
            }
            33 => self.bytes(6).and(self.name()).map(drop),
            35 => self.bytes(4).and(self.text()).and(self.text()).and(self.text()).and(self.name()).map(drop),
            OPT => self.options(),
            64 | 65 => self.bytes(2).and(self.name()).and(self.options()),
            46 => self.bytes(18).and(self.name()).and(self.rest()),
            47 => self.name().and(self.bitmaps()),
            50 => self.bytes(4).and(self.text()).and(self.text()).and(self.bitmaps()),
            257 => self.bytes(1).and(self.text()).and(self.rest()),
            17 => self.name().and(self.name()).map(drop),
            29 => self.bytes(16).map(drop),
            43 | 48 => self.bytes(4).and(self.rest()),
            44 => self.bytes(2).and(self.rest()),
            51 => self.bytes(4).and(self.text()),
            52 => self.bytes(3).and(self.rest()),
            61 => self.rest(),
            _ => None,
        }?;
        (self.at == self.end).then_some(())
    }

    fn rest(&mut self) -> Option<()> {
        self.at = self.end;
        Some(())
    }

    fn options(&mut self) -> Option<()> {
        while self.at < self.end {
            self.number()?;
            let n = self.number()?;
            self.bytes(usize::from(n))?;
        }
        Some(())
    }

    fn bitmaps(&mut self) -> Option<()> {
        while self.at < self.end {
            let head = self.bytes(2)?;
            (1..=32).contains(&head[1]).then_some(())?;
            self.bytes(usize::from(head[1]))?;
        }
        Some(())
    }
}

/// Whether a plain reader takes it for a DNS message.
fn reads(message: &[u8]) -> Option<()> {
    let mut reader = Reader { message, at: 0, end: message.len() };
    reader.bytes(4)?;
    let counts = [reader.number()?, reader.number()?, reader.number()?, reader.number()?];
    for _ in 0..counts[0] {
        reader.name()?;
        reader.number().filter(|kind| *kind != OPT)?;
        reader.number()?;
    }
    let mut pseudo = 0;
    for (section, count) in counts.into_iter().enumerate().skip(1) {
        for _ in 0..count {
            let owner = reader.name()?;
            let kind = reader.number()?;
            let class = reader.number()?;
            if kind == OPT {
                pseudo += 1;
                (section == 3 && owner == 1 && pseudo == 1).then_some(())?;
            } else {
                matches!(class & 0x7fff, 1 | 3).then_some(())?;
            }
            reader.bytes(4)?;
            let n = usize::from(reader.number()?);
            let end = reader.at + n;
            (end <= message.len()).then_some(())?;
            Reader { message, at: reader.at, end }.data(kind)?;
            reader.at = end;
        }
    }
    (reader.at == message.len()).then_some(())
}

/// Draws a message evenly among the bytes that can come, in small numbers of entries where `is_small`.
fn drawn(port: u16, is_reply: bool, len: u16, is_small: bool, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut message = Message::new(dialect(port).unwrap(), Names::Literal, is_reply, len);
    let mut ret = Vec::new();
    while !message.is_done() {
        let can_come = |b: &u8| message.allows(Sym::Known(*b), Source::Said);
        let all: Vec<u8> = (0..=255).filter(can_come).collect();
        assert!(!all.is_empty(), "nothing can follow {ret:02x?}, of {len}: {message:?}");
        let few = if is_small && (4..12).contains(&ret.len()) { 3.min(all.len()) } else { all.len() };
        let b = all[rng.random_range(0..few)];
        assert!(message.hear(Sym::Known(b), Source::Said));
        ret.push(b);
    }
    ret
}

const DIALECTS: [(u16, bool); 4] = [(53, false), (53, true), (5353, true), (5355, false)];

#[test]
fn chance_draws_messages_that_a_plain_reader_takes_and_damage_is_seen() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut kinds, mut damaged, mut pointers) = (std::collections::BTreeSet::new(), 0, 0);
    for round in 0..1500 {
        let (port, is_reply) = DIALECTS[round % 4];
        let len = match round % 11 {
            0 => Message::lengths(is_reply, 0, 1200)[0].0 as u16,
            1 => rng.random_range(200..Message::lengths(is_reply, 0, 1200)[1].1 as u16),
            _ => rng.random_range(19..200),
        };
        let mut message = drawn(port, is_reply, len, round % 5 > 0, &mut rng);
        assert!(reads(&message).is_some(), "{message:02x?}");
        kinds.extend(message.windows(2).map(|two| u16::from_be_bytes([two[0], two[1]])));
        pointers += message.windows(2).filter(|two| two[0] == 0xc0 && two[1] >= 12).count();
        for _ in 0..40 {
            let (at, b) = (rng.random_range(0..message.len()), rng.random());
            let before = std::mem::replace(&mut message[at], b);
            if reads(&message).is_none() {
                assert!(!is_message(port, is_reply, &message), "{message:02x?}");
                damaged += 1;
            }
            message[at] = before;
        }
    }
    assert!(TYPES.iter().all(|t| kinds.contains(&t.0)) && pointers > 500 && damaged > 10_000, "{pointers} {damaged}");
}

proptest! {
    #[test]
    fn any_bytes_are_judged_alike_or_more_strictly(message in proptest::collection::vec(any::<u8>(), 0..80), is_reply: bool) {
        prop_assert!(!is_message(53, is_reply, &message) || reads(&message).is_some());
    }
}

/// Messages as they are seen every day.
const EVERY_DAY: [(u16, bool, &[u8]); 7] = [
    (53, false, b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01"),
    (53, true, b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x5d\xb8\xd8\x22"),
    // An alias within the same domain, and EDNS.
    (53, true, b"\x12\x34\x81\x80\0\x01\0\x02\0\0\0\x01\x03www\x07example\x03com\0\0\x01\0\x01\xc0\x0c\0\x05\0\x01\0\0\0\x05\0\x06\x03cdn\xc0\x10\xc0\x2d\0\x01\0\x01\0\0\0\x05\0\x04\x5d\xb8\xd8\x22\0\0\x29\x10\0\0\0\0\0\0\0"),
    // The root's servers.
    (53, false, b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01"),
    // No such name, with the authority.
    (53, true, b"\x12\x34\x81\x83\0\x01\0\0\0\x01\0\0\x03www\x04test\0\0\x1c\0\x01\0\0\x06\0\x01\0\0\x0e\x10\0\x29\x01a\x0croot-servers\x03net\0\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05"),
    // A refusal that repeats nothing.
    (53, true, b"\x12\x34\x80\x05\0\0\0\0\0\0\0\0"),
    // A printer.
    (5353, false, b"\0\0\x84\0\0\0\0\x01\0\0\0\x01\x05_ipps\x04_tcp\x05local\0\0\x0c\x80\x01\0\0\x11\x94\0\x0d\x0aTwo Floors\xc0\x0c\xc0\x28\0\x10\x80\x01\0\0\x11\x94\0\x05\x04a=bc"),
];

#[test]
fn messages_of_every_day_are_allowed_and_shortened_ones_are_not() {
    for (port, is_reply, message) in EVERY_DAY {
        assert!(reads(message).is_some(), "{message:02x?}");
        assert!(is_message(port, is_reply, message), "{message:02x?}");
        assert!(port == 5353 || !is_message(port, !is_reply, message), "a query is no answer");
        assert!((0..message.len()).all(|len| !is_message(port, is_reply, &message[..len])));
        assert!(!is_message(port, is_reply, &[message, &[0]].concat()));
    }
}

/// A sample that opens a flow to `port` and goes on as chance draws under the mask.
fn sample(codec: &WireCodec, port: u16, seed: u64, tokens_max: usize) -> Vec<Token> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut grammar, mut tokens) = (codec.grammar().expect("wire has one"), Vec::new());
    let mut mask = vec![0; codec.vocab_size().div_ceil(64)];
    let port = PORTS.binary_search(&port).expect("it has a token") as u8;
    let opening = [Tok::GapE(0), Tok::Open(Proto::Udp, false), Tok::Port(port), Tok::SportEph, Tok::HostNew];
    let opening = opening.into_iter().map(|tok| codec.vocab.id(tok));
    for token in std::iter::once(codec.label_token(LabelId(0))).chain(opening) {
        grammar.push(token);
        tokens.push(token);
    }
    while tokens.last() != Some(&codec.end_token()) {
        grammar.allowed(tokens_max - tokens.len(), &mut mask);
        let all: Vec<Token> =
            (0..codec.vocab_size() as u32).filter(|t| mask[*t as usize / 64] >> (t % 64) & 1 == 1).map(Token).collect();
        // References to names and messages are rare among bytes, and other flows would be most of what chance makes.
        let is_rare = |t: &Token| {
            let tok = codec.vocab.tok(*t);
            matches!(
                tok,
                Some(Tok::Same(_) | Tok::SameRest | Tok::Peer(_) | Tok::PeerRest | Tok::DnsRef(_) | Tok::DnsName)
            ) || matches!(tok, Some(Tok::Flow(..) | Tok::Str(_) | Tok::LenHi(0)))
        };
        let rare: Vec<Token> = all.iter().copied().filter(is_rare).collect();
        let choice = if rare.is_empty() || rng.random_range(0..4) == 0 { &all } else { &rare };
        let token = choice[rng.random_range(0..choice.len())];
        grammar.push(token);
        tokens.push(token);
        assert!(tokens.len() <= tokens_max);
    }
    tokens
}

#[test]
fn every_datagram_to_a_port_of_dns_is_a_message() {
    let strings = [&b"\x03www"[..], b"\0\0\x01\0\x01\xc0\x0c", b"\x07example\x03com\0", b"\x01\0\0\x01\0\0\0"];
    let dictionary = Dictionary::new(strings.map(Into::into).to_vec()).unwrap();
    let codec = WireCodec::new(vec!["dns".into()], dictionary, false, Plan::default()).unwrap();
    let (mut judged, mut tokens_of, mut answered) = ([0; 2], std::collections::BTreeMap::<String, usize>::new(), 0);
    for seed in 0..600 {
        let port = [53, 5353][seed as usize % 2];
        let tokens = sample(&codec, port, seed, [300, 900, 4000][seed as usize % 3]);
        let mut render =
            Render { rng: ChaCha8Rng::seed_from_u64(seed), start: Timestamp::from_parts(1_700_000_000, 0) };
        let decoded = codec.decode(&tokens, &mut render);
        assert_eq!(decoded.malformed_packets, 0);
        let mut queries = std::collections::BTreeMap::new();
        for packet in decoded.packets {
            let frame = parse(&packet).unwrap();
            let Transport::Udp { src_port, dst_port } = frame.transport else { continue };
            if let Some((_, is_message)) = judge(src_port, dst_port, frame.payload) {
                assert!(is_message, "{:02x?}", frame.payload);
                assert!(reads(frame.payload).is_some(), "{:02x?}", frame.payload);
                judged[usize::from(src_port == port)] += 1;
                // The last query of a flow is the one that is answered.
                let name_of = |payload: &[u8]| {
                    let mut reader = Reader { message: payload, at: 12, end: payload.len() };
                    reader.name().map(|_| [&payload[..2], &payload[12..reader.at + 4]].concat())
                };
                if port == 53 && dst_port == port {
                    queries.insert(src_port, name_of(frame.payload).unwrap());
                } else if port == 53
                    && let Some(query) = queries.get(&dst_port)
                {
                    assert_eq!(name_of(frame.payload).as_ref(), Some(query), "{:02x?}", frame.payload);
                    answered += 1;
                }
            }
        }
        for token in &tokens {
            let tok = codec.vocab.tok(*token);
            *tokens_of.entry(format!("{tok:?}").chars().take(6).collect()).or_default() += 1;
        }
    }
    assert!(judged.iter().all(|n| *n > 150) && answered > 50, "{judged:?} {answered}");
    for kind in ["Some(D", "Some(S", "Some(P", "Some(O"] {
        assert!(
            tokens_of.iter().filter(|(name, _)| name.starts_with(kind)).map(|(_, n)| n).sum::<usize>() > 100,
            "{tokens_of:?}"
        );
    }
}

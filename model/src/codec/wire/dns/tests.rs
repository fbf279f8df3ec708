//! What chance draws under the rules is what a plain reader takes for a DNS message, and real messages stay allowed.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::super::{Codec, LabelId, Render, Token};
use super::super::WireCodec;
use super::super::dictionary::Dictionary;
use super::super::exchange::{Protocol, Source, Sym, is_message, judge, testing};
use super::super::vocab::Tok;
use super::message::{Dialect, Message, Names};
use super::records::{OPT, TYPES};
use crate::flow::{Direction, FiveTuple, Session, SessionPacket};
use crate::packet::{LinkType, Packet, Timestamp};
use crate::wire::names::dns::WORDS;
use crate::wire::parse::{Frame, Ip, Transport, parse};
use crate::wire::plan::{self, Plan};

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

    /// The numbers of options of EDNS, where each is known and has a value as its document has it.
    fn edns(&mut self) -> Option<Vec<u16>> {
        let mut ret = Vec::new();
        while self.at < self.end {
            let (code, n) = (self.number()?, usize::from(self.number()?));
            let value = self.bytes(n)?;
            let is_right = match (code, value) {
                (8, [0, 1, source, scope, address @ ..]) => {
                    *source <= 32 && *scope <= 32 && address.len() == usize::from(source.div_ceil(8))
                }
                (8, [0, 2, source, scope, address @ ..]) => {
                    *source <= 128 && *scope <= 128 && address.len() == usize::from(source.div_ceil(8))
                }
                (8, _) => false,
                (9, value) => matches!(value.len(), 0 | 4),
                (10, value) => matches!(value.len(), 8 | 16..=40),
                (11, value) => matches!(value.len(), 0 | 2),
                (15, value) => value.len() >= 2,
                _ => true,
            };
            (is_right && matches!(code, 3 | 5..=12 | 15)).then_some(())?;
            ret.push(code);
        }
        Some(ret)
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

/// The numbers of the options of EDNS in a message that was read; `None` where one is wrong.
fn options_of(message: &[u8]) -> Option<Vec<u16>> {
    let mut reader = Reader { message, at: 4, end: message.len() };
    let counts = [reader.number()?, reader.number()?, reader.number()?, reader.number()?];
    for _ in 0..counts[0] {
        reader.name().and(reader.bytes(4))?;
    }
    for _ in 0..counts[1..].iter().map(|n| u32::from(*n)).sum() {
        reader.name()?;
        let kind = reader.number()?;
        reader.bytes(6)?;
        let end = usize::from(reader.number()?) + reader.at;
        if kind == OPT {
            return Reader { message, at: reader.at, end }.edns();
        }
        reader.at = end;
    }
    Some(Vec::new())
}

#[test]
fn options_of_edns_are_those_that_are_known_and_have_their_lengths() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut seen = std::collections::BTreeMap::<u16, usize>::new();
    for round in 0..3000 {
        // A question, the record, and options of so many bytes: other messages have few.
        let len: u8 = rng.random_range(4..if round % 2 == 0 { 30 } else { 100 });
        let head =
            [&b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x03www\0\0\x01\0\x01\0\0\x29\x10\0\0\0\0\0\0"[..], &[len]].concat();
        let mut message = Message::new(Dialect::Unicast, Names::Literal, false, head.len() as u16 + u16::from(len));
        assert!(head.iter().all(|b| message.hear(Sym::Known(*b), Source::Said)));
        let mut bytes = head;
        while !message.is_done() {
            let all: Vec<u8> = (0..=255).filter(|b| message.allows(Sym::Known(*b), Source::Said)).collect();
            assert!(!all.is_empty(), "nothing can follow {bytes:02x?}: {message:?}");
            let b = all[rng.random_range(0..all.len())];
            assert!(message.hear(Sym::Known(b), Source::Said));
            bytes.push(b);
        }
        assert!(reads(&bytes).is_some() && is_message(53, false, &bytes));
        let options = options_of(&bytes);
        assert!(options.is_some(), "{bytes:02x?}");
        options.unwrap().into_iter().for_each(|code| *seen.entry(code).or_default() += 1);
    }
    assert!(seen.len() == 10 && seen.values().all(|n| *n > 50), "{seen:?}");
    // A cookie of 12 bytes, which hosts may send, is not made (RFC 7873, section 4).
    let cookie =
        b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x03www\0\0\x01\0\x01\0\0\x29\x10\0\0\0\0\0\0\x10\0\x0a\0\x0c123456789012";
    let mut message = Message::new(Dialect::Unicast, Names::Literal, false, cookie.len() as u16);
    assert!(!cookie.iter().all(|b| message.hear(Sym::Known(*b), Source::Said)) && is_message(53, false, cookie));
}

fn dialect(port: u16) -> Dialect {
    match Protocol::at(port) {
        Some(Protocol::Dns(dialect)) => dialect,
        other => panic!("{other:?} is no DNS"),
    }
}

/// Draws a message evenly among the bytes that can come, in small numbers of entries where `is_small`.
fn drawn(port: u16, is_reply: bool, len: u16, is_small: bool, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut message = Message::new(dialect(port), Names::Literal, is_reply, len);
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

/// A sample that opens a flow to `port`. References to names and messages are rare among bytes, and other flows would be most of what
/// chance makes.
fn sample(codec: &WireCodec, port: u16, seed: u64, tokens_max: usize) -> Vec<Token> {
    let is_wanted = |tok| {
        matches!(tok, Tok::Same(_) | Tok::SameRest | Tok::Peer(_) | Tok::PeerRest | Tok::DnsRef(_) | Tok::DnsName)
            || matches!(tok, Tok::Flow(..) | Tok::Str(_) | Tok::LenHi(0))
    };
    testing::sample(codec, &testing::opening(port), seed, tokens_max, (4, is_wanted))
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
            let judged_as = judge(src_port, dst_port, frame.payload);
            if let Some((53 | 5353 | 5355, is_message)) = judged_as {
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

/// Datagrams between a client and a resolver, or to a group, at `port`; the opener's first.
fn session(port: u16, says: &[(bool, Vec<u8>)]) -> Session {
    let hosts = [("192.0.2.5", if port == 5353 { port } else { 50_000 }), ("198.51.100.53", port)];
    let hosts = hosts.map(|(address, port)| (address.parse().expect("an address"), port));
    let tuple = FiveTuple { orig: hosts[0].0, resp: hosts[1].0, orig_port: hosts[0].1, resp_port: port, protocol: 17 };
    let packets = says.iter().enumerate().map(|(i, (from_orig, payload))| {
        let [(src, src_port), (dst, dst_port)] = if *from_orig { hosts } else { [hosts[1], hosts[0]] };
        let ip = Ip { src, dst, protocol: 17, tos: 0, ttl: 64, id: 0, df: true };
        let link = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0";
        let transport = Transport::Udp { src_port, dst_port };
        let mut data = Vec::new();
        crate::wire::render::render(&Frame { link, ip, transport, payload, payload_len: payload.len() }, &mut data);
        let ts = Timestamp::from_parts(1_700_000_000, i as i64 * 1000);
        let packet = Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data };
        SessionPacket { flow: 0, direction: if *from_orig { Direction::Orig } else { Direction::Resp }, packet }
    });
    Session { flows: vec![tuple], packets: packets.collect() }
}

/// Messages in order, each with whether the opener says it.
type Says = Vec<(bool, Vec<u8>)>;

/// What a domain's clients and a link's devices say of services, all with `secret` for what identifies them.
fn services() -> Vec<(u16, Says)> {
    let srv = b"\x05_ldap\x04_tcp\x06Secret\x06_sites\x02dc\x06_msdcs\x06secret\x07example\0\0\x21\0\x01";
    let query = [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", &srv[..]].concat();
    let target = b"\xc0\x0c\0\x21\0\x01\0\0\0\x05\0\x19\0\0\0\x64\x01\x85\x02ad\x06secret\x07example\0";
    let answer = [b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0", &srv[..], target].concat();
    let plain = b"\x12\x35\x01\0\0\x01\0\0\0\0\0\0\x06secret\x07example\0\0\x01\0\x01".to_vec();
    let device = [
        &b"\0\0\x84\0\0\0\0\x03\0\0\0\0\x05_ipps\x04_tcp\x05local\0\0\x0c\0\x01\0\0\x11\x94\0\x12"[..],
        b"\x0fSecret's office\xc0\x0c\xc0\x28\0\x21\x80\x01\0\0\x11\x94\0\x14\0\0\0\0\x02\x77\x06secret\x05local\0",
        b"\xc0\x28\0\x10\x80\x01\0\0\x11\x94\0\x16\x09txtvers=1\x0bnote=secret",
    ]
    .concat();
    vec![(53, vec![(true, plain), (true, query), (false, answer)]), (5353, vec![(true, device)])]
}

#[test]
fn domains_and_instances_of_services_do_not_come_out_and_the_services_do() {
    let codec =
        WireCodec::new(vec!["dns".into()], Dictionary::new(Vec::new()).unwrap(), false, Plan::default()).unwrap();
    for (port, says) in services() {
        let session = session(port, &says);
        for (is_message, (_, message)) in says.iter().map(|say| (judge(50_000, port, &say.1), say)) {
            assert!(reads(message).is_some(), "{message:02x?}");
            assert!(is_message.is_some());
        }
        let (mut grammar, mut tokens) = (codec.grammar().unwrap(), Vec::new());
        let mut mask = vec![0; codec.vocab_size().div_ceil(64)];
        assert_eq!(codec.encode(LabelId(0), &session, &mut tokens), says.len());
        for (i, token) in tokens.iter().enumerate() {
            grammar.allowed(5000 - i, &mut mask);
            let is_allowed = mask[token.0 as usize / 64] >> (token.0 % 64) & 1 == 1;
            let so_far: Vec<_> = tokens[..=i].iter().map(|t| codec.token_text(*t)).collect();
            assert!(i == 0 || is_allowed, "port {port}: {}", so_far.join(" "));
            grammar.push(*token);
        }
        let mut render = Render { rng: ChaCha8Rng::seed_from_u64(7), start: Timestamp::from_parts(1_700_000_000, 0) };
        let packets = codec.decode(&tokens, &mut render).packets;
        assert_eq!(packets.len(), says.len());
        for (packet, (_, captured)) in packets.iter().zip(&says) {
            let payload = parse(packet).unwrap().payload;
            let has = |text: &[u8], what: &[u8]| text.windows(what.len()).any(|w| w.eq_ignore_ascii_case(what));
            assert!(!has(payload, b"secret"), "{}", payload.escape_ascii());
            assert!(has(captured, b"secret") && reads(payload).is_some());
            for service in
                [&b"\x05_ldap\x04_tcp"[..], b"\x06_sites\x02dc\x06_msdcs", b"\x05_ipps\x04_tcp\x05local", b"txtvers=1"]
            {
                assert_eq!(has(payload, service), has(captured, service), "{}", payload.escape_ascii());
            }
        }
        // Nor is any of it learned as a string.
        let many: Vec<_> = (0..20).map(|_| (LabelId(0), session.clone())).collect();
        let learned = WireCodec::fit(vec!["dns".into()], 500, false, Plan::default(), &many).unwrap();
        let texts = learned.dictionary.strings();
        let tells = |text: &[u8]| {
            text.windows(3).any(|w| [b"sec", b"cre", b"ret", b"exa"].iter().any(|s| w.eq_ignore_ascii_case(&s[..])))
        };
        assert!(texts.len() > 5 && !texts.iter().any(|text| tells(text)), "{texts:?}");
    }
}

#[test]
fn chance_draws_names_of_services_and_of_hosts_and_no_others() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut labels = [0; 3];
    for round in 0..600 {
        let (port, is_reply) = DIALECTS[round % 4];
        let mut message = Message::new(dialect(port), Names::Drawn, is_reply, rng.random_range(19..160));
        let (mut bytes, mut is_drawn) = (Vec::new(), Vec::new());
        while !message.is_done() {
            let known = (0..=255).map(Sym::Known);
            // Among all bytes the drawn ones would be rare.
            let drawn = [Sym::Text; 40].into_iter().chain((1..60).map(Sym::Name)).chain([Sym::InName; 40]);
            let all: Vec<Sym> = known.chain(drawn).filter(|sym| message.allows(*sym, Source::Said)).collect();
            assert!(!all.is_empty(), "nothing can follow {bytes:02x?}: {message:?}");
            let few = if (4..12).contains(&bytes.len()) { 3.min(all.len()) } else { all.len() };
            let sym = all[rng.random_range(0..few)];
            assert!(message.hear(sym, Source::Said));
            match sym {
                Sym::Known(b) => bytes.push(b),
                Sym::Name(n) => {
                    for label in plan::name_labels(usize::from(n)) {
                        bytes.push(label as u8);
                        bytes.extend(std::iter::repeat_n(b'n', label));
                    }
                }
                Sym::InName => {}
                _ => bytes.push(b't'),
            }
            is_drawn.resize(bytes.len(), !matches!(sym, Sym::Known(_)));
        }
        assert!(reads(&bytes).is_some(), "{bytes:02x?}");
        // The first name, label by label.
        let (mut at, mut drawn_before) = (12, false);
        while bytes.get(4..6) != Some(&[0, 0]) && (1..=63).contains(&bytes[at]) {
            let label = at + 1..at + 1 + usize::from(bytes[at]);
            let (text, drawn) = (&bytes[label.clone()], is_drawn[label.start]);
            let is_service = text[0] == b'_' || WORDS.iter().any(|word| word.eq_ignore_ascii_case(text));
            assert!(is_drawn[label.clone()].iter().all(|d| *d == drawn) && (drawn || is_service), "{bytes:02x?}");
            assert!(!drawn_before || is_drawn[at], "{bytes:02x?}");
            labels[if drawn { usize::from(is_drawn[at]) } else { 2 }] += 1;
            (drawn_before, at) = (is_drawn[at], label.end);
        }
    }
    assert!(labels.iter().all(|n| *n > 20), "{labels:?}");
}

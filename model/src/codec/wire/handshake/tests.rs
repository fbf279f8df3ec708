//! What chance draws under the rules is what a plain reader takes for hellos and messages, and real ones stay allowed.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::super::{Codec, CodecSpec, Render};
use super::super::WireCodec;
use super::super::dictionary::Dictionary;
use super::super::exchange::testing::{self, Reader};
use super::super::habits::{Label, Service};
use super::super::vocab::PORTS;
use super::shown::Handshake;
use super::*;
use crate::packet::Timestamp;
use crate::wire::parse::{Transport, parse};
use crate::wire::plan::Plan;

/// What a plain reader sees of a hello (RFC 8446, sections 4.1.2 and 4.1.3): the types of its extensions, and the server's name.
#[derive(Debug, Default)]
struct Hello {
    extensions: Vec<u16>,
    server: Option<Vec<u8>>,
    /// Bytes behind it.
    tail: usize,
}

impl<'a> Reader<'a> {
    /// What stands behind its length.
    fn vector(&mut self, bytes: usize) -> Option<Reader<'a>> {
        let len = self.number(bytes)?;
        self.bytes(len).map(Reader)
    }
}

fn hello(is_server: bool, record: &[u8]) -> Option<Hello> {
    let mut record = Reader(record);
    (record.number(1)? == 1 + usize::from(is_server)).then_some(())?;
    let mut body = record.vector(3)?;
    let mut ret = Hello { tail: record.0.len(), ..Hello::default() };
    (body.number(1)? == 3 && body.number(1)? < 4).then_some(())?;
    body.bytes(32)?;
    (body.vector(1)?.0.len() <= 32).then_some(())?;
    if is_server {
        body.bytes(2)?;
        (body.number(1)? == 0).then_some(())?;
    } else {
        let ciphers = body.vector(2)?.0.len();
        let methods = body.vector(1)?.0;
        (ciphers > 0 && ciphers % 2 == 0 && methods.contains(&0)).then_some(())?;
    }
    if body.0.is_empty() {
        return Some(ret);
    }
    let mut extensions = body.vector(2)?;
    body.ends()?;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let mut data = extensions.vector(2)?;
        ret.extensions.push(kind as u16);
        match (kind, is_server) {
            (0, false) => {
                let mut list = data.vector(2)?;
                (list.number(1)? == 0).then_some(())?;
                let name = list.vector(2)?.0;
                (!name.is_empty() && !name.contains(&0)).then_some(())?;
                list.ends()?;
                ret.server = Some(name.to_vec());
            }
            (10 | 13 | 50, false) => {
                let list = data.vector(2)?.0;
                (!list.is_empty() && list.len() % 2 == 0).then_some(())?;
            }
            (11, _) | (45, false) => (!data.vector(1)?.0.is_empty()).then_some(())?,
            (27 | 43, false) => {
                let list = data.vector(1)?.0;
                (!list.is_empty() && list.len() % 2 == 0).then_some(())?;
            }
            (16, _) | (17513, false) => {
                let mut list = data.vector(2)?;
                list.0.first()?;
                while !list.0.is_empty() {
                    list.vector(1)?.0.first()?;
                }
            }
            (43, true) => (data.number(1)? == 3 && matches!(data.number(1)?, 3 | 4)).then_some(())?,
            (51, false) => {
                let mut list = data.vector(2)?;
                while !list.0.is_empty() {
                    list.bytes(2)?;
                    list.vector(2)?.0.first()?;
                }
            }
            (51, true) => {
                data.bytes(2)?;
                data.vector(2)?.0.first()?;
            }
            (5, false) => (data.bytes(5)? == [1, 0, 0, 0, 0]).then_some(())?,
            (65281, _) => (data.bytes(1)? == [0]).then_some(())?,
            (28, false) => _ = data.bytes(2)?,
            (21 | 35, false) => data.0 = &[],
            (kind, false) if kind & 0x0f0f == 0x0a0a => data.0 = &[],
            _ => {}
        }
        data.ends()?;
    }
    Some(ret)
}

/// Draws what a record holds, evenly among the bytes that can come, as far as its segment has it.
fn drawn(is_server: bool, is_hello: bool, len: u16, visible: u16, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut content = Content::new((is_server, is_hello), true, len, visible).unwrap();
    let mut ret = Vec::new();
    while ret.len() < usize::from(visible) {
        if content.drawn() > content.free() {
            let n = content.drawn().min(visible - ret.len() as u16);
            assert!(content.takes(n.into(), n));
            ret.resize(ret.len() + usize::from(n), 0xdd);
            continue;
        }
        let all: Vec<u8> = (0..=255).filter(|b| content.allows(Sym::Known(*b))).collect();
        assert!(!all.is_empty(), "nothing can follow {ret:02x?}, of {len}, {visible}: {content:?}");
        let b = all[rng.random_range(0..all.len())];
        assert!(content.hear(Sym::Known(b)));
        ret.push(b);
    }
    assert!((0..=255).all(|b| !content.allows(Sym::Known(b))), "{content:?}");
    ret
}

#[test]
fn chance_draws_hellos_that_a_plain_reader_takes() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut kinds, mut named, mut tails) = ([BTreeSet::new(), BTreeSet::new()], 0, 0);
    for round in 0..8000 {
        let is_server = round % 2 == 1;
        let (least, cut) = Content::lengths(is_server, true);
        let len = if round % 3 == 0 { rng.random_range(least..2400) } else { rng.random_range(least..least + 80) };
        let visible = if is_server && len >= cut && round % 4 == 1 { rng.random_range(least..=len) } else { len };
        let mut record = drawn(is_server, true, len, visible, &mut rng);
        record.resize(len.into(), 0xee);
        let read = hello(is_server, &record);
        let Some(read) = read else { panic!("{is_server} {len} {visible}: {record:02x?}") };
        tails += usize::from(read.tail > 0);
        assert!(is_server || read.tail == 0);
        let mut unique: Vec<_> = read.extensions.iter().filter(|kind| **kind & 0x0f0f != 0x0a0a).collect();
        unique.sort_unstable();
        let count = unique.len();
        unique.dedup();
        assert!(is_server || unique.len() == count, "{:?}", read.extensions);
        named += usize::from(read.server.is_some());
        kinds[usize::from(is_server)].extend(read.extensions);
    }
    let [client, server] = kinds.map(|kinds| kinds.into_iter().filter(|kind| kind & 0x0f0f != 0x0a0a).count());
    assert!((client, server) == (23, 9) && named > 10 && tails > 500, "{client} {server} {named} {tails}");
}

#[test]
fn chance_draws_messages_that_fill_their_records() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for round in 0..2000 {
        let is_server = round % 2 == 1;
        let (least, _) = Content::lengths(is_server, false);
        let len = rng.random_range(least..least + 40);
        let visible = rng.random_range(least..=len);
        let record = drawn(is_server, false, len, visible, &mut rng);
        assert_eq!(Reader(&record[1..]).number(3), Some(usize::from(len) - 4), "{record:02x?}");
        assert_eq!(len == 4, record[0] == 14);
    }
}

/// A hello of a browser, and a server's answer.
fn real() -> [Vec<u8>; 2] {
    let client = [
        &b"\x01\0\0\xd8\x03\x03"[..],
        &[7; 32],
        b"\x20",
        &[8; 32],
        b"\0\x06\x0a\x0a\x13\x01\xc0\x2f\x01\0\0\x89",
        b"\x0a\x0a\0\0\0\0\0\x11\0\x0f\0\0\x0cshop.example\0\x17\0\0\xff\x01\0\x01\0\0\x0a\0\x06\0\x04\x0a\x0a\0\x1d",
        b"\0\x0b\0\x02\x01\0\0\x23\0\0\0\x10\0\x0e\0\x0c\x02h2\x08http/1.1\0\x05\0\x05\x01\0\0\0\0\0\x0d\0\x04\0\x02\x04\x03",
        b"\0\x33\0\x09\0\x07\x0a\x0a\0\x03abc\0\x2d\0\x02\x01\x01\0\x2b\0\x05\x04\x0a\x0a\x03\x04\0\x15\0\x03\0\0\0",
    ]
    .concat();
    let server = [
        &b"\x02\0\0\x53\x03\x03"[..],
        &[9; 32],
        b"\x20",
        &[8; 32],
        b"\x13\x01\0\0\x0b\0\x2b\0\x02\x03\x04\x33\x33\0\x01\0",
    ]
    .concat();
    [client, server]
}

#[test]
fn hellos_of_every_day_are_allowed() {
    let [mut client, mut server] = real();
    // The lengths that stand in them are those that they have.
    let extensions = client.len() - (6 + 32 + 33 + 8 + 2 + 2);
    let at = 6 + 32 + 33 + 8 + 2;
    client[at..at + 2].copy_from_slice(&(extensions as u16).to_be_bytes());
    client[3] = (client.len() - 4) as u8;
    let at = server.len() - 11;
    server.truncate(at + 6);
    server[at - 2..at].copy_from_slice(&6u16.to_be_bytes());
    server[3] = (server.len() - 4) as u8;
    for (is_server, record) in [(false, &client), (true, &server)] {
        assert!(hello(is_server, record).is_some(), "{record:02x?}");
        let mut content = Content::new((is_server, true), true, record.len() as u16, record.len() as u16).unwrap();
        let wrong = record.iter().position(|b| !content.hear(Sym::Known(*b)));
        assert_eq!(wrong, None, "{is_server}: {content:?}");
    }
    assert_eq!(hello(false, &client).unwrap().server.as_deref(), Some(&b"shop.example"[..]));
}

/// The records of a handshake at the beginning of a stream that can be read, as far as it has them.
fn records(stream: &[u8]) -> Vec<(u8, &[u8])> {
    let (mut ret, mut reader) = (Vec::new(), Reader(stream));
    while let (Some(kind), Some(_), Some(len)) = (reader.number(1), reader.number(2), reader.number(2)) {
        if !(20..=24).contains(&kind) {
            break;
        }
        let body = reader.bytes(len.min(reader.0.len())).unwrap_or_default();
        if body.len() < len {
            break;
        }
        ret.push((kind as u8, body));
    }
    ret
}

/// A codec of one label, of whose sides it is known which messages they say in the clear behind their hellos, or not.
fn codec(messages: Option<[&[u8]; 2]>) -> WireCodec {
    let strings = [&b"\x13\x01\x13\x02"[..], b"\0\x17\0\0", b"\0\x0b\0\x02\x01\0"].map(Into::into).to_vec();
    let bare = WireCodec::new(vec!["web".into()], Dictionary::new(strings).unwrap(), false, Plan::default()).unwrap();
    let CodecSpec::Wire(mut spec) = bare.spec() else { panic!("wire") };
    if let Some(messages) = messages {
        let messages = Some(messages.map(|types| types.iter().copied().collect()));
        let packets = ["fin", "rst", "open"].map(|ends| (ends.to_owned(), [1, 1000])).into();
        let services = [("tcp/443".to_owned(), Service { packets, ..Service::default() })].into();
        spec.habits.insert("web".to_owned(), Label { flows: 9, services, messages, ..Label::default() });
    }
    WireCodec::from_spec(spec, &bare.tokenizer_json()).unwrap()
}

/// Draws flows to port 443, and shows each record of theirs to `see`: whether it is the server's, what its side has said before, its type
/// and what it holds.
fn draw(codec: &WireCodec, seeds: u64, mut see: impl FnMut(bool, Phase, u8, &[u8])) {
    let port = PORTS.binary_search(&443).unwrap() as u8;
    let mut opening = vec![Tok::GapE(0), Tok::Open(Proto::Tcp, false), Tok::Port(port), Tok::SportEph, Tok::HostNew];
    let window = [Tok::Win(15), Tok::Byte(0)];
    opening.extend([
        Tok::Flags(0x02),
        window[0],
        window[1],
        Tok::OptNone,
        Tok::Len0,
        Tok::GapE(0),
        Tok::Flow(0, false),
    ]);
    opening.extend([Tok::Flags(0x12), window[0], window[1], Tok::OptNone, Tok::Len0, Tok::GapE(0), Tok::Flow(0, true)]);
    opening.extend([Tok::Flags(0x10), Tok::Len0]);
    let mut answered = opening.clone();
    answered.extend([
        Tok::GapE(0),
        Tok::Flow(0, true),
        Tok::Flags(0x18),
        Tok::LenHi(0),
        Tok::Byte(50),
        Tok::Tls(2, 1),
        Tok::RecRest,
    ]);
    answered.extend([1, 0, 0, 41, 3, 3].map(Tok::Byte));
    answered.push(Tok::Opaque(32));
    answered.extend([0, 0, 2, 0x13, 1, 1, 0].map(Tok::Byte));
    answered.extend([
        Tok::GapE(0),
        Tok::Flow(0, false),
        Tok::Flags(0x18),
        Tok::LenHi(0),
        Tok::Byte(180),
        Tok::Tls(2, 1),
    ]);
    for seed in 0..seeds {
        let is_wanted = |tok| {
            matches!(tok, Tok::Flow(0, _) | Tok::Tls(2, _) | Tok::RecRest | Tok::LenHi(0 | 1) | Tok::TextName)
                || matches!(tok, Tok::Flags(0x18) | Tok::OpaqueRest | Tok::Opaque(_) | Tok::Byte(60..220))
        };
        let tokens = testing::sample(codec, [&opening, &answered][seed as usize % 2], seed, 6000, (40, is_wanted));
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let decoded = codec.decode(&tokens, &mut Render { rng, start: Timestamp::from_parts(1_700_000_000, 0) });
        assert_eq!(decoded.malformed_packets, 0);
        // Streams by source, where their numbers go on without a gap from a SYN.
        let mut streams: BTreeMap<_, (u32, Vec<u8>)> = BTreeMap::new();
        for packet in &decoded.packets {
            let frame = parse(packet).unwrap();
            let Transport::Tcp(tcp) = frame.transport else { continue };
            if tcp.dst_port != 443 && tcp.src_port != 443 {
                continue;
            }
            let key = (frame.ip.src, tcp.src_port, frame.ip.dst, tcp.dst_port);
            if tcp.flags & 2 != 0 {
                streams.entry(key).or_insert((tcp.seq.wrapping_add(1), Vec::new()));
            } else if let Some((next, stream)) = streams.get_mut(&key).filter(|(next, _)| *next == tcp.seq) {
                *next = next.wrapping_add(frame.payload.len() as u32);
                stream.extend_from_slice(frame.payload);
            }
        }
        for ((_, src_port, _, dst_port), (_, stream)) in streams {
            let is_server = src_port == 443 && dst_port != 443;
            let mut phase = Phase::Silent;
            for (kind, body) in records(&stream) {
                see(is_server, phase, kind, body);
                phase = phase.after(kind);
            }
        }
    }
}

#[test]
fn every_flow_of_tls_begins_with_hellos() {
    let (mut hellos, mut messages) = ([0; 2], 0);
    draw(&codec(None), 700, |is_server, phase, kind, body| match (kind, phase) {
        (22, Phase::Silent) => {
            assert!(hello(is_server, body).is_some(), "{body:02x?}");
            hellos[usize::from(is_server)] += 1;
        }
        (22, Phase::Plain) => {
            assert_eq!(Reader(&body[1..]).number(3), Some(body.len() - 4), "{body:02x?}");
            messages += 1;
            if body[0] == 11 && body.len() > 500 {
                assert_eq!(Reader(&body[4..]).number(3), Some(body.len() - 7), "{body:02x?}");
            }
        }
        _ => {}
    });
    assert!(hellos.iter().all(|n| *n > 50) && messages > 10, "{hellos:?} {messages}");
}

#[test]
fn behind_hellos_come_no_messages_but_those_that_were_seen() {
    let drawn = |known: Option<[&[u8]; 2]>| {
        let mut ret = BTreeMap::new();
        draw(&codec(known), 700, |is_server, phase, kind, body| {
            // Of four bytes there is only one message, which comes where a record has become so short.
            if (kind, phase) == (22, Phase::Plain) && body.len() > 4 {
                *ret.entry((is_server, body[0])).or_insert(0) += 1;
            }
        });
        ret
    };
    let any = drawn(None);
    assert!(any.len() > 3, "{any:?}");
    assert_eq!(drawn(Some([&[], &[]])), BTreeMap::new());
    let some = drawn(Some([&[16], &[11, 12]]));
    assert!(some.len() > 1 && some.keys().all(|key| [(false, 16), (true, 11), (true, 12)].contains(key)), "{some:?}");
}

#[test]
fn whatever_is_said_without_rules_is_followed_without_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let [client, server] = real();
    for round in 0..40_000 {
        let (is_server, is_hello) = (round % 2 == 1, round % 3 > 0);
        let (len, visible) = (rng.random_range(0..300), rng.random_range(0..300));
        let Some(mut content) = Content::new((is_server, is_hello), false, len, visible.min(len)) else { continue };
        let like = if is_server { &server } else { &client };
        for i in 0..usize::from(len) {
            let b = if rng.random_range(0..8) == 0 { rng.random() } else { *like.get(i).unwrap_or(&0) };
            let all = (0..=255u8).filter(|b| content.allows(Sym::Known(*b))).count();
            if !content.hear(Sym::Known(b)) && (all == 0 || rng.random_range(0..2) == 0) {
                break;
            }
            content.takes(rng.random_range(0..9), content.drawn());
        }
    }
    // Any pieces, of any record.
    for _ in 0..20_000 {
        let mut side = Handshake::default();
        let mut payload: Vec<u8> = (0..rng.random_range(5..60)).map(|_| rng.random_range(0..17)).collect();
        let len = payload.len() as u16;
        let pieces = [Piece::Tls(rng.random_range(20..25), 3, rng.random_range(0..80)), Piece::Opaque(len - 5)];
        side.complete(&pieces, &[], &mut payload, |len| (len > 20).then(|| vec![0; len]));
    }
}

#[test]
fn certificates_stand_where_a_server_shows_them() {
    let chain = |len: usize| Some((0..len).map(|i| i as u8).collect());
    let mut sides = Handshake::default();
    // A hello of six bytes and 30 of a certificate in a record, the last 20 of which come in another segment.
    let (head, mut first) = ([2, 0, 0, 2, 3, 3], vec![0xaa; 5 + 6 + 14]);
    first[5..11].copy_from_slice(&head);
    let pieces = [Piece::Tls(22, 3, 40), Piece::Byte(2), Piece::Opaque(5), Piece::Opaque(14)];
    sides.complete(&pieces, &[], &mut first, chain);
    assert_eq!(first[11..], [11, 0, 0, 30, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let mut second = vec![0xaa; 20 + 5 + 8];
    let pieces = [Piece::Opaque(10), Piece::Zero(10), Piece::Tls(22, 3, 8), Piece::Byte(11), Piece::Opaque(7)];
    second[25..29].copy_from_slice(&[11, 0, 0, 4]);
    sides.complete(&pieces, &[], &mut second, chain);
    assert!(second[..20].iter().enumerate().all(|(i, b)| usize::from(*b) == 10 + i), "{second:?}");
    assert_eq!(second[25..], [11, 0, 0, 4, 0, 1, 2, 3]);
    // A signed key of 80 bytes, a ticket, a key that was ciphered.
    for (kind, len, at, lengths) in
        [(12, 80, 75, [0, 7]), (4, 20, 8, [0, 14]), (16, 258, 4, [1, 0]), (15, 8, 6, [0, 4])]
    {
        let mut message = vec![0xaa; 5 + 4 + len];
        message[5..9].copy_from_slice(&[kind, 0, (len >> 8) as u8, len as u8]);
        let pieces = [Piece::Tls(22, 3, 4 + len as u16), Piece::Opaque(4 + len as u16)];
        Handshake::default().complete(&pieces, &[], &mut message, chain);
        assert_eq!(message[5 + at..5 + at + 2], lengths, "{kind}");
    }
    // Once ciphered, nothing can be read.
    let mut third = vec![0xaa; 6 + 5 + 8];
    third[11..15].copy_from_slice(&[11, 0, 0, 4]);
    sides.complete(
        &[Piece::Tls(20, 3, 1), Piece::Byte(1), Piece::Tls(22, 3, 8), Piece::Opaque(8)],
        &[],
        &mut third,
        chain,
    );
    assert_eq!(third[11..], [11, 0, 0, 4, 0xaa, 0xaa, 0xaa, 0xaa]);
}

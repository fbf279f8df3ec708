//! What chance draws under the rules is what a plain reader takes for ISAKMP, and real messages stay allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::super::super::{Codec, Render};
use super::super::super::WireCodec;
use super::super::super::dictionary::Dictionary;
use super::super::super::vocab::Tok;
use super::super::testing::{self, Reader};
use super::super::{Protocol, judge};
use super::*;
use crate::packet::{LinkType, Packet, Timestamp};
use crate::wire::parse::{Transport, parse};
use crate::wire::plan::Plan;

impl<'a> Reader<'a> {
    /// What follows, the kind in front of the length that counts both, and the rest of it.
    fn part(&mut self) -> Option<(usize, Reader<'a>)> {
        let (next, flags, len) = (self.number(1)?, self.number(1)?, self.number(2)?);
        (flags == 0).then_some((next, Reader(self.bytes(len.checked_sub(4)?)?)))
    }
}

/// Proposals to the end (RFC 2408, sections 3.5 and 3.6; RFC 7296, section 3.3).
fn association(mut value: Reader<'_>, is_v1: bool) -> Option<()> {
    if is_v1 {
        (value.bytes(8)? == [0, 0, 0, 1, 0, 0, 0, 1]).then_some(())?;
    }
    for number in 1.. {
        let (next, mut proposal) = value.part()?;
        (proposal.bytes(3)? == [number, 1, 0]).then_some(())?;
        let count = proposal.number(1)?;
        for i in (0..count).rev() {
            let (next, mut transform) = proposal.part()?;
            (next == if i > 0 { 3 } else { 0 }).then_some(())?;
            let (kind, _, id) = (transform.number(1)?, transform.number(1)?, transform.number(2)?);
            (is_v1 || (1..=4).contains(&kind) && id > 0).then_some(())?;
            (!is_v1 || !transform.0.is_empty()).then_some(())?;
            while !transform.0.is_empty() {
                let attribute = transform.number(2)?;
                let len = if attribute & 0x8000 != 0 { 2 } else { transform.number(2)? };
                let value = transform.bytes(len)?;
                (is_v1 || attribute == 0x800e && kind == 1 && matches!(value, [0, 128 | 192] | [1, 0])).then_some(())?;
            }
        }
        proposal.ends()?;
        if next == 0 {
            (count > 0).then_some(())?;
            return value.ends();
        }
        (next == 2 && !is_v1).then_some(())?;
    }
    None
}

/// Whether a plain reader takes it for a message: exchange and kinds of payloads.
fn message(bytes: &[u8]) -> Option<(u8, Vec<usize>)> {
    let mut reader = Reader(bytes);
    let (initiator, responder) = (reader.number(8)?, reader.number(8)?);
    let (mut next, version, exchange, flags) =
        (reader.number(1)?, reader.number(1)?, reader.number(1)? as u8, reader.number(1)?);
    let (id, len) = (reader.number(4)?, reader.number(4)?);
    (initiator > 0 && len == bytes.len() && matches!(version, 0x10 | 0x20) && next > 0).then_some(())?;
    let is_v1 = version == 0x10;
    let exchanges: &[u8] = if is_v1 { &[2, 4, 5, 6, 32] } else { &[34, 35, 36, 37] };
    (exchanges.contains(&exchange) && flags & !if is_v1 { 1 } else { 0x28 } == 0).then_some(())?;
    match exchange {
        2 | 4 | 34 => (id == 0).then_some(())?,
        // Chance may answer something else, whose number is 0.
        35 if flags & 0x20 != 0 => {}
        5 | 6 | 32 | 35 => (id > 0).then_some(())?,
        _ => {}
    }
    (responder > 0 || matches!(exchange, 2 | 4 | 5 | 34)).then_some(())?;
    if is_v1 && flags & 1 == 1 {
        return (reader.0.len() >= 24 && reader.0.len() % 8 == 0 && responder > 0).then(|| (exchange, vec![next]));
    }
    let mut kinds = Vec::new();
    while next > 0 {
        let kind = next;
        kinds.push(kind);
        let (after, mut value) = reader.part()?;
        next = after;
        let n = value.0.len();
        match kind {
            1 | 33 => association(value, is_v1)?,
            4 => (n >= 32).then_some(())?,
            34 => {
                let (group, zero) = (value.number(2)?, value.number(2)?);
                let len = match group {
                    1 => 96,
                    2 => 128,
                    5 => 192,
                    14 => 256,
                    15 => 384,
                    16 => 512,
                    19 => 64,
                    20 => 96,
                    21 => 132,
                    31 => 32,
                    32 => 56,
                    _ => return None,
                };
                (zero == 0 && value.0.len() == len).then_some(())?;
            }
            5 => (value.bytes(4)?[1..] == [0; 3] && n > 4).then_some(())?,
            8 | 20 => matches!(n, 16 | 20 | 32 | 48 | 64).then_some(())?,
            10 => (8..=256).contains(&n).then_some(())?,
            40 => (16..=256).contains(&n).then_some(())?,
            11 => {
                (value.number(4)? == 1 && value.number(1)? == 1).then_some(())?;
                let (spi, code) = (value.number(1)?, value.number(2)?);
                value.bytes(spi)?;
                (1..=30).contains(&code).then_some(())?;
            }
            12 => {
                (value.number(4)? == 1 && value.number(1)? == 1).then_some(())?;
                (value.number(1)? == 16 && 16 * value.number(2)? == value.0.len() && n > 8).then_some(())?;
            }
            13 | 43 => (n >= 8).then_some(())?,
            38 => (value.number(1)? == 4 && n > 1 && value.0.len() % 20 == 0).then_some(())?,
            41 => {
                (value.number(2)? == 0).then_some(())?;
                let code = value.number(2)?;
                match (code, value.0.len()) {
                    (7 | 14 | 16404 | 16406 | 16418 | 16430, 0) | (17, 2) | (16388 | 16389, 20) | (16390, 1..=64) => {}
                    (16431, n @ 2..=16) if n % 2 == 0 => {}
                    _ => return None,
                }
            }
            46 => {
                // What is inside begins with another payload.
                (n >= 24 && (next == 0 || (33..=48).contains(&next))).then_some(())?;
                return reader.ends().map(|()| (exchange, kinds));
            }
            _ => return None,
        }
    }
    // What each exchange begins with.
    match (exchange, &kinds[..]) {
        (34, [33, 34, 40, ..] | [41] | [41, 33, 34, 40, ..]) => {}
        (2, [1, ..] | [4, 10, ..]) | (4, [1, 4, 10, 5, ..] | [8, ..]) | (5, [11] | [12]) => {}
        _ => return None,
    }
    reader.ends().map(|()| (exchange, kinds))
}

/// The same of a datagram: 0 is a keepalive, 1 ESP.
fn reads(port: u16, bytes: &[u8]) -> Option<(u8, Vec<usize>)> {
    match (port, bytes) {
        (500, _) => message(bytes),
        (_, [0xff]) => Some((0, Vec::new())),
        (_, [0, 0, 0, 0, rest @ ..]) => message(rest),
        (_, [a, b, c, ..]) => (bytes.len() >= 28 && [a, b, c] != [&0; 3]).then(|| (1, Vec::new())),
        _ => None,
    }
}

fn takes(port: u16, is_reply: bool, bytes: &[u8]) -> bool {
    let mut message = Message::new(port == 4500, is_reply, bytes.len() as u16, 0);
    bytes.iter().all(|b| message.hear(Sym::Known(*b), Source::Said)) && message.is_done()
}

/// Draws a datagram evenly among the bytes that can come, up to `literal`; then what is drawn by chance is completed.
fn drawn(port: u16, is_reply: bool, len: u16, literal: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut message = Message::new(port == 4500, is_reply, len, 0);
    let (mut ret, mut is_drawn) = (Vec::new(), Vec::new());
    let is_esp = rng.random_range(0..8) == 0;
    while !message.is_done() {
        let all: Vec<u8> = (0..=255).filter(|b| message.allows(Sym::Known(*b), Source::Said)).collect();
        let can_draw = message.allows(Sym::Drawn, Source::Said);
        assert!(can_draw || !all.is_empty(), "nothing can follow {ret:02x?}, of {len}: {message:?}");
        let draws = can_draw && (ret.len() >= literal || all.is_empty());
        // Among all numbers of ESP the marker would be rare.
        let is_marker = port == 4500 && ret.len() < 4 && all[0] == 0 && !is_esp;
        let b = if draws { rng.random() } else { all[if is_marker { 0 } else { rng.random_range(0..all.len()) }] };
        assert!(message.hear(if draws { Sym::Drawn } else { Sym::Known(b) }, Source::Said));
        ret.push(b);
        is_drawn.push(draws);
    }
    assert_eq!(ret.len(), usize::from(len));
    let literal = ret.clone();
    wire::complete(&mut ret, port == 4500, |at| is_drawn[at]);
    assert!((0..ret.len()).all(|at| is_drawn[at] || ret[at] == literal[at]), "what is said stays");
    ret
}

#[test]
fn chance_draws_messages_that_a_plain_reader_takes_and_damage_is_seen() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut damaged, mut seen) = (0, BTreeSet::new());
    let mut counts = BTreeMap::<u8, usize>::new();
    for round in 0..5000 {
        let (port, is_reply) = [(500, false), (500, true), (4500, false), (4500, true)][round % 4];
        let [_, (from, to)] = Message::lengths(port == 4500, 1400);
        let len = match round % 5 {
            0 => rng.random_range(from..=to),
            1 if port == 4500 => [1, from][round / 20 % 2],
            _ => rng.random_range(from..from + 300),
        };
        let literal = [usize::MAX, 0, 30, 64, 120, 300][round / 5 % 6];
        let mut message = drawn(port, is_reply, len as u16, literal, &mut rng);
        let read = reads(port, &message);
        assert!(read.is_some(), "{message:02x?}");
        assert!(takes(port, is_reply, &message), "{message:02x?}");
        let (exchange, kinds) = read.unwrap();
        *counts.entry(exchange).or_default() += 1;
        seen.extend(kinds);
        let src = if is_reply { [port, 40_000] } else { [40_000, port] };
        assert_eq!(judge(src[0], src[1], &message), Some((port, true)));
        let is_wrong = |len: usize| takes(port, is_reply, &message[..len]) && reads(port, &message[..len]).is_none();
        assert_eq!((0..message.len()).find(|len| is_wrong(*len)), None, "{message:02x?}");
        for _ in 0..10 {
            let (at, b) = (rng.random_range(0..message.len().min(200)), rng.random());
            let before = std::mem::replace(&mut message[at], b);
            if reads(port, &message).is_none() {
                assert!(!takes(port, is_reply, &message), "{message:02x?}");
                damaged += 1;
            }
            message[at] = before;
        }
    }
    let all = [1, 4, 5, 8, 10, 11, 12, 13, 20, 33, 34, 38, 40, 41, 43, 46];
    assert!(all.iter().all(|kind| seen.contains(kind)), "{seen:?}");
    assert!(counts.len() == 11 && counts.values().all(|n| *n > 10) && damaged > 5000, "{counts:?} {damaged}");
}

/// Messages as hosts send them, bytes of which nothing is asked left out.
#[test]
fn messages_of_every_day_are_allowed() {
    let header = |responder: u8, head: [u8; 4], id: u8, body: &[u8]| {
        let len = (28 + body.len() as u32).to_be_bytes();
        [&[7; 8][..], &[responder; 8], &head, &[0, 0, 0, id], &len, body].concat()
    };
    let value = |next: u8, value: &[u8]| [&[next, 0][..], &(4 + value.len() as u16).to_be_bytes(), value].concat();
    // Of version 1: 3DES, SHA, a shared key, group 2, 28,800 seconds.
    let transform = b"\0\0\0\x24\x01\x01\0\0\x80\x01\0\x05\x80\x02\0\x02\x80\x03\0\x01\x80\x04\0\x02\x80\x0b\0\x01\0\x0c\0\x04\0\0\x70\x80";
    let proposal = [&b"\0\0\0\x2c\x01\x01\0\x01"[..], transform].concat();
    let main = value(13, &[b"\0\0\0\x01\0\0\0\x01", &proposal[..]].concat());
    let main = header(0, [1, 0x10, 2, 0], 0, &[main, value(0, &[9; 16])].concat());
    let keys = [value(10, &[1; 128]), value(20, &[2; 20]), value(20, &[3; 20]), value(0, &[4; 20])].concat();
    let keys = header(9, [4, 0x10, 2, 0], 0, &keys);
    let quick = header(9, [8, 0x10, 32, 1], 5, &[0x55; 160]);
    // Of version 2: AES, SHA-256 for both, group 14.
    let transforms =
        b"\x03\0\0\x0c\x01\0\0\x0c\x80\x0e\x01\0\x03\0\0\x08\x02\0\0\x05\x03\0\0\x08\x03\0\0\x0c\0\0\0\x08\x04\0\0\x0e";
    let proposal = value(0, &[b"\x01\x01\0\x04", &transforms[..]].concat());
    let detection = |code: &[u8; 2], next| value(next, &[&[0, 0], &code[..], &[1; 20]].concat());
    let exchange = value(40, &[&[0, 14, 0, 0][..], &[1; 256]].concat());
    let rest = [exchange, value(41, &[2; 32]), detection(b"\x40\x04", 41), detection(b"\x40\x05", 0)].concat();
    let asks = [value(34, &proposal), rest].concat();
    let cookie = value(33, &[&b"\0\0\x40\x06"[..], &[5; 16]].concat());
    let ciphered = header(9, [46, 0x20, 35, 0x08], 1, &value(35, &[6; 200]));
    let alive = header(9, [46, 0x20, 37, 0x20], 3, &value(0, &[6; 48]));
    let all = [
        (500, false, main),
        (500, false, keys),
        (500, true, quick.clone()),
        (500, false, header(0, [33, 0x20, 34, 0x08], 0, &asks)),
        (500, false, header(0, [41, 0x20, 34, 0x08], 0, &[&cookie[..], &asks].concat())),
        (500, true, header(9, [33, 0x20, 34, 0x20], 0, &asks)),
        (500, true, header(0, [41, 0x20, 34, 0x20], 0, &value(0, b"\0\0\0\x0e"))),
        (4500, false, [&[0; 4][..], &ciphered].concat()),
        (4500, true, [&[0; 4][..], &alive].concat()),
        (4500, true, [&[0; 4][..], &quick].concat()),
        (4500, false, vec![0xff]),
        (4500, false, vec![0x7a; 100]),
    ];
    for (port, is_reply, message) in all {
        assert!(reads(port, &message).is_some(), "{message:02x?}");
        assert!(takes(port, is_reply, &message), "{message:02x?}");
        let is_esp = port == 4500 && message[0] != 0;
        assert!(is_esp || (0..message.len()).all(|len| !takes(port, is_reply, &message[..len])), "{message:02x?}");
        assert!(is_esp || !takes(port, is_reply, &[&message[..], &[0]].concat()));
    }
}

#[test]
fn every_datagram_to_these_ports_is_a_message_and_answers_have_its_numbers() {
    let strings = [&b"\0\0\0\x08\x04\0\0\x0e"[..], b"\x2e\x20\x23\x08", b"\x21\x20\x22\x08\0\0\0\0\0\0"];
    let dictionary = Dictionary::new(strings.map(Into::into).to_vec()).unwrap();
    let codec = WireCodec::new(vec!["vpn".into()], dictionary, false, Plan::default()).unwrap();
    let (mut judged, mut answered, mut ids) = ([[0; 2]; 2], 0, 0);
    for seed in 0..500 {
        let port = [500, 4500][seed as usize % 2];
        let is_wanted = |tok| {
            matches!(tok, Tok::Peer(8..) | Tok::Flow(0, _) | Tok::LenHi(0) | Tok::Byte(0) | Tok::OpaqueRest)
                || matches!(tok, Tok::Str(_) | Tok::Same(20..))
        };
        let tokens = testing::sample(
            &codec,
            &testing::opening(port),
            seed,
            [300, 900, 4000][seed as usize % 3],
            (2 + seed as u32 % 3, is_wanted),
        );
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let decoded = codec.decode(&tokens, &mut Render { rng, start: Timestamp::from_parts(1_700_000_000, 0) });
        assert_eq!(decoded.malformed_packets, 0);
        let mut asked = BTreeMap::new();
        for packet in decoded.packets {
            let frame = parse(&packet).unwrap();
            let Transport::Udp { src_port, dst_port } = frame.transport else { continue };
            let is_reply = src_port == port;
            // Between two ports that promise something it is the opener's choice which one does.
            let promises = |port| Protocol::at(port).is_some();
            if !is_reply && dst_port != port || src_port != dst_port && promises(src_port) && promises(dst_port) {
                continue;
            }
            assert!(reads(port, frame.payload).is_some(), "{port} {seed}: {:02x?}", frame.payload);
            judged[usize::from(port == 4500)][usize::from(is_reply)] += 1;
            let is_message = port == 500 || frame.payload.starts_with(&[0; 4]);
            let body = &frame.payload[if port == 500 { 0 } else { 4.min(frame.payload.len()) }..];
            let flow = (frame.ip.src, frame.ip.dst, src_port, dst_port);
            if !is_reply {
                asked.insert(flow, is_message.then(|| body[..24].to_vec()));
            } else if let Some(Some(question)) = asked.get(&(flow.1, flow.0, dst_port, src_port)).filter(|_| is_message)
            {
                assert_eq!(body[..8], question[..8], "{:02x?}", frame.payload);
                if body[17] == 0x20 && body[18] != 34 && body[19] & 0x20 != 0 {
                    assert_eq!(body[20..24], question[20..24], "{:02x?}", frame.payload);
                    ids += 1;
                }
                answered += 1;
            }
        }
    }
    assert!(judged.iter().flatten().all(|n| *n > 100) && answered > 50 && ids > 20, "{judged:?} {answered} {ids}");
}

/// Captures of whoever has the folder. One of these 519 messages has a payload that nobody knows, as it is private.
#[test]
fn real_datagrams_are_messages() {
    let path =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/traffic/vpn_tor/ntop-ipsec_isakmp_esp.pcap"));
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return;
    }
    let bytes = std::fs::read(path).unwrap();
    let (mut judged, mut made, mut rest) = ([0; 2], 0, &bytes[24..]);
    // Of a little-endian pcap.
    while let Some((head, after)) = rest.split_at_checked(16) {
        let len = u32::from_le_bytes(head[8..12].try_into().unwrap());
        let (data, after) = after.split_at(len as usize);
        rest = after;
        let packet = Packet { ts: Timestamp::from_parts(0, 0), linktype: LinkType::ETHERNET, len, data: data.to_vec() };
        let Ok(frame) = parse(&packet) else { continue };
        let Transport::Udp { src_port, dst_port } = frame.transport else { continue };
        let Some((port, is_message)) = judge(src_port, dst_port, frame.payload) else { continue };
        judged[usize::from(is_message)] += 1;
        made += usize::from(takes(port, src_port == port, frame.payload));
    }
    eprintln!("no messages, messages: {judged:?}; of forms that are made: {made}");
    assert!(judged[1] > 800 && judged[0] <= 2 && made > 600, "{judged:?} {made}");
}

//! What chance draws under the rules is what plain readers take for CoAP, DHCP and NetBIOS, and real messages stay allowed.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::super::{Codec, Render, Token};
use super::super::WireCodec;
use super::super::dictionary::Dictionary;
use super::super::side::{ACK, SYN};
use super::super::vocab::PORTS;
use super::*;
use crate::packet::Timestamp;
use crate::wire::parse::{Transport, parse};
use crate::wire::plan::Plan;

/// What a plain reader sees of a CoAP message (RFC 7252, section 3): whether it is a request, its token, the options' numbers, the
/// payload's length.
fn coap(bytes: &[u8]) -> Option<(bool, Vec<u8>, Vec<u32>, usize)> {
    let [first, code, _, _, rest @ ..] = bytes else { return None };
    let (version, kind, token) = (first >> 6, first >> 4 & 3, usize::from(first & 15));
    if version != 1 || token > 8 || rest.len() < token {
        return None;
    }
    // Class and detail (section 12.1): requests, success, errors of the client and of the server.
    match (code >> 5, code & 31) {
        (0, 0) => return (token == 0 && rest.is_empty() && kind != 1).then(|| (false, Vec::new(), Vec::new(), 0)),
        (0, 1..=7) => (kind < 2).then_some(())?,
        (2, 1..=5 | 31) | (4, 0..=31) | (5, 0..=8) => (kind < 3).then_some(())?,
        _ => return None,
    }
    let (token, mut rest) = rest.split_at(token);
    let (mut number, mut numbers) = (0, Vec::new());
    while let [first, after @ ..] = rest {
        if *first == 0xff {
            return (!after.is_empty()).then(|| (code >> 5 == 0, token.to_vec(), numbers, after.len()));
        }
        rest = after;
        let mut extended = |bits: u8| {
            let (wide, base) = match bits {
                13 => (1, 13),
                14 => (2, 269),
                15 => return None,
                bits => return Some(u32::from(bits)),
            };
            let bytes = rest.get(..wide)?;
            rest = &rest[wide..];
            Some(base + bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
        };
        number += extended(first >> 4)?;
        let len = extended(first & 15)? as usize;
        rest = rest.get(len..)?;
        numbers.push(number);
    }
    Some((code >> 5 == 0, token.to_vec(), numbers, 0))
}

/// Whether a plain reader takes it for a message of the name service (RFC 1002, section 4.2).
fn name_service(bytes: &[u8]) -> Option<()> {
    struct Reader<'a>(&'a [u8], usize);
    impl Reader<'_> {
        fn bytes(&mut self, n: usize) -> Option<&[u8]> {
            let ret = self.0.get(self.1..self.1 + n)?;
            self.1 += n;
            Some(ret)
        }
        fn number(&mut self) -> Option<usize> {
            self.bytes(2).map(|b| usize::from(b[0]) << 8 | usize::from(b[1]))
        }
        fn name(&mut self) -> Option<()> {
            match self.bytes(1)?[0] {
                0x20 => {
                    let letters = self.bytes(32)?.iter().all(|b| (b'A'..b'Q').contains(b));
                    (letters && self.bytes(1)?[0] == 0).then_some(())
                }
                0xc0 => (self.bytes(1)?[0] == 12).then_some(()),
                _ => None,
            }
        }
    }
    let mut reader = Reader(bytes, 2);
    let flags = reader.number()?;
    let counts = [reader.number()?, reader.number()?, reader.number()?, reader.number()?];
    (matches!(flags >> 11 & 15, 0 | 5..=9) && flags & 0x60 == 0 && counts.iter().all(|n| *n < 2)).then_some(())?;
    if counts[0] == 1 {
        reader.name()?;
        (matches!(reader.number()?, 0x20 | 0x21) && reader.number()? == 1).then_some(())?;
    }
    for _ in 0..counts[1] + counts[2] + counts[3] {
        reader.name()?;
        let kind = reader.number()?;
        (reader.number()? == 1).then_some(())?;
        reader.bytes(4)?;
        let len = reader.number()?;
        let data = reader.bytes(len)?;
        match kind {
            // Flags and an address each; flags alone of one who is waited for.
            0x20 => (data.len() % 6 == 0 || data.len() == 2).then_some(())?,
            0x21 => (data.len() >= 47 && data.len() >= 47 + 18 * usize::from(data[0])).then_some(())?,
            0x0a => data.is_empty().then_some(())?,
            _ => return None,
        }
    }
    (reader.1 == bytes.len() && counts != [0; 4]).then_some(())
}

/// Whether a plain reader takes it for a message of DHCP (RFC 2131, section 2; RFC 2132): its kind, and the options before the end.
fn dhcp(bytes: &[u8]) -> Option<(u8, Vec<u8>)> {
    let (header, mut rest) = bytes.split_at_checked(240)?;
    let zeros = |bytes: &[u8]| bytes.iter().all(|b| *b == 0);
    (matches!(header[0], 1 | 2) && header[1..3] == [1, 6] && header[3] <= 16 && header[10] & 0x7f == 0).then_some(())?;
    (header[11] == 0 && zeros(&header[34..44]) && header[236..] == [99, 130, 83, 99]).then_some(())?;
    let (mut kind, mut codes) = (None, Vec::new());
    loop {
        let (code, after) = rest.split_first()?;
        if *code == 255 {
            return (zeros(after)).then_some((kind?, codes));
        }
        let (len, after) = after.split_first()?;
        let (value, after) = after.split_at_checked(usize::from(*len))?;
        rest = after;
        let is_right = match code {
            1 | 2 | 16 | 24 | 28 | 32 | 35 | 38 | 50 | 51 | 54 | 58 | 59 | 108 => value.len() == 4,
            3..=11 | 41 | 42 | 44 | 45 | 48 | 49 | 65 | 68..=76 | 150 => !value.is_empty() && value.len() % 4 == 0,
            21 | 33 => !value.is_empty() && value.len() % 8 == 0,
            53 => {
                value.len() == 1
                    && if header[0] == 1 { [1, 3, 4, 7, 8].contains(&value[0]) } else { [2, 5, 6].contains(&value[0]) }
            }
            57 | 26 => value.len() == 2,
            61 if value.first() == Some(&1) => value.len() == 7,
            61 => value.len() >= 2,
            80 => value.is_empty(),
            81 => value.len() >= 4 && value[0] & 4 == 0,
            _ => !value.is_empty(),
        };
        (is_right && !codes.contains(code)).then_some(())?;
        codes.push(*code);
        if *code == 53 {
            kind = Some(value[0]);
        }
    }
}

fn reads(port: u16, bytes: &[u8]) -> bool {
    match port {
        5683 => coap(bytes).is_some(),
        67 => dhcp(bytes).is_some(),
        _ => name_service(bytes).is_some(),
    }
}

/// Draws a message evenly among the bytes that can come.
fn drawn(port: u16, is_reply: bool, len: u16, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut message = Protocol::at(port).unwrap().message(Names::Literal, is_reply, len, 0);
    let mut ret = Vec::new();
    while !message.is_done() {
        let all: Vec<u8> = (0..=255).filter(|b| message.allows(Sym::Known(*b), Source::Said)).collect();
        assert!(!all.is_empty(), "nothing can follow {ret:02x?}, of {len}: {message:?}");
        let b = all[rng.random_range(0..all.len())];
        assert!(message.hear(Sym::Known(b), Source::Said));
        ret.push(b);
    }
    assert_eq!(ret.len(), usize::from(len));
    ret
}

#[test]
fn chance_draws_messages_that_plain_readers_take_and_damage_is_seen() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut damaged, mut options, mut payloads, mut kinds) = (0, BTreeSet::new(), 0, BTreeSet::new());
    let mut dhcp_options = BTreeSet::new();
    for round in 0..9000 {
        let all = [(5683, false), (5683, true), (137, false), (137, true), (67, false), (67, true)];
        let (port, is_reply) = all[round % 6];
        let [(one, _), (from, _)] = Protocol::at(port).unwrap().lengths(is_reply, 0, 1200, 1200);
        let len = match round % 5 {
            _ if (port, is_reply) == (137, false) => [one, from][round / 6 % 2],
            0 => one,
            1 => rng.random_range(from..1200),
            _ => rng.random_range(from..from + 60),
        };
        let mut message = drawn(port, is_reply, len as u16, &mut rng);
        assert!(reads(port, &message), "{message:02x?}");
        assert!(is_message(port, is_reply, &message));
        // Readers take more of DHCP than is made.
        let is_made = |bytes: &[u8]| port != 67 && is_message(port, is_reply, bytes);
        let is_wrong = |len: usize| is_made(&message[..len]) && !reads(port, &message[..len]);
        assert_eq!((0..message.len()).find(|len| is_wrong(*len)), None, "{message:02x?}");
        if let Some((_, _, numbers, payload)) = coap(&message).filter(|_| port == 5683) {
            options.extend(numbers);
            payloads += usize::from(payload > 0);
        } else if let Some((kind, codes)) = dhcp(&message).filter(|_| port == 67) {
            assert_eq!(kind % 2 == 1 || [4, 8].contains(&kind), !is_reply || kind == 5, "{message:02x?}");
            dhcp_options.extend(codes);
            continue;
        } else {
            kinds.insert((message[2] & 0xf8, message[47]));
        }
        for _ in 0..20 {
            let (at, b) = (rng.random_range(0..message.len()), rng.random());
            let before = std::mem::replace(&mut message[at], b);
            if !reads(port, &message) {
                assert!(!is_message(port, is_reply, &message), "{message:02x?}");
                damaged += 1;
            }
            message[at] = before;
        }
    }
    assert!(dhcp_options.len() > 60, "{dhcp_options:?}");
    assert!(
        damaged > 5000 && payloads > 500 && options.len() == 19 && kinds.len() > 8,
        "{damaged} {payloads} {options:?} {kinds:?}"
    );
}

/// Messages as RFC 7252 (appendix A) and RFC 1002 have them, and as hosts send them.
#[test]
fn messages_of_every_day_are_allowed() {
    let name = b"\x20EGFCEFEECACACACACACACACACACACACA\0";
    let query = [b"\x12\x34\x01\x10\0\x01\0\0\0\0\0\0", &name[..], b"\0\x20\0\x01"].concat();
    let status =
        [b"\x12\x34\0\0\0\x01\0\0\0\0\0\0\x20CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\0", &b"\0\x21\0\x01"[..]].concat();
    let record = b"\0\x20\0\x01\0\x04\x93\xe0\0\x06\x60\0\xc0\0\x02\x07";
    let registration = [b"\x12\x34\x29\x10\0\x01\0\0\0\0\0\x01", &name[..], b"\0\x20\0\x01\xc0\x0c", record].concat();
    let answer = [b"\x12\x34\x85\0\0\0\0\x01\0\0\0\0", &name[..], record].concat();
    let unknown = [b"\x12\x34\x85\x83\0\0\0\x01\0\0\0\0", &name[..], b"\0\x0a\0\x01\0\0\0\0\0\0"].concat();
    let lease = |op: u8, options: &[u8]| {
        let mut message = vec![op, 1, 6, 0, 0x39, 3, 0xf3, 0x26, 0, 0, 0, 0];
        message.resize(28, 0);
        message.extend_from_slice(&[0, 11, 0x82, 1, 0xfc, 0x42]);
        message.resize(236, 0);
        message.extend_from_slice(&[99, 130, 83, 99]);
        message.extend_from_slice(options);
        message.resize(300, 0);
        message
    };
    let discover =
        lease(1, b"\x35\x01\x01\x3d\x07\x01\0\x0b\x82\x01\xfc\x42\x32\x04\0\0\0\0\x37\x04\x01\x03\x06\x2a\xff");
    let request = lease(1, b"\x35\x01\x03\x0c\x06laptop\x3c\x08MSFT 5.0\x51\x09\0\0\0laptop\x37\x02\x01\x03\xff");
    let offer =
        lease(2, b"\x35\x01\x02\x01\x04\xff\xff\xff\0\x3a\x04\0\0\x07\x08\x36\x04\xc0\xa8\0\x01\x0f\x04test\xff");
    let all: [(u16, bool, &[u8]); 15] = [
        (67, false, &discover),
        (67, false, &request),
        (67, true, &offer),
        // Of a draft, whose options had other numbers.
        (5683, false, b"\x43\x01\x05\xcar\x163\x2b.well-known\x04core"),
        (5683, false, b"\x40\x01\x7d\x34\xbbtemperature"),
        (5683, true, b"\x60\x45\x7d\x34\xff22.3 C"),
        (5683, false, b"\x41\x01\x7d\x35\x20\xbbtemperature"),
        (5683, true, b"\x61\x45\x7d\x35\x20\xff22.3 C"),
        (5683, true, b"\x60\0\x7d\x38"),
        (5683, false, b"\x42\x01\xe9\x1b\x07\x90\xb8separate\x10\xd1\x23\x11"),
        (137, false, &query),
        (137, false, &status),
        (137, false, &registration),
        (137, true, &answer),
        (137, true, &unknown),
    ];
    for (port, is_reply, message) in all {
        assert!(reads(port, message), "{message:02x?}");
        assert!(is_message(port, is_reply, message), "{message:02x?}");
        assert!(port != 5683 || message.len() == 4 || !is_message(port, !is_reply, message), "a request is no answer");
        // A payload goes on, and what is behind the end of DHCP; anything else does not.
        let goes_on = port == 67 || port == 5683 && coap(message).is_some_and(|read| read.3 > 0);
        assert!(goes_on || !is_message(port, is_reply, &[message, &[0xff]].concat()), "{message:02x?}");
    }
}

/// A sample that opens a flow to `port`. Other flows would be most of what chance makes, long messages of what it draws.
fn sample(codec: &WireCodec, port: u16, seed: u64, tokens_max: usize) -> Vec<Token> {
    let is_wanted = |tok| {
        matches!(tok, Tok::Same(_) | Tok::SameRest | Tok::Peer(_) | Tok::PeerRest | Tok::TextRef(_) | Tok::TextName)
            || matches!(tok, Tok::Flow(..) | Tok::LenHi(0))
    };
    testing::sample(codec, &testing::opening(port), seed, tokens_max, (3, is_wanted))
}

#[test]
fn every_datagram_to_these_ports_is_a_message_and_answers_have_the_token() {
    let strings = [&b"\xbbtemperature"[..], b"\xff22.3 C", b"\0\x20\0\x01", b"CACA"].map(Into::into).to_vec();
    let codec = WireCodec::new(vec!["iot".into()], Dictionary::new(strings).unwrap(), false, Plan::default()).unwrap();
    let (mut judged, mut answered, mut names) = ([[0; 2]; 2], 0, 0);
    for seed in 0..600 {
        let port = [5683, 137][seed as usize % 2];
        let tokens = sample(&codec, port, seed, [300, 900, 4000][seed as usize % 3]);
        let mut render =
            Render { rng: ChaCha8Rng::seed_from_u64(seed), start: Timestamp::from_parts(1_700_000_000, 0) };
        let decoded = codec.decode(&tokens, &mut render);
        assert_eq!(decoded.malformed_packets, 0);
        let mut requests = BTreeMap::new();
        for packet in decoded.packets {
            let frame = parse(&packet).unwrap();
            let Transport::Udp { src_port, dst_port } = frame.transport else { continue };
            if ![src_port, dst_port].contains(&port) || ![5683, 137].contains(&port) {
                continue;
            }
            let Some((at, is_message)) = judge(src_port, dst_port, frame.payload) else { continue };
            if at != port {
                continue;
            }
            assert!(is_message && reads(port, frame.payload), "{port}: {:02x?}", frame.payload);
            judged[usize::from(port == 137)][usize::from(src_port == port)] += 1;
            if port == 137 {
                names += usize::from(frame.payload[13..43].iter().any(|b| *b != frame.payload[13]));
                continue;
            }
            let (is_request, token, ..) = coap(frame.payload).expect("just read");
            let flow = (frame.ip.src, frame.ip.dst, src_port, dst_port);
            if dst_port == port {
                // Anything else of the client's is in between.
                requests.insert(flow, is_request.then_some((token, frame.payload[2..4].to_vec())));
            } else if let Some(Some((asked, id))) = requests.get(&(flow.1, flow.0, dst_port, src_port))
                && frame.payload[1] != 0
            {
                assert_eq!(&token, asked, "{:02x?}", frame.payload);
                let is_acknowledgement = frame.payload[0] >> 4 & 3 == 2;
                assert!(!is_acknowledgement || frame.payload[2..4] == id[..], "{:02x?}", frame.payload);
                answered += 1;
            }
        }
    }
    assert!(judged.iter().flatten().all(|n| *n > 100) && answered > 50 && names > 100, "{judged:?} {answered} {names}");
}

#[test]
fn every_datagram_of_dhcp_is_a_message_of_its_sender() {
    let codec =
        WireCodec::new(vec!["lan".into()], Dictionary::new(Vec::new()).unwrap(), false, Plan::default()).unwrap();
    let (mut by_op, mut repeated) = ([0; 2], 0);
    for seed in 0..250 {
        let is_wanted =
            |tok| matches!(tok, Tok::Same(32) | Tok::SameRest | Tok::Peer(32) | Tok::Flow(0, _) | Tok::LenSame);
        let mut opening = testing::opening(67).to_vec();
        opening.splice(3.., [Tok::SportNum, Tok::Byte(0), Tok::Byte(68), Tok::HostNew]);
        let tokens = testing::sample(&codec, &opening, seed, [300, 900, 4000][seed as usize % 3], (3, is_wanted));
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let decoded = codec.decode(&tokens, &mut Render { rng, start: Timestamp::from_parts(1_700_000_000, 0) });
        assert_eq!(decoded.malformed_packets, 0);
        let mut client: Option<Vec<u8>> = None;
        for packet in decoded.packets {
            let frame = parse(&packet).unwrap();
            let Transport::Udp { src_port, dst_port } = frame.transport else { continue };
            let is_reply = match (src_port, dst_port) {
                (68, 67) => false,
                (_, 68) => true,
                _ => continue,
            };
            assert!(reads(67, frame.payload), "{:02x?}", frame.payload);
            assert_eq!(frame.payload[0], 1 + u8::from(is_reply));
            by_op[usize::from(is_reply)] += 1;
            // What is drawn of the header is the client's; what was said by chance is anything.
            if frame.payload[28..34] == frame.link[if is_reply { 0..6 } else { 6..12 }] {
                let mac = frame.payload[28..34].to_vec();
                repeated += usize::from(client.as_ref() == Some(&mac));
                client = Some(mac);
            }
        }
    }
    assert!(by_op.iter().all(|n| *n > 150) && repeated > 50, "{by_op:?} {repeated}");
}

/// All that is allowed is as likely, so that many names and lengths are at their limits.
#[test]
fn every_sample_of_chance_decodes_whole() {
    let strings = [&b"\xbbtemperature"[..], b"\xff22.3 C", b"\0\x20\0\x01", b"CACA"].map(Into::into).to_vec();
    let codec = WireCodec::new(vec!["iot".into()], Dictionary::new(strings).unwrap(), false, Plan::default()).unwrap();
    for seed in 4000..6000 {
        let tokens = testing::sample(&codec, &[], seed, [300, 700, 2000][seed as usize % 3], (1, |_| false));
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let decoded = codec.decode(&tokens, &mut Render { rng, start: Timestamp::from_parts(1_700_000_000, 0) });
        assert_eq!(decoded.malformed_packets, 0, "seed {seed}: {:?}", codec.vocab.tok(tokens[tokens.len() - 2]));
    }
}

#[test]
fn a_segment_of_dns_is_a_message_behind_its_length() {
    let strings = [&b"\x05local\0"[..], b"\x01\x20\0\x01", b"\0\0"].map(Into::into).to_vec();
    let codec = WireCodec::new(vec!["dns".into()], Dictionary::new(strings).unwrap(), false, Plan::default()).unwrap();
    let port = PORTS.binary_search(&53).unwrap() as u8;
    let mut opening = vec![Tok::GapE(0), Tok::Open(Proto::Tcp, false), Tok::Port(port), Tok::SportEph, Tok::HostNew];
    for (flags, next) in [(SYN, Some(false)), (SYN | ACK, Some(true)), (ACK, None)] {
        opening.push(Tok::Flags(flags));
        if next.is_some() {
            opening.extend([Tok::Win(103), Tok::Byte(0), Tok::OptNone]);
        }
        opening.push(Tok::Len0);
        opening.extend(next.into_iter().flat_map(|from_orig| [Tok::GapE(0), Tok::Flow(0, from_orig)]));
    }
    let is_wanted = |tok| matches!(tok, Tok::Flow(0, _) | Tok::Flags(0x10 | 0x18) | Tok::LenHi(0) | Tok::SeqHole);
    let (mut queries, mut answers, mut repeats) = (0, 0, 0);
    for seed in 0..300 {
        let tokens = testing::sample(&codec, &opening, seed, 2000, (10, is_wanted));
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let decoded = codec.decode(&tokens, &mut Render { rng, start: Timestamp::from_parts(1_700_000_000, 0) });
        assert_eq!(decoded.malformed_packets, 0);
        let mut next = BTreeMap::new();
        for packet in &decoded.packets {
            let frame = parse(packet).unwrap();
            let Transport::Tcp(tcp) = frame.transport else { continue };
            let (is_query, is_reply) = (tcp.dst_port == 53, tcp.src_port == 53);
            if is_query == is_reply {
                continue;
            }
            let end = tcp.seq.wrapping_add(frame.payload.len() as u32 + u32::from(tcp.flags & SYN != 0));
            // What is sent again may be a part.
            let is_next = next.insert((frame.ip.src, tcp.src_port), end).is_none_or(|before| before == tcp.seq);
            if frame.payload.is_empty() || !is_next {
                repeats += usize::from(!is_next);
                continue;
            }
            let (length, message) = frame.payload.split_at_checked(2).expect("it has a length");
            assert_eq!(usize::from(u16::from_be_bytes([length[0], length[1]])), message.len(), "seed {seed}");
            assert!(is_message(53, is_reply, message), "seed {seed}: {message:02x?}");
            *(if is_reply { &mut answers } else { &mut queries }) += 1;
        }
    }
    assert!(queries > 300 && answers > 100 && repeats > 0, "{queries} {answers} {repeats}");
}

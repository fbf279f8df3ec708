//! What chance draws under the rules is what a plain reader takes for requests and responses.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::super::{Codec, Render};
use super::super::WireCodec;
use super::super::dictionary::Dictionary;
use super::super::exchange::testing;
use super::super::vocab::PORTS;
use super::*;
use crate::packet::Timestamp;
use crate::wire::parse::{Transport, parse};
use crate::wire::plan::Plan;

/// First line, and fields by their names in small letters, of a head; and what is behind it.
fn read(message: &[u8]) -> Option<(String, BTreeMap<String, String>, usize)> {
    let end = message.windows(4).position(|window| window == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&message[..end]).ok()?;
    let mut lines = text.split("\r\n");
    let first = lines.next()?.to_owned();
    let fields = lines.map(|line| {
        let (name, value) = line.split_once(": ")?;
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let is_value = value.bytes().all(|b| b == b'\t' || (0x20..0x7f).contains(&b));
        (is_name && is_value).then(|| (name.to_ascii_lowercase(), value.to_owned()))
    });
    Some((first, fields.collect::<Option<_>>()?, message.len() - end - 4))
}

fn check_request(message: &[u8]) -> bool {
    let Some((first, fields, behind)) = read(message) else { return false };
    let parts: Vec<&str> = first.split(' ').collect();
    let &[method, target, version] = &parts[..] else { return false };
    let has_body = !b"GHDOTMSU".contains(&method.as_bytes()[0]);
    METHODS.contains(&method)
        && !target.is_empty()
        && ["HTTP/1.0", "HTTP/1.1"].contains(&version)
        && (version == "HTTP/1.0" || fields.contains_key("host"))
        && (has_body || behind == 0)
}

fn check_response(message: &[u8]) -> bool {
    let Some((first, ..)) = read(message) else { return false };
    let code = first.strip_prefix("HTTP/1.0 ").or(first.strip_prefix("HTTP/1.1 "));
    code.and_then(|code| code.split_once(' ')).is_some_and(|(code, _)| (100..600).contains(&code.parse().unwrap_or(0)))
}

#[test]
fn every_flow_of_http_begins_with_a_request_and_its_response() {
    let strings = ["GET / HTTP/1.1\r\nHost: ", "HTTP/1.1 200 OK\r\n", "\r\nAccept: */*\r\n", "\r\n\r\n", "POST /"];
    let strings = strings.map(|string| string.as_bytes().into()).to_vec();
    let codec = WireCodec::new(vec!["web".into()], Dictionary::new(strings).unwrap(), false, Plan::default()).unwrap();
    let port = PORTS.binary_search(&80).unwrap() as u8;
    let mut opening = vec![Tok::GapE(0), Tok::Open(Proto::Tcp, false), Tok::Port(port), Tok::SportEph, Tok::HostNew];
    let window = [Tok::Win(103), Tok::Byte(0)];
    for (flags, next) in [(0x02, Some(false)), (0x12, Some(true)), (0x10, None)] {
        opening.push(Tok::Flags(flags));
        if next.is_some() {
            opening.extend([window[0], window[1], Tok::OptNone]);
        }
        opening.push(Tok::Len0);
        opening.extend(next.into_iter().flat_map(|from_orig| [Tok::GapE(0), Tok::Flow(0, from_orig)]));
    }
    let (mut requests, mut responses, mut filled) = (0, 0, 0);
    for seed in 0..400 {
        let is_wanted = |tok| {
            // Servers have their turn at once in half of them.
            matches!(tok, Tok::Flow(0, from_orig) if seed % 2 == 0 || !from_orig)
                || matches!(tok, Tok::LenHi(0 | 1) | Tok::TextName | Tok::Flags(0x18) | Tok::Str(_))
                || matches!(tok, Tok::Byte(b'A'..=b'Z' | b' ' | b'/' | b'1' | b'\r' | b'\n' | b':' | b'o'))
                || seed % 4 == 0 && matches!(tok, Tok::TextRest)
        };
        // A segment of any length from the shortest request's on, and short samples, too: their heads end all the same.
        let len = 18 + seed as u16 * 7 % 500;
        let mut opening = opening.clone();
        opening.extend([Tok::GapE(0), Tok::Flow(0, true), Tok::Flags(0x18)]);
        opening.extend([Tok::LenHi((len >> 8) as u8), Tok::Byte(len as u8)]);
        let tokens_max = if seed % 3 == 0 { 200 } else { 3000 };
        let tokens = testing::sample(&codec, &opening, seed, tokens_max, (20, is_wanted));
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let decoded = codec.decode(&tokens, &mut Render { rng, start: Timestamp::from_parts(1_700_000_000, 0) });
        assert_eq!(decoded.malformed_packets, 0);
        // First payload of each side, where it comes in its place.
        let (mut starts, mut first) = (BTreeMap::new(), BTreeMap::new());
        for packet in &decoded.packets {
            let frame = parse(packet).unwrap();
            let Transport::Tcp(tcp) = frame.transport else { continue };
            let key = (frame.ip.src, tcp.src_port, frame.ip.dst, tcp.dst_port);
            if tcp.flags & 2 != 0 {
                starts.entry(key).or_insert(tcp.seq.wrapping_add(1));
            } else if !frame.payload.is_empty() && starts.get(&key) == Some(&tcp.seq) {
                first.entry(key).or_insert_with(|| frame.payload.to_vec());
            }
        }
        for ((_, src_port, _, dst_port), payload) in first {
            let said = || tokens.iter().map(|t| codec.token_text(*t)).collect::<Vec<_>>().join(" ");
            let text = || format!("{}: {}", String::from_utf8_lossy(&payload), said());
            if dst_port == 80 && src_port != 80 && payload.len() >= 18 {
                assert!(check_request(&payload), "seed {seed}: {}", text());
                filled += usize::from(payload.len() > 200);
                requests += 1;
            } else if src_port == 80 && dst_port != 80 && payload.len() >= 17 {
                assert!(check_response(&payload), "seed {seed}: {}", text());
                responses += 1;
            }
        }
    }
    assert!(requests > 390 && responses >= 100 && filled > 150, "{requests} {responses} {filled}");
}

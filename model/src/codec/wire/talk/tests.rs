//! Sessions begin as their ports promise when chance draws them, and what real applications say stays allowed.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::super::{Codec, CodecSpec, LabelId, Render, Token};
use super::super::WireCodec;
use super::super::application::Application;
use super::super::dictionary::Dictionary;
use super::super::vocab::{PORTS, Proto, Tok};
use crate::flow::{Direction, FiveTuple, Session, SessionPacket};
use crate::packet::{LinkType, Packet, Timestamp};
use crate::wire::parse::{Frame, Ip, Tcp, Transport, parse};
use crate::wire::plan::Plan;

fn codec() -> WireCodec {
    let strings = [&b"GET /"[..], b"HTTP/1.1\r\n", b"\0\0", b"SSH-2.0-", b"220 "].map(Into::into).to_vec();
    WireCodec::new(vec!["web".into(), "ssh".into()], Dictionary::new(strings).unwrap(), false, Plan::default()).unwrap()
}

fn render(seed: u64) -> Render {
    Render { rng: ChaCha8Rng::seed_from_u64(seed), start: Timestamp::from_parts(1_700_000_000, 0) }
}

/// A handshake with `port`, then whatever chance draws under the mask; segments without payload are rare.
fn sample(codec: &WireCodec, label: LabelId, port: u16, seed: u64) -> Vec<Token> {
    const TOKENS_MAX: usize = 700;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut grammar, mut tokens) = (codec.grammar().expect("wire has one"), Vec::new());
    let mut mask = vec![0; codec.vocab_size().div_ceil(64)];
    let port = PORTS.binary_search(&port).expect("it has a token") as u8;
    let opening = [
        &[Tok::GapE(0), Tok::Open(Proto::Tcp, false), Tok::Port(port), Tok::SportEph, Tok::HostNew][..],
        &[Tok::Flags(0x02), Tok::Win(100), Tok::Byte(0), Tok::Len0],
        &[Tok::GapE(0), Tok::Flow(0, false), Tok::Flags(0x12), Tok::Win(100), Tok::Byte(0), Tok::Len0],
    ]
    .concat();
    let opening = opening.into_iter().map(|tok| codec.vocab.id(tok));
    for token in std::iter::once(codec.label_token(label)).chain(opening) {
        grammar.push(token);
        tokens.push(token);
    }
    while tokens.last() != Some(&codec.end_token()) {
        grammar.allowed(TOKENS_MAX - tokens.len(), &mut mask);
        let allowed: Vec<u32> =
            (0..codec.vocab_size() as u32).filter(|t| mask[*t as usize / 64] >> (t % 64) & 1 == 1).collect();
        // Flows of its own, resets and empty segments would be most of what chance makes.
        let is_dull = |t: &u32| {
            let tok = codec.vocab.tok(Token(*t));
            matches!(tok, Some(Tok::Open(..) | Tok::Len0 | Tok::End))
                || matches!(tok, Some(Tok::Flags(f)) if f & 5 != 0)
        };
        let lively: Vec<u32> = allowed.iter().copied().filter(|t| !is_dull(t)).collect();
        let choice = if lively.is_empty() || rng.random_range(0..40) == 0 { &allowed } else { &lively };
        let token = Token(choice[rng.random_range(0..choice.len())]);
        grammar.push(token);
        tokens.push(token);
        assert!(tokens.len() <= TOKENS_MAX);
    }
    tokens
}

/// What each side of the first flow says first, as one stream, and who spoke first; worked out from frames alone. A stream with a
/// hole at its beginning is empty.
fn first_words(packets: &[Packet]) -> ([Vec<u8>; 2], Option<usize>) {
    let mut streams = [BTreeMap::new(), BTreeMap::new()];
    let (mut first, mut isn, mut key) = (None, [None; 2], None);
    for packet in packets {
        let frame = parse(packet).expect("rendered");
        let Transport::Tcp(tcp) = frame.transport else { continue };
        let key = *key.get_or_insert((frame.ip.src, tcp.src_port));
        let side = usize::from((frame.ip.src, tcp.src_port) != key);
        if side == 1 && (frame.ip.dst, tcp.dst_port) != key {
            continue;
        }
        if tcp.flags & 2 != 0 {
            if side == 0 && isn[0].is_some_and(|known| known != tcp.seq) {
                break; // the slot's next flow would not have the same ports
            }
            isn[side] = Some(tcp.seq);
        }
        let Some(isn) = isn[side].filter(|_| !frame.payload.is_empty()) else { continue };
        first = first.or(Some(side));
        for (i, byte) in frame.payload.iter().enumerate() {
            streams[side].entry(tcp.seq.wrapping_sub(isn).wrapping_add(i as u32)).or_insert(*byte);
        }
    }
    let whole = streams
        .map(|stream| stream.iter().zip(1u32..).take_while(|((at, _), n)| **at == *n).map(|((_, b), _)| *b).collect());
    (whole, first)
}

/// Whether `said` begins as one of `beginnings`, as far as both go.
fn begins(said: &[u8], beginnings: &[&[u8]]) -> bool {
    beginnings.iter().any(|b| said.iter().zip(*b).all(|(a, b)| a == b))
}

#[test]
fn both_sides_begin_as_the_port_promises() {
    let codec = codec();
    // Beginnings by the protocols' documents, opener and responder; nothing is where all may come.
    let http: &[&[u8]] =
        &[b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"NOTIFY", b"SUBSCRIBE", b"UNSUBSCRIBE"];
    let tls: &[&[u8]] = &[b"\x16\x03", b"\x15\x03"];
    for (port, opener, responder) in [
        (22, &[b"SSH-".as_slice()][..], &[b"SSH-".as_slice()][..]),
        (80, http, &[b"HTTP/1."]),
        (443, &[b"\x16\x03"], tls),
        (21, &[], &[b"220 ", b"220-", b"120", b"421", b"500", b"530"]),
    ] {
        let (mut judged, mut complete) = ([0; 2], 0);
        for seed in 0..250 {
            let tokens = sample(&codec, LabelId(0), port, seed);
            let decoded = codec.decode(&tokens, &mut render(seed));
            assert_eq!(decoded.malformed_packets, 0);
            let (said, first) = first_words(&decoded.packets);
            for (side, allowed) in [opener, responder].into_iter().enumerate() {
                // HTTP has more methods than are listed here; those begin with capitals.
                let is_method =
                    port == 80 && side == 0 && said[0].iter().take(3).all(|b| b.is_ascii_uppercase() || *b == b'-');
                assert!(
                    allowed.is_empty() || is_method || begins(&said[side], allowed),
                    "port {port}, side {side}: {:02x?}",
                    &said[side][..said[side].len().min(20)]
                );
                judged[side] += usize::from(!said[side].is_empty());
                complete += usize::from(said[side].len() > 20);
            }
            // Clients of these have the first word.
            assert!(port == 22 || port == 21 || first != Some(1), "port {port}");
        }
        assert!(judged.iter().all(|n| *n > 20) && complete > 40, "port {port}: {judged:?}, {complete} complete");
    }
}

#[test]
fn a_session_that_protects_itself_has_no_tls_in_it() {
    let codec = codec();
    // Of some sessions with a port and with no other one, those that have a record of TLS.
    let secured = |port: u16| {
        let samples = (0..300).map(|seed| sample(&codec, LabelId(1), port, seed));
        let toks = samples.map(|tokens| tokens.iter().filter_map(|t| codec.vocab.tok(*t)).collect::<Vec<_>>());
        let alone = toks.filter(|toks| toks.iter().filter(|tok| matches!(tok, Tok::Open(..))).count() == 1);
        alone.filter(|toks| toks.iter().any(|tok| matches!(tok, Tok::Tls(..)))).count()
    };
    assert_eq!(secured(22), 0, "SSH");
    assert!(secured(21) > 0, "FTP may ask for it in mid-session");
}

#[test]
fn an_answer_is_of_the_application_that_asked_at_any_port() {
    let codec = codec();
    let mut answered = 0;
    for seed in 0..3000 {
        // SNMP's port promises nothing over TCP.
        let packets = codec.decode(&sample(&codec, LabelId(0), 161, seed), &mut render(seed)).packets;
        let ([asked, answer], first) = first_words(&packets);
        if first == Some(0) && asked.starts_with(b"GET /") && !answer.is_empty() {
            assert!(begins(&answer, &[b"HTTP/1."]), "{answer:02x?}");
            answered += 1;
        }
    }
    assert!(answered > 0, "chance says GET seldom, but not never");
}

#[test]
fn where_traffic_departs_from_a_promise_so_may_what_is_generated() {
    let CodecSpec::Wire(mut spec) = codec().spec() else { panic!("wire") };
    assert!(!serde_json::to_string(&spec).unwrap().contains("departures"), "older versions read it");
    spec.departures.insert("ssh".into(), vec![443]);
    let codec = WireCodec::from_spec(spec.clone(), &codec().tokenizer_json()).unwrap();
    assert_eq!(codec.spec(), CodecSpec::Wire(spec));
    let others = |label: u16| {
        let said =
            |seed| first_words(&codec.decode(&sample(&codec, LabelId(label), 443, seed), &mut render(seed)).packets).0;
        (0..60).filter(|seed| said(*seed).iter().any(|s| !begins(s, &[b"\x16\x03", b"\x15\x03"]))).count()
    };
    assert_eq!(others(0), 0);
    assert!(others(1) > 10);
}

/// A TCP session with a server at `port`: a handshake, then what each side says, pushed, each in a segment.
fn session(port: u16, says: &[(usize, &[u8])]) -> Session {
    let hosts = [("192.0.2.5", 50_000), ("203.0.113.9", port)].map(|(a, p)| (a.parse().expect("an address"), p));
    let (mut seq, mut packets) = ([1000u32, 2000], Vec::new());
    let segments = [(0, 0x02, &b""[..]), (1, 0x12, b""), (0, 0x10, b"")];
    for (i, (me, flags, payload)) in segments.into_iter().chain(says.iter().map(|(me, p)| (*me, 0x18, *p))).enumerate()
    {
        let ((src, src_port), (dst, dst_port)) = (hosts[me], hosts[1 - me]);
        let ack = if flags == 0x02 { 0 } else { seq[1 - me] };
        let tcp = Tcp { src_port, dst_port, seq: seq[me], ack, flags, window: 64_240, urgent: 0, options: &[] };
        let ip = Ip { src, dst, protocol: 6, tos: 0, ttl: 64, id: 1, df: true };
        let link = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0";
        let mut data = Vec::new();
        let frame = Frame { link, ip, transport: Transport::Tcp(tcp), payload, payload_len: payload.len() };
        crate::wire::render::render(&frame, &mut data);
        seq[me] += payload.len() as u32 + u32::from(flags & 2 != 0);
        let ts = Timestamp::from_parts(1_700_000_000, i as i64 * 1000);
        let packet = Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data };
        let direction = if me == 0 { Direction::Orig } else { Direction::Resp };
        packets.push(SessionPacket { flow: 0, direction, packet });
    }
    let [(orig, orig_port), (resp, resp_port)] = hosts;
    Session { flows: vec![FiveTuple { orig, resp, orig_port, resp_port, protocol: 6 }], packets }
}

/// Who says what, in turn.
type Says = Vec<(usize, &'static [u8])>;

/// Sessions as real ones are, each with the port it was at.
fn real_ones() -> Vec<(u16, Says)> {
    let hello = b"\x16\x03\x01\x00\x31\x01\x00\x00\x2d\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\0\0\x04\x13\x01\x13\x02\x01\0\0\0";
    let server_hello = b"\x16\x03\x03\x00\x2a\x02\x00\x00\x26\x03\x03bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\0\x13\x01\0";
    let smb = b"\0\0\0\x2f\xffSMBr\0\0\0\0\x18S\xc8\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0c\0\x02NT LM\0x";
    vec![
        (22, vec![(1, b"SSH-2.0-OpenSSH_9.2\r\n"), (0, b"SSH-2.0-OpenSSH_8.9\r\n"), (0, b"\0\0\x05\xdc\x07\x14xyz")]),
        (
            80,
            vec![(0, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), (1, b"HTTP/1.1 200 OK\r\n\r\n"), (0, b"\x01\x02\x03\x04")],
        ),
        (80, vec![(0, b"OPTIONS\nHost: a\n\n"), (1, b"HTTP/1.0 400 Bad Request\r\n\r\n")]),
        (2869, vec![(0, b"NOTIFY /upnp HTTP/1.1\r\nHost: a\r\n\r\n"), (1, b"HTTP/1.1 200 OK\r\n\r\n")]),
        (443, vec![(0, hello), (1, server_hello), (1, b"\x16\x03\x03\x00\x04\x0e\0\0\0")]),
        (443, vec![(0, hello), (1, b"\x15\x03\x03\x00\x02\x02\x28")]),
        (445, vec![(0, smb), (1, &smb[..4]), (1, &smb[4..])]),
        (139, vec![(0, b"\x81\0\0\x44 CKFDENECFDEFFCFGEFFCCACACACACACA\0"), (1, b"\x82\0\0\0"), (0, smb)]),
        (21, vec![(1, b"220 (vsFTPd 3.0.3)\r\n"), (0, b"USER anonymous\r\n"), (1, b"331 Password?\r\n")]),
        (25, vec![(1, b"220 mail ESMTP\r\n"), (0, b"EHLO a\r\n"), (1, b"250 a\r\n")]),
        (502, vec![(0, b"\0\x01\0\0\0\x06\x01\x03\0\0\0\x02"), (1, b"\0\x01\0\0\0\x07\x01\x03\x04\0\x01\0\x02")]),
        (1883, vec![(0, b"\x10\x14\0\x04MQTT\x04\x02\0\x3c\0\x08publish1"), (1, b"\x20\x02\0\0")]),
        (53, vec![(0, b"\0\x1b\x7a\x3f\x01\x20\0\x01\0\0\0\0\0\0\x04info\x04test\0\0\x01\0\x01")]),
        (9999, vec![(1, b"anything"), (0, b"\xde\xad\xbe\xef"), (1, b"GET me")]),
    ]
}

#[test]
fn what_real_applications_say_is_allowed_and_no_departure() {
    let codec = codec();
    for (port, says) in real_ones() {
        let session = session(port, &says);
        let (mut grammar, mut tokens) = (codec.grammar().unwrap(), Vec::new());
        let mut mask = vec![0; codec.vocab_size().div_ceil(64)];
        codec.encode(LabelId(0), &session, &mut tokens);
        for (i, token) in tokens.iter().enumerate() {
            grammar.allowed(5000 - i, &mut mask);
            let is_allowed = mask[token.0 as usize / 64] >> (token.0 % 64) & 1 == 1;
            let so_far: Vec<_> = tokens[..=i].iter().map(|t| codec.token_text(*t)).collect();
            assert!(i == 0 || is_allowed, "port {port}: {}", so_far.join(" "));
            grammar.push(*token);
        }
        assert_eq!(grammar.packets(), 3 + says.len() as u64);
        assert!(codec.learn_departures(&vec![(LabelId(0), session); 4]).of(Some(LabelId(0))).is_empty(), "{port}");
    }
}

#[test]
fn ports_that_are_used_otherwise_are_learned() {
    let ssh = session(443, &real_ones()[0].1);
    let tls = session(443, &real_ones()[4].1);
    let learned = |samples: &[(LabelId, Session)]| {
        let codec = WireCodec::fit(vec!["web".into(), "ssh".into()], 0, false, Plan::default(), samples).unwrap();
        let CodecSpec::Wire(spec) = codec.spec() else { panic!("wire") };
        spec.departures
    };
    let mixed = [(LabelId(1), ssh.clone()), (LabelId(0), tls.clone()), (LabelId(1), ssh.clone())];
    assert_eq!(learned(&mixed), BTreeMap::from([("ssh".into(), vec![443])]));
    // One alone may be a capture that begins late, and so may a fifth; what does not keep to it more often is meant so.
    assert!(learned(&[(LabelId(1), ssh.clone()), (LabelId(0), tls.clone())]).is_empty());
    let mut many = vec![(LabelId(0), tls); 60];
    many.extend(vec![(LabelId(0), ssh.clone()); 15]);
    assert!(learned(&many).is_empty());
    many.push((LabelId(0), ssh));
    assert_eq!(learned(&many), BTreeMap::from([("web".into(), vec![443])]));
    many.pop();
    // What a base knows of its traffic stays when more is learned.
    let mut codec = WireCodec::fit(vec!["web".into(), "ssh".into()], 0, false, Plan::default(), &mixed).unwrap();
    assert_eq!((codec.longest(LabelId(0)), codec.longest(LabelId(1))), (Some(6), Some(6)));
    codec.learn(&many);
    assert_eq!(codec.label_departures(), BTreeMap::from([("ssh".into(), vec![443])]));
}

#[test]
fn messages_of_tls_in_the_clear_are_learned_whatever_is_in_them() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut record = |kind: u8, message: Option<u8>, len: usize| {
        let mut body: Vec<u8> = (0..len).map(|_| rng.random()).collect();
        if let Some(message) = message {
            body[..4].copy_from_slice(&[message, 0, 0, len as u8 - 4]);
        }
        [&[kind, 3, 3][..], &(len as u16).to_be_bytes(), &body].concat()
    };
    // Keys look as drawn from the first byte of their message on. What comes when a side ciphers is nobody's to know, and a second hello
    // is no message behind one.
    let says = [
        (0, [record(22, Some(1), 120), record(22, Some(1), 120)].concat()),
        (
            1,
            [record(22, Some(2), 80), record(22, Some(11), 200), record(22, Some(12), 110), record(22, Some(14), 4)]
                .concat(),
        ),
        (0, [record(22, Some(16), 70), record(20, None, 1), record(22, Some(15), 40)].concat()),
        (1, [record(20, None, 1), record(22, Some(13), 40), record(23, None, 90)].concat()),
    ];
    let says: Vec<(usize, &[u8])> = says.iter().map(|(side, said)| (*side, &said[..])).collect();
    let samples = [(LabelId(0), session(443, &says))];
    let codec = WireCodec::fit(vec!["web".into(), "ssh".into()], 0, false, Plan::default(), &samples).unwrap();
    let CodecSpec::Wire(spec) = codec.spec() else { panic!("wire") };
    assert_eq!(spec.habits["web"].messages, Some([BTreeSet::from([16]), BTreeSet::from([11, 12, 14])]));
}

#[test]
fn what_every_flow_to_a_port_begins_as_is_learned() {
    // Port 161 of TCP promises nothing.
    let ssh = session(161, &real_ones()[0].1);
    let tls = session(161, &real_ones()[4].1);
    let fit = |samples: &[(LabelId, Session)]| {
        WireCodec::fit(vec!["web".into(), "ssh".into()], 0, false, Plan::default(), samples).unwrap()
    };
    let mut many = vec![(LabelId(1), ssh.clone()); 3];
    let learned = fit(&many);
    let CodecSpec::Wire(spec) = learned.spec() else { panic!("wire") };
    assert_eq!(spec.habits["ssh"].services["tcp/161"].application, Some(Application::Ssh));
    assert_eq!(spec.habits.len(), 1);
    let mut judged = [0; 2];
    for seed in 0..60 {
        let packets = learned.decode(&sample(&learned, LabelId(1), 161, seed), &mut render(seed)).packets;
        let (said, _) = first_words(&packets);
        for (side, said) in said.iter().enumerate() {
            assert!(begins(said, &[b"SSH-"]), "{said:02x?}");
            judged[side] += usize::from(!said.is_empty());
        }
    }
    assert!(judged.iter().all(|n| *n > 5), "{judged:?}");
    // Two are too few, and a fourth one that begins otherwise is enough.
    let application = |samples: &[(LabelId, Session)]| {
        let CodecSpec::Wire(spec) = fit(samples).spec() else { panic!("wire") };
        let service = &spec.habits["ssh"].services["tcp/161"];
        (service.application, service.few)
    };
    assert_eq!(application(&many[1..]), (Some(Application::Ssh), true));
    many.push((LabelId(1), tls));
    assert_eq!(application(&many), (None, false));
    // Nor do two take back what three have told.
    let mut codec = learned;
    codec.learn(&many[1..3]);
    let CodecSpec::Wire(spec) = codec.spec() else { panic!("wire") };
    let service = &spec.habits["ssh"].services["tcp/161"];
    assert_eq!((service.application, service.few), (Some(Application::Ssh), false));
}

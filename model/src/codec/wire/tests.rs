//! The codec as a whole: made-up sessions there and back, chance under the mask.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::lossless::{LosslessEncoder, decoder};
use super::vocab::Proto;
use super::*;
use crate::packet::{Packet, Timestamp};
use crate::wire::names::Carrier;
use crate::wire::parse::{Tcp, Transport, parse};

fn codec() -> WireCodec {
    let strings = [&b"GET "[..], b"HTTP/1.1\r\n", b"\0\0"].map(Into::into).to_vec();
    WireCodec::new(vec!["web".into(), "dns".into()], Dictionary::new(strings).unwrap(), false, Plan::default()).unwrap()
}

fn render(seed: u64) -> Render {
    Render { rng: ChaCha8Rng::seed_from_u64(seed), start: Timestamp::from_parts(1_700_000_000, 0) }
}

/// Samples evenly among what is allowed.
fn sample(codec: &WireCodec, seed: u64, tokens_max: usize) -> Vec<Token> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut grammar = codec.grammar().expect("wire has one");
    let mut mask = vec![0; codec.vocab_size().div_ceil(64)];
    let mut tokens = vec![codec.label_token(LabelId(0))];
    grammar.push(tokens[0]);
    while tokens.last() != Some(&codec.end_token()) {
        grammar.allowed(tokens_max - tokens.len(), &mut mask);
        let allowed: Vec<u32> =
            (0..codec.vocab_size() as u32).filter(|t| mask[*t as usize / 64] >> (t % 64) & 1 == 1).collect();
        assert!(!allowed.is_empty(), "nothing is allowed after {}", text(codec, &tokens));
        // The end is one among many; without this samples are long enough.
        let token = Token(allowed[rng.random_range(0..allowed.len())]);
        grammar.push(token);
        tokens.push(token);
        assert!(tokens.len() <= tokens_max, "{}", text(codec, &tokens));
    }
    tokens
}

fn text(codec: &WireCodec, tokens: &[Token]) -> String {
    tokens.iter().map(|t| codec.token_text(*t)).collect::<Vec<_>>().join(" ")
}

fn round_trip(packets: &[Packet]) {
    let dictionary = Dictionary::new(Vec::new()).unwrap();
    let start = packets[0].ts;
    let (mut encoder, mut decoder) = (LosslessEncoder::new(&dictionary, start), decoder(&dictionary, start));
    let mut tokens = Vec::new();
    for packet in packets {
        tokens.clear();
        encoder.packet(packet, &mut tokens);
        tokens.iter().for_each(|t| decoder.push(*t));
        let back = decoder.flush();
        assert_eq!(back.len(), 1);
        assert_eq!((back[0].linktype, back[0].len, &back[0].data), (packet.linktype, packet.len, &packet.data));
    }
}

#[test]
fn chance_under_the_mask_gives_whole_valid_packets_and_an_end() {
    let codec = codec();
    let mut packets = 0;
    for seed in 0..300 {
        let tokens = sample(&codec, seed, 3000);
        let decoded = codec.decode(&tokens, &mut render(seed));
        assert_eq!((decoded.malformed_packets, decoded.malformed_tokens), (0, 0), "{}", text(&codec, &tokens));
        for packet in &decoded.packets {
            let frame = parse(packet).unwrap_or_else(|e| panic!("{e}: {:02x?}", packet.data));
            let mut again = Vec::new();
            crate::wire::render::render(&frame, &mut again);
            assert_eq!(again, packet.data, "lengths and checksums are right");
            assert!(packet.data.len() <= 1514);
            let from = frame.ip.src;
            let is_group = from.is_multicast() || from == std::net::IpAddr::from([255; 4]);
            assert!(!is_group, "from a group: {:02x?}", packet.data);
        }
        packets += decoded.packets.len();
        if !decoded.packets.is_empty() {
            round_trip(&decoded.packets);
        }
    }
    assert!(packets > 3000, "{packets}");
}

#[test]
fn a_sampled_session_comes_back_from_its_packets_as_the_same_decisions() {
    // Encoding what was rendered gives tokens that render to packets of the same shape.
    let codec = codec();
    for seed in 0..100 {
        let first = codec.decode(&sample(&codec, seed, 2000), &mut render(seed)).packets;
        if first.is_empty() {
            continue;
        }
        let mut tokens = vec![codec.label_token(LabelId(0))];
        let mut encoder = codec.encoder();
        first.iter().for_each(|p| encoder.packet(p, &mut tokens).expect("rendered packets have structure"));
        tokens.push(codec.end_token());
        let again = codec.decode(&tokens, &mut render(seed + 1)).packets;
        assert_eq!(first.len(), again.len());
        for (a, b) in first.iter().zip(&again) {
            let (a, b) = (parse(a).unwrap(), parse(b).unwrap());
            assert_eq!((a.payload_len, a.ip.ttl, a.ip.tos, a.ip.df), (b.payload_len, b.ip.ttl, b.ip.tos, b.ip.df));
            if let (Transport::Tcp(a), Transport::Tcp(b)) = (a.transport, b.transport) {
                assert_eq!((a.flags, a.window, a.options.len()), (b.flags, b.window, b.options.len()));
            }
        }
    }
}

#[test]
fn the_codec_comes_back_from_its_files() {
    let codec = codec();
    let stored = serde_json::to_string(&codec.spec()).expect("plain data");
    let spec: CodecSpec = serde_json::from_str(&stored).expect("just written");
    let json = codec.tokenizer_json();
    let again = super::super::from_spec(spec.clone(), &json).expect("just written");
    assert_eq!((again.vocab_size(), again.tokenizer_json()), (codec.vocab_size(), json.clone()));
    let CodecSpec::Wire(mut other) = spec else { panic!("it was wire") };
    other.strings.pop();
    assert!(WireCodec::from_spec(other, &json).is_err());
}

#[test]
fn new_labels_come_last_and_all_else_keeps_its_number() {
    let old = codec();
    let CodecSpec::Wire(spec) = old.spec() else { panic!("it is wire") };
    let labels = ["dns", "lab", "shop"].map(str::to_owned);
    let new = WireCodec::with_labels(spec.clone(), &labels).unwrap();
    assert_eq!(new.labels(), ["web", "dns", "lab", "shop"]);
    assert_eq!(new.vocab_size(), old.vocab_size() + 2);
    for token in (0..old.vocab_size() as u32).map(Token) {
        assert_eq!(new.token_text(token), old.token_text(token));
    }
    assert_eq!(new.label_token(LabelId(3)).0 as usize, new.vocab_size() - 1);
    assert!(WireCodec::with_labels(spec, &["<|pkt|>".to_owned()]).is_err());
}

#[test]
fn what_is_told_of_flows_has_tokens_in_front_of_the_labels() {
    let old = codec();
    let CodecSpec::Wire(spec) = old.spec() else { panic!("it is wire") };
    assert!(!spec.foretells);
    let new = WireCodec::that_foretells(spec).unwrap();
    let text = |codec: &WireCodec, range: std::ops::Range<usize>| {
        range.map(|id| codec.token_text(Token(id as u32))).collect::<Vec<_>>()
    };
    let (before, more) = (old.vocab_size() - 2, new.vocab_size() - old.vocab_size());
    assert_eq!(text(&new, 0..before), text(&old, 0..before));
    assert_eq!(
        text(&new, before..before + 6),
        ["ends:open", "ends:fin", "ends:rst", "packets:1", "packets:2", "packets:3"]
    );
    assert_eq!(text(&new, before + more..new.vocab_size()), text(&old, before..old.vocab_size()));
    // It comes back from its files.
    assert_eq!(WireCodec::from_spec(spec_of(&new), &new.tokenizer_json()).unwrap().spec(), new.spec());
    let mut wrong = spec_of(&new);
    let label = habits::Label {
        services: BTreeMap::from([("tcp/0x50".to_owned(), habits::Service::default())]),
        ..habits::Label::default()
    };
    wrong.habits.insert("web".to_owned(), label);
    assert!(WireCodec::from_spec(wrong, &new.tokenizer_json()).is_err());
}

#[test]
fn a_window_is_the_one_that_its_label_s_flows_have() {
    let old = codec();
    let mut spec = spec_of(&old);
    let habits = habits::Label { flows: 1, windows: vec![65_160], ..habits::Label::default() };
    spec.habits.insert("web".to_owned(), habits);
    let codec = WireCodec::from_spec(spec, &old.tokenizer_json()).unwrap();
    let (class, byte) = steps::window_byte(65_160);
    let toks = [
        &[Tok::GapE(0), Tok::Open(Proto::Tcp, false), Tok::Port(9), Tok::SportEph, Tok::HostNew][..],
        &[Tok::Flags(0x02), Tok::Win(class), Tok::Byte(byte), Tok::Len0, Tok::End],
    ];
    for (label, window) in [(0, 65_160), (1, steps::window_quantised(65_160))] {
        let mut tokens = vec![codec.label_token(LabelId(label))];
        tokens.extend(toks.concat().into_iter().map(|tok| codec.vocab.id(tok)));
        let decoded = codec.decode(&tokens, &mut render(1)).packets;
        let scripted = codec.script(&tokens, 1).unwrap().play(&mut render(1));
        let mut again = decoded[0].clone();
        { scripted }.render(&mut again);
        for packet in [&decoded[0], &again] {
            let Transport::Tcp(tcp) = parse(packet).unwrap().transport else { panic!("it is TCP") };
            assert_eq!(tcp.window, window);
        }
    }
}

fn spec_of(codec: &WireCodec) -> WireSpec {
    let CodecSpec::Wire(spec) = codec.spec() else { panic!("it is wire") };
    spec
}

/// A query for `name`, a ClientHello and a GET that carry it, each in a flow of one client.
fn session_of_one_name(name: &str) -> Vec<Packet> {
    let short = |n: usize| (n as u16).to_be_bytes();
    let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(b"\0\0\x01\0\x01");

    // RFC 8446, section 4.1.2, with one cipher suite and one extension (RFC 6066, section 3).
    let mut hello = [b"\x03\x03".as_slice(), &[7; 32], b"\0\0\x02\x13\x01\x01\0"].concat();
    hello.extend_from_slice(&short(name.len() + 9));
    hello.extend_from_slice(&[&[0, 0], &short(name.len() + 5)[..], &short(name.len() + 3), &[0]].concat());
    hello.extend_from_slice(&[&short(name.len())[..], name.as_bytes()].concat());
    let hello = [&[1, 0], &short(hello.len())[..], &hello].concat();
    let record = [&[22, 3, 1], &short(hello.len())[..], &hello].concat();

    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").into_bytes();
    let frame = |transport, payload: &[u8], second: i64| {
        let protocol = if matches!(transport, Transport::Tcp(_)) { 6 } else { 17 };
        let [src, dst] = ["192.0.2.5", "203.0.113.9"].map(|a| a.parse().expect("an address"));
        let ip = crate::wire::parse::Ip { src, dst, protocol, tos: 0, ttl: 64, id: 1, df: true };
        let link = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0";
        let mut data = Vec::new();
        let frame = crate::wire::parse::Frame { link, ip, transport, payload, payload_len: payload.len() };
        crate::wire::render::render(&frame, &mut data);
        let ts = Timestamp::from_parts(1_700_000_000 + second, 0);
        Packet { ts, linktype: LinkType::ETHERNET, len: data.len() as u32, data }
    };
    let tcp = |dst_port| {
        let [src_port, seq, ack] = [50_000 + dst_port, 1000, 2000];
        let (seq, ack) = (u32::from(seq), u32::from(ack));
        Transport::Tcp(Tcp { src_port, dst_port, seq, ack, flags: 0x18, window: 500, urgent: 0, options: &[] })
    };
    vec![
        frame(Transport::Udp { src_port: 50_000, dst_port: 53 }, &query, 0),
        frame(tcp(443), &record, 1),
        frame(tcp(80), &request, 2),
    ]
}

#[test]
fn dns_sni_and_host_of_a_session_stay_one_name() {
    let (captured, mut codec) = ("intranet.example.org", codec());
    let packets = session_of_one_name(captured);
    for keep_names in [true, false] {
        codec.keep_names = keep_names;
        let mut tokens = vec![codec.label_token(LabelId(0))];
        let mut encoder = codec.encoder();
        packets.iter().for_each(|p| encoder.packet(p, &mut tokens).expect("has structure"));
        tokens.push(codec.end_token());
        let rendered = codec.decode(&tokens, &mut render(1)).packets;
        let mut found = Vec::new();
        let carriers = [Carrier::Udp(50_000, 53), Carrier::Tcp(50_000, 443), Carrier::Tcp(50_000, 80)];
        for (packet, carrier) in rendered.iter().zip(carriers) {
            let frame = parse(packet).expect("rendered");
            let mut spans = crate::wire::names::find(frame.payload, carrier, &[]).spans;
            // The hello's random bytes are drawn.
            spans.retain(|span| !span.name.is_empty());
            assert_eq!(spans.len(), 1, "{:02x?}", frame.payload);
            found.push(String::from_utf8(spans[0].name.clone()).expect("text"));
        }
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|name| *name == found[0]), "{found:?}");
        assert_eq!(found[0] == captured, keep_names, "{found:?}");
        assert_eq!(found[0].len(), captured.len());
    }
}

proptest! {
    #[test]
    fn any_tokens_decode_without_panic(
        ids in prop::collection::vec(0u32..1300, 0..600),
        seed in any::<u64>(),
    ) {
        let codec = codec();
        let tokens: Vec<Token> = ids.into_iter().map(Token).collect();
        codec.decode(&tokens, &mut render(seed));
    }

    #[test]
    fn a_sample_with_wrong_tokens_in_it_decodes_without_panic(
        seed in 0u64..1000,
        wrong in prop::collection::vec((any::<prop::sample::Index>(), 0u32..1300), 1..8),
    ) {
        let codec = codec();
        let mut tokens = sample(&codec, seed, 1500);
        let mut grammar = codec.grammar().expect("wire has one");
        let mut mask = vec![0; codec.vocab_size().div_ceil(64)];
        for (at, id) in wrong {
            let at = at.index(tokens.len());
            tokens[at] = Token(id);
        }
        for token in &tokens {
            grammar.push(*token);
            grammar.allowed(1000, &mut mask);
            prop_assert!(mask.iter().any(|w| *w != 0));
        }
        codec.decode(&tokens, &mut render(seed));
    }

    #[test]
    fn any_bytes_come_back(
        packets in prop::collection::vec(
            (0u16..3, prop::collection::vec(any::<u8>(), 0..120), 0i64..10_000_000_000, 0u32..200), 1..10),
    ) {
        let linktypes = [LinkType::ETHERNET, LinkType::RAW, LinkType(105)];
        let packets: Vec<Packet> = packets.into_iter().map(|(l, data, ns, more)| Packet {
            ts: Timestamp(ns), linktype: linktypes[usize::from(l)], len: data.len() as u32 + more, data,
        }).collect();
        round_trip(&packets);
    }

    #[test]
    fn damaged_frames_come_back(
        seed in 0u64..500,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..30),
        cut in any::<prop::sample::Index>(),
    ) {
        let codec = codec();
        let mut packets = codec.decode(&sample(&codec, seed, 1500), &mut render(seed)).packets;
        prop_assume!(!packets.is_empty());
        for (which, at, byte) in damage {
            let i = which.index(packets.len());
            let data = &mut packets[i].data;
            let at = at.index(data.len());
            data[at] = byte;
        }
        let i = cut.index(packets.len());
        let len = cut.index(packets[i].data.len());
        packets[i].data.truncate(len);
        round_trip(&packets);
    }
}

/// The packets of a script, one by one into the same buffer.
fn played(codec: &WireCodec, tokens: &[Token], packets_max: usize, seed: u64) -> Option<Vec<Packet>> {
    let mut play = codec.script(tokens, packets_max)?.play(&mut render(seed));
    let mut packet = Packet { ts: Timestamp(0), linktype: LinkType::RAW, len: 9, data: vec![7; 3000] };
    let mut ret = Vec::new();
    for left in (0..play.left()).rev() {
        let at = play.peek();
        assert!(play.render(&mut packet).is_some());
        assert_eq!((Some(packet.ts), play.left()), (at, left));
        ret.push(packet.clone());
    }
    assert!(play.peek().is_none() && play.render(&mut packet).is_none());
    Some(ret)
}

#[test]
fn a_script_renders_what_decoding_renders() {
    let codec = codec();
    let (mut packets, mut scripted) = (0, 0);
    for sample_seed in 0..400 {
        let mut tokens = sample(&codec, sample_seed, 3000);
        if sample_seed % 3 == 0 {
            // Longer flows than chance gives: samples behind one another, as one session.
            for more in 1..20 {
                tokens.pop();
                tokens.extend_from_slice(&sample(&codec, sample_seed + 1000 * more, 3000)[1..]);
            }
        }
        for (seed, packets_max) in [(1, usize::MAX), (2, 5)] {
            let mut plain = codec.decode(&tokens, &mut render(seed)).packets;
            plain.truncate(packets_max);
            plain.sort_by_key(|p| p.ts);
            if let Some(fast) = played(&codec, &tokens, packets_max, seed) {
                assert_eq!(fast, plain, "{}", text(&codec, &tokens));
                packets += fast.len();
                scripted += 1;
            }
        }
    }
    // A script that is played again and again, twice at a time, does not remember.
    let mut again = 0;
    for sample_seed in 0..40 {
        let tokens = sample(&codec, 7_000 + sample_seed, 3000);
        let Some(script) = codec.script(&tokens, usize::MAX) else { continue };
        for seed in 0..4 {
            let mut two = [seed, seed + 100].map(|seed| (seed, script.clone().play(&mut render(seed)), Vec::new()));
            while two.iter().any(|(_, play, _)| play.left() > 0) {
                for (_, play, packets) in &mut two {
                    let mut packet = Packet { ts: Timestamp(0), linktype: LinkType::RAW, len: 9, data: vec![7; 3000] };
                    if play.render(&mut packet).is_some() {
                        packets.push(packet);
                    }
                }
            }
            for (seed, _, packets) in two {
                assert_eq!(packets, codec.decode(&tokens, &mut render(seed)).packets, "{}", text(&codec, &tokens));
                again += packets.len();
            }
        }
    }
    assert!(again > 500, "{again}");
    assert!(packets > 5_000 && scripted > 400, "{packets} packets of {scripted} scripts");
}

#[test]
fn real_kinds_of_references_are_rendered_alike() {
    // Retransmissions, holes, repeated messages and names, in one TCP and one UDP flow.
    let codec = codec();
    let tok = |tok: Tok| codec.vocab.id(tok);
    let mut tokens = vec![codec.label_token(LabelId(0))];
    let mut seen = 0;
    for seed in 0..3000 {
        let more = sample(&codec, 50_000 + seed, 600);
        let refers =
            [Tok::SameRest, Tok::PeerRest, Tok::Inc2, Tok::SeqHole, Tok::SeqRe(0), Tok::SeqRe(1), Tok::TextRef(0)];
        if more.iter().filter(|t| refers.iter().any(|r| tok(*r) == **t)).count() > 1 {
            tokens.truncate(1);
            tokens.extend_from_slice(&more[1..]);
            let Some(fast) = played(&codec, &tokens, usize::MAX, seed) else { continue };
            assert_eq!(fast, codec.decode(&tokens, &mut render(seed)).packets, "{}", text(&codec, &tokens));
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn what_cannot_be_scripted_is_left_to_decoding() {
    let codec = codec();
    let tokens = sample(&codec, 4, 3000);
    let cut = &tokens[..tokens.len() - 1];
    let whole = codec.decode(&tokens, &mut render(1)).packets.len();
    assert_eq!(codec.script(&tokens, usize::MAX).map(|s| s.packets()), Some(whole));
    // A tail that is no packet, a token without a place, a gap back in time.
    let gap = codec.vocab.id(Tok::GapE(5));
    assert!(codec.script(&[cut, &[gap]].concat(), usize::MAX).is_none() || whole == 0);
    assert!(codec.script(&[cut, &[codec.vocab.id(Tok::Len0)]].concat(), usize::MAX).is_none());
    let (back, mut found) = (codec.vocab.id(Tok::Back), false);
    for seed in 0..20 {
        let more = sample(&codec, 300 + seed, 3000);
        if codec.script(&more, usize::MAX).is_some_and(|s| s.packets() > 0) {
            let mut goes_back = [&more[..1], &[back], &more[1..]].concat();
            // The first gap is longer than 0, else it does not go back.
            goes_back[2] = gap;
            goes_back.insert(3, codec.vocab.id(Tok::GapM(1)));
            found |= codec.script(&goes_back, usize::MAX).is_none();
        }
    }
    assert!(found);
}

#[test]
fn a_share_of_clients_talks_ipv6_and_everything_still_fits() {
    let spec = |percent| {
        let CodecSpec::Wire(mut spec) = codec().spec() else { panic!("wire") };
        spec.plan.ipv6_percent = percent;
        spec.label_plans.insert("dns".into(), Plan { vlan: Some(30), mtu: 1280, ..spec.plan.clone() });
        WireCodec::from_spec(spec, &codec().tokenizer_json()).unwrap()
    };
    for (percent, expected) in [(0u8, 0.0..=0.0), (100, 1.0..=1.0), (30, 0.2..=0.4)] {
        let codec = spec(Some(percent));
        let (mut v6, mut all) = (0, 0);
        for seed in 0..400 {
            let mut tokens = sample(&codec, seed, 2000);
            let label = seed % 2;
            tokens[0] = codec.label_token(LabelId(label as u16));
            let decoded = codec.decode(&tokens, &mut render(seed));
            assert_eq!(decoded.malformed_packets, 0);
            for packet in &decoded.packets {
                let frame = parse(packet).unwrap();
                let mut again = Vec::new();
                crate::wire::render::render(&frame, &mut again);
                assert_eq!(again, packet.data, "lengths and checksums are right");
                assert!(packet.data.len() - frame.link.len() <= 1500);
                assert_eq!(frame.link.len(), if label == 1 { 18 } else { 14 });
                if matches!(frame.ip.protocol, 6 | 17) && !frame.ip.dst.is_multicast() {
                    let dst = frame.ip.dst;
                    let is_broadcast = [codec.plans.default.client_broadcast(false), [255; 4].into()].contains(&dst);
                    v6 += usize::from(frame.ip.src.is_ipv6() && !is_broadcast);
                    all += usize::from(!is_broadcast);
                }
            }
            if let Some(fast) = played(&codec, &tokens, usize::MAX, seed) {
                assert_eq!(fast, decoded.packets);
            }
        }
        let share = v6 as f64 / all as f64;
        assert!(all > 200 && expected.contains(&share), "{percent}: {share} of {all}");
    }
}

#[test]
fn each_label_has_its_own_addresses_and_length() {
    let CodecSpec::Wire(mut spec) = codec().spec() else { panic!("wire") };
    let own = Plan { client_net: "192.0.2.0/24".parse().unwrap(), vlan: Some(7), mtu: 600, ..Plan::default() };
    spec.label_plans.insert("dns".into(), own);
    let codec = WireCodec::from_spec(spec.clone(), &codec().tokenizer_json()).unwrap();
    assert_eq!(codec.spec(), CodecSpec::Wire(spec.clone()));
    let mut longest = [0; 2];
    for seed in 0..300 {
        let label = LabelId(seed as u16 % 2);
        // The grammar heeds the label that the sample begins with.
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut grammar = codec.grammar().unwrap();
        let mut mask = vec![0; codec.vocab_size().div_ceil(64)];
        let mut tokens = vec![codec.label_token(label)];
        grammar.push(tokens[0]);
        while tokens.last() != Some(&codec.end_token()) {
            grammar.allowed(2000 - tokens.len(), &mut mask);
            let allowed: Vec<u32> =
                (0..codec.vocab_size() as u32).filter(|t| mask[*t as usize / 64] >> (t % 64) & 1 == 1).collect();
            let token = Token(allowed[rng.random_range(0..allowed.len())]);
            grammar.push(token);
            tokens.push(token);
        }
        for packet in codec.decode(&tokens, &mut render(seed)).packets {
            let frame = parse(&packet).unwrap();
            let longest = &mut longest[usize::from(label.0)];
            *longest = (*longest).max(packet.data.len() - frame.link.len());
            assert_eq!(frame.link.len(), if label.0 == 1 { 18 } else { 14 });
            let is_own = |a: std::net::IpAddr| a.to_string().starts_with("192.0.2.");
            if frame.ip.src.is_ipv4() {
                assert_eq!(is_own(frame.ip.src) || is_own(frame.ip.dst), label.0 == 1);
            }
        }
    }
    assert!(longest[0] > 700 && longest[1] <= 600 && longest[1] > 300, "{longest:?}");
    spec.label_plans.insert("nothing".into(), Plan::default());
    let error = WireCodec::from_spec(spec, &codec.tokenizer_json()).unwrap_err().to_string();
    assert!(error.contains("nothing") && error.contains("web, dns"), "{error}");
}

/// How far a side's windows reach into the other's stream, worked out from the frames alone.
#[derive(Default)]
struct Windows {
    isn: Option<u32>,
    scale: Option<u8>,
    edge: Option<u32>,
}

#[test]
fn nothing_is_sent_beyond_the_window_of_whoever_receives_it() {
    let codec = codec();
    let (mut judged, mut full) = (0, 0);
    for seed in 0..1200 {
        let tokens = sample(&codec, 90_000 + seed, 3000);
        let mut ends: std::collections::HashMap<_, Windows> = Default::default();
        for packet in codec.decode(&tokens, &mut render(seed)).packets {
            let frame = parse(&packet).unwrap();
            let Transport::Tcp(Tcp { src_port, dst_port, seq, ack, flags, window, options, .. }) = frame.transport
            else {
                continue;
            };
            let (from, to) = ((frame.ip.src, src_port, dst_port), (frame.ip.dst, dst_port, src_port));
            if flags & 2 != 0 {
                let scale = options.windows(3).find(|o| o[..2] == [3, 3]).map(|o| o[2]);
                let own = ends.entry(from).or_default();
                let edge = own.edge.filter(|_| own.isn == Some(seq));
                *own = Windows { isn: Some(seq), scale, edge };
            }
            let peer_scale = ends.get(&to).and_then(|peer| peer.scale);
            let peer_isn = ends.get(&to).and_then(|peer| peer.isn);
            if let Some(edge) = ends.get(&to).and_then(|peer| peer.edge)
                && !frame.payload.is_empty()
            {
                let beyond = seq.wrapping_add(frame.payload.len() as u32).wrapping_sub(edge) as i32;
                // A keep-alive's byte was sent before.
                assert!(beyond <= 0 || frame.payload.len() == 1, "{beyond} beyond: {}", text(&codec, &tokens));
                judged += 1;
                full += u32::from(beyond == 0);
            }
            let own = ends.entry(from).or_default();
            if flags & 0x10 != 0 && flags & 4 == 0 && own.isn.is_some() && peer_isn.is_some() {
                let shift = if flags & 2 == 0 && peer_scale.is_some() { own.scale.unwrap_or(0).min(14) } else { 0 };
                let edge = ack.wrapping_add(u32::from(window) << shift);
                let is_further = own.edge.is_none_or(|before| edge.wrapping_sub(before) as i32 > 0);
                own.edge = if is_further { Some(edge) } else { own.edge };
            }
        }
    }
    assert!(judged > 500 && full > 0, "{judged} with payload, {full} of them fill the window");
}

//! The codec against the tokenizer file it writes (read by the `tokenizers` crate), against real frames, and against
//! hostile tokens.

mod captures;

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use tokenizers::Tokenizer;

use super::*;
use crate::codec::from_spec;
use crate::flow::{Direction, FiveTuple, SessionPacket};
use crate::packet::Timestamp;

const START: Timestamp = Timestamp(1_700_000_000_000_000_000);

fn session(packets: impl IntoIterator<Item = Packet>) -> Session {
    let ip = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
    let tuple = FiveTuple { orig: ip(1), resp: ip(2), orig_port: 40_000, resp_port: 443, protocol: 6 };
    let packets =
        packets.into_iter().map(|packet| SessionPacket { flow: 0, direction: Direction::Orig, packet }).collect();
    Session { flows: vec![tuple], packets }
}

/// A session of these Ethernet frames, 1 ms apart.
fn frames<T: Into<Vec<u8>>>(data: impl IntoIterator<Item = T>) -> Session {
    session(data.into_iter().enumerate().map(|(i, data)| {
        let data = data.into();
        Packet {
            ts: START.plus_nanos(i as i64 * 1_000_000),
            linktype: LinkType::ETHERNET,
            len: data.len() as u32,
            data,
        }
    }))
}

/// Ethernet, IPv4, TCP without options, `payload`.
fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut data = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    data.extend((40 + payload.len() as u16).to_be_bytes());
    data.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x9c, 0x40, 1, 0xbb]);
    data.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    data.extend(payload);
    data
}

fn render() -> Render {
    Render { rng: ChaCha8Rng::seed_from_u64(5), start: START }
}

fn labels() -> Vec<String> {
    ["zoom", "web", "DNS über TLS"].map(str::to_owned).to_vec()
}

fn fit(vocab: Vocab, bpe_vocab_max: usize, keep: Keep, samples: &[(LabelId, Session)]) -> BytesCodec {
    BytesCodec::fit(vocab, bpe_vocab_max, keep, labels(), samples).expect("settings are right")
}

/// Codecs of both kinds: bytes; BPE whose numbers are whole tokens; BPE with hardly any merges.
fn codecs(keep: Keep) -> Vec<BytesCodec> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut samples: Vec<_> = (0..20u16)
        .map(|i| (LabelId(i % 3), frames((0..10).map(|_| tcp(&std::array::from_fn::<u8, 200, _>(|_| rng.random()))))))
        .collect();
    // Every number first in a packet too, so that the large vocabulary has a token for each.
    samples.push((LabelId(0), frames((0..=255u8).chain(0..=255).map(|b| vec![b]))));
    [(Vocab::Byte, 0), (Vocab::Bpe, 2000), (Vocab::Bpe, 270)].map(|(v, max)| fit(v, max, keep, &samples)).into()
}

fn encode(codec: &dyn Codec, label: LabelId, session: &Session) -> Vec<Token> {
    let mut tokens = Vec::new();
    codec.encode(label, session, &mut tokens);
    tokens
}

#[test]
fn byte_ids_are_the_values_and_the_specials_follow() {
    let codec = fit(Vocab::Byte, 0, Keep::Whole, &[]);
    let tokens = encode(&codec, LabelId(1), &frames([vec![0, 69], vec![255]]));
    assert_eq!(tokens, [259, 0, 69, 256, 255, 257].map(Token));
    assert_eq!((codec.vocab_size(), codec.end_token(), codec.name()), (261, Token(257), "bytes"));
    let read = |id| codec.token_text(Token(id));
    assert_eq!([read(0x45), read(256), read(257), read(258)], ["69", "<|pkt|>", "<|endoftext|>", "<|zoom|>"]);
    assert_eq!(read(9_999), "<no token 9999>");
    assert!(codec.ends_packet(Token(256)) && codec.ends_packet(Token(257)) && !codec.ends_packet(Token(69)));
}

#[test]
fn bpe_has_neox_ids_for_its_specials_and_one_token_for_each_number_after_training() {
    let codec = &codecs(Keep::Whole)[1];
    assert_eq!(codec.token_text(Token(0)), "<|endoftext|>");
    assert_eq!(codec.token_text(Token(1)), "<|pkt|>");
    assert_eq!(codec.token_text(Token(4)), "<|DNS über TLS|>");
    assert_eq!(codec.token_text(codec.label_token(LabelId(2))), "<|DNS über TLS|>");
    let frame: Vec<u8> = (0..=255).collect();
    let tokens = encode(codec, LabelId(0), &frames([frame]));
    assert_eq!(tokens.len(), 258);
    assert_eq!(codec.token_text(tokens[70]), " 69");
    assert!(codec.vocab_size() < 2000);
}

#[test]
fn bpe_training_is_deterministic_and_refuses_a_vocabulary_that_cannot_hold_the_bytes() {
    let samples = [(LabelId(0), frames((0..50).map(|i| tcp(&[i; 40]))))];
    let json = |()| fit(Vocab::Bpe, 400, Keep::Whole, &samples).tokenizer_json();
    assert_eq!(json(()), json(()));
    // 256 byte symbols, <|endoftext|>, <|pkt|> and three labels.
    assert!(BytesCodec::fit(Vocab::Bpe, 260, Keep::Whole, labels(), &samples).is_err());
    assert_eq!(fit(Vocab::Bpe, 261, Keep::Whole, &samples).vocab_size(), 261);
}

#[test]
fn settings_that_make_no_codec_are_refused() {
    let fit = |keep, labels: &[&str], sample| {
        let labels = labels.iter().map(|l| l.to_string()).collect();
        BytesCodec::fit(Vocab::Byte, 0, keep, labels, &[(LabelId(sample), frames([[1]]))]).map(|_| ())
    };
    assert!(fit(Keep::Whole, &["a"], 0).is_ok());
    assert!(fit(Keep::First(0), &["a"], 0).is_err());
    assert!(fit(Keep::Whole, &[], 0).is_err());
    assert!(fit(Keep::Whole, &["pkt"], 0).is_err());
    assert!(fit(Keep::Whole, &["a"], 1).is_err());
}

#[test]
fn spec_and_tokenizer_json_make_the_same_codec_again() {
    for codec in codecs(Keep::First(60)) {
        let CodecSpec::Bytes(spec) = codec.spec() else { panic!("it is bytes") };
        let stored = serde_json::to_string(&CodecSpec::Bytes(spec)).expect("plain data");
        let spec: CodecSpec = serde_json::from_str(&stored).expect("just written");
        assert_eq!(spec, codec.spec());
        let again = from_spec(spec.clone(), &codec.tokenizer_json()).expect("its own files");
        assert_eq!(again.tokenizer_json(), codec.tokenizer_json());
        let session = frames([tcp(b"hello"), vec![9; 80]]);
        let tokens = encode(&codec, LabelId(1), &session);
        assert_eq!(encode(&*again, LabelId(1), &session), tokens);
        assert_eq!(again.decode(&tokens, &mut render()), codec.decode(&tokens, &mut render()));

        // Another codec's settings or vocabulary: an error, not other tokens.
        let CodecSpec::Bytes(mut other) = spec else { panic!("it was bytes") };
        other.labels.swap(0, 1);
        assert!(BytesCodec::from_spec(other.clone(), &codec.tokenizer_json()).is_err());
        other.labels.swap(0, 1);
        other.vocab = if other.vocab == Vocab::Byte { Vocab::Bpe } else { Vocab::Byte };
        assert!(BytesCodec::from_spec(other.clone(), &codec.tokenizer_json()).is_err());
        assert!(BytesCodec::from_spec(other, "{}").is_err());
    }
}

#[test]
fn a_prompt_ends_where_a_new_packet_begins() {
    let codec = fit(Vocab::Byte, 0, Keep::Whole, &[]);
    let session = frames([vec![1, 2], vec![], vec![3]]);
    let prompt = |packets_max| {
        let mut tokens = Vec::new();
        codec.encode_prompt(LabelId(0), &session, packets_max, &mut tokens);
        tokens
    };
    assert_eq!(prompt(1), [258, 1, 2, 256].map(Token));
    assert_eq!(prompt(9), [258, 1, 2, 256, 3, 256].map(Token));
    assert_eq!(prompt(0), [258].map(Token));
    // Continued with a packet and an end, it is a sample.
    let continued = [prompt(1), [3, 257].map(Token).to_vec()].concat();
    assert_eq!(continued, encode(&codec, LabelId(0), &session));
}

#[test]
fn packets_without_bytes_or_ip_are_left_out_and_counted() {
    let codec = fit(Vocab::Byte, 0, Keep::Whole, &[]);
    let raw = |linktype| Packet { ts: START, linktype, len: 20, data: tcp(&[])[14..].to_vec() };
    let other = raw(LinkType(220));
    let empty = Packet { data: vec![], ..raw(LinkType::ETHERNET) };
    let mut tokens = Vec::new();
    assert_eq!(codec.encode(LabelId(0), &session([other, empty, raw(LinkType::RAW)]), &mut tokens), 1);
    assert_eq!(codec.packets_left_out(), 2);
    let decoded = codec.decode(&tokens, &mut render());
    assert_eq!(decoded.packets[0].data[14..], raw(LinkType::RAW).data);
    assert_eq!(decoded.packets[0].linktype, LinkType::ETHERNET);
}

#[test]
fn headers_come_back_marked_as_truncated_and_without_payload() {
    for codec in codecs(Keep::Headers) {
        let tokens = encode(&codec, LabelId(0), &frames([tcp(b"secret payload"), tcp(b"")]));
        let decoded = codec.decode(&tokens, &mut render());
        assert_eq!(decoded.packets[0].data, tcp(b"secret payload")[..54]);
        assert_eq!((decoded.packets[0].len, decoded.packets[0].is_truncated()), (68, true));
        assert_eq!((decoded.packets[1].len, decoded.packets[1].is_truncated()), (54, false));
    }
}

#[test]
fn what_means_nothing_is_dropped_and_counted_packet_by_packet() {
    let codec = fit(Vocab::Byte, 0, Keep::Whole, &[]);
    let decode = |ids: &[u32]| {
        let decoded = codec.decode(&ids.iter().copied().map(Token).collect::<Vec<_>>(), &mut render());
        let packets: Vec<_> = decoded.packets.into_iter().map(|p| p.data).collect();
        (packets, decoded.malformed_packets, decoded.malformed_tokens)
    };
    assert_eq!(decode(&[258, 1, 256, 2, 257]), (vec![vec![1], vec![2]], 0, 0));
    assert_eq!(decode(&[1, 256, 2, 257]), (vec![vec![1], vec![2]], 0, 0)); // no label
    assert_eq!(decode(&[258, 1, 256, 2, 3]), (vec![vec![1]], 1, 2)); // cut off
    assert_eq!(decode(&[258, 1, 256]), (vec![vec![1]], 0, 0)); // open, nothing begun
    assert_eq!(decode(&[258, 1, 256, 257]), (vec![vec![1]], 1, 0)); // an empty packet
    assert_eq!(decode(&[258, 256, 1, 257]), (vec![vec![1]], 1, 0));
    assert_eq!(decode(&[258, 1, 259, 256, 2, 257]), (vec![vec![2]], 1, 2)); // a label inside
    assert_eq!(decode(&[258, 7, u32::MAX, 256, 2, 257]), (vec![vec![2]], 1, 2)); // no such token
    assert_eq!(decode(&[258, 1, 257, 257, 5, 257]), (vec![vec![1]], 0, 1)); // padding, and a token after the end
    assert_eq!(decode(&[258, 257]), (vec![], 0, 0));
    assert_eq!(decode(&[]), (vec![], 0, 0));
}

#[test]
fn bpe_numbers_that_run_together_are_malformed() {
    for codec in &codecs(Keep::Whole)[1..] {
        let mut tokens = encode(codec, LabelId(0), &frames([vec![200], vec![3]]));
        assert_eq!(codec.decode(&tokens, &mut render()).packets.len(), 2);
        // "200" directly followed by "200" reads as 200200.
        let number = tokens[1..tokens.iter().position(|t| codec.ends_packet(*t)).expect("two packets")].to_vec();
        tokens.splice(1..1, number);
        let decoded = codec.decode(&tokens, &mut render());
        assert_eq!((decoded.packets.len(), decoded.malformed_packets), (1, 1));
        assert_eq!(decoded.packets[0].data, [3]);
    }
}

#[test]
fn times_begin_at_start_and_follow_the_gaps_of_the_label() {
    let spaced = |gap_ms: i64| {
        let mut session = frames(vec![vec![1]; 10]);
        session.packets.iter_mut().enumerate().for_each(|(i, p)| {
            p.packet.ts = START.plus_nanos(i as i64 * gap_ms * 1_000_000);
        });
        session
    };
    let codec = fit(Vocab::Byte, 0, Keep::Whole, &[(LabelId(0), spaced(5)), (LabelId(1), spaced(500))]);
    for (label, gap_ns) in [(0, 5e6), (1, 5e8)] {
        let decoded = codec.decode(&encode(&codec, LabelId(label), &spaced(1)), &mut render());
        assert_eq!(decoded.packets[0].ts, START);
        for pair in decoded.packets.windows(2) {
            // A bin reaches at most 1/64 of its first value from end to end.
            assert!((pair[1].ts.nanos_since(pair[0].ts) as f64 / gap_ns - 1.0).abs() < 1.0 / 64.0);
        }
        assert_eq!(decoded, codec.decode(&encode(&codec, LabelId(label), &spaced(1)), &mut render()));
    }
}

fn any_packets() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let frame = prop::collection::vec(any::<u8>(), 1..40);
    prop::collection::vec(prop_oneof![frame.clone(), frame.prop_map(|payload| tcp(&payload))], 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn decode_undoes_encode_and_the_tokenizer_file_gives_the_same_ids(packets in any_packets(), label in 0..3u16) {
        thread_local!(static CODECS: Vec<(BytesCodec, Tokenizer)> = codecs(Keep::Whole)
            .into_iter()
            .map(|codec| {
                let tokenizer = codec.tokenizer_json().parse().expect("a valid tokenizer.json");
                (codec, tokenizer)
            })
            .collect());
        CODECS.with(|codecs| {
            for (codec, tokenizer) in codecs {
                let session = frames(packets.clone());
                let tokens = encode(codec, LabelId(label), &session);
                let decoded = codec.decode(&tokens, &mut render());
                prop_assert_eq!((decoded.malformed_packets, decoded.malformed_tokens), (0, 0));
                prop_assert_eq!(decoded.packets.iter().map(|p| p.data.clone()).collect::<Vec<_>>(), packets.clone());

                let written = codec.to_text(LabelId(label), &session);
                let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
                let encoding = tokenizer.encode(written.as_str(), false).expect("text of numbers");
                prop_assert_eq!(encoding.get_ids(), &ids[..]);
                // And the text that the file's decoder makes of the tokens reads as the same packets.
                let read = text::parse_sample(&tokenizer.decode(&ids, false).expect("ids of its own"));
                prop_assert_eq!(read.packets, packets.clone());
            }
            Ok(())
        })?;
    }

    #[test]
    fn any_tokens_decode_without_panic_and_as_their_text_reads(
        ids in prop::collection::vec(prop_oneof![0..600u32, 250..262u32, 0..5u32, any::<u32>()], 0..60),
    ) {
        thread_local!(static CODECS: Vec<BytesCodec> = codecs(Keep::Headers));
        CODECS.with(|codecs| {
            for codec in codecs {
                let tokens: Vec<Token> = ids.iter().copied().map(Token).collect();
                let decoded = codec.decode(&tokens, &mut render());
                prop_assert!(decoded.packets.iter().all(|p| !p.data.is_empty() && p.len as usize >= p.data.len()));
                // The text a person sees, with spaces where the byte vocabulary has none.
                let space = if codec.spec.vocab == Vocab::Byte { " " } else { "" };
                let read = tokens.iter().map(|t| codec.token_text(*t)).collect::<Vec<_>>().join(space);
                let read = text::parse_sample(&read);
                prop_assert_eq!(decoded.packets.into_iter().map(|p| p.data).collect::<Vec<_>>(), read.packets);
                prop_assert_eq!(decoded.malformed_packets, read.malformed_packets);
            }
            Ok(())
        })?;
    }
}

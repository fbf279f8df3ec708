//! What must hold for any input: the fuzz targets run these on what they find, the tests on the seeds.

use std::sync::LazyLock;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use wiremamba_model::codec::wire::WireCodec;
use wiremamba_model::codec::wire::dictionary::Dictionary;
use wiremamba_model::codec::wire::lossless::{LosslessEncoder, decoder};
use wiremamba_model::codec::{Codec, LabelId, Render, Token};
use wiremamba_model::flow::{Direction, FiveTuple, Session, SessionPacket};
use wiremamba_model::packet::{LinkType, Packet, Timestamp};
use wiremamba_model::wire::parse::parse as parse_frame;
use wiremamba_model::wire::plan::Plan;
use wiremamba_model::wire::render::render;

/// Packets of one input at most; more find nothing new and cost time.
const PACKETS_MAX: usize = 64;
/// Tokens of one sample that is drawn at most.
const TOKENS_MAX: usize = 2000;

static STRINGS: LazyLock<Dictionary> = LazyLock::new(|| {
    let strings = [&b"GET "[..], b" HTTP/1.1\r\n", b"\0\0", b"\x16\x03"];
    Dictionary::new(strings.map(Into::into).to_vec()).expect("four strings")
});
static CODEC: LazyLock<WireCodec> =
    LazyLock::new(|| WireCodec::fit(vec!["lab".into()], 0, false, Plan::default(), &[]).expect("a label is enough"));

/// Any bytes are a frame or are refused with a layer; a frame renders, and what is rendered is that frame.
///
/// Input: link type, then the frame.
pub(crate) fn parse(data: &[u8]) {
    let Some((&link, data)) = data.split_first() else { return };
    let packet = packet(link, Timestamp::default(), data);
    match parse_frame(&packet) {
        Err(refused) => assert!(!refused.layer.is_empty()),
        Ok(frame) => {
            let mut rendered = Vec::new();
            render(&frame, &mut rendered);
            let rendered = Packet { len: rendered.len() as u32, data: rendered, ..packet.clone() };
            let again = parse_frame(&rendered).expect("what is rendered is a frame");
            let mut twice = Vec::new();
            render(&again, &mut twice);
            assert_eq!(twice, rendered.data);
        }
    }
}

/// Any packets come back exactly, their gaps within 1 %; and what a model would learn of them is whole.
///
/// Input: for each packet link type, exponent of the gap, length (big-endian), bytes.
pub(crate) fn encode(data: &[u8]) {
    let packets = packets(data);
    let Some(first) = packets.first() else { return };
    let (mut encoder, mut decoder) = (LosslessEncoder::new(&STRINGS, first.ts), decoder(&STRINGS, first.ts));
    let mut tokens = Vec::new();
    let (mut before, mut before_back) = (first.ts, first.ts);
    for packet in &packets {
        tokens.clear();
        encoder.packet(packet, &mut tokens);
        tokens.iter().for_each(|t| decoder.push(*t));
        let back = decoder.flush();
        assert_eq!(back.len(), 1, "one packet in, one packet out");
        assert_eq!((back[0].linktype, back[0].len, &back[0].data), (packet.linktype, packet.len, &packet.data));
        let (gap, gap_back) = (packet.ts.nanos_since(before), back[0].ts.nanos_since(before_back));
        assert!((gap - gap_back).unsigned_abs() as f64 <= 0.01 * gap.unsigned_abs() as f64 + 1.0, "{gap} {gap_back}");
        (before, before_back) = (packet.ts, back[0].ts);
    }
    let session = session(packets);
    let mut tokens = Vec::new();
    let count = CODEC.encode(LabelId(0), &session, &mut tokens);
    let decoded = CODEC.decode(&tokens, &mut chance());
    assert_eq!((decoded.packets.len(), decoded.malformed_packets), (count, 0));
}

/// Any tokens decode to something; those that the grammar allows, to valid frames only.
///
/// Input: pairs of bytes, each a token, or a choice among the allowed ones.
pub(crate) fn decode(data: &[u8]) {
    let numbers: Vec<usize> = data.chunks_exact(2).map(|b| usize::from(b[0]) << 8 | usize::from(b[1])).collect();
    let any: Vec<Token> = numbers.iter().map(|n| Token((n % (CODEC.vocab_size() + 1)) as u32)).collect();
    CODEC.decode(&any, &mut chance());

    let mut grammar = CODEC.grammar().expect("wire has one");
    let mut mask = vec![0; CODEC.vocab_size().div_ceil(64)];
    let mut tokens = vec![CODEC.label_token(LabelId(0))];
    grammar.push(tokens[0]);
    let mut numbers = numbers.into_iter();
    while tokens.last() != Some(&CODEC.end_token()) {
        grammar.allowed(TOKENS_MAX - tokens.len(), &mut mask);
        let is_allowed = |t: &u32| mask[*t as usize / 64] >> (t % 64) & 1 == 1;
        let allowed: Vec<u32> = (0..CODEC.vocab_size() as u32).filter(is_allowed).collect();
        assert!(!allowed.is_empty(), "something can always follow");
        let end = CODEC.end_token();
        // Once the input is used up, the sample ends as soon as it can.
        let token = match numbers.next() {
            Some(number) => Token(allowed[number % allowed.len()]),
            None if is_allowed(&end.0) => end,
            None => Token(allowed[0]),
        };
        grammar.push(token);
        tokens.push(token);
        assert!(tokens.len() <= TOKENS_MAX, "a sample ends");
    }
    let decoded = CODEC.decode(&tokens, &mut chance());
    assert_eq!((decoded.malformed_packets, decoded.malformed_tokens), (0, 0));
    for packet in &decoded.packets {
        let frame = parse_frame(packet).expect("what is rendered is a frame");
        let mut again = Vec::new();
        render(&frame, &mut again);
        assert_eq!(again, packet.data, "lengths and checksums are right");
    }
}

fn chance() -> Render {
    Render { rng: ChaCha8Rng::seed_from_u64(1), start: Timestamp::default() }
}

fn packet(link: u8, ts: Timestamp, data: &[u8]) -> Packet {
    const LINKS: [LinkType; 8] = [
        LinkType::ETHERNET,
        LinkType::RAW,
        LinkType::NULL,
        LinkType::LOOP,
        LinkType::LINUX_SLL,
        LinkType::LINUX_SLL2,
        LinkType::IPV4,
        LinkType::IPV6,
    ];
    // The upper bits: how many bytes the capture has cut off.
    let cut = u32::from(link >> 4);
    Packet { ts, linktype: LINKS[usize::from(link & 7)], len: data.len() as u32 + cut, data: data.to_vec() }
}

fn packets(mut data: &[u8]) -> Vec<Packet> {
    let (mut ret, mut ts) = (Vec::new(), Timestamp::from_parts(1_700_000_000, 0));
    while let [link, gap, high, low, rest @ ..] = data {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (bytes, next) = rest.split_at(len);
        let nanos = (1_i64 << (gap & 63).min(48)) + i64::from(*low);
        ts = ts.plus_nanos(if gap & 64 == 0 { nanos } else { -nanos });
        ret.push(packet(*link, ts, bytes));
        data = next;
        if ret.len() == PACKETS_MAX {
            break;
        }
    }
    ret
}

/// One session of all packets; who the codec says they are from is its own affair.
fn session(packets: Vec<Packet>) -> Session {
    let nobody = std::net::IpAddr::from([0, 0, 0, 0]);
    let tuple = FiveTuple { orig: nobody, resp: nobody, orig_port: 0, resp_port: 0, protocol: 0 };
    let of = |packet| SessionPacket { flow: 0, direction: Direction::Orig, packet };
    Session { flows: vec![tuple], packets: packets.into_iter().map(of).collect() }
}

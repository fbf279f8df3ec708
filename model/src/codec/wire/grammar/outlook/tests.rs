//! What is told of flows, against what chance makes of them under the mask.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::super::super::{Codec, CodecSpec, LabelId, Render, Token};
use super::super::super::WireCodec;
use super::super::super::application::Application;
use super::super::super::habits::headers::Values;
use super::super::super::habits::{Label, Service};
use super::super::super::outlook::{Ends, Outlook, Seen, size_class};
use super::super::super::side::{ACK, SYN};
use super::super::super::vocab::{Proto, Tok};
use super::super::super::walk::{Step, Walk};
use super::*;
use crate::flow::{Direction, Session, SessionPacket};
use crate::packet::Timestamp;
use crate::wire::plan::Plan;

const TOKENS_MAX: usize = 40_000;

/// A codec whose flows are web's: one in each sample.
fn codec() -> WireCodec {
    let bare = WireCodec::fit(vec!["web".into()], 0, false, Plan::default(), &[]).unwrap();
    let CodecSpec::Wire(mut spec) = bare.spec() else { panic!("wire") };
    let kinds = |kinds: &[(&str, [u32; 2])]| Service {
        packets: kinds.iter().map(|(ends, n)| ((*ends).to_owned(), *n)).collect(),
        ..Service::default()
    };
    let services = BTreeMap::from([
        ("tcp/443".to_owned(), kinds(&[("fin", [7, 60]), ("rst", [2, 20])])),
        ("tcp/2222".to_owned(), kinds(&[("fin", [12, 30]), ("open", [1, 9])])),
        ("udp/53".to_owned(), kinds(&[("open", [2, 2])])),
    ]);
    spec.habits.insert("web".to_owned(), Label { flows: 1, services, ..Label::default() });
    WireCodec::from_spec(spec, &bare.tokenizer_json()).unwrap()
}

/// A sample that chance draws, as far as `packets_max` packets are wanted; whether its grammar says that it has ended.
fn sample(codec: &WireCodec, seed: u64, packets_max: Option<u64>) -> (Vec<Token>, bool) {
    let (mut rng, mut grammar) = (ChaCha8Rng::seed_from_u64(seed), Strict::new(codec));
    packets_max.into_iter().for_each(|packets| super::super::super::Grammar::end_within(&mut grammar, packets));
    let grammar: &mut dyn super::super::super::Grammar = &mut grammar;
    let mut mask = vec![0u64; codec.vocab_size().div_ceil(64)];
    let (mut tokens, mut has_ended) = (vec![codec.label_token(LabelId(0))], false);
    grammar.push(tokens[0]);
    while tokens.last() != Some(&codec.end_token()) {
        grammar.allowed(TOKENS_MAX - tokens.len(), &mut mask);
        let allowed: Vec<u32> =
            (0..codec.vocab_size() as u32).filter(|t| mask[*t as usize / 64] >> (t % 64) & 1 == 1).collect();
        let token = Token(allowed[rng.random_range(0..allowed.len())]);
        has_ended = grammar.has_ended();
        grammar.push(token);
        tokens.push(token);
    }
    (tokens, has_ended)
}

/// The flow of a sample: what was told of it, what it became, and whether TCP says that it is closed.
fn flow(codec: &WireCodec, tokens: &[Token]) -> (Proto, Outlook, Seen, bool) {
    let (mut walk, mut seen): (Walk, _) = (codec.blank.clone(), Seen::default());
    for token in tokens {
        match walk.push(*token) {
            Step::Packet => seen.see(walk.action()),
            step => assert_ne!(step, Step::Bad),
        }
    }
    assert_eq!(walk.slots.len(), 1, "a sample has one flow");
    let slot = &walk.slots[0];
    (slot.proto, slot.outlook.expect("it is told"), seen, slot.closed)
}

/// The packets of a sample.
fn rendered(codec: &WireCodec, tokens: &[Token], seed: u64) -> Session {
    let render = &mut Render { rng: ChaCha8Rng::seed_from_u64(seed), start: Timestamp::from_parts(1_700_000_000, 0) };
    let packets = codec.decode(tokens, render).packets;
    let packets = packets.into_iter().map(|packet| SessionPacket { packet, flow: 0, direction: Direction::Orig });
    Session { flows: Vec::new(), packets: packets.collect() }
}

/// A codec that has learned from these sessions.
fn learned(sessions: Vec<Session>) -> WireCodec {
    let mut ret = WireCodec::fit(vec!["web".into()], 0, false, Plan::default(), &[]).unwrap();
    ret.learn(&sessions.into_iter().map(|session| (LabelId(0), session)).collect::<Vec<_>>());
    ret
}

/// What it has learned of flows.
fn habits(codec: &WireCodec) -> Label {
    let CodecSpec::Wire(spec) = codec.spec() else { panic!("wire") };
    spec.habits["web"].clone()
}

#[test]
fn chance_says_and_offers_no_more_than_was_seen() {
    let codec = codec();
    let samples = |codec: &WireCodec, seeds: std::ops::Range<u64>| -> Vec<Session> {
        seeds.map(|seed| rendered(codec, &sample(codec, seed, None).0, seed)).collect()
    };
    let (mut spoken, mut options, mut windows) = (0, 0, 0);
    for round in 0..12 {
        let first = round * 100;
        let known = learned(samples(&codec, first..first + 4));
        let (known, more) = (habits(&known), habits(&learned(samples(&known, first..first + 20))));
        let mut both = known.clone();
        both.merge(&more);
        assert_eq!((both.longest_gap_ns, both.disorder), (known.longest_gap_ns, known.disorder));
        for side in 0..2 {
            let [of_both, of_known] = [&both, &known].map(|label| {
                let headers = label.headers(side).expect("it was looked at");
                [&headers.ttl, &headers.tos, &headers.windows].map(Values::known)
            });
            // What nobody sent, or in too many ways, may be anything.
            for (both, known) in of_both.into_iter().zip(of_known).filter(|(_, known)| known.is_some()) {
                assert_eq!(both, known, "side {side}");
            }
            windows += of_known[2].map_or(0, |windows| windows.len());
            let [of_both, of_known] = [&both, &known].map(|label| label.messages(side).expect("it was looked at"));
            assert!(!of_known.is_empty() || of_both.is_empty(), "side {side}");
        }
        for flags in [SYN, SYN | ACK, ACK, RST] {
            let seen = known.layouts.of(flags);
            assert!(seen.is_none() || both.layouts.of(flags) == seen, "{:?} {:?}", both.layouts, known.layouts);
            options += seen.map_or(0, <[_]>::len);
        }
        for (name, service) in &both.services {
            assert_eq!(service.said, known.services[name].said, "{name}");
        }
        spoken +=
            more.services.values().flat_map(|service| service.said).flatten().filter(|said| said.bytes > 0).count();
    }
    assert!(spoken > 12 && options > 48 && windows > 48, "{spoken} {options} {windows}");
}

#[test]
fn on_a_network_of_long_frames_there_is_always_a_token_to_say() {
    let plain = codec();
    let CodecSpec::Wire(mut spec) = plain.spec() else { panic!("wire") };
    spec.plan.mtu = 9000;
    let services = &mut spec.habits.get_mut("web").unwrap().services;
    services.retain(|service, _| service == "tcp/443");
    services.values_mut().for_each(|service| service.application = Some(Application::Tls));
    let codec = WireCodec::from_spec(spec, &plain.tokenizer_json()).unwrap();
    let mut longest = 0;
    for seed in 0..2000 {
        // A record that is longer than a first segment may be is said to its end where the flow has to close.
        let packets = rendered(&codec, &sample(&codec, seed, None).0, seed).packets;
        longest = packets.iter().map(|packet| packet.packet.data.len()).fold(longest, usize::max);
    }
    assert!(longest > 1514, "{longest}");
}

#[test]
fn chance_keeps_to_what_was_told() {
    let codec = codec();
    let mut ends = BTreeMap::new();
    for seed in 0..400 {
        let (tokens, _) = sample(&codec, seed, None);
        let text = || tokens.iter().map(|t| codec.token_text(*t)).collect::<Vec<_>>().join(" ");
        let (proto, told, seen, is_closed) = flow(&codec, &tokens);
        let packets = seen.packets();
        match told.ends {
            Ends::Open => {
                assert_eq!((seen.outlook(), is_closed), (told, false), "{}", text());
                assert!(proto == Proto::Tcp || packets == 2);
            }
            // What takes too long to close is reset.
            Ends::Fin if seen.outlook().ends == Ends::Rst => assert_eq!(packets, told.most() + PATIENCE, "{}", text()),
            Ends::Fin => assert!(packets <= told.most() + PATIENCE && seen.outlook().ends == Ends::Fin, "{}", text()),
            Ends::Rst => assert_eq!((seen.outlook(), is_closed), (told, true), "{}", text()),
        }
        *ends.entry((told.ends, seen.outlook().ends)).or_insert(0) += 1;
    }
    let of = |told, came| ends.get(&(told, came)).copied().unwrap_or(0);
    assert!(of(Ends::Open, Ends::Open) > 50 && of(Ends::Rst, Ends::Rst) > 20, "{ends:?}");
    assert!(of(Ends::Fin, Ends::Fin) > 8 * of(Ends::Fin, Ends::Rst), "{ends:?}");
}

#[test]
fn flows_end_within_the_packets_that_are_wanted() {
    let codec = codec();
    let mut closed = 0;
    for seed in 0..200 {
        let (tokens, has_ended) = sample(&codec, seed, Some(14));
        let (_, told, seen, is_closed) = flow(&codec, &tokens);
        assert!(seen.packets() <= 14, "{told:?} {seen:?}");
        assert_eq!(is_closed || seen.outlook().ends == Ends::Fin, told.ends != Ends::Open);
        assert!(has_ended || told.ends == Ends::Open, "nothing is left to come");
        closed += u32::from(told.ends == Ends::Fin && seen.outlook().ends == Ends::Fin);
    }
    assert!(closed > 20, "{closed}");
}

#[test]
fn what_a_capture_shows_is_what_is_told() {
    let codec = codec();
    for seed in 0..100 {
        let (tokens, _) = sample(&codec, seed, None);
        let (_, _, seen, _) = flow(&codec, &tokens);
        let session = rendered(&codec, &tokens, seed);
        let mut again = Vec::new();
        codec.encode(LabelId(0), &session, &mut again);
        assert_eq!(flow(&codec, &again).1, seen.outlook());
        let told = |tokens: &[Token]| tokens.iter().any(|t| matches!(codec.vocab.tok(*t), Some(Tok::Size(_))));
        let mut prompt = Vec::new();
        codec.encode_prompt(LabelId(0), &session, 1, &mut prompt);
        assert_eq!(told(&prompt), session.packets.len() > 1);
        assert!(!told(&prompt) || again.starts_with(&prompt));
        // What comes behind the last packet is not known.
        prompt.clear();
        codec.encode_prompt(LabelId(0), &session, session.packets.len(), &mut prompt);
        assert!(!told(&prompt));
        let label = &habits(&learned(vec![session]));
        let kinds = &label.services.values().next().unwrap().packets;
        assert_eq!((label.flows, label.services.len()), (1, 1));
        assert_eq!(kinds, &BTreeMap::from([(seen.outlook().ends.name().to_owned(), [seen.packets(); 2])]));
        assert_eq!(size_class(seen.packets()), seen.outlook().size);
    }
}

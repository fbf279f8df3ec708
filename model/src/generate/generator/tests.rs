//! Same seed, same packets; in order, bounded, and equal to decoding one flow by itself.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::codec::bytes::{BytesCodec, Keep, Vocab};
use crate::generate::{HostDecoder, Sampling};
use crate::mamba::{Batch, Loss, Mamba, Params, State};
use crate::train::testing::{Bigram, NibbleCodec, session};

fn codec() -> Arc<NibbleCodec> {
    Arc::new(NibbleCodec::new(&["a", "b"]))
}

fn requests(n: u64) -> Requests {
    Box::new((0..n).map(|i| Request {
        label: LabelId((i % 2) as u16),
        prompt: None,
        start: Timestamp(i as i64 * 1000),
    }))
}

fn host(model: impl Mamba + 'static) -> Box<dyn Decoder> {
    Box::new(HostDecoder::new(Box::new(model)))
}

fn generator(options: GenerateOptions, requests: Requests) -> Generator {
    Generator::new(host(Bigram::random(20, 8)), codec(), options, requests).unwrap()
}

fn all(mut generator: Generator) -> Vec<GeneratedFlow> {
    std::iter::from_fn(|| generator.next_flow()).collect()
}

const OPTIONS: GenerateOptions = GenerateOptions {
    streams: 4,
    seed: 3,
    sampling: Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 },
    tokens_max: 400,
    packets_max: Some(1000),
    mask: true,
    ahead: 2,
};

#[test]
fn flows_come_in_the_order_of_requests_and_the_same_again() {
    let flows = all(generator(OPTIONS, requests(30)));
    assert_eq!(flows.iter().map(|f| f.index).collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());
    assert_eq!(flows, all(generator(OPTIONS, requests(30))));
    assert_ne!(flows, all(generator(GenerateOptions { seed: 4, ..OPTIONS }, requests(30))));
    let lengths: std::collections::HashSet<_> = flows.iter().map(|f| f.tokens.len()).collect();
    assert!(lengths.len() > 5, "flows end at different times, so order is not for free");
    for flow in &flows {
        assert_eq!((flow.tokens[0].0, flow.prompt_tokens), (18 + flow.index as u32 % 2, 1));
        assert!(flow.packets.first().is_none_or(|p| p.ts == flow.start));
        assert!(flow.packets.is_sorted_by_key(|p| p.ts));
    }
}

#[test]
fn a_flow_is_the_same_in_any_number_of_streams() {
    // The stand-in computes each stream by itself, so this is about slots, states and chance only.
    let alone = all(generator(GenerateOptions { streams: 1, ..OPTIONS }, requests(20)));
    assert_eq!(alone, all(generator(OPTIONS, requests(20))));
    assert_eq!(alone, all(generator(GenerateOptions { streams: 33, ..OPTIONS }, requests(20))));
}

#[test]
fn a_flow_equals_a_plain_loop_over_the_network() {
    let greedy =
        GenerateOptions { sampling: Sampling { temperature: 0.0, ..Default::default() }, tokens_max: 9, ..OPTIONS };
    let flow = all(generator(greedy, requests(1))).remove(0);
    let mut model = Bigram::random(20, 8);
    let mut state = State::new(model.params().config(), 1);
    let mut tokens = vec![Token(18)];
    while tokens.len() < 9 && *tokens.last().unwrap() != Token(16) {
        let logits = model.forward(&tokens[tokens.len() - 1..], &mut state);
        let best = (0..20).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        tokens.push(Token(best as u32));
    }
    assert_eq!(flow.tokens, tokens);
}

#[test]
fn prompts_are_continued() {
    let codec = codec();
    let mut prompt = Vec::new();
    codec.encode_prompt(LabelId(1), &session(&[&[0xab; 200], &[1]]), 1, &mut prompt);
    assert_eq!(prompt.len(), 402, "longer than one prefill");
    let request = Request { label: LabelId(1), prompt: Some(prompt.clone()), start: Timestamp(5) };
    let options = GenerateOptions { tokens_max: 600, ..OPTIONS };
    let flows = all(generator(options, Box::new(vec![request; 3].into_iter())));
    for flow in &flows {
        assert_eq!(flow.tokens[..402], prompt);
        assert!(flow.tokens.len() > 402);
        assert_eq!(flow.packets[0].data, [0xab; 200]);
    }
    assert_ne!(flows[0].tokens, flows[1].tokens, "each flow has its own chance");
}

#[test]
fn limits_end_flows_and_are_counted() {
    let mut generator = generator(GenerateOptions { tokens_max: 5, ..OPTIONS }, requests(40));
    let flows: Vec<_> = std::iter::from_fn(|| generator.next_flow()).collect();
    assert!(flows.iter().all(|f| f.tokens.len() <= 5));
    let cut = flows.iter().filter(|f| f.end == End::TokensMax).count() as u64;
    let counters = generator.counters();
    assert!(cut > 0 && counters.cut_flows == cut && counters.flows == 40);
    assert_eq!(counters.tokens, flows.iter().map(|f| f.tokens.len() as u64 - 1).sum::<u64>());
    assert_eq!(counters.malformed_packets, flows.iter().map(|f| f.malformed_packets).sum::<u64>());
    let options = GenerateOptions { packets_max: Some(2), tokens_max: 100_000, ..OPTIONS };
    let flows = all(self::generator(options, requests(40)));
    assert!(flows.iter().any(|f| f.end == End::PacketsMax) && flows.iter().all(|f| f.packets.len() <= 2));
}

#[test]
fn flows_that_have_lost_their_end_are_cut_at_twice_the_longest_that_was_learned() {
    let sample = |packets: usize| (LabelId(0), session(&vec![&b"a"[..]; packets]));
    let labels = ["a", "b"].map(str::to_owned).to_vec();
    let codec = BytesCodec::fit(Vocab::Byte, 0, Keep::Whole, labels, &[sample(2), sample(3), sample(1)]).unwrap();
    let most = |packets_max, label| GenerateOptions { packets_max, ..OPTIONS }.flow_packets_max(&codec, LabelId(label));
    assert_eq!((most(None, 0), most(None, 1), most(Some(50), 0)), (6, 10_000, 50));
    let read = crate::codec::from_spec(codec.spec(), &codec.tokenizer_json()).unwrap();
    assert_eq!((read.longest(LabelId(0)), read.longest(LabelId(1))), (Some(3), None));
}

#[test]
fn bad_requests_are_answered_and_counted() {
    let bad = |label, prompt| Request { label: LabelId(label), prompt, start: Timestamp(0) };
    let list = vec![
        bad(9, None),
        bad(0, Some(vec![])),
        bad(0, Some(vec![Token(18), Token(20)])),
        bad(0, None),
        bad(0, Some(vec![Token(u32::MAX)])),
    ];
    let mut generator = generator(GenerateOptions { streams: 1, ..OPTIONS }, Box::new(list.into_iter()));
    let flows: Vec<_> = std::iter::from_fn(|| generator.next_flow()).collect();
    let is_bad: Vec<_> = flows.iter().map(|f| f.end == End::BadRequest).collect();
    assert_eq!(is_bad, [true, true, true, false, true]);
    assert_eq!(generator.counters().bad_requests, 4);
    assert_eq!(generator.next_flow(), None);
}

#[test]
fn at_most_two_flows_a_stream_are_begun() {
    let asked = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&asked);
    let counted = requests(u64::MAX).inspect(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let mut generator = generator(OPTIONS, Box::new(counted));
    for delivered in 1..200 {
        generator.next_flow().unwrap();
        assert!(asked.load(Ordering::Relaxed) - delivered < 8);
        assert!(generator.window.room(8) > 0);
    }
}

#[test]
fn flows_begun_ahead_are_the_same_flows() {
    let ahead = GenerateOptions { ahead: 20, ..OPTIONS };
    assert_eq!(all(generator(OPTIONS, requests(60))), all(generator(ahead, requests(60))));
    let mut far = generator(ahead, requests(u64::MAX));
    for _ in 0..200 {
        far.next_flow().unwrap();
        assert!(far.window.room(81) > 0);
    }
}

/// A network whose logits mean nothing.
struct Broken(Bigram);

impl Mamba for Broken {
    fn params(&self) -> &Params {
        self.0.params()
    }
    fn set_params(&mut self, data: &[f32]) {
        self.0.set_params(data);
    }
    fn forward(&mut self, tokens: &[Token], _state: &mut State) -> Vec<f32> {
        vec![f32::NAN; tokens.len() * 20]
    }
    fn loss(&mut self, batch: &Batch, state: &mut State) -> Loss {
        self.0.loss(batch, state)
    }
    fn gradients(&mut self, batch: &Batch, state: &mut State, scale: f32, gradients: &mut Params) -> Loss {
        self.0.gradients(batch, state, scale, gradients)
    }
    fn step(&mut self, _tokens: &[Token], _state: &mut State, ret_logits: &mut [f32]) {
        ret_logits.fill(f32::NAN);
    }
}

#[test]
fn the_first_packets_are_the_same_when_only_they_are_wanted() {
    let first = |generator: Generator, wanted: usize| {
        let mut packets: Vec<Packet> = all(generator).into_iter().flat_map(|flow| flow.packets).collect();
        packets.sort_by_key(|packet| packet.ts);
        packets.truncate(wanted);
        packets
    };
    for wanted in [1, 7, 60] {
        let (packets, begun) = (first(generator(OPTIONS, requests(500)), wanted), Arc::new(AtomicU64::new(0)));
        assert_eq!(packets.len(), wanted);
        let count = Arc::clone(&begun);
        let counted = Box::new(requests(500).inspect(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        assert_eq!(first(generator(OPTIONS, counted).first_packets(wanted as u64), wanted), packets);
        assert!(begun.load(Ordering::Relaxed) < 250, "{wanted}: {begun:?} flows were begun");
    }
}

#[test]
fn logits_that_are_not_finite_end_the_flow() {
    let model = host(Broken(Bigram::zeros(20)));
    let flows = all(Generator::new(model, codec(), OPTIONS, requests(3)).unwrap());
    assert!(flows.len() == 3 && flows.iter().all(|f| f.end == End::NoToken && f.packets.is_empty()));
}

#[test]
fn what_does_not_fit_is_refused() {
    let small = Generator::new(host(Bigram::zeros(19)), codec(), OPTIONS, requests(1)).err().unwrap();
    assert_eq!(small, GenerateError::Vocabulary { codec: 20, network: 19 });
    let options = GenerateOptions { streams: 0, ..OPTIONS };
    let error = Generator::new(host(Bigram::zeros(20)), codec(), options, requests(1)).err().unwrap();
    assert_eq!(error.to_string(), "streams is 0, allowed is 1 to 65536");
    // A vocabulary padded for speed is fine, and its padding is never drawn.
    let padded = Generator::new(host(Bigram::zeros(64)), codec(), OPTIONS, requests(20)).unwrap();
    assert!(all(padded).iter().all(|f| f.tokens.iter().all(|t| t.0 < 20)));
}

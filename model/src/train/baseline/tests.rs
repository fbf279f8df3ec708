use super::*;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const LABEL: u32 = 300;
const PACKET: u32 = 256;

/// A sample: the label, then these tokens.
fn sample(tokens: impl IntoIterator<Item = u32>) -> Vec<Token> {
    std::iter::once(LABEL).chain(tokens).map(Token).collect()
}

fn markov(samples: &[Vec<Token>], vocab_size: usize, order: usize) -> Markov {
    Markov::fit(samples.iter().map(Vec::as_slice), vocab_size, order)
}

fn per_position(samples: &[Vec<Token>]) -> PerPosition {
    PerPosition::fit(samples.iter().map(Vec::as_slice), 301, Token(PACKET))
}

/// Nats a token, without the first.
fn per_token(baseline: &impl Baseline, samples: &[Vec<Token>]) -> f64 {
    let tokens: usize = samples.iter().map(|s| s.len() - 1).sum();
    samples.iter().map(|s| baseline.nats(s)).sum::<f64>() / tokens as f64
}

#[test]
fn order_zero_by_hand() {
    // Tokens 0 0 0 1 of a vocabulary of 4: N = 4, T = 2. Leaving each out in turn costs, for weight w,
    // -3 ln((2 + w/2) / (3 + 2w)) - ln((w/4) / (3 + w)): 4.852 for w = 1, 4.845 for 2, 4.981 for 4, 5.058 for 1/2.
    // So w = 2, and p(0) = (3 + 4/4) / (4 + 4) = 1/2, p(1) = (1 + 1) / 8 = 1/4, p(2) = p(3) = 1/8.
    let baseline = markov(&[sample([0, 0, 0, 1])], 4, 0);
    for (token, inverse) in [(0, 2.0f64), (1, 4.0), (2, 8.0), (3, 8.0)] {
        assert!((baseline.nats(&sample([token])) - inverse.ln()).abs() < 1e-12, "token {token}");
    }
    assert!((baseline.nats(&sample([0, 1, 2])) - 64f64.ln()).abs() < 1e-12);
    assert_eq!(baseline.nats(&sample([])), 0.0);
    assert_eq!(baseline.nats(&[]), 0.0);
    assert_eq!(baseline.nats(&sample([4])), f64::INFINITY);
}

#[test]
fn order_one_by_hand() {
    // After 0 always 1, after 1 always 0, V = 2 (the label is only ever a context). Contexts: label {0: 1}, 0 {1: 2},
    // 1 {0: 2}. Order 0: n = (3, 2), N = 5, T = 2; leaving out costs -3 ln((2 + w)/(4 + 2w)) - 2 ln((1 + w)/(4 + 2w)),
    // least for the largest w, 256: p(0) = (3 + 256)/(5 + 512) = 259/517, p(1) = 258/517.
    // Contexts 0 and 1 share a class (N = 2, T/N = 1/2): leaving one out, ((1 + w p)/(1 + w)), is best for the
    // smallest w, 1/256; the label's (N = 1) ties at w = 1.
    let baseline = markov(&[sample([0, 1, 0, 1, 0])], 2, 1);
    let (p0, p1, w) = (259.0 / 517.0, 258.0 / 517.0, 1.0 / 256.0);
    let after_label: f64 = (1.0 + p0) / 2.0;
    let one_after_zero: f64 = (2.0 + w * p1) / (2.0 + w);
    assert!((baseline.nats(&sample([0, 1])) + after_label.ln() + one_after_zero.ln()).abs() < 1e-12);
    let zero_after_zero: f64 = w * p0 / (2.0 + w);
    assert!((baseline.nats(&sample([0, 0])) + after_label.ln() + zero_after_zero.ln()).abs() < 1e-12);
}

#[test]
fn what_the_context_determines_costs_nothing() {
    // Each token the sum of the two before it, modulo 16: order 2 knows it, order 1 cannot.
    let samples: Vec<_> = (0..256u32)
        .map(|i| {
            let mut tokens = vec![i / 16, i % 16];
            (2..40).for_each(|k| tokens.push((tokens[k - 1] + tokens[k - 2]) % 16));
            sample(tokens)
        })
        .collect();
    let second = markov(&samples, 301, 2);
    let certain = |tokens: [u32; 4]| second.nats(&sample(tokens)) - second.nats(&sample([tokens[0], tokens[1]]));
    assert!(certain([3, 5, 8, 13]) < 1e-3, "{}", certain([3, 5, 8, 13]));
    assert!(per_token(&second, &samples) < 0.35); // the two free tokens of 40: 2 ln 16 / 40 = 0.14, and what is unsure
    assert!(per_token(&markov(&samples, 301, 1), &samples) > 1.0);

    // Each token its position: per position it is known, and so is it with two tokens before, but not with none.
    let packets: Vec<_> = (0..50).map(|_| sample((0..5).flat_map(|_| (0..100).chain([PACKET])))).collect();
    assert!(per_token(&per_position(&packets), &packets) < 1e-3);
    assert!(per_token(&markov(&packets, 301, 0), &packets) > 4.0);
}

#[test]
fn random_tokens_cost_their_entropy_and_not_the_price_of_false_trust() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut samples = |n| (0..n).map(|_| sample((0..1000).map(|_| rng.random_range(0..256)))).collect::<Vec<_>>();
    let (seen, held_out) = (samples(300), samples(20));
    let entropy = 256f64.ln();
    let mut second = markov(&seen, 301, 2);
    for cost in [per_token(&second, &held_out), per_token(&per_position(&seen), &held_out)] {
        assert!((0.99..1.02).contains(&(cost / entropy)), "{cost} nats, entropy {entropy}");
    }
    // What the fitted weights are for: without them, 4.6 tokens for each of 65,536 contexts are trusted too much.
    second.chain.orders.iter_mut().for_each(|order| order.weights = [1.0; CLASSES]);
    assert!(per_token(&second, &held_out) / entropy > 1.03);
}

#[test]
fn a_label_has_its_own_positions_and_an_unknown_one_those_of_all() {
    let labelled = |label: u32, token: u32| [label, token, token, token].map(Token).to_vec();
    let samples: Vec<_> = (0..100).flat_map(|_| [labelled(290, 1), labelled(291, 2)]).collect();
    let baseline = per_position(&samples);
    assert!(baseline.nats(&labelled(290, 1)) < 0.01);
    assert!(baseline.nats(&labelled(290, 2)) > 3.0);
    // Half of the samples have it: ln 2 a token.
    assert!((baseline.nats(&labelled(299, 1)) / 3.0 - 2f64.ln()).abs() < 0.02);
}

#[test]
fn positions_beyond_the_last_are_one_and_begin_again_after_a_packet() {
    let tokens = sample((0..600).map(|_| 7).chain([PACKET, 9]));
    let positions: Vec<u64> = positions(&tokens, Token(PACKET)).map(|(contexts, _)| contexts[0]).collect();
    assert_eq!(positions[..3], [0, 1, 2]);
    assert_eq!(positions[255..260], [255, 256, 256, 256, 256]);
    assert_eq!(positions[600..], [256, 0]);
}

#[test]
fn what_the_limits_refuse_is_counted_and_probabilities_still_sum_to_one() {
    let mut chain = Chain::new(1, 4);
    chain.add(&[1], Token(0));
    chain.orders[1].pairs = PAIRS_MAX;
    chain.add(&[1], Token(1));
    chain.add(&[1], Token(0));
    chain.add(&[2], Token(3));
    chain.fit_weights();
    assert_eq!((chain.refused, chain.orders[1].contexts[&1].total), (2, 2));
    for context in [1, 2, 3] {
        let sum: f64 = (0..4).map(|t| chain.probability(&[context], Token(t))).sum();
        assert!((sum - 1.0).abs() < 1e-12, "context {context}: {sum}");
    }
}

proptest! {
    #[test]
    fn probabilities_sum_to_one_in_every_context(
        samples in prop::collection::vec(prop::collection::vec(0..7u32, 0..60), 0..5),
        before in prop::collection::vec(0..7u32, 0..6),
        order in 0..3usize,
    ) {
        let samples: Vec<_> = samples.into_iter().map(|s| s.into_iter().map(Token).collect::<Vec<_>>()).collect();
        let fitted = samples.iter().map(Vec::as_slice);
        let baselines: [Box<dyn Baseline>; 2] = [
            Box::new(Markov::fit(fitted.clone(), 7, order)),
            Box::new(PerPosition::fit(fitted, 7, Token(6))),
        ];
        for baseline in baselines {
            let common = baseline.nats(&sample(before.clone()));
            let sum: f64 = (0..7)
                .map(|t| (common - baseline.nats(&sample(before.iter().copied().chain([t])))).exp())
                .sum();
            // Differences of sums of a few dozen logarithms: relative error far below this.
            prop_assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        }
    }
}

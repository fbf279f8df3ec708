//! What a simple statistic predicts: the lines that a trained model has to fall below.
//!
//! Two baselines over the same token sequences as the model's: [`PerPosition`] knows how often each token occurs at
//! its place in a packet, [`Markov`] the tokens just before. Both interpolate a context with a shorter one, with
//! weights fitted to the training samples, so that beating them means something. They know tokens only, of any
//! vocabulary, and are deterministic.

use std::collections::HashMap;

use crate::codec::Token;

/// Positions in a packet that [`PerPosition`] tells apart; those beyond are one. Ethernet, IPv6 and TCP with all
/// its options take 14 + 40 + 60 = 114 bytes; 256 also reaches the start of a TLS or DNS message.
pub const POSITIONS_MAX: usize = 256;

/// Most different (context, token) pairs that one order keeps, 8 bytes each (up to twice that while growing).
/// Pairs first seen later are not counted. All triples of 256 byte values would be 16.8 million.
pub const PAIRS_MAX: usize = 12 << 20;

/// Most contexts that one order keeps. All pairs of byte values are 65,536.
pub const CONTEXTS_MAX: usize = 1 << 20;

/// A statistic that gives every next token a probability.
pub trait Baseline {
    /// Cost of the tokens of `sample` after the first (the label, which is given): the sum of -ln p, in nats.
    ///
    /// Infinite when a token is not below the vocabulary's size. Tokens after the end of the sample, such as padding,
    /// count like any other: leave them out.
    fn nats(&self, sample: &[Token]) -> f64;
}

/// How often each token occurs at its position in its packet, in samples of its label.
///
/// A label that was not seen often is helped out by all labels together, as a position is by all positions.
#[derive(Debug)]
pub struct PerPosition {
    chain: Chain,
    packet_end: Token,
}

impl PerPosition {
    /// Counts the tokens of `samples`, of a vocabulary of `vocab_size`; the position begins again after `packet_end`.
    pub fn fit<'a>(samples: impl Iterator<Item = &'a [Token]>, vocab_size: usize, packet_end: Token) -> Self {
        let mut chain = Chain::new(2, vocab_size);
        for sample in samples {
            for (contexts, token) in positions(sample, packet_end) {
                chain.add(&contexts, token);
            }
        }
        chain.fit_weights();
        Self { chain, packet_end }
    }

    /// (context, token) pairs that were not counted because [`PAIRS_MAX`] or [`CONTEXTS_MAX`] was reached.
    pub fn pairs_refused(&self) -> u64 {
        self.chain.refused
    }
}

impl Baseline for PerPosition {
    fn nats(&self, sample: &[Token]) -> f64 {
        positions(sample, self.packet_end).map(|(contexts, token)| -self.chain.probability(&contexts, token).ln()).sum()
    }
}

/// Which token follows the `order` tokens before it (0, 1 or 2).
///
/// Order 2 takes about a microsecond a token to fit and to score, since its counts do not fit in a cache.
#[derive(Debug)]
pub struct Markov {
    chain: Chain,
    order: usize,
}

impl Markov {
    /// Counts the tokens of `samples`, of a vocabulary of `vocab_size`. An `order` above 2 counts as 2.
    pub fn fit<'a>(samples: impl Iterator<Item = &'a [Token]>, vocab_size: usize, order: usize) -> Self {
        let order = order.min(2);
        let mut chain = Chain::new(order, vocab_size);
        for sample in samples {
            for (contexts, token) in histories(sample) {
                chain.add(&contexts[..order], token);
            }
        }
        chain.fit_weights();
        Self { chain, order }
    }

    /// (context, token) pairs that were not counted because [`PAIRS_MAX`] or [`CONTEXTS_MAX`] was reached.
    pub fn pairs_refused(&self) -> u64 {
        self.chain.refused
    }
}

impl Baseline for Markov {
    fn nats(&self, sample: &[Token]) -> f64 {
        histories(sample).map(|(contexts, token)| -self.chain.probability(&contexts[..self.order], token).ln()).sum()
    }
}

/// The tokens after the first, each with its contexts: its position in its packet, and that with the label.
fn positions(sample: &[Token], packet_end: Token) -> impl Iterator<Item = ([u64; 2], Token)> {
    let label = sample.first().map_or(0, |t| u64::from(t.0));
    let mut next = 0;
    sample.iter().skip(1).map(move |&token| {
        let position = next;
        next = if token == packet_end { 0 } else { (position + 1).min(POSITIONS_MAX as u64) };
        ([position, label << 32 | position], token)
    })
}

/// The tokens after the first, each with its contexts of order 1 and 2. The second token has only the label before
/// it; its context of order 2 is the label after nothing, told apart by a number above any token's.
fn histories(sample: &[Token]) -> impl Iterator<Item = ([u64; 2], Token)> {
    const NOTHING: u64 = u32::MAX as u64;
    (1..sample.len()).map(move |i| {
        let one = u64::from(sample[i - 1].0);
        let two = if i >= 2 { u64::from(sample[i - 2].0) } else { NOTHING };
        ([one, two << 32 | one], sample[i])
    })
}

/// Counts of contexts of growing length, each mixed with the shorter one before it.
///
/// P_k(x) = (n_k(x) + w T_k P_{k-1}(x)) / (N_k + w T_k), where the context of order k was seen N_k times with T_k
/// different tokens, n_k(x) times with x. With w = 1 this is Witten and Bell's method C in its interpolated form
/// (IEEE Trans. Inf. Theory 37(4), 1991; Chen and Goodman 1999, section 2.5). It trusts contexts too much where what
/// follows is random, as encrypted payload is, so w is chosen for each class of N and T/N by leave-one-out on the
/// training samples. P_{-1} is uniform.
#[derive(Debug)]
struct Chain {
    /// Order 0 first; it has the single context 0.
    orders: Vec<Order>,
    vocab_size: usize,
    refused: u64,
}

#[derive(Debug)]
struct Order {
    contexts: HashMap<u64, Context>,
    pairs: usize,
    /// w by class of context.
    weights: [f64; CLASSES],
}

/// What followed a context: counts by token, in the order of tokens.
#[derive(Debug, Default)]
struct Context {
    counts: Vec<(u32, u32)>,
    total: u64,
}

/// Values of w to choose from, that of Witten and Bell first so that it wins a tie.
const WEIGHTS: [f64; 13] =
    [1.0, 0.5, 2.0, 0.25, 4.0, 0.125, 8.0, 1.0 / 16.0, 16.0, 1.0 / 64.0, 64.0, 1.0 / 256.0, 256.0];

/// Classes of T/N, from one token over and over to a new one each time.
const RATIO_CLASSES: usize = 8;
/// Classes of N, by powers of two; those above are the last.
const TOTAL_CLASSES: usize = 32;
const CLASSES: usize = RATIO_CLASSES * TOTAL_CLASSES;

impl Chain {
    /// A chain of order 0 and `orders` longer ones.
    fn new(orders: usize, vocab_size: usize) -> Self {
        let order = || Order { contexts: HashMap::new(), pairs: 0, weights: [1.0; CLASSES] };
        Self { orders: (0..=orders).map(|_| order()).collect(), vocab_size, refused: 0 }
    }

    /// Counts `token` in its contexts, order 1 first.
    fn add(&mut self, contexts: &[u64], token: Token) {
        if token.0 as usize >= self.vocab_size {
            return;
        }
        for (order, key) in self.orders.iter_mut().zip(std::iter::once(&0).chain(contexts)) {
            if !order.add(*key, token) {
                self.refused += 1;
            }
        }
    }

    fn probability(&self, contexts: &[u64], token: Token) -> f64 {
        if token.0 as usize >= self.vocab_size {
            return 0.0;
        }
        let uniform = 1.0 / self.vocab_size as f64;
        let keys = std::iter::once(&0).chain(contexts);
        self.orders.iter().zip(keys).fold(uniform, |shorter, (order, key)| match order.contexts.get(key) {
            Some(context) => {
                let weight = order.weights[context.class()];
                mix(f64::from(context.count(token)), context.total as f64, context.counts.len() as f64, weight, shorter)
            }
            None => shorter,
        })
    }

    /// Chooses w for each class: the one under which every training token, taken out of its context's counts, would
    /// have been cheapest. (It stays in the shorter contexts' counts, where it is one of many.)
    fn fit_weights(&mut self) {
        for order in 0..self.orders.len() {
            let mut costs = vec![[0.0; WEIGHTS.len()]; CLASSES];
            // In the order of keys: sums of floating-point numbers must not depend on the map's order.
            let mut keys: Vec<u64> = self.orders[order].contexts.keys().copied().collect();
            keys.sort_unstable();
            for key in keys {
                let context = &self.orders[order].contexts[&key];
                // The lower half of a context of order 2 is its context of order 1, see `positions` and `histories`.
                let shorter = |token| match order {
                    0 => 1.0 / self.vocab_size as f64,
                    1 => self.probability(&[], token),
                    _ => self.probability(&[key & u64::from(u32::MAX)], token),
                };
                let (total, kinds) = (context.total as f64 - 1.0, context.counts.len() as f64);
                for &(token, count) in &context.counts {
                    let shorter = shorter(Token(token));
                    let count = f64::from(count);
                    let kinds = if count == 1.0 { kinds - 1.0 } else { kinds };
                    for (cost, weight) in costs[context.class()].iter_mut().zip(WEIGHTS) {
                        *cost -= count * mix(count - 1.0, total, kinds, weight, shorter).ln();
                    }
                }
            }
            for (weight, costs) in self.orders[order].weights.iter_mut().zip(&costs) {
                let best = (0..WEIGHTS.len()).reduce(|best, i| if costs[i] < costs[best] { i } else { best });
                *weight = WEIGHTS[best.unwrap_or(0)];
            }
        }
    }
}

impl Order {
    /// Counts a pair; false when there is no room for it.
    fn add(&mut self, key: u64, token: Token) -> bool {
        let has_room = self.contexts.len() < CONTEXTS_MAX || self.contexts.contains_key(&key);
        if !has_room {
            return false;
        }
        let context = self.contexts.entry(key).or_default();
        match context.counts.binary_search_by_key(&token.0, |c| c.0) {
            Ok(at) if context.counts[at].1 < u32::MAX => context.counts[at].1 += 1,
            Err(at) if self.pairs < PAIRS_MAX => {
                context.counts.insert(at, (token.0, 1));
                self.pairs += 1;
            }
            // Left out of the total as well, so that probabilities still sum to 1.
            _ => return false,
        }
        context.total += 1;
        true
    }
}

impl Context {
    fn count(&self, token: Token) -> u32 {
        self.counts.binary_search_by_key(&token.0, |c| c.0).map_or(0, |at| self.counts[at].1)
    }

    fn class(&self) -> usize {
        let by_total = (self.total.max(1).ilog2() as usize).min(TOTAL_CLASSES - 1);
        // kinds <= total, so the ratio is at most 1.
        let by_ratio = (self.counts.len() as u64 * RATIO_CLASSES as u64 / self.total.max(1)) as usize;
        by_total * RATIO_CLASSES + by_ratio.min(RATIO_CLASSES - 1)
    }
}

/// The probability of a token seen `count` times in a context seen `total` times with `kinds` different tokens, when
/// the shorter context gives it `shorter`.
fn mix(count: f64, total: f64, kinds: f64, weight: f64, shorter: f64) -> f64 {
    if total <= 0.0 { shorter } else { (count + weight * kinds * shorter) / (total + weight * kinds) }
}

#[cfg(test)]
mod tests;

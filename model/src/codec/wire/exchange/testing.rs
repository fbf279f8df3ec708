//! Samples that chance draws under the mask, and what plain readers of them share.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::super::{Codec, LabelId, Token};
use super::super::WireCodec;
use super::super::vocab::{PORTS, Proto, Tok};

/// What opens a flow of UDP to `port`.
pub(in super::super) fn opening(port: u16) -> [Tok; 5] {
    let port = PORTS.binary_search(&port).expect("it has a token") as u8;
    [Tok::GapE(0), Tok::Open(Proto::Udp, false), Tok::Port(port), Tok::SportEph, Tok::HostNew]
}

/// A sample of the first label that begins with `opening`. What follows is drawn evenly among all that is allowed once in `often`
/// times, else among what `is_wanted` of it, where there is some.
pub(in super::super) fn sample(
    codec: &WireCodec,
    opening: &[Tok],
    seed: u64,
    tokens_max: usize,
    (often, is_wanted): (u32, impl Fn(Tok) -> bool),
) -> Vec<Token> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut grammar, mut tokens) = (codec.grammar().expect("wire has one"), Vec::new());
    let mut mask = vec![0; codec.vocab_size().div_ceil(64)];
    for token in std::iter::once(codec.label_token(LabelId(0))).chain(opening.iter().map(|tok| codec.vocab.id(*tok))) {
        grammar.push(token);
        tokens.push(token);
    }
    while tokens.last() != Some(&codec.end_token()) {
        grammar.allowed(tokens_max - tokens.len(), &mut mask);
        let is_allowed = |t: &u32| mask[*t as usize / 64] >> (t % 64) & 1 == 1;
        let all: Vec<Token> = (0..codec.vocab_size() as u32).filter(is_allowed).map(Token).collect();
        let wanted: Vec<Token> = all.iter().copied().filter(|t| codec.vocab.tok(*t).is_some_and(&is_wanted)).collect();
        let choice = if wanted.is_empty() || rng.random_range(0..often) == 0 { &all } else { &wanted };
        let token = choice[rng.random_range(0..choice.len())];
        grammar.push(token);
        tokens.push(token);
        assert!(tokens.len() <= tokens_max);
    }
    tokens
}

/// A reader that goes over a whole message at once.
pub(in super::super) struct Reader<'a>(pub(in super::super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(in super::super) fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (ret, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(ret)
    }

    /// A number of so many bytes, the highest first.
    pub(in super::super) fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.bytes(bytes)?.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    /// Whether nothing is left.
    pub(in super::super) fn ends(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

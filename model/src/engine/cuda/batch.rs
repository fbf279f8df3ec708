//! A batch in device memory, with what the kernels need to know of it and is quick to work out on the CPU.

use super::gpu::{Buffer, Gpu, Number, Span};
use crate::codec::Token;
use crate::engine::cpu::kernels::reach;
use crate::mamba::{Batch, MambaConfig};

/// Occurrences of a token whose gradients one block sums.
const PIECE: usize = 64;

/// The places of a batch's tokens sorted by what they are, cut into pieces: the backward pass of the embedding sums each piece,
/// then each token's pieces, in this order, so that it needs no atomics.
#[derive(Debug, Default)]
struct TokenOrder {
    /// Places in the batch, (t).
    order: Vec<u32>,
    /// Where each piece begins in `order`, and the end of the last.
    pieces: Vec<u32>,
    /// Which pieces belong to each token of the vocabulary, and the end of the last.
    of_token: Vec<u32>,
}

impl TokenOrder {
    /// The most pieces that `t` tokens of a vocabulary can fall into.
    fn pieces_max(t: usize, vocab_size: usize) -> usize {
        t / PIECE + vocab_size.min(t)
    }

    /// Sorts `tokens`, which are below `vocab_size`.
    fn fill(&mut self, tokens: &[u32], vocab_size: usize) {
        let mut begins = vec![0u32; vocab_size + 1];
        for &token in tokens {
            begins[token as usize + 1] += 1;
        }
        for v in 0..vocab_size {
            begins[v + 1] += begins[v];
        }
        self.pieces.clear();
        self.of_token.clear();
        for v in 0..vocab_size {
            self.of_token.push(self.pieces.len() as u32);
            self.pieces.extend((begins[v]..begins[v + 1]).step_by(PIECE));
        }
        self.of_token.push(self.pieces.len() as u32);
        self.pieces.push(tokens.len() as u32);
        self.order.resize(tokens.len(), 0);
        for (place, &token) in tokens.iter().enumerate() {
            let next = &mut begins[token as usize];
            self.order[*next as usize] = place as u32;
            *next += 1;
        }
    }
}

/// A batch of `b` rows of `l` tokens on the device.
#[derive(Debug)]
pub(super) struct DeviceBatch {
    pub(super) tokens: Buffer,
    pub(super) targets: Buffer,
    pub(super) starts: Buffer,
    pub(super) reach: Buffer,
    pub(super) order: Buffer,
    pub(super) pieces: Buffer,
    pub(super) piece_count: Buffer,
    pub(super) of_token: Buffer,
    /// Factor of the gradients, one number.
    pub(super) scale: Buffer,
    host: HostCopies,
}

/// What is written again for each batch, kept so that nothing is allocated.
#[derive(Debug, Default)]
struct HostCopies {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    starts: Vec<u8>,
    reach: Vec<u8>,
    order: TokenOrder,
}

impl DeviceBatch {
    pub(super) fn new(gpu: &Gpu, config: &MambaConfig, t: usize) -> Self {
        let alloc = |number, len| gpu.alloc(number, len);
        Self {
            tokens: alloc(Number::U32, t),
            targets: alloc(Number::U32, t),
            starts: alloc(Number::U8, t),
            reach: alloc(Number::U8, t),
            order: alloc(Number::U32, t),
            pieces: gpu.zeros(Number::U32, TokenOrder::pieces_max(t, config.vocab_size) + 1),
            piece_count: alloc(Number::U32, 1),
            of_token: alloc(Number::U32, config.vocab_size + 1),
            scale: alloc(Number::F32, 1),
            host: HostCopies::default(),
        }
    }

    /// Rows of partial sums that the embedding's backward pass may need.
    pub(super) fn pieces_max(&self) -> usize {
        self.pieces.span().len() - 1
    }

    /// Writes what a forward pass reads.
    ///
    /// # Panics
    /// When a token is outside the vocabulary.
    pub(super) fn write_inputs(
        &mut self,
        gpu: &Gpu,
        config: &MambaConfig,
        tokens: &[Token],
        starts: &[bool],
        l: usize,
    ) {
        let host = &mut self.host;
        host.tokens.clear();
        host.tokens.extend(tokens.iter().map(|t| t.0));
        if let Some(token) = host.tokens.iter().find(|t| **t as usize >= config.vocab_size) {
            panic!("token {token} outside a vocabulary of {}", config.vocab_size);
        }
        host.starts.clear();
        host.starts.extend(starts.iter().map(|s| u8::from(*s)));
        reach(starts, l, config.d_conv, &mut host.reach);
        gpu.write(self.tokens.span(), &host.tokens);
        gpu.write(self.starts.span(), &host.starts);
        gpu.write(self.reach.span(), &host.reach);
    }

    /// Writes all that a backward pass reads.
    ///
    /// # Panics
    /// When a token or a target is outside the vocabulary.
    pub(super) fn write(&mut self, gpu: &Gpu, config: &MambaConfig, batch: &Batch, scale: f32) {
        self.write_inputs(gpu, config, &batch.tokens, &batch.starts, batch.l);
        self.write_targets(gpu, config, batch);
        let host = &mut self.host;
        host.order.fill(&host.tokens, config.vocab_size);
        gpu.write(self.order.span(), &host.order.order);
        gpu.write(self.pieces.span(), &host.order.pieces);
        gpu.write(self.piece_count.span(), &[host.order.pieces.len() as u32 - 1]);
        gpu.write(self.of_token.span(), &host.order.of_token);
        gpu.write(self.scale.span(), &[scale]);
    }

    /// Writes what is to be predicted.
    ///
    /// # Panics
    /// When a target is outside the vocabulary.
    pub(super) fn write_targets(&mut self, gpu: &Gpu, config: &MambaConfig, batch: &Batch) {
        let is_known = |t: &Token| *t == Batch::IGNORE || (t.0 as usize) < config.vocab_size;
        assert!(batch.targets.iter().all(is_known), "a target outside the vocabulary");
        self.host.targets.clear();
        self.host.targets.extend(batch.targets.iter().map(|t| t.0));
        gpu.write(self.targets.span(), &self.host.targets);
    }

    /// The token spans that [`Gpu::embed_backward`] takes.
    pub(super) fn order(&self) -> [Span; 4] {
        [self.order.span(), self.pieces.span(), self.piece_count.span(), self.of_token.span()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_every_place_of_their_token_once() {
        let vocab_size = 7;
        // Token 2 more often than a piece holds, token 5 never.
        let tokens: Vec<u32> =
            (0..300u32).map(|i| if i % 3 == 0 { 2 } else { [0, 1, 3, 4, 6][i as usize % 5] }).collect();
        let mut order = TokenOrder::default();
        order.fill(&tokens, vocab_size);
        assert!(order.pieces.len() - 1 <= TokenOrder::pieces_max(tokens.len(), vocab_size));
        let mut seen = vec![false; tokens.len()];
        for v in 0..vocab_size {
            for piece in order.of_token[v]..order.of_token[v + 1] {
                let (begin, end) = (order.pieces[piece as usize] as usize, order.pieces[piece as usize + 1] as usize);
                assert!(begin < end && end - begin <= PIECE);
                for &place in &order.order[begin..end] {
                    assert_eq!(tokens[place as usize] as usize, v);
                    assert!(!std::mem::replace(&mut seen[place as usize], true));
                }
            }
        }
        assert!(seen.iter().all(|s| *s));
    }
}

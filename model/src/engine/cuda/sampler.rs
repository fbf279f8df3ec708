//! Draws of tokens on the device.

use super::gpu::{Buffer, Gpu, Number, Span};
use super::kernels::{DrawShape, NO_TOKEN};
use crate::codec::Token;
use crate::generate::Draws;

/// Draws tokens; its buffers grow to what was asked for most.
#[derive(Debug)]
pub(super) struct Sampler {
    inputs: Buffer,
    weights: Buffer,
    tokens: Buffer,
    /// What the device reads.
    words: Vec<u32>,
    /// What it writes.
    found: Vec<u32>,
}

impl Sampler {
    pub(super) fn new(gpu: &Gpu) -> Self {
        let (inputs, weights, tokens) =
            (gpu.alloc(Number::U32, 0), gpu.alloc(Number::F32, 0), gpu.alloc(Number::U32, 0));
        Self { inputs, weights, tokens, words: Vec::new(), found: Vec::new() }
    }

    /// Draws from `logits`, `stride` for each slot; waits for the tokens.
    ///
    /// # Panics
    /// When a slot is not there, `draws.vocab_size` is more than `stride`, or its parts do not belong together.
    pub(super) fn draw(
        &mut self,
        gpu: &Gpu,
        logits: Span,
        stride: usize,
        draws: &Draws<'_>,
        ret: &mut Vec<Option<Token>>,
    ) {
        ret.clear();
        let n = draws.slots.len();
        if n == 0 {
            return;
        }
        let shape = DrawShape {
            draws: n,
            stride,
            vocab_size: draws.vocab_size,
            mask_words: if draws.masks.is_some() { 2 * Draws::mask_words(draws.vocab_size) } else { 0 },
            temperature: draws.sampling.temperature,
            top_k: draws.sampling.top_k,
            top_p: draws.sampling.top_p,
        };
        assert!(draws.slots.iter().all(|slot| (slot + 1) * stride <= logits.len()), "a slot that is not there");
        assert!(draws.uniforms.len() == n, "one number for each draw");
        self.words.clear();
        self.words.extend(draws.uniforms.iter().flat_map(|u| halves(u.to_bits())));
        self.words.extend(draws.slots.iter().map(|slot| *slot as u32));
        self.words.extend(draws.masks.unwrap_or_default().iter().flat_map(|word| halves(*word)));
        assert_eq!(self.words.len(), shape.input_words(), "a mask for each draw");
        fit(gpu, &mut self.inputs, Number::U32, self.words.len());
        fit(gpu, &mut self.weights, Number::F32, n * draws.vocab_size);
        fit(gpu, &mut self.tokens, Number::U32, n);
        gpu.write(self.inputs.span(), &self.words);
        gpu.draw(logits, self.inputs.span(), self.weights.span(), self.tokens.span(), &shape);
        self.found.resize(n, 0);
        gpu.read(self.tokens.part(0, n), &mut self.found);
        ret.extend(self.found.iter().map(|&token| (token != NO_TOKEN).then_some(Token(token))));
    }
}

/// A word as two of the device's, the lower half first, as both are in memory.
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// Makes room for `len` numbers.
fn fit(gpu: &Gpu, buffer: &mut Buffer, number: Number, len: usize) {
    if buffer.span().len() < len {
        *buffer = gpu.alloc(number, len);
    }
}

//! The streams of a generator on a GPU: states and logits stay on the device, tokens come back.

use super::CudaEngine;
use super::buffers::{Buffers, DeviceState};
use super::forward;
use super::gpu::{Buffer, Gpu, Number};
use super::sampler::Sampler;
use super::step::StepBuffers;
use super::weights::Weights;
use crate::codec::Token;
use crate::generate::{Decoder, Draws, PromptCache, check_keep};
use crate::mamba::MambaConfig;

/// Tokens of a prompt that go through the network at once: bounds the memory of a prefill.
const PREFILL_TOKENS: usize = 1024;

/// Decodes the streams of a network on a GPU: states and logits stay there.
///
/// Everything is computed in a fixed order: the same calls on the same device give the same tokens. Up to eight streams, a stream's
/// logits after its prompt are the same bits whatever the others are and however many. With more, the products are cuBLAS's,
/// which may choose another order of sums for another number of streams: then a stream's logits are the same to rounding, and a draw
/// can differ where its number falls that close to the border between two tokens.
pub struct CudaDecoder {
    pub(super) streams: Streams,
    prompts: PromptCache<Prefilled>,
    prefill: Option<Buffers>,
    sampler: Sampler,
    weights: Weights,
    pub(super) gpu: Gpu,
}

/// What belongs to the streams at hand.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) state: DeviceState,
    /// f32, (streams, vocab_size).
    pub(super) logits: Buffer,
    buffers: StepBuffers,
}

impl Streams {
    fn new(gpu: &Gpu, c: &MambaConfig, number: Number, b: usize) -> Self {
        let logits = gpu.zeros(Number::F32, b * c.vocab_size);
        Self { state: DeviceState::new(gpu, c, b), logits, buffers: StepBuffers::new(gpu, c, number, b) }
    }

    /// Moves streams of `from` here: the i-th from `places[i]` to `places[n + i]`, n being half of them.
    fn take(&self, gpu: &Gpu, c: &MambaConfig, state: &DeviceState, logits: &Buffer, places: &[u32]) {
        if places.is_empty() {
            return;
        }
        let on_device = gpu.upload(places);
        self.state.take_streams(gpu, c, state, on_device.span());
        gpu.move_streams(logits.span(), self.logits.span(), on_device.span(), 1, (state.b, self.state.b));
    }
}

/// What a prompt came to.
#[derive(Debug)]
struct Prefilled {
    state: DeviceState,
    logits: Buffer,
}

impl CudaDecoder {
    /// A decoder without streams for the network of `engine`.
    pub fn new(engine: CudaEngine) -> Self {
        let CudaEngine { weights, gpu, .. } = engine;
        gpu.bind();
        let c = weights.config();
        let state_len = c.n_layer * (c.d_conv - 1 + c.d_state) * c.d_inner;
        let prompts = PromptCache::new(4 * (state_len + c.vocab_size));
        let streams = Streams::new(&gpu, c, weights.number, 0);
        let sampler = Sampler::new(&gpu);
        Self { streams, prompts, prefill: None, sampler, weights, gpu }
    }
}

/// Reads `prompt` from the zero state.
fn prefill(gpu: &Gpu, weights: &Weights, slot: &mut Option<Buffers>, prompt: &[Token]) -> Prefilled {
    assert!(!prompt.is_empty(), "an empty prompt");
    let c = weights.config();
    let (state, logits) = (DeviceState::new(gpu, c, 1), gpu.alloc(Number::F32, c.vocab_size));
    let parts = prompt.chunks(PREFILL_TOKENS);
    let last = parts.len() - 1;
    for (i, part) in parts.enumerate() {
        let buffers = Buffers::for_shape(slot, gpu, c, weights.number, (1, part.len()), false);
        buffers.batch.write_inputs(gpu, c, part, &vec![false; part.len()], part.len());
        forward::forward(gpu, weights, buffers, &state);
        if i == last {
            gpu.copy(logits.span(), forward::logits(gpu, weights, buffers, part.len() - 1, 1).part(0, c.vocab_size));
        }
    }
    Prefilled { state, logits }
}

impl Decoder for CudaDecoder {
    fn config(&self) -> &MambaConfig {
        self.weights.config()
    }

    fn streams(&self) -> usize {
        self.streams.state.b
    }

    fn resize(&mut self, keep: &[usize], streams: usize) {
        check_keep(keep, self.streams(), streams);
        self.gpu.bind();
        let c = self.weights.config();
        let next = Streams::new(&self.gpu, c, self.weights.number, streams);
        let places: Vec<u32> = keep.iter().copied().chain(0..keep.len()).map(|slot| slot as u32).collect();
        next.take(&self.gpu, c, &self.streams.state, &self.streams.logits, &places);
        self.streams = next;
    }

    fn begin(&mut self, slot: usize, prompt: &[Token]) {
        assert!(slot < self.streams(), "slot {slot} of {}", self.streams());
        let Self { streams, prompts, prefill: buffers, weights, gpu, .. } = self;
        gpu.bind();
        let known = prompts.get_or_insert_with(prompt, || prefill(gpu, weights, buffers, prompt));
        streams.take(gpu, weights.config(), &known.state, &known.logits, &[0, slot as u32]);
    }

    fn step(&mut self, inputs: &[Token]) {
        let Self { streams, weights, gpu, .. } = self;
        let Streams { state, logits, buffers } = streams;
        gpu.bind();
        buffers.step(gpu, weights, inputs, state, logits);
    }

    fn draw(&mut self, draws: &Draws<'_>, ret: &mut Vec<Option<Token>>) {
        let Self { streams, weights, gpu, sampler, .. } = self;
        gpu.bind();
        sampler.draw(gpu, streams.logits.span(), weights.config().vocab_size, draws, ret);
    }
}

impl std::fmt::Debug for CudaDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaDecoder").field("streams", &self.streams()).field("gpu", &self.gpu).finish_non_exhaustive()
    }
}

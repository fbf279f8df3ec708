//! The streams of a generator on a GPU.

use super::CudaEngine;
use super::buffers::{Buffers, DeviceState};
use super::forward;
use super::gpu::{Buffer, Gpu, GpuMatrix, Number};
use super::weights::Weights;
use crate::codec::Token;
use crate::generate::{Decoder, Draws, Picker, PromptCache, check_keep};
use crate::mamba::MambaConfig;

/// Tokens of a prompt that go through the network at once: bounds the memory of a prefill.
const PREFILL_TOKENS: usize = 1024;

/// Decodes the streams of a network on a GPU: states and logits stay there.
pub struct CudaDecoder {
    streams: Streams,
    prompts: PromptCache<Prefilled>,
    prefill: Option<Buffers>,
    picker: Picker,
    weights: Weights,
    gpu: Gpu,
}

/// What belongs to the streams at hand.
#[derive(Debug)]
struct Streams {
    state: DeviceState,
    /// f32, (streams, vocab_size).
    logits: Buffer,
    buffers: Option<Buffers>,
}

impl Streams {
    fn new(gpu: &Gpu, c: &MambaConfig, b: usize) -> Self {
        let logits = gpu.zeros(Number::F32, b * c.vocab_size);
        Self { state: DeviceState::new(gpu, c, b), logits, buffers: None }
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
        let picker = Picker::new(c.vocab_size);
        Self { streams: Streams::new(&gpu, c, 0), prompts, prefill: None, picker, weights, gpu }
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
            gpu.copy(logits.span(), forward::logits(gpu, weights, buffers, part.len() - 1, 1));
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
        let next = Streams::new(&self.gpu, c, streams);
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
        assert_eq!(inputs.len(), state.b, "one token for each stream");
        if inputs.is_empty() {
            return;
        }
        gpu.bind();
        let c = weights.config();
        let buffers = Buffers::for_shape(buffers, gpu, c, weights.number, (state.b, 1), false);
        buffers.batch.write_inputs(gpu, c, inputs, &vec![false; inputs.len()], 1);
        forward::forward(gpu, weights, buffers, state);
        let table = weights.matrix(weights.layout.embedding, c.vocab_size, c.d_model);
        let hidden = forward::matrix(&buffers.normed, state.b, c.d_model);
        gpu.multiply(GpuMatrix::new(logits.span(), state.b, c.vocab_size), hidden, table.t(), false);
    }

    fn draw(&mut self, draws: &Draws<'_>, ret: &mut Vec<Option<Token>>) {
        let Self { streams, weights, gpu, picker, .. } = self;
        gpu.bind();
        let v = weights.config().vocab_size;
        let mut logits = vec![0.0; streams.logits.span().len()];
        gpu.read(streams.logits.span(), &mut logits);
        ret.clear();
        for (index, slot) in draws.slots.iter().enumerate() {
            let logits = &logits[slot * v..][..draws.vocab_size];
            ret.push(picker.pick(logits, &draws.sampling, draws.mask(index), draws.uniforms[index]));
        }
    }
}

impl std::fmt::Debug for CudaDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaDecoder").field("streams", &self.streams()).field("gpu", &self.gpu).finish_non_exhaustive()
    }
}

//! Streams decoded on the CPU.

use std::sync::Arc;

use crate::codec::Token;
use crate::engine::Precision;
use crate::generate::{Decoder, Draws, Picker, PromptCache, check_keep};
use crate::mamba::{MambaConfig, Params};

use super::kernels::Isa;
use super::kernels::decode::{Buffers, Crew, DrawBuffers, Network, Streams};
use super::{UnsupportedConfig, check_config};

/// Tokens of a prompt that go through the network at once.
const PREFILL_TOKENS: usize = 64;

/// The streams of a network on the CPU: one pass over the weights a step for all of them, each stream's results its own.
///
/// In f32 its logits are those of [`CpuEngine`](super::CpuEngine) to the order of sums. The same prompt, tokens and draws give
/// the same tokens on CPUs with the same instruction set, whatever the number of streams and threads. Between instruction sets f32 and bf16 differ in
/// the last places of sums (and on AVX-512 with bf16 products the inputs are rounded too), so that a draw at the edge between two
/// tokens can fall on the other one.
#[derive(Debug)]
pub struct CpuDecoder {
    isa: Isa,
    precision: Precision,
    network: Arc<Network>,
    crew: Crew,
    streams: Streams,
    buffers: Buffers,
    /// Buffers for the tokens of a prompt.
    prefill: Option<Buffers>,
    prompts: PromptCache<Streams>,
    draw_buffers: DrawBuffers,
    picker: Picker,
}

impl CpuDecoder {
    /// A decoder without streams, on the fastest instruction set of this CPU. Every CPU has all precisions: where it lacks
    /// instructions for one, weights are still held that way, and multiplied by slower ones.
    pub fn new(params: &Params, precision: Precision) -> Result<Self, UnsupportedConfig> {
        Self::with_isa(params, precision, Isa::detect())
    }

    /// A decoder on a given instruction set.
    ///
    /// # Panics
    /// When this CPU does not have it.
    pub fn with_isa(params: &Params, precision: Precision, isa: Isa) -> Result<Self, UnsupportedConfig> {
        assert!(isa.is_supported(), "{isa:?} on a CPU without it");
        check_config(params.config())?;
        let network = Arc::new(Network::new(params, precision));
        let crew = Crew::of_current_pool();
        let c = network.config();
        let bytes = 4 * (c.n_layer * c.d_inner * (c.d_state + c.d_conv - 1) + c.d_model);
        Ok(Self {
            isa,
            precision,
            streams: Streams::new(&network, 0),
            buffers: Buffers::new(&network, &crew, 0),
            prefill: None,
            prompts: PromptCache::new(bytes),
            draw_buffers: DrawBuffers::new(&crew),
            picker: Picker::new(c.vocab_size),
            network,
            crew,
        })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// How weights are held.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of weights that a step reads.
    pub fn weight_bytes(&self) -> usize {
        self.network.weight_bytes()
    }

    /// The logits of what comes next in `slot`.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn logits(&mut self, slot: usize) -> Vec<f32> {
        self.streams.logits(self.isa, &self.network, slot)
    }
}

impl Decoder for CpuDecoder {
    fn config(&self) -> &MambaConfig {
        self.network.config()
    }

    fn streams(&self) -> usize {
        self.streams.slots()
    }

    fn resize(&mut self, keep: &[usize], streams: usize) {
        check_keep(keep, self.streams(), streams);
        let mut kept = Streams::new(&self.network, streams);
        for (to, from) in keep.iter().enumerate() {
            kept.copy(&self.network, to, &self.streams, *from);
        }
        self.streams = kept;
        self.buffers = Buffers::new(&self.network, &self.crew, streams);
    }

    fn begin(&mut self, slot: usize, prompt: &[Token]) {
        let Self { isa, network, crew, prefill, prompts, .. } = self;
        let read = prompts.get_or_insert_with(prompt, || {
            let buffers = prefill.get_or_insert_with(|| Buffers::new(network, crew, PREFILL_TOKENS));
            let mut one = Streams::new(network, 1);
            one.read(*isa, network, crew, buffers, 0, prompt);
            one
        });
        self.streams.copy(network, slot, read, 0);
    }

    fn step(&mut self, inputs: &[Token]) {
        self.streams.step(self.isa, &self.network, &self.crew, &mut self.buffers, inputs);
    }

    fn draw(&mut self, draws: &Draws<'_>, ret: &mut Vec<Option<Token>>) {
        let sampling = &draws.sampling;
        if sampling.top_k == 0 && sampling.top_p >= 1.0 {
            return self.streams.draw(self.isa, &self.network, &self.crew, draws, &mut self.draw_buffers, ret);
        }
        ret.clear();
        for (index, slot) in draws.slots.iter().enumerate() {
            let logits = self.logits(*slot);
            let uniform = draws.uniforms[index];
            ret.push(self.picker.pick(&logits[..draws.vocab_size], sampling, draws.mask(index), uniform));
        }
    }

    fn together(&self, work: &(dyn Fn() + Sync)) {
        self.crew.share(work);
    }
}

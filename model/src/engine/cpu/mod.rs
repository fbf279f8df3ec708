//! The engine on the CPU: rayon over rows and channels, SIMD chosen at run time, products by the `gemm` crate.

mod backward;
mod buffers;
mod decoder;
mod forward;
#[allow(unsafe_code)]
pub mod kernels;
#[cfg(test)]
mod tests;
mod weights;

use rayon::prelude::*;

use crate::codec::Token;
use crate::engine::Precision;
use crate::mamba::{Batch, Loss, Mamba, MambaConfig, Params, State};

use buffers::Buffers;
use weights::Weights;

pub use decoder::CpuDecoder;
pub use kernels::Isa;

/// Why a configuration cannot run on this engine.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnsupportedConfig {
    /// No kernel for this many states a channel.
    #[error("d_state (state_size) is {0}; the CPU engine has 4, 8, 16, 32 and 64")]
    DState(usize),
    /// No kernel for this many taps.
    #[error("d_conv (conv_kernel) is {0}; the CPU engine has 2, 3 and 4")]
    DConv(usize),
}

/// Mamba-1 on the CPU.
#[derive(Debug)]
pub struct CpuEngine {
    isa: Isa,
    weights: Weights,
    training_precision: Precision,
    /// Buffers of the last training shape; kept so that steps of one shape allocate nothing.
    training: Option<Buffers>,
    /// Buffers of the last shape without gradients.
    inference: Option<Buffers>,
    /// Buffers of a step, one for each group of streams.
    step: Vec<Option<Buffers>>,
}

/// Streams that are worth a thread of their own in a step.
const STREAMS_PER_GROUP_MIN: usize = 8;

impl CpuEngine {
    /// An engine for `params` on the fastest instruction set of this CPU.
    pub fn new(params: Params) -> Result<Self, UnsupportedConfig> {
        Self::with_isa(params, Isa::detect())
    }

    /// An engine on a given instruction set.
    ///
    /// # Panics
    /// When this CPU does not have it.
    pub fn with_isa(params: Params, isa: Isa) -> Result<Self, UnsupportedConfig> {
        assert!(isa.is_supported(), "{isa:?} on a CPU without it");
        check_config(params.config())?;
        Ok(Self {
            isa,
            weights: Weights::new(params),
            training_precision: Precision::F32,
            training: None,
            inference: None,
            step: Vec::new(),
        })
    }

    /// The same engine with its gradients computed in `precision`: with [`Precision::Bf16`] the operands of matrix products are
    /// rounded to bf16, their sums and all else stay f32. Losses without gradients stay f32.
    ///
    /// # Panics
    /// With [`Precision::Int8`], which has too few values to learn with.
    pub fn training_in(self, precision: Precision) -> Self {
        assert_ne!(precision, Precision::Int8, "int8 is for decoding");
        Self { training_precision: precision, ..self }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    fn config(&self) -> &MambaConfig {
        self.weights.params.config()
    }

    /// Runs the blocks without keeping anything for a backward pass; the normed output is in `inference.normed`.
    fn infer(&mut self, tokens: &[Token], starts: &[bool], l: usize, state: &mut State) -> &mut Buffers {
        let (config, b) = (self.weights.params.config(), state.b);
        let buffers = Buffers::for_shape(&mut self.inference, config, b, l, false);
        buffers.products.choose(self.isa, false);
        let mut groups = forward::split_state(state, config, b);
        forward::forward(self.isa, &self.weights, None, tokens, starts, buffers, &mut groups[0]);
        buffers
    }
}

impl Mamba for CpuEngine {
    fn params(&self) -> &Params {
        &self.weights.params
    }

    fn set_params(&mut self, data: &[f32]) {
        self.weights.params.data.copy_from_slice(data);
        self.weights.refresh();
    }

    fn forward(&mut self, tokens: &[Token], state: &mut State) -> Vec<f32> {
        let (vocab_size, l) = (self.config().vocab_size, row_length(tokens.len(), state.b));
        let mut logits = vec![0.0; tokens.len() * vocab_size];
        if l > 0 {
            self.infer(tokens, &vec![false; tokens.len()], l, state);
            let buffers = self.inference.as_ref().expect("infer has just filled it");
            forward::head(self.isa, &self.weights, None, &buffers.normed, &mut logits);
        }
        logits
    }

    fn loss(&mut self, batch: &Batch, state: &mut State) -> Loss {
        check(batch, state);
        let isa = self.isa;
        self.infer(&batch.tokens, &batch.starts, batch.l, state);
        let buffers = self.inference.as_mut().expect("infer has just filled it");
        let params = &self.weights.params;
        let d_model = params.config().d_model;
        let table = self.weights.embedding();
        kernels::head_loss(
            isa,
            &mut buffers.products,
            &buffers.normed,
            table,
            d_model,
            &batch.targets,
            &mut buffers.head,
            None,
        )
    }

    fn gradients(&mut self, batch: &Batch, state: &mut State, scale: f32, gradients: &mut Params) -> Loss {
        check(batch, state);
        let config = self.weights.params.config();
        let buffers = Buffers::for_shape(&mut self.training, config, batch.b, batch.l, true);
        buffers.products.choose(self.isa, self.training_precision == Precision::Bf16);
        let mut groups = forward::split_state(state, config, batch.b);
        forward::forward(self.isa, &self.weights, None, &batch.tokens, &batch.starts, buffers, &mut groups[0]);
        backward::backward(self.isa, &self.weights, batch, scale, buffers, gradients)
    }

    fn step(&mut self, tokens: &[Token], state: &mut State, ret_logits: &mut [f32]) {
        assert_eq!(tokens.len(), state.b, "one token for each stream");
        let (b, vocab_size) = (state.b, self.config().vocab_size);
        assert_eq!(ret_logits.len(), b * vocab_size, "ret_logits");
        self.weights.pack();
        // Each thread takes whole streams through all blocks, so that threads wait for one another once a step and not
        // at every product. A stream's sums do not depend on its neighbours, so the grouping does not change results.
        let groups = rayon::current_num_threads().min(b / STREAMS_PER_GROUP_MIN).max(1);
        let streams = b.div_ceil(groups);
        self.step.resize_with(b.div_ceil(streams), || None);
        let (isa, weights, packed) = (self.isa, &self.weights, self.weights.packed.as_ref());
        let states = forward::split_state(state, weights.config(), streams);
        let parts = states
            .into_par_iter()
            .zip(self.step.par_iter_mut())
            .zip(tokens.par_chunks(streams).zip(ret_logits.par_chunks_mut(streams * vocab_size)));
        parts.for_each(|((mut state, buffers), (tokens, logits))| {
            let buffers = Buffers::for_shape(buffers, weights.config(), tokens.len(), 1, false);
            forward::forward(isa, weights, packed, tokens, &vec![false; tokens.len()], buffers, &mut state);
            forward::head(isa, weights, packed, &buffers.normed, logits);
        });
    }
}

/// Whether there are kernels for this configuration.
fn check_config(config: &MambaConfig) -> Result<(), UnsupportedConfig> {
    if ![4, 8, 16, 32, 64].contains(&config.d_state) {
        return Err(UnsupportedConfig::DState(config.d_state));
    }
    if ![2, 3, 4].contains(&config.d_conv) {
        return Err(UnsupportedConfig::DConv(config.d_conv));
    }
    Ok(())
}

fn row_length(tokens: usize, b: usize) -> usize {
    assert!(b > 0 && tokens.is_multiple_of(b), "{tokens} tokens do not make {b} equal rows");
    tokens / b
}

fn check(batch: &Batch, state: &State) {
    let t = batch.b * batch.l;
    assert!(t > 0, "an empty batch");
    assert_eq!(batch.b, state.b, "rows of batch and state");
    assert!(batch.tokens.len() == t && batch.targets.len() == t && batch.starts.len() == t, "shapes of a batch");
}

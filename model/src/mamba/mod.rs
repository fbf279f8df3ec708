//! Mamba-1: sizes, parameters, the contract that every implementation keeps, and the plain implementation.
//!
//! The [`Reference`] is written to be read beside the paper and is the oracle for the
//! [`engine`](crate::engine), which does the work.

mod config;
mod params;
mod reference;

use crate::codec::Token;

pub use config::{MambaConfig, Preset};
pub use params::{LayerOffsets, ParamEntry, ParamLayout, Params};
pub use reference::Reference;

/// The recurrent state of `b` streams: what a sequence so far comes down to.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Number of streams.
    pub b: usize,
    /// The last d_conv - 1 inputs of each convolution, oldest first, (n_layer, b, d_conv - 1, d_inner).
    pub conv: Vec<f32>,
    /// The state of each scan, (n_layer, b, d_state, d_inner).
    pub ssm: Vec<f32>,
}

impl State {
    /// The state before the first token: zeros.
    pub fn new(config: &MambaConfig, b: usize) -> Self {
        let c = config;
        Self {
            b,
            conv: vec![0.0; c.n_layer * b * (c.d_conv - 1) * c.d_inner],
            ssm: vec![0.0; c.n_layer * b * c.d_state * c.d_inner],
        }
    }

    /// Copies stream `from` of `source` over stream `to`.
    ///
    /// # Panics
    /// When the two belong to different configurations.
    pub fn copy_stream(&mut self, to: usize, source: &State, from: usize, config: &MambaConfig) {
        let buffers = [(&mut self.conv, &source.conv, config.d_conv - 1), (&mut self.ssm, &source.ssm, config.d_state)];
        for (ours, theirs, rows) in buffers {
            let width = rows * config.d_inner;
            for layer in 0..config.n_layer {
                let (at, there) = ((layer * self.b + to) * width, (layer * source.b + from) * width);
                ours[at..at + width].copy_from_slice(&theirs[there..there + width]);
            }
        }
    }

    /// Sets stream `stream` back to the state before the first token.
    pub fn reset_stream(&mut self, stream: usize, config: &MambaConfig) {
        for (buffer, rows) in [(&mut self.conv, config.d_conv - 1), (&mut self.ssm, config.d_state)] {
            let width = rows * config.d_inner;
            for layer in 0..config.n_layer {
                let at = (layer * self.b + stream) * width;
                buffer[at..at + width].fill(0.0);
            }
        }
    }
}

/// Rows of tokens to learn from. Each row is a window of a stream of samples that follow one another without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Number of rows.
    pub b: usize,
    /// Tokens in a row.
    pub l: usize,
    /// Inputs, (b, l).
    pub tokens: Vec<Token>,
    /// What comes next, (b, l); [`Batch::IGNORE`] where nothing is to be predicted.
    pub targets: Vec<Token>,
    /// Where a new sample begins, (b, l): the state before such a token is zero.
    pub starts: Vec<bool>,
}

impl Batch {
    /// A target that adds nothing to the loss.
    pub const IGNORE: Token = Token(u32::MAX);
}

/// Summed cross-entropy of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Loss {
    /// Sum over the counted targets, in nats.
    pub nats: f64,
    /// Targets that were counted.
    pub count: u64,
}

impl Loss {
    /// Mean per target in nats; 0 when nothing was counted.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.nats / self.count as f64 }
    }
}

/// A Mamba-1 network, however it is computed.
///
/// Every implementation keeps: `forward` over a sequence equals repeated `step`; the
/// same inputs on the same device give the same bits.
pub trait Mamba: Send {
    /// The parameters.
    fn params(&self) -> &Params;

    /// Replaces the parameters; the layout stays.
    ///
    /// # Panics
    /// When `data` has another length.
    fn set_params(&mut self, data: &[f32]);

    /// Logits of every position, (b, l, vocab_size), of `tokens`, (b, l), starting from `state` and leaving there the state after
    /// the last token.
    fn forward(&mut self, tokens: &[Token], state: &mut State) -> Vec<f32>;

    /// The loss of `batch`, starting from `state` and leaving there the state after the last tokens; nothing is learned.
    fn loss(&mut self, batch: &Batch, state: &mut State) -> Loss;

    /// The loss of `batch`, and adds `scale` times the derivative of its *summed* cross-entropy to `gradients`.
    ///
    /// No gradient flows into the state that the batch starts from (truncated backpropagation through time).
    fn gradients(&mut self, batch: &Batch, state: &mut State, scale: f32, gradients: &mut Params) -> Loss;

    /// One token for each stream: writes the logits, (b, vocab_size), and moves `state` on.
    ///
    /// A stream's logits do not depend on the other streams, nor on how many there are.
    fn step(&mut self, tokens: &[Token], state: &mut State, ret_logits: &mut [f32]);
}

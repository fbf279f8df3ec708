//! Sizes of a Mamba-1 network, as Hugging Face's `MambaConfig` names them in `config.json`.

use serde::{Deserialize, Serialize};

/// The sizes that fix every parameter's shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MambaConfig {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream (`hidden_size` in `config.json`).
    pub d_model: usize,
    /// Number of blocks (`num_hidden_layers`).
    pub n_layer: usize,
    /// Recurrent state per channel (`state_size`).
    pub d_state: usize,
    /// Taps of the causal convolution (`conv_kernel`).
    pub d_conv: usize,
    /// Channels of the scan (`intermediate_size`).
    pub d_inner: usize,
    /// Rank of the projection that makes Δ (`time_step_rank`).
    pub dt_rank: usize,
    /// Added to the mean square in RMSNorm (`layer_norm_epsilon`).
    pub norm_eps: f32,
}

/// Named sizes for `--preset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// For tests: 2 blocks of width 64.
    Tiny,
    /// The CPU default: 8 blocks of width 256, about 3.6 M parameters.
    Small,
    /// The NAIC '24 paper's: 24 blocks of width 768, about 90 M parameters.
    Paper,
}

impl Preset {
    /// All presets, smallest first.
    pub const ALL: [Preset; 3] = [Preset::Tiny, Preset::Small, Preset::Paper];

    /// The name as given to `--preset`.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Tiny => "tiny",
            Preset::Small => "small",
            Preset::Paper => "paper",
        }
    }
}

impl MambaConfig {
    /// The sizes of `preset` for a vocabulary of `vocab_size` tokens.
    pub fn preset(preset: Preset, vocab_size: usize) -> Self {
        let (d_model, n_layer) = match preset {
            Preset::Tiny => (64, 2),
            Preset::Small => (256, 8),
            Preset::Paper => (768, 24),
        };
        Self::new(vocab_size, d_model, n_layer)
    }

    /// Mamba-1 with the published proportions: expansion 2, 16 states, 4 taps, Δ of rank d_model / 16.
    pub fn new(vocab_size: usize, d_model: usize, n_layer: usize) -> Self {
        Self {
            vocab_size,
            d_model,
            n_layer,
            d_state: 16,
            d_conv: 4,
            d_inner: 2 * d_model,
            dt_rank: d_model.div_ceil(16),
            norm_eps: 1e-5,
        }
    }

    /// Columns of the projection that makes Δ, B and C from the convolved input.
    pub fn x_proj_width(&self) -> usize {
        self.dt_rank + 2 * self.d_state
    }

    /// Floating-point operations of the matrix products of one token's forward pass (2 per multiply-add).
    pub fn forward_flops_per_token(&self) -> f64 {
        let block = self.d_model * 2 * self.d_inner
            + self.d_inner * self.x_proj_width()
            + self.dt_rank * self.d_inner
            + self.d_inner * self.d_model;
        2.0 * (self.n_layer * block + self.d_model * self.vocab_size) as f64
    }
}

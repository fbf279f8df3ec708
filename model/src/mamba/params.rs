//! The parameters of a Mamba-1 network in one flat buffer, named and shaped as in Hugging Face's
//! `MambaForCausalLM`.

use std::ops::Range;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::MambaConfig;

/// One named tensor inside a flat buffer, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamEntry {
    /// Hugging Face's name, such as `backbone.layers.0.mixer.A_log`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Where it begins in the flat buffer.
    pub offset: usize,
    /// Whether AdamW's weight decay applies: to matrices, not to norms, biases, `A_log` and `D`.
    pub decays: bool,
}

impl ParamEntry {
    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its place in the flat buffer.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.numel()
    }
}

/// Where each tensor of one block lies in the flat buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerOffsets {
    /// `norm.weight`, (d_model).
    pub norm: usize,
    /// `mixer.in_proj.weight`, (2 d_inner, d_model).
    pub in_proj: usize,
    /// `mixer.conv1d.weight`, (d_inner, 1, d_conv).
    pub conv_weight: usize,
    /// `mixer.conv1d.bias`, (d_inner).
    pub conv_bias: usize,
    /// `mixer.x_proj.weight`, (dt_rank + 2 d_state, d_inner).
    pub x_proj: usize,
    /// `mixer.dt_proj.weight`, (d_inner, dt_rank).
    pub dt_weight: usize,
    /// `mixer.dt_proj.bias`, (d_inner).
    pub dt_bias: usize,
    /// `mixer.A_log`, (d_inner, d_state).
    pub a_log: usize,
    /// `mixer.D`, (d_inner).
    pub d: usize,
    /// `mixer.out_proj.weight`, (d_model, d_inner).
    pub out_proj: usize,
}

/// Names, shapes and places of all parameters of one configuration, in a fixed order.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamLayout {
    /// The configuration that it belongs to.
    pub config: MambaConfig,
    /// All tensors in the order of the flat buffer.
    pub entries: Vec<ParamEntry>,
    /// `backbone.embeddings.weight`, (vocab_size, d_model); also the head.
    pub embedding: usize,
    /// The blocks.
    pub layers: Vec<LayerOffsets>,
    /// `backbone.norm_f.weight`, (d_model).
    pub norm_f: usize,
    /// Elements in the flat buffer.
    pub len: usize,
}

impl ParamLayout {
    /// Lays out the parameters of `config`.
    pub fn new(config: &MambaConfig) -> Self {
        let c = config;
        let mut entries = Vec::new();
        let mut len = 0;
        let mut add = |name: String, shape: &[usize], decays: bool| {
            let entry = ParamEntry { name, shape: shape.to_vec(), offset: len, decays };
            len += entry.numel();
            let offset = entry.offset;
            entries.push(entry);
            offset
        };
        let embedding = add("backbone.embeddings.weight".into(), &[c.vocab_size, c.d_model], true);
        let layers = (0..c.n_layer)
            .map(|i| {
                let name = |suffix: &str| format!("backbone.layers.{i}.{suffix}");
                LayerOffsets {
                    norm: add(name("norm.weight"), &[c.d_model], false),
                    in_proj: add(name("mixer.in_proj.weight"), &[2 * c.d_inner, c.d_model], true),
                    conv_weight: add(name("mixer.conv1d.weight"), &[c.d_inner, 1, c.d_conv], true),
                    conv_bias: add(name("mixer.conv1d.bias"), &[c.d_inner], false),
                    x_proj: add(name("mixer.x_proj.weight"), &[c.x_proj_width(), c.d_inner], true),
                    dt_weight: add(name("mixer.dt_proj.weight"), &[c.d_inner, c.dt_rank], true),
                    dt_bias: add(name("mixer.dt_proj.bias"), &[c.d_inner], false),
                    a_log: add(name("mixer.A_log"), &[c.d_inner, c.d_state], false),
                    d: add(name("mixer.D"), &[c.d_inner], false),
                    out_proj: add(name("mixer.out_proj.weight"), &[c.d_model, c.d_inner], true),
                }
            })
            .collect();
        let norm_f = add("backbone.norm_f.weight".into(), &[c.d_model], false);
        Self { config: c.clone(), entries, embedding, layers, norm_f, len }
    }
}

/// A flat buffer with its layout: the parameters, their gradients, or an optimiser's moments.
#[derive(Debug, Clone)]
pub struct Params {
    /// What lies where.
    pub layout: Arc<ParamLayout>,
    /// `layout.len` numbers.
    pub data: Vec<f32>,
}

impl Params {
    /// A buffer of zeros for `config`.
    pub fn zeros(config: &MambaConfig) -> Self {
        let layout = Arc::new(ParamLayout::new(config));
        let data = vec![0.0; layout.len];
        Self { layout, data }
    }

    /// Fresh parameters, drawn from `seed` as the published code draws them: embedding N(0, 0.02), linear layers
    /// and convolution uniform within 1/sqrt(fan-in), `out_proj` further divided by sqrt(n_layer), `A_log` = ln(1..=d_state),
    /// `D` = 1, and the bias of Δ such that softplus(bias) is log-uniform in [0.001, 0.1].
    /// (Gu and Dao 2023, section 3.6 and `mamba_simple.py` of state-spaces/mamba.)
    pub fn init(config: &MambaConfig, seed: u64) -> Self {
        const DT_MIN: f64 = 0.001;
        const DT_MAX: f64 = 0.1;
        let mut params = Self::zeros(config);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for entry in &params.layout.clone().entries {
            let values = &mut params.data[entry.range()];
            let suffix = entry.name.rsplit_once("mixer.").map_or(entry.name.as_str(), |(_, s)| s);
            match suffix {
                "A_log" => {
                    for (i, v) in values.iter_mut().enumerate() {
                        *v = ((i % config.d_state + 1) as f32).ln();
                    }
                }
                "D" => values.fill(1.0),
                "conv1d.weight" => fill_uniform(values, 1.0 / (config.d_conv as f64).sqrt(), &mut rng),
                "conv1d.bias" => fill_uniform(values, 1.0 / (config.d_conv as f64).sqrt(), &mut rng),
                "in_proj.weight" => fill_uniform(values, 1.0 / (config.d_model as f64).sqrt(), &mut rng),
                "x_proj.weight" => fill_uniform(values, 1.0 / (config.d_inner as f64).sqrt(), &mut rng),
                "dt_proj.weight" => fill_uniform(values, 1.0 / (config.dt_rank as f64).sqrt(), &mut rng),
                "dt_proj.bias" => {
                    for v in values {
                        let log = DT_MIN.ln() + uniform(&mut rng) * (DT_MAX.ln() - DT_MIN.ln());
                        let dt = log.exp().max(1e-4);
                        // The inverse of softplus.
                        *v = (dt + (-(-dt).exp_m1()).ln()) as f32;
                    }
                }
                "out_proj.weight" => {
                    fill_uniform(values, 1.0 / ((config.d_inner * config.n_layer) as f64).sqrt(), &mut rng);
                }
                "backbone.embeddings.weight" => {
                    for v in values {
                        *v = (0.02 * normal(&mut rng)) as f32;
                    }
                }
                _ => values.fill(1.0), // the norms
            }
        }
        params
    }

    /// The same network with another numbering of tokens: token `i` is the one that had the number `old[i]`, or a new one, which is
    /// embedded as those of `like` are on average.
    ///
    /// So a new token is taken for something of their kind until more is known of it. `like` may be empty (a zero vector), it and `old`
    /// lie in the vocabulary, which may have had room behind its last token.
    #[must_use]
    pub fn with_tokens(&self, old: &[Option<usize>], like: Range<usize>) -> Self {
        let vocab_size = old.len().max(self.config().vocab_size);
        let mut ret = Self::zeros(&MambaConfig { vocab_size, ..self.config().clone() });
        for (from, to) in self.layout.entries.iter().zip(&ret.layout.clone().entries) {
            ret.data[to.offset..][..from.numel()].copy_from_slice(&self.data[from.range()]);
        }
        let (width, to) = (self.config().d_model, ret.layout.embedding);
        let row = |token: usize| &self.data[self.layout.embedding + token * width..][..width];
        let mut mean = vec![0.0; width];
        for token in like.clone() {
            mean.iter_mut().zip(row(token)).for_each(|(mean, v)| *mean += v / like.len() as f32);
        }
        for (token, old) in old.iter().enumerate() {
            ret.data[to + token * width..][..width].copy_from_slice(old.map_or(&mean[..], row));
        }
        ret
    }

    /// The configuration that the layout belongs to.
    pub fn config(&self) -> &MambaConfig {
        &self.layout.config
    }

    /// A tensor that holds a number which is not finite.
    pub fn not_finite(&self) -> Option<&ParamEntry> {
        self.layout.entries.iter().find(|entry| !self.data[entry.range()].iter().all(|v| v.is_finite()))
    }

    /// The elements of the tensor `name`.
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        let entry = self.layout.entries.iter().find(|e| e.name == name)?;
        Some(&self.data[entry.range()])
    }
}

/// Uniform in [0, 1).
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Standard normal, by Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let u = 1.0 - uniform(rng);
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos()
}

fn fill_uniform(values: &mut [f32], bound: f64, rng: &mut ChaCha8Rng) {
    for v in values {
        *v = ((2.0 * uniform(rng) - 1.0) * bound) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_tokens_are_embedded_as_the_mean_of_others_and_nothing_else_changes() {
        let params = Params::init(&MambaConfig::new(5, 16, 2), 1);
        let grown = params.with_tokens(&[Some(0), Some(1), Some(2), Some(3), Some(4), None, None], 3..5);
        assert_eq!(grown.config().vocab_size, 7);
        for (old, new) in params.layout.entries.iter().zip(&grown.layout.entries) {
            assert_eq!(params.data[old.range()], grown.data[new.range()][..old.numel()], "{}", old.name);
        }
        let embedding = grown.tensor("backbone.embeddings.weight").unwrap();
        let rows: Vec<_> = embedding.chunks(16).collect();
        assert_eq!(rows[5], rows[6]);
        assert_eq!(rows[5][2], (rows[3][2] + rows[4][2]) / 2.0);
        // Room that the vocabulary had is used first, and numbers may change.
        let filled = params.with_tokens(&[Some(0), None, Some(1), Some(2), Some(3)], 0..1);
        let rows = |params: &Params| params.tensor("backbone.embeddings.weight").unwrap().to_vec();
        let (filled, old) = (rows(&filled), rows(&params));
        assert_eq!(
            (filled.len(), &filled[..16], &filled[16..32], &filled[32..]),
            (80, &old[..16], &old[..16], &old[16..64])
        );
    }
}

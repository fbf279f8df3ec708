//! Recordings of what Hugging Face's Mamba computes, as `tests/golden/make.py` of the workspace writes them; that
//! script's head says what is in them.

use std::collections::HashMap;
use std::path::PathBuf;

use safetensors::SafeTensors;
use serde::Deserialize;
use wiremamba_model::codec::Token;
use wiremamba_model::mamba::{Batch, MambaConfig, Params, State};

/// Largest error of a value, as a share of the largest value of its tensor.
///
/// Two f32 programs that add in other orders differ by about 1e-6 after 8 layers and 24 steps; a
/// wrong formula differs by far more than this.
pub(crate) const TOLERANCE: f64 = 1e-4;

/// One recorded model: its input, and what came out.
pub(crate) struct Golden {
    pub(crate) name: &'static str,
    pub(crate) meta: Meta,
    tensors: HashMap<String, Vec<f32>>,
}

/// NAME.json.
#[derive(Deserialize)]
pub(crate) struct Meta {
    pub(crate) config: MambaConfig,
    pub(crate) recipe: bool,
    pub(crate) b: usize,
    pub(crate) l: usize,
    pub(crate) tokens: Vec<Token>,
    /// Mean cross-entropy of the next tokens, in nats.
    pub(crate) loss: f64,
    /// The greedy continuation of row 0.
    pub(crate) greedy: Vec<Token>,
    pub(crate) gradients: HashMap<String, GradientStats>,
}

/// A gradient in brief.
#[derive(Deserialize)]
pub(crate) struct GradientStats {
    pub(crate) l2: f64,
    pub(crate) sum: f64,
    pub(crate) max_abs: f64,
    /// Distance between the recorded elements, where not all are recorded.
    pub(crate) stride: Option<usize>,
}

impl Golden {
    /// Reads `tests/golden/NAME.{json,safetensors}`.
    pub(crate) fn load(name: &'static str) -> Self {
        let path = |extension: &str| {
            PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")).join(format!("{name}.{extension}"))
        };
        let read = |path: PathBuf| std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let meta = serde_json::from_slice(&read(path("json"))).expect("what make.py wrote");
        let bytes = read(path("safetensors"));
        let tensors = SafeTensors::deserialize(&bytes)
            .expect("what make.py wrote")
            .iter()
            .map(|(name, view)| {
                let floats = view.data().chunks_exact(4).map(|v| f32::from_le_bytes(v.try_into().expect("4 bytes")));
                (name.to_string(), floats.collect())
            })
            .collect();
        Self { name, meta, tensors }
    }

    /// A recorded tensor, row-major.
    pub(crate) fn tensor(&self, name: &str) -> &[f32] {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.name))
    }

    /// The weights: recorded, or worked out by the recipe.
    pub(crate) fn params(&self) -> Params {
        let mut params = Params::zeros(&self.meta.config);
        for entry in &params.layout.clone().entries {
            let values = &mut params.data[entry.range()];
            if self.meta.recipe {
                fill_by_recipe(&entry.name, &entry.shape, values);
            } else {
                values.copy_from_slice(self.tensor(&format!("weight.{}", entry.name)));
            }
        }
        params
    }

    /// The tokens as a batch in which every token but a row's last predicts the next, and a state to start from.
    pub(crate) fn batch(&self) -> (Batch, State) {
        let Meta { b, l, ref tokens, ref config, .. } = self.meta;
        let targets = (0..b * l).map(|i| if i % l == l - 1 { Batch::IGNORE } else { tokens[i + 1] }).collect();
        let starts = (0..b * l).map(|i| i % l == 0).collect();
        (Batch { b, l, tokens: tokens.clone(), targets, starts }, State::new(config, b))
    }
}

/// Fails unless every value is within [`TOLERANCE`] of `largest`; returns the largest share seen.
pub(crate) fn assert_close(what: &str, ours: impl Iterator<Item = f32>, theirs: &[f32], largest: f64) -> f64 {
    let (mut worst, mut n) = (0f64, 0);
    for (i, (ours, theirs)) in ours.zip(theirs).enumerate() {
        let share = f64::from(ours - theirs).abs() / largest;
        // Written so that NaN fails.
        assert!(share <= TOLERANCE, "{what}[{i}]: {ours} against {theirs}, {share:.1e} of the largest {largest}");
        worst = worst.max(share);
        n += 1;
    }
    assert_eq!(n, theirs.len(), "{what}");
    worst
}

/// The largest magnitude.
pub(crate) fn max_abs(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |m, v| m.max(f64::from(v.abs())))
}

/// The weights that make.py's `recipe` gives to the tensor `name`.
fn fill_by_recipe(name: &str, shape: &[usize], values: &mut [f32]) {
    let fan_in = *shape.last().expect("no tensor is a scalar");
    let root = (fan_in as f64).sqrt();
    let last = name.rsplit_once("mixer.").map_or(name, |(_, last)| last);
    let (centre, reach) = match last {
        "A_log" => (f64::NAN, 0.1), // a centre for each column, below
        "backbone.embeddings.weight" => (0.0, 0.1),
        "D" => (1.0, 0.2),
        "conv1d.weight" | "dt_proj.weight" => (0.0, 1.0 / root),
        "conv1d.bias" => (0.0, 0.5),
        "in_proj.weight" | "x_proj.weight" | "out_proj.weight" => (0.0, 2.0 / root),
        "dt_proj.bias" => (-2.5, 2.0),
        _ => (1.0, 0.2),
    };
    for (j, (value, z)) in values.iter_mut().zip(hashed(name)).enumerate() {
        let centre = if last == "A_log" { ((j % fan_in + 1) as f64).ln() } else { centre };
        let u = (z >> 40) as f64 / (1u64 << 24) as f64;
        *value = (centre + reach * (2.0 * u - 1.0)) as f32;
    }
}

/// make.py's stream of numbers for `name`: splitmix64 of its FNV-1a hash plus 0, 1, 2, ...
fn hashed(name: &str) -> impl Iterator<Item = u64> {
    let fnv = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    (0u64..).map(move |j| {
        let z = fnv.wrapping_add(j).wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

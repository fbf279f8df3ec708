//! `config.json`, as Hugging Face's `MambaConfig` reads and writes it.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::CheckpointError;
use super::tensors::Width;
use crate::mamba::MambaConfig;

/// Name of the file.
pub(super) const CONFIG_FILE: &str = "config.json";
/// A key that Hugging Face ignores, by which a checkpoint of ours is known although `wiremamba.json` is gone.
const OUR_KEY: &str = "wiremamba_format";
/// Largest size of anything in a configuration: beyond it, products of sizes could overflow.
const SIZE_MAX: usize = 1 << 20;
/// Most blocks: the published networks have 24 to 64.
const LAYERS_MAX: usize = 4096;
/// Most parameters: 16 GiB in f32.
const PARAMETERS_MAX: u128 = 1 << 32;

/// The file's text for `config`; `first_token` begins and `end_token` ends a text.
pub(super) fn to_text(config: &MambaConfig, width: Width, first_token: u32, end_token: u32) -> String {
    let c = config;
    let dtype = match width {
        Width::F32 => "float32",
        Width::Bf16 => "bfloat16",
    };
    let value = json!({
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "num_hidden_layers": c.n_layer,
        "state_size": c.d_state,
        "conv_kernel": c.d_conv,
        "expand": c.d_inner.checked_div(c.d_model).unwrap_or(2),
        "intermediate_size": c.d_inner,
        "time_step_rank": c.dt_rank,
        // f32 printed as the shortest f64 that is the same f32, so that 1e-5 stays 1e-5.
        "layer_norm_epsilon": c.norm_eps.to_string().parse::<f64>().unwrap_or(1e-5),
        "use_bias": false,
        "use_conv_bias": true,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "residual_in_fp32": true,
        // False although our initialisation does it: transformers 5 divides out_proj by sqrt(num_hidden_layers) even
        // after it has loaded the weights.
        "rescale_prenorm_residual": false,
        "initializer_range": 0.02,
        "time_step_min": 0.001,
        "time_step_max": 0.1,
        "time_step_floor": 1e-4,
        "time_step_scale": 1.0,
        "time_step_init_scheme": "random",
        "bos_token_id": first_token,
        "eos_token_id": end_token,
        "pad_token_id": end_token,
        "use_cache": true,
        "dtype": dtype,
        "torch_dtype": dtype,
        OUR_KEY: super::FORMAT_VERSION,
    });
    format!("{value:#}\n")
}

/// What the file says.
#[derive(Debug)]
pub(super) struct HfConfig {
    /// The sizes.
    pub(super) sizes: MambaConfig,
    /// Whether this program wrote it.
    pub(super) is_ours: bool,
}

/// The keys that matter, with Hugging Face's defaults.
#[derive(Deserialize)]
struct Raw {
    model_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    #[serde(default = "d_state")]
    state_size: usize,
    #[serde(default = "d_conv")]
    conv_kernel: usize,
    #[serde(default = "expand")]
    expand: usize,
    intermediate_size: Option<usize>,
    /// A number, or "auto".
    time_step_rank: Option<Value>,
    #[serde(default = "norm_eps")]
    layer_norm_epsilon: f32,
    #[serde(default)]
    use_bias: bool,
    #[serde(default = "yes")]
    use_conv_bias: bool,
    #[serde(default = "silu")]
    hidden_act: String,
    wiremamba_format: Option<u64>,
    /// Written by transformers, which keeps keys that it does not know, `wiremamba_format` among them.
    transformers_version: Option<Value>,
}

fn d_state() -> usize {
    16
}
fn d_conv() -> usize {
    4
}
fn expand() -> usize {
    2
}
fn norm_eps() -> f32 {
    1e-5
}
fn yes() -> bool {
    true
}
fn silu() -> String {
    "silu".into()
}

/// Reads the file's bytes; refuses what our network does not compute.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<HfConfig, CheckpointError> {
    let invalid = |what: String| CheckpointError::Invalid { path: path.to_owned(), what };
    let raw: Raw = serde_json::from_slice(bytes).map_err(|e| invalid(format!("not a Mamba configuration: {e}")))?;
    let only = |key: &str, holds: bool, found: &str, allowed: &str| {
        if holds { Ok(()) } else { Err(invalid(format!("{key} is {found}, allowed is {allowed}"))) }
    };
    let model_type = raw.model_type.as_deref().unwrap_or("mamba");
    only("model_type", model_type == "mamba", model_type, "mamba")?;
    only("use_bias", !raw.use_bias, "true", "false")?;
    only("use_conv_bias", raw.use_conv_bias, "false", "true")?;
    only("hidden_act", raw.hidden_act == "silu", &raw.hidden_act, "silu")?;
    let eps = raw.layer_norm_epsilon;
    only("layer_norm_epsilon", eps > 0.0 && eps < 1.0, &eps.to_string(), "between 0 and 1")?;
    let dt_rank = match &raw.time_step_rank {
        None => raw.hidden_size.div_ceil(16),
        Some(Value::String(s)) if s == "auto" => raw.hidden_size.div_ceil(16),
        Some(value) => value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| invalid(format!("time_step_rank is {value}, allowed is a number or \"auto\"")))?,
    };
    let sizes = MambaConfig {
        vocab_size: raw.vocab_size,
        d_model: raw.hidden_size,
        n_layer: raw.num_hidden_layers,
        d_state: raw.state_size,
        d_conv: raw.conv_kernel,
        d_inner: raw.intermediate_size.unwrap_or(raw.expand.saturating_mul(raw.hidden_size)),
        dt_rank,
        norm_eps: eps,
    };
    let all = [
        ("vocab_size", sizes.vocab_size, 1),
        ("hidden_size", sizes.d_model, 1),
        ("num_hidden_layers", sizes.n_layer, 1),
        ("state_size", sizes.d_state, 1),
        ("conv_kernel", sizes.d_conv, 2),
        ("intermediate_size", sizes.d_inner, 1),
        ("time_step_rank", sizes.dt_rank, 1),
    ];
    for (key, size, least) in all {
        let allowed = format!("{least} to {SIZE_MAX}");
        only(key, (least..=SIZE_MAX).contains(&size), &size.to_string(), &allowed)?;
    }
    let allowed = format!("1 to {LAYERS_MAX}");
    only("num_hidden_layers", sizes.n_layer <= LAYERS_MAX, &sizes.n_layer.to_string(), &allowed)?;
    let parameters = parameters(&sizes);
    only("number of parameters", parameters <= PARAMETERS_MAX, &parameters.to_string(), "at most 4294967296")?;
    Ok(HfConfig { sizes, is_ours: raw.wiremamba_format.is_some() && raw.transformers_version.is_none() })
}

/// Matrix elements of a network, in numbers that cannot overflow.
fn parameters(c: &MambaConfig) -> u128 {
    let [v, d, n, s, i, r] = [c.vocab_size, c.d_model, c.n_layer, c.d_state, c.d_inner, c.dt_rank].map(|x| x as u128);
    v * d + n * (3 * d * i + i * (r + 2 * s) + r * i + i * s + i * c.d_conv as u128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mamba::Preset;

    fn read(text: &str) -> Result<HfConfig, CheckpointError> {
        parse(Path::new("config.json"), text.as_bytes())
    }

    #[test]
    fn every_preset_comes_back_as_it_was() {
        for preset in Preset::ALL {
            let config = MambaConfig::preset(preset, 300);
            let back = read(&to_text(&config, Width::F32, 1, 2)).unwrap();
            assert_eq!(back.sizes, config);
            assert!(back.is_ours);
        }
    }

    #[test]
    fn transformers_is_not_told_to_rescale_what_it_loads() {
        let value: Value = serde_json::from_str(&to_text(&MambaConfig::new(9, 16, 2), Width::F32, 0, 0)).unwrap();
        assert_eq!(value["rescale_prenorm_residual"], false);
        assert_eq!((&value["model_type"], &value["layer_norm_epsilon"]), (&json!("mamba"), &json!(1e-5)));
    }

    #[test]
    fn the_published_130m_configuration_is_read() {
        // The keys of state-spaces/mamba-130m-hf that matter here, with its spelling.
        let text = r#"{"architectures": ["MambaForCausalLM"], "bos_token_id": 0, "conv_kernel": 4, "d_inner": 1536,
            "d_model": 768, "eos_token_id": 0, "expand": 2, "fused_add_norm": true, "hidden_act": "silu",
            "hidden_size": 768, "intermediate_size": 1536, "layer_norm_epsilon": 1e-05, "model_type": "mamba",
            "n_layer": 24, "num_hidden_layers": 24, "rms_norm": true, "state_size": 16, "time_step_rank": 48,
            "use_bias": false, "use_conv_bias": true, "vocab_size": 50280}"#;
        let config = read(text).unwrap();
        assert_eq!(config.sizes, MambaConfig::new(50280, 768, 24));
        assert!(!config.is_ours);
        // What transformers saves again after opening one of ours is not ours any more.
        let again = to_text(&config.sizes, Width::F32, 0, 0).replacen('{', r#"{"transformers_version": "5.23.0","#, 1);
        assert!(!read(&again).unwrap().is_ours);
        let auto = read(r#"{"hidden_size": 40, "num_hidden_layers": 1, "vocab_size": 9, "time_step_rank": "auto"}"#);
        assert_eq!(auto.unwrap().sizes, MambaConfig::new(9, 40, 1));
    }

    #[test]
    fn what_the_network_does_not_compute_is_refused_by_name() {
        let with = |extra: &str| {
            read(&format!(r#"{{"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 9, {extra}}}"#))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(with(r#""use_bias": true"#), "config.json: use_bias is true, allowed is false");
        assert!(with(r#""hidden_act": "gelu""#).contains("hidden_act is gelu"));
        assert!(with(r#""model_type": "mamba2""#).contains("model_type is mamba2"));
        assert!(with(r#""state_size": 0"#).contains("state_size is 0"));
        assert!(with(r#""intermediate_size": 99999999999"#).contains("intermediate_size"));
        assert!(with(r#""time_step_rank": -3"#).contains("time_step_rank is -3"));
        let huge = r#"{"hidden_size": 1000000, "num_hidden_layers": 1000000, "vocab_size": 1000000}"#;
        assert!(read(huge).unwrap_err().to_string().contains("intermediate_size"));
        assert!(read("[]").is_err() && read("").is_err());
    }
}

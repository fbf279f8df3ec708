//! `training.json` and `training.safetensors`: what an exact resume needs beside the parameters.

use std::borrow::Cow;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::about::About;
use super::error::CheckpointError;
use super::files::VersionWriter;
use super::tensors;
use crate::mamba::{MambaConfig, ParamLayout, State};
use crate::train::{SamplerPosition, TrainOptions, TrainState};

/// Counters, options and the sampler's position.
pub(super) const TRAINING_FILE: &str = "training.json";
/// Moments and carried state.
const TENSORS_FILE: &str = "training.safetensors";

const FIRST_MOMENT: &str = "exp_avg"; // PyTorch's names for AdamW's moments
const SECOND_MOMENT: &str = "exp_avg_sq";
const CONV: &str = "carried.conv";
const SSM: &str = "carried.ssm";

/// The part that is no tensor.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Training {
    step: u64,
    updates: u64,
    skipped_steps: u64,
    skipped_in_a_row: u32,
    options: TrainOptions,
    sampler: SamplerPosition,
}

/// Writes both files.
pub(super) fn write(version: &mut VersionWriter<'_>, state: &TrainState<'_>) -> Result<(), CheckpointError> {
    let training = Training {
        step: state.step,
        updates: state.updates,
        skipped_steps: state.skipped_steps,
        skipped_in_a_row: state.skipped_in_a_row,
        options: state.options.clone(),
        sampler: state.sampler.clone(),
    };
    version.write(TRAINING_FILE, |out| Ok(serde_json::to_writer_pretty(out, &training)?))?;
    version.write(TENSORS_FILE, |out| {
        let tensors: [(&str, &[f32]); 4] = [
            (FIRST_MOMENT, &state.first_moment),
            (SECOND_MOMENT, &state.second_moment),
            (CONV, &state.carried.conv),
            (SSM, &state.carried.ssm),
        ];
        tensors::write(out, tensors::Width::F32, &tensors.map(|(name, values)| (name, vec![values.len()], values)))
    })
}

/// Reads both files and checks them against the digests and the network's sizes.
pub(super) fn read(dir: &Path, about: &About, config: &MambaConfig) -> Result<TrainState<'static>, CheckpointError> {
    let path = dir.join(TRAINING_FILE);
    let invalid = |what: String| CheckpointError::Invalid { path: path.clone(), what };
    let training: Training = serde_json::from_slice(&about.read_file(dir, TRAINING_FILE)?)
        .map_err(|e| invalid(format!("not a training state: {e}")))?;
    training.options.validate().map_err(|e| invalid(e.to_string()))?;
    let path = dir.join(TENSORS_FILE);
    let bytes = about.read_file(dir, TENSORS_FILE)?;
    let file = tensors::open(&path, &bytes)?;
    let parameters = ParamLayout::new(config).len;
    // Rows times the width of one row's state.
    let b = training.options.batch;
    let conv = config.n_layer * (config.d_conv - 1) * config.d_inner;
    let ssm = config.n_layer * config.d_state * config.d_inner;
    Ok(TrainState {
        step: training.step,
        updates: training.updates,
        skipped_steps: training.skipped_steps,
        skipped_in_a_row: training.skipped_in_a_row,
        options: training.options,
        sampler: training.sampler,
        first_moment: Cow::Owned(tensors::f32_tensor(&path, &file, FIRST_MOMENT, parameters)?),
        second_moment: Cow::Owned(tensors::f32_tensor(&path, &file, SECOND_MOMENT, parameters)?),
        carried: Cow::Owned(State {
            b,
            conv: tensors::f32_tensor(&path, &file, CONV, b.saturating_mul(conv))?,
            ssm: tensors::f32_tensor(&path, &file, SSM, b.saturating_mul(ssm))?,
        }),
    })
}

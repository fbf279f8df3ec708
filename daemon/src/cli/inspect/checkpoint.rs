//! What is in a checkpoint.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use wiremamba_model::checkpoint::{Checkpoint, Lineage, versions};
use wiremamba_model::mamba::MambaConfig;

use super::super::{print_json, print_text};

#[derive(Debug, Serialize)]
struct Report {
    path: PathBuf,
    parameters: usize,
    config: MambaConfig,
    preset: Option<String>,
    codec: Option<&'static str>,
    vocab_size: Option<usize>,
    labels: Vec<String>,
    step: Option<u64>,
    metrics: BTreeMap<String, f64>,
    resumable: bool,
    lineage: Vec<Lineage>,
    /// Versions in the folder, oldest first.
    versions: Vec<PathBuf>,
}

pub(super) fn run(path: &Path, json: bool) -> Result<()> {
    // Loading verifies the digest of every file.
    let checkpoint = Checkpoint::load(path)?;
    let about = checkpoint.about.as_ref();
    let codec = checkpoint.codec.as_deref();
    let report = Report {
        parameters: checkpoint.params.data.len(),
        config: checkpoint.params.config().clone(),
        preset: about.and_then(|a| a.preset.clone()),
        codec: codec.map(|c| c.name()),
        vocab_size: codec.map(|c| c.vocab_size()),
        labels: about.map(|a| a.labels.clone()).unwrap_or_default(),
        step: about.map(|a| a.step),
        metrics: about.map(|a| a.metrics.clone()).unwrap_or_default(),
        resumable: about.is_some_and(|a| a.has_training()),
        lineage: about.map(|a| a.lineage.clone()).unwrap_or_default(),
        versions: versions(path).into_iter().map(|v| v.path).collect(),
        path: checkpoint.path.clone(),
    };
    if json { print_json(&report) } else { print_text(&text(&report)) }
}

fn text(r: &Report) -> String {
    let c = &r.config;
    let mut text = format!("{}: whole, every file as it was written\n", r.path.display());
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "  network   Mamba-1 {}, {} parameters: d_model {}, n_layer {}, d_state {}, d_conv {}, vocabulary {}",
        r.preset.as_deref().unwrap_or("of its own size"),
        r.parameters,
        c.d_model,
        c.n_layer,
        c.d_state,
        c.d_conv,
        c.vocab_size
    );
    match (r.codec, r.vocab_size) {
        (Some(codec), Some(vocab_size)) => {
            let _ = writeln!(text, "  codec     {codec}, {vocab_size} tokens");
            let _ = writeln!(text, "  labels    {}", r.labels.join(", "));
        }
        _ => text += "  codec     none: not made by wiremamba\n",
    }
    if let Some(step) = r.step {
        let resumable = if r.resumable { "can be resumed" } else { "cannot be resumed" };
        let _ = writeln!(text, "  training  {step} steps, {resumable}");
    }
    for (name, value) in &r.metrics {
        let _ = writeln!(text, "  {name} {value:.4}");
    }
    for l in &r.lineage {
        let _ =
            writeln!(text, "  {} from step {}, seed {}, data {:.12}", l.job, l.from_step, l.seed, l.data_fingerprint);
    }
    for version in &r.versions {
        let _ = writeln!(text, "  version   {}", version.display());
    }
    text
}

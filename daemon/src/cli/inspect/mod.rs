//! `wiremamba inspect`: what is in captures, in a checkpoint, or in the tokens of one flow.

mod captures;
mod checkpoint;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use wiremamba_model::codec::Codec;
use wiremamba_model::codec::bytes::{BytesCodec, Keep, Vocab};

use super::{Context, Misuse};
use crate::job;

/// `wiremamba inspect`
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Captures, folders of captures, or one checkpoint
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Label of the captures, in place of their folders' names
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,
    /// Count tokens as this checkpoint's codec does [default: one token a byte]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Show the tokens of flow N, the first being 0
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "0")]
    tokens: Option<usize>,
    /// How many of the longest flows to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: InspectArgs, context: &Context) -> Result<()> {
    if let [path] = args.paths.as_slice()
        && is_checkpoint(path)
    {
        if args.tokens.is_some() {
            return Err(Misuse(
                "--tokens shows a flow of a capture; give one, with --model for this checkpoint".into(),
            )
            .into());
        }
        return checkpoint::run(path, args.json);
    }
    match args.tokens {
        Some(flow) => tokens::run(&args, flow),
        None => captures::run(&args, context),
    }
}

/// Whether a folder is a checkpoint or holds versions of one.
fn is_checkpoint(path: &Path) -> bool {
    path.join("config.json").exists() || path.join(wiremamba_model::checkpoint::CURRENT).symlink_metadata().is_ok()
}

/// The codec of `--model`, or one token a byte over `labels`.
fn codec(args: &InspectArgs, labels: &[String]) -> Result<Arc<dyn Codec>> {
    match &args.model {
        Some(dir) => Ok(job::model::open(dir)?.codec),
        None => Ok(Arc::new(BytesCodec::fit(Vocab::Byte, 0, Keep::Whole, labels.to_vec(), &[])?)),
    }
}

/// Number of bytes with a unit.
fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

//! `wiremamba inspect`: what is in captures, in a checkpoint, or in the tokens of one flow.

mod captures;
mod checkpoint;
mod round_trip;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use wiremamba_model::codec::bytes::{BytesCodec, Keep, Vocab};
use wiremamba_model::codec::wire::{STRINGS_DEFAULT, WireCodec};
use wiremamba_model::codec::{Codec, LabelId};
use wiremamba_model::flow::Session;
use wiremamba_model::wire::plan::Plan;

use super::model_args::CodecArg;
use super::{Context, Misuse};
use crate::job;
use crate::source::flows::{FlowSet, LabelledFlow};
use crate::source::plugin::PluginName;

/// `wiremamba inspect`
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Captures, folders of captures, or one checkpoint; base is the model that comes with the program
    #[arg(value_name = "PATH", required_unless_present = "plugin", value_parser = job::model::folder)]
    paths: Vec<PathBuf>,
    /// Show what a library of a packet source says of itself
    #[arg(long, value_name = "LIB", conflicts_with = "paths")]
    plugin: Option<PluginName>,
    /// Label of the captures, in place of their folders' names
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,
    /// Count tokens as this checkpoint's codec does [default: --codec, fitted to the captures]
    #[arg(long, value_name = "DIR", value_parser = job::model::folder)]
    model: Option<PathBuf>,
    /// How packets become tokens
    #[arg(long, value_enum, default_value_t = CodecArg::Wire, conflicts_with = "model")]
    codec: CodecArg,
    /// Show the tokens of flow N, the first being 0
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "0")]
    tokens: Option<usize>,
    /// Encode every packet without loss, decode it and compare
    #[arg(long, conflicts_with_all = ["tokens", "model"])]
    round_trip: bool,
    /// How many of the longest flows to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: InspectArgs, context: &Context) -> Result<()> {
    if let Some(name) = &args.plugin {
        return super::plugin::inspect(name, args.json);
    }
    if args.round_trip {
        return round_trip::run(&args, context);
    }
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
    if let Some(path) = args.paths.iter().find(|path| is_checkpoint(path)) {
        let dir = path.display();
        return Err(Misuse(format!(
            "{dir} is a checkpoint: inspect it alone, or give captures with --model {dir} to see them as its codec does"
        ))
        .into());
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

/// The codec of `--model`, or that of `--codec` fitted to the flows.
fn codec(args: &InspectArgs, set: &FlowSet) -> Result<Arc<dyn Codec>> {
    let labels = set.labels.clone();
    Ok(match (&args.model, args.codec) {
        (Some(dir), _) => job::model::open(dir)?.codec,
        (None, CodecArg::Bytes) => Arc::new(BytesCodec::fit(Vocab::Byte, 0, Keep::Whole, labels, &[])?),
        (None, CodecArg::Wire) => {
            let session = |f: &LabelledFlow| (LabelId(f.label as u16), Session::from(f.flow.clone()));
            let samples: Vec<_> = set.flows.iter().map(session).collect();
            Arc::new(WireCodec::fit(labels, STRINGS_DEFAULT, false, Plan::default(), &samples)?)
        }
    })
}

/// Number of bytes with a unit.
fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

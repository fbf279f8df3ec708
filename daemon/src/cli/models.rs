//! `wiremamba models`: the versions in a store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use wiremamba_model::checkpoint::{
    self, About, Checkpoint, CheckpointError, Contents, Lineage, Store, Version, Width, history, versions,
};

use super::{print_json, print_text};
use crate::job::model::{self, Model};
use crate::job::ranges;

/// `wiremamba models`
#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    /// Folder of versions, as `train --out` and the service's model.store have it
    #[arg(long, value_name = "DIR", default_value = "/var/lib/wiremamba/models", global = true)]
    store: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// All versions, oldest first
    List,
    /// Where a version comes from and how good it was [default: the one in use]
    Show {
        /// Name of the version
        version: Option<String>,
    },
    /// Use this version from now on; it is read whole first
    Promote {
        /// Name of the version
        version: String,
    },
    /// Use the version before the one in use
    Rollback,
    /// Write a version to a folder of its own, without what only --resume needs: a copy to give away
    Export {
        /// Name of the version [default: the one in use]
        version: Option<String>,
        /// Folder to make
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How its weights are written; bf16 takes half the room, and loses what `bench quality` measures
        #[arg(long, value_enum, default_value_t = WidthArg::F32)]
        precision: WidthArg,
    },
    /// Remove all but the newest versions; the one in use stays
    Prune {
        /// Versions to keep
        #[arg(long, value_name = "N", value_parser = ranges::at_least_one)]
        keep: usize,
    },
}

/// `--precision`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WidthArg {
    /// 32 bits, as they were trained
    F32,
    /// 16 bits
    Bf16,
}

impl From<WidthArg> for Width {
    fn from(arg: WidthArg) -> Self {
        match arg {
            WidthArg::F32 => Width::F32,
            WidthArg::Bf16 => Width::Bf16,
        }
    }
}

/// A version, as it says itself.
#[derive(Debug, Serialize)]
struct Row {
    version: String,
    current: bool,
    step: u64,
    sequence: u64,
    /// sha256 of the weights.
    weights_sha256: Option<String>,
    metrics: BTreeMap<String, f64>,
    lineage: Vec<Lineage>,
    /// Why it cannot be used, where that is plain to see.
    problem: Option<String>,
}

pub(super) fn run(args: &ModelsArgs) -> Result<()> {
    let store = &args.store;
    ensure!(store.is_dir(), "{} is no folder of versions", store.display());
    match &args.command {
        ModelsCommand::List => list(store, args.json),
        ModelsCommand::Show { version } => show(store, version.as_deref(), args.json),
        ModelsCommand::Promote { version } => promote(store, version),
        ModelsCommand::Export { version, out, precision } => {
            export(store, version.as_deref(), out, Width::from(*precision))
        }
        ModelsCommand::Rollback => {
            let history = history(store);
            let before = history.get(1).context("there is no version before the one in use")?;
            promote(store, &name(before))
        }
        ModelsCommand::Prune { keep } => {
            let before = versions(store).len();
            open(store, *keep)?.retire();
            print_text(&format!("{} versions removed\n", before - versions(store).len()))
        }
    }
}

/// Opens the store to change it.
fn open(store: &Path, keep: usize) -> Result<Store> {
    Store::open(store, keep).map_err(|error| {
        let is_locked = matches!(error, CheckpointError::Locked { .. });
        let error = anyhow::Error::new(error);
        if is_locked {
            error.context("a service or a training has the store; ask the service: wiremamba ctl")
        } else {
            error
        }
    })
}

fn promote(store: &Path, version: &str) -> Result<()> {
    let path = store.join(version);
    let is_known = versions(store).iter().any(|known| known.path == path);
    ensure!(is_known, "{} has no version {version}; see: wiremamba models list", store.display());
    let opened = open(store, usize::MAX)?;
    Checkpoint::load(&path).context("this version cannot be used, nothing was changed")?;
    opened.switch_current(&path)?;
    print_text(&format!("in use: {version}\n"))
}

fn export(store: &Path, version: Option<&str>, out: &Path, width: Width) -> Result<()> {
    let path = version.map_or(store.to_owned(), |version| store.join(version));
    let Model { checkpoint, codec } = model::open(&path)?;
    let about = checkpoint.about.context("this version does not say where it comes from")?;
    let contents = Contents {
        step: about.step,
        params: &checkpoint.params,
        codec: codec.as_ref(),
        preset: about.preset.as_deref(),
        metrics: about.metrics,
        lineage: about.lineage,
        training: None,
    };
    checkpoint::export(&contents, width, out)?;
    print_text(&format!("{} is in {}\n", checkpoint.path.display(), out.display()))
}

fn name(version: &Version) -> String {
    version.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn rows(store: &Path) -> Vec<Row> {
    let current = history(store).into_iter().next();
    let row = |version: Version| {
        let about = About::read(&version.path);
        let problem = match &about {
            Ok(about) => about.size_problem(&version.path).map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let about = about.ok();
        let weights = about.iter().flat_map(|about| &about.files).find(|file| file.name == "model.safetensors");
        Row {
            version: name(&version),
            current: current.as_ref() == Some(&version),
            step: version.step,
            sequence: version.sequence,
            weights_sha256: weights.map(|file| file.sha256.clone()),
            metrics: about.as_ref().map(|about| about.metrics.clone()).unwrap_or_default(),
            lineage: about.map(|about| about.lineage).unwrap_or_default(),
            problem,
        }
    };
    versions(store).into_iter().map(row).collect()
}

fn list(store: &Path, json: bool) -> Result<()> {
    let rows = rows(store);
    if json {
        return print_json(&rows);
    }
    let mut text = format!("{:<24} {:>10} {:>22}  weights\n", "version", "steps", "held-out bits/packet");
    for row in &rows {
        let bits = row.metrics.get("held_out_bits_per_packet").map_or("-".to_owned(), |bits| format!("{bits:.1}"));
        let digest = row.weights_sha256.as_deref().map_or("-", |digest| &digest[..12.min(digest.len())]);
        let mark = if row.current { "  in use" } else { "" };
        let problem = row.problem.as_ref().map_or(String::new(), |problem| format!("  {problem}"));
        text += &format!("{:<24} {:>10} {bits:>22}  {digest}{mark}{problem}\n", row.version, row.step);
    }
    print_text(&text)
}

fn show(store: &Path, version: Option<&str>, json: bool) -> Result<()> {
    let wanted = |row: &Row| version.map_or(row.current, |version| row.version == version);
    let row = rows(store).into_iter().find(wanted);
    let what = || version.map_or("no version is in use".to_owned(), |version| format!("there is no version {version}"));
    let row = row.with_context(what)?;
    if json {
        return print_json(&row);
    }
    let mut text = format!("{}{}\n", row.version, if row.current { ", in use" } else { "" });
    text += &format!("weights  {}\n", row.weights_sha256.as_deref().unwrap_or("-"));
    row.metrics.iter().for_each(|(name, value)| text += &format!("{name}  {value:.3}\n"));
    for Lineage { job, base_sha256, from_step, data_fingerprint, .. } in &row.lineage {
        let base = base_sha256.as_deref().unwrap_or("chance");
        text += &format!("{job} from step {from_step}, began with {base}, on data {data_fingerprint}\n");
    }
    row.problem.iter().for_each(|problem| text += &format!("cannot be used: {problem}\n"));
    print_text(&text)
}

//! Plugins on the command line: opened in another process first, so that one that crashes is an error and not a crash.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use super::{print_json, print_text};
use crate::source::plugin::{PluginName, PluginSource, describe, probe};

/// The hidden command that opens a source and does nothing else.
pub(super) const PROBE: &str = "probe-plugin";

/// `wiremamba probe-plugin`
#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    /// The library
    path: PathBuf,
    /// Its configuration
    config: String,
}

pub(super) fn run(args: ProbeArgs) -> Result<()> {
    let ProbeArgs { path, config } = args;
    PluginSource::open(&PluginName { path, config })?;
    Ok(())
}

/// A plugin's source.
pub(super) fn open(name: &PluginName) -> Result<PluginSource> {
    probe(Command::new(std::env::current_exe()?).arg(PROBE), name)?;
    Ok(PluginSource::open(name)?)
}

/// `wiremamba inspect --plugin`
pub(super) fn inspect(name: &PluginName, json: bool) -> Result<()> {
    let about = describe(&name.path)?;
    if json {
        return print_json(&about);
    }
    let mut text = format!(
        "{}: a packet source\n  name      {}\n  interface version {}, a table of {} bytes\n",
        name.path.display(),
        about.name,
        about.abi_version,
        about.table_bytes
    );
    for option in &about.options {
        let default = option.default.as_ref().map_or_else(String::new, |default| format!(" [default: {default}]"));
        let required = if option.required { "; needed" } else { "" };
        text += &format!("  {:<18} {} ({}{required}){default}\n", option.key, option.help, option.kind);
    }
    print_text(&text)
}

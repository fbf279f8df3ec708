//! `wiremamba exec`: runs a program for which names of captures can be names of models.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use wiremamba_model::generate::OPTIONS;

/// The library that is preloaded, beside this program or where packages put it.
const LIBRARY: &str = "libwiremamba_pcap.so";
/// Where packages put it.
const PACKAGE_FOLDER: &str = "/usr/lib/wiremamba";

/// `wiremamba exec`
#[derive(Debug, Args)]
#[command(after_help = after_help())]
pub(super) struct ExecArgs {
    /// Model of names that have no model=; base is the one that comes with the program
    #[arg(long, value_name = "DIR", default_value = "/var/lib/wiremamba/models", value_parser = crate::job::model::folder)]
    model: PathBuf,
    /// The program and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

fn after_help() -> String {
    let keys: Vec<_> = OPTIONS.iter().map(|option| option.key).collect();
    format!(
        "\
Examples:
  wiremamba exec --model model -- tcpreplay -i tap0 --loop 3 wiremamba:label=web,flows=50
  wiremamba exec --model model -- ndpiReader -i 'wiremamba:label=dns;packets=1000'

A name is wiremamba: with key=value and commas between (or semicolons, for programs that split at commas): {}. \
Without flows and packets there are 100 flows. The same name is the same capture, however often it is opened. Programs that \
are statically linked, or run with more rights than their user, ignore preloads: give them a pipe, as in: wiremamba generate … \
-w - | tcpreplay -i tap0 -",
        keys.join(", ")
    )
}

pub(super) fn run(args: &ExecArgs) -> Result<()> {
    let program = std::env::current_exe()?;
    let beside = program.with_file_name(LIBRARY);
    let packaged = PathBuf::from(PACKAGE_FOLDER).join(LIBRARY);
    let Some(library) = [&beside, &packaged].into_iter().find(|path| path.is_file()) else {
        bail!("{LIBRARY} is neither at {} nor at {}", beside.display(), packaged.display());
    };
    let mut preload = library.clone().into_os_string();
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    let [name, rest @ ..] = args.command.as_slice() else { bail!("no program") };
    let model = std::path::absolute(&args.model)?;
    let mut command = Command::new(name);
    let error = command.args(rest).env("LD_PRELOAD", preload).env("WIREMAMBA_MODEL", model).exec();
    Err(error).with_context(|| format!("cannot run {}", name.display()))
}

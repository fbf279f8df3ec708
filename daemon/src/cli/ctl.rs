//! `wiremamba ctl`: tells the service what to do.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{print_json, print_text};
use crate::service::control::{Answer, Request, ask};

/// `wiremamba ctl`
#[derive(Debug, Args)]
pub(super) struct CtlArgs {
    /// Socket of the service, as its configuration has it
    #[arg(long, value_name = "PATH", default_value = "/run/wiremamba/control.sock", global = true)]
    socket: PathBuf,
    /// Print the service's status as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    request: Request,
}

pub(super) fn run(args: CtlArgs) -> Result<()> {
    let path = args.socket.display();
    let answer = ask(&args.socket, args.request).with_context(|| {
        format!("no answer at {path}: is the service running, with [control] in its configuration?")
    })?;
    match answer {
        Answer::Ok { status, .. } if args.json => print_json(&status),
        Answer::Ok { said, status } => print_text(&format!("{said}\n{}", status.text())),
        Answer::Error { reason } => bail!("{reason}"),
    }
}

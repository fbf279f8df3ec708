//! `wiremamba run`: the service.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use signal_hook::consts::{SIGHUP, SIGUSR1};

use super::{Context, Misuse, print_json, print_status};
use crate::service::config::{Config, ConfigError};
use crate::service::{Signals, run as serve, serve_opener};

/// `wiremamba run`
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Configuration file (TOML): interfaces, base model, store, how to learn
    #[arg(long, value_name = "FILE", default_value = "/etc/wiremamba/wiremamba.toml")]
    config: PathBuf,
    /// Print the status as JSON, an object a line
    #[arg(long)]
    json: bool,
}

/// `wiremamba open`
#[derive(Debug, Args)]
pub(super) struct OpenArgs {
    /// Configuration file (TOML) of the service, which has an [opener]
    #[arg(long, value_name = "FILE", default_value = "/etc/wiremamba/wiremamba.toml")]
    config: PathBuf,
}

pub(super) fn run(args: &RunArgs, context: &Context) -> Result<()> {
    let mut signals = Signals { stop: Arc::clone(&context.stop), ..Signals::default() };
    for (signal, flag) in [(SIGHUP, &mut signals.reload), (SIGUSR1, &mut signals.checkpoint)] {
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    serve(&args.config, &signals, |status| {
        if !args.json {
            print_status(&status.line());
        } else if let Err(error) = print_json(status) {
            tracing::debug!(%error, "status not written");
        }
    })
    .map_err(misuse)
}

pub(super) fn open(args: &OpenArgs, context: &Context) -> Result<()> {
    let config = Config::read(&args.config).map_err(|error| misuse(error.into()))?;
    serve_opener(&config, &context.stop)
}

/// A configuration that says what nobody understands is misuse; one that cannot be read is not.
fn misuse(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<ConfigError>() {
        None | Some(ConfigError::Read { .. }) => error,
        Some(wrong) => Misuse(wrong.to_string()).into(),
    }
}

//! `wiremamba run`: the service.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Context, Misuse, print_json, print_status};
use crate::service::config::{Config, ConfigError};
use crate::service::run as serve;

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

pub(super) fn run(args: RunArgs, context: &Context) -> Result<()> {
    let config = Config::read(&args.config).map_err(|error| match error {
        ConfigError::Read { .. } => anyhow::Error::new(error),
        wrong => Misuse(wrong.to_string()).into(),
    })?;
    serve(&config, &context.stop, |status| {
        if !args.json {
            print_status(&status.line());
        } else if let Err(error) = print_json(status) {
            tracing::debug!(%error, "status not written");
        }
    })
}

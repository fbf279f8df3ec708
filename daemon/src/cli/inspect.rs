//! `wiremamba inspect`: what is in a capture, a checkpoint, or the tokens of one flow.
use super::Context;
use anyhow::Result;
use clap::Args;
/// `wiremamba inspect`
#[derive(Debug, Args)]
pub(super) struct InspectArgs {}
pub(super) fn run(_args: InspectArgs, _context: &Context) -> Result<()> {
    Ok(())
}

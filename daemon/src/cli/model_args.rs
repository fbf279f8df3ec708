//! Arguments that several commands share: sizes, devices, how to sample.

use clap::ValueEnum;
use wiremamba_model::mamba::Preset;

/// `--preset`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PresetArg {
    /// 64 x 2: for tests
    Tiny,
    /// 256 x 8: trains usefully on two cores
    Small,
    /// 768 x 24: the NAIC '24 paper's
    Paper,
}

impl From<PresetArg> for Preset {
    fn from(arg: PresetArg) -> Self {
        match arg {
            PresetArg::Tiny => Preset::Tiny,
            PresetArg::Small => Preset::Small,
            PresetArg::Paper => Preset::Paper,
        }
    }
}

/// How packets become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CodecArg {
    /// What senders decide, relative to what was sent before; everything else is computed when rendered
    Wire,
    /// The NAIC '24 paper's: every byte of every packet, in decimal
    Bytes,
}

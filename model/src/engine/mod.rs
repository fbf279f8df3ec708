//! The engine: Mamba-1 forward and backward written out by hand over preallocated flat buffers.
//!
//! [`CpuEngine`] implements [`Mamba`](crate::mamba::Mamba) and is tied to the plain
//! [`Reference`](crate::mamba::Reference) by parity tests. Flat buffers make clipping, accumulation and AdamW one pass each,
//! memory known at the start, and a step deterministic: sums are cut at fixed places, never by the number of
//! threads.

mod choice;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod probe;

pub use choice::{EngineError, decoder, decoding_precision, learner, probe, training_precision};
pub use cpu::{CpuDecoder, CpuEngine, Isa};
pub use probe::DeviceProbe;

use serde::{Deserialize, Serialize};

/// How the weights of matrix products are held, and multiplied. Sums, norms, scans and master weights are f32 in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// The upper 16 bits of those: half the memory to read, 8 bits of mantissa.
    Bf16,
    /// 8 bits with a scale for each output: a quarter of the memory to read. For decoding only.
    Int8,
}

impl Precision {
    /// All of them, most exact first.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

    /// The fastest for decoding whose loss of quality cannot be told (`wiremamba bench quality` measures it): bf16 where the CPU
    /// multiplies such numbers, f32 elsewhere. int8 is for those who ask for it.
    pub fn for_decoding() -> Self {
        if cpu::kernels::decode::has_bf16_products() { Precision::Bf16 } else { Precision::F32 }
    }

    /// The name as given to `--precision`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }

    /// Reads a name; `None` for `auto`.
    ///
    /// # Errors
    /// With a text that names the precisions, when it is none of them.
    pub fn or_auto(name: &str) -> Result<Option<Self>, String> {
        match Self::ALL.into_iter().find(|precision| precision.name() == name) {
            None if name != "auto" => Err(format!("{name} is none of auto, f32, bf16 and int8")),
            found => Ok(found),
        }
    }
}

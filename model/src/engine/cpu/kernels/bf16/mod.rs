//! Matrix products over bf16 operands with f32 sums.
//!
//! A bf16 number is the upper half of an f32. Both operands are rounded to it (to nearest, ties to even) while they are laid
//! out, two neighbours along the inner dimension to a 32-bit word, which is what `vdpbf16ps` multiplies: sixteen pairs an
//! instruction, four times the work of an f32 one. Results, and all that is not a product, stay f32.
//!
//! [`pack`] lays out, [`micro`] multiplies one tile of registers, [`product`] walks the matrices in blocks that fit the
//! caches. The same code runs without the instruction, on AVX2 or on anything, to the same numbers but for the rounding of a
//! fused sum; it gains no time there.

mod micro;
mod pack;
mod product;
#[cfg(test)]
mod tests;

pub use pack::round_to_bf16;
pub use product::{Bf16Scratch, matmul_bf16};

use super::lanes::Isa;

/// What multiplies pairs of bf16 numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bf16Isa {
    /// `vdpbf16ps` on 16 lanes; needs AVX-512 F, BW, DQ, VL and BF16.
    Avx512Bf16,
    /// Halves widened to f32, 8 lanes; needs AVX2 and FMA.
    Avx2,
    /// One lane, any CPU: the plain one that the others are tested against.
    Scalar,
}

impl Bf16Isa {
    /// All of them, fastest first.
    pub const ALL: [Bf16Isa; 3] = [Bf16Isa::Avx512Bf16, Bf16Isa::Avx2, Bf16Isa::Scalar];

    /// The fastest that this CPU has, within `isa`.
    pub fn within(isa: Isa) -> Self {
        let allowed = match isa {
            Isa::Avx512 => &Self::ALL[..],
            Isa::Avx2 => &Self::ALL[1..],
            Isa::Scalar => &Self::ALL[2..],
        };
        allowed.iter().copied().find(|isa| isa.is_supported()).expect("scalar is always supported")
    }

    /// Whether this CPU has it.
    pub fn is_supported(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Bf16Isa::Avx512Bf16 => {
                Isa::Avx512.is_supported()
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Bf16Isa::Avx512Bf16 => false,
            Bf16Isa::Avx2 => Isa::Avx2.is_supported(),
            Bf16Isa::Scalar => true,
        }
    }

    /// Whether products are faster than f32 ones with it.
    pub fn is_fast(self) -> bool {
        self == Bf16Isa::Avx512Bf16
    }
}

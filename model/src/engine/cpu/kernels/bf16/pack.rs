//! From f32 matrices to words of two bf16 numbers, in the order in which the product reads them.
//!
//! The loops are plain; each is compiled for the instruction set in use, where it becomes vector code.

use super::Bf16Isa;
use crate::engine::cpu::kernels::shared::Shared;

/// `v` rounded to the nearest bf16 number, ties to even; a NaN stays a NaN.
pub fn round_to_bf16(v: f32) -> f32 {
    f32::from_bits(upper_half(v))
}

/// The bits of `v` rounded to bf16, lower half zero.
#[inline(always)]
fn upper_half(v: f32) -> u32 {
    let bits = v.to_bits();
    // Half of the last place that stays, and one less where that is even: a carry runs into the exponent as it should.
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    // A NaN would lose its mark, or run over into a zero.
    if bits & 0x7fff_ffff > 0x7f80_0000 { (bits | 0x0040_0000) & 0xffff_0000 } else { rounded }
}

/// Compiles a plain function for each instruction set and picks one at run time.
///
/// `compiled_for_each! { fn name(args...) = body }` makes `unsafe fn name(isa, args...)`: the CPU must have `isa`, and the
/// body's own conditions must hold.
macro_rules! compiled_for_each {
    ($(#[$doc:meta])* fn $name:ident $(<const $w:ident: usize>)? ($($arg:ident : $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        pub(super) unsafe fn $name $(<const $w: usize>)? (isa: Bf16Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,avx2")]
            unsafe fn avx512 $(<const $w: usize>)? ($($arg: $ty),*) {
                // SAFETY: handed on to the caller.
                unsafe { $body $(::<$w>)? ($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2 $(<const $w: usize>)? ($($arg: $ty),*) {
                // SAFETY: handed on to the caller.
                unsafe { $body $(::<$w>)? ($($arg),*) }
            }
            // SAFETY: the caller vouches for the instruction set and for the body's conditions.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    Bf16Isa::Avx512Bf16 => avx512 $(::<$w>)? ($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    Bf16Isa::Avx2 => avx2 $(::<$w>)? ($($arg),*),
                    _ => $body $(::<$w>)? ($($arg),*),
                }
            }
        }
    };
}

compiled_for_each! {
    /// Rounds a row: `ret` holds its pairs one behind the other, the last filled up with zero.
    fn round_row(row: &[f32], ret: &mut [u32]) = round_row_body
}

/// # Safety
/// None beyond the instruction set's.
#[inline(always)]
unsafe fn round_row_body(row: &[f32], ret: &mut [u32]) {
    assert_eq!(ret.len(), row.len().div_ceil(2), "pairs of a row");
    let (whole, rest) = row.as_chunks::<2>();
    for (to, [even, odd]) in ret.iter_mut().zip(whole) {
        *to = upper_half(*even) >> 16 | upper_half(*odd);
    }
    if let (Some(to), [even]) = (ret.last_mut(), rest) {
        *to = upper_half(*even) >> 16;
    }
}

/// Columns that are rounded before they are dealt out to panels: a few vector registers, and a multiple of no panel's width
/// in particular.
const STRIPE: usize = 192;

compiled_for_each! {
    /// Lays out two neighbours along the rows: word c of pair p is (row 2p, row 2p + 1) of column c. Panels of W columns,
    /// `panel_stride` words apart, have pair after pair; columns beyond the last are zero.
    ///
    /// `rows` begins at the first row of the first pair, rows are `row_stride` numbers apart; with an odd number of rows the
    /// last pair is filled up with zero.
    #[allow(clippy::too_many_arguments)]
    fn interleave<const W: usize>(
        rows: &[f32], row_stride: usize, row_count: usize, cols: usize, ret: Shared<u32>, at: usize, panel_stride: usize,
    ) = interleave_body
}

/// # Safety
/// `ret` has from `at` on, for each panel, room for the words of these pairs, which no other thread uses.
#[inline(always)]
unsafe fn interleave_body<const W: usize>(
    rows: &[f32],
    row_stride: usize,
    row_count: usize,
    cols: usize,
    ret: Shared<u32>,
    at: usize,
    panel_stride: usize,
) {
    const { assert!(STRIPE.is_multiple_of(W), "a stripe is whole panels") };
    let zeros = [0.0f32; STRIPE];
    for pair in 0..row_count.div_ceil(2) {
        let even = &rows[2 * pair * row_stride..][..cols];
        let odd = (2 * pair + 1 < row_count).then(|| &rows[(2 * pair + 1) * row_stride..][..cols]);
        for from in (0..cols).step_by(STRIPE) {
            let count = STRIPE.min(cols - from);
            let mut words = [0u32; STRIPE];
            let even = &even[from..from + count];
            let odd = odd.map_or(&zeros[..count], |odd| &odd[from..from + count]);
            for ((word, even), odd) in words.iter_mut().zip(even).zip(odd) {
                *word = upper_half(*even) >> 16 | upper_half(*odd);
            }
            let (panels, _) = words.as_chunks::<W>();
            for (i, panel) in panels.iter().take(count.div_ceil(W)).enumerate() {
                // SAFETY: within the room that the caller promises.
                unsafe {
                    let to = ret.at(at + (from / W + i) * panel_stride + pair * W);
                    std::ptr::copy_nonoverlapping(panel.as_ptr(), to, W);
                }
            }
        }
    }
}

compiled_for_each! {
    /// Lays out neighbours along the columns: word r of pair p is columns (2p, 2p + 1) of row r, for one panel of at most W
    /// rows; rows beyond the last are zero. `scratch` is as long as a row has pairs.
    fn transpose<const W: usize>(
        rows: &[f32], row_stride: usize, row_count: usize, cols: usize, scratch: &mut [u32], ret: &mut [u32],
    ) = transpose_body
}

/// # Safety
/// None beyond the instruction set's.
#[inline(always)]
unsafe fn transpose_body<const W: usize>(
    rows: &[f32],
    row_stride: usize,
    row_count: usize,
    cols: usize,
    scratch: &mut [u32],
    ret: &mut [u32],
) {
    let (panel, _) = ret.as_chunks_mut::<W>();
    for r in 0..W {
        if r < row_count {
            // SAFETY: no conditions.
            unsafe { round_row_body(&rows[r * row_stride..][..cols], scratch) };
            for (to, word) in panel.iter_mut().zip(scratch.iter()) {
                to[r] = *word;
            }
        } else {
            panel.iter_mut().for_each(|to| to[r] = 0);
        }
    }
}

//! What the lanes have to do beyond f32 arithmetic: read bf16 weights, and multiply 8-bit weights with 16-bit inputs.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::super::lanes::Lanes;
use super::lines::TILE;

/// Lanes that read weights of less than 32 bits.
///
/// # Safety
/// As for [`Lanes`]: call only on a CPU with the instruction set; pointers must be valid for what is said.
pub(super) unsafe trait Wide: Lanes {
    /// Whole numbers of 32 bits, one for each lane.
    type Sum: Copy;
    /// Pairs of 16-bit weights, one for each lane.
    type Pairs: Copy;

    /// The bf16 in the lower halves of `N` words at `p`.
    unsafe fn load_lower_halves(p: *const u32) -> Self;
    /// The bf16 in the upper halves.
    unsafe fn load_upper_halves(p: *const u32) -> Self;

    /// Zeros.
    unsafe fn no_sum() -> Self::Sum;
    /// Of the four 8-bit weights in each of `N` words at `p`: the first and the third, and the second and the fourth.
    unsafe fn load_quads(p: *const i8) -> (Self::Pairs, Self::Pairs);
    /// sum + w0 x0 + w1 x1 in each lane, with the same two inputs at `x` for all.
    unsafe fn multiply_pairs(sum: Self::Sum, w: Self::Pairs, x: *const i16) -> Self::Sum;
    /// The sums as numbers.
    unsafe fn from_sum(sum: Self::Sum) -> Self;
    /// Writes the 16 numbers at `from` times `factor`, rounded, in the order 0, 2, 1, 3 of each four.
    unsafe fn narrow_line(from: *const f32, factor: f32, to: *mut i16);
}

// SAFETY: plain arithmetic on one number.
unsafe impl Wide for f32 {
    type Sum = i32;
    type Pairs = [i32; 2];

    #[inline(always)]
    unsafe fn load_lower_halves(p: *const u32) -> Self {
        // SAFETY: valid by the trait's contract.
        f32::from_bits(unsafe { *p } << 16)
    }
    #[inline(always)]
    unsafe fn load_upper_halves(p: *const u32) -> Self {
        // SAFETY: valid by the trait's contract.
        f32::from_bits(unsafe { *p } & 0xffff_0000)
    }
    #[inline(always)]
    unsafe fn no_sum() -> i32 {
        0
    }
    #[inline(always)]
    unsafe fn load_quads(p: *const i8) -> ([i32; 2], [i32; 2]) {
        // SAFETY: four weights by the trait's contract.
        let w = unsafe { [*p, *p.add(1), *p.add(2), *p.add(3)] }.map(i32::from);
        ([w[0], w[2]], [w[1], w[3]])
    }
    #[inline(always)]
    unsafe fn multiply_pairs(sum: i32, w: [i32; 2], x: *const i16) -> i32 {
        // SAFETY: two inputs by the trait's contract.
        let x = unsafe { [*x, *x.add(1)] }.map(i32::from);
        sum.wrapping_add(w[0] * x[0]).wrapping_add(w[1] * x[1])
    }
    #[inline(always)]
    unsafe fn from_sum(sum: i32) -> Self {
        sum as f32
    }
    #[inline(always)]
    unsafe fn narrow_line(from: *const f32, factor: f32, to: *mut i16) {
        for i in 0..TILE {
            let place = [0, 2, 1, 3][i % 4] + i / 4 * 4;
            // SAFETY: sixteen of each by the trait's contract.
            unsafe { *to.add(place) = (*from.add(i) * factor).round_ties_even() as i16 };
        }
    }
}

#[cfg(target_arch = "x86_64")]
// SAFETY: loads are unaligned and touch 8 words; the rest is register arithmetic of AVX2.
unsafe impl Wide for __m256 {
    type Sum = __m256i;
    type Pairs = __m256i;

    #[inline(always)]
    unsafe fn load_lower_halves(p: *const u32) -> Self {
        // SAFETY: valid by the trait's contract.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_loadu_si256(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_upper_halves(p: *const u32) -> Self {
        // SAFETY: valid by the trait's contract.
        unsafe {
            let mask = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(p.cast()), mask))
        }
    }
    #[inline(always)]
    unsafe fn no_sum() -> __m256i {
        // SAFETY: register arithmetic.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn load_quads(p: *const i8) -> (__m256i, __m256i) {
        // SAFETY: 32 weights by the trait's contract.
        unsafe {
            let w = _mm256_loadu_si256(p.cast());
            (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)), _mm256_srai_epi16::<8>(w))
        }
    }
    #[inline(always)]
    unsafe fn multiply_pairs(sum: __m256i, w: __m256i, x: *const i16) -> __m256i {
        // SAFETY: two inputs by the trait's contract.
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            _mm256_add_epi32(sum, _mm256_madd_epi16(w, x))
        }
    }
    #[inline(always)]
    unsafe fn from_sum(sum: __m256i) -> Self {
        // SAFETY: register arithmetic.
        unsafe { _mm256_cvtepi32_ps(sum) }
    }
    #[inline(always)]
    unsafe fn narrow_line(from: *const f32, factor: f32, to: *mut i16) {
        // SAFETY: sixteen of each by the trait's contract.
        unsafe {
            let whole =
                |at: usize| _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from.add(at)), _mm256_set1_ps(factor)));
            // The packing works within halves of a register: put the quarters in order after it.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(whole(0), whole(8)));
            let order = _mm256_setr_epi8(
                0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14,
                15,
            );
            _mm256_storeu_si256(to.cast(), _mm256_shuffle_epi8(packed, order));
        }
    }
}

#[cfg(target_arch = "x86_64")]
// SAFETY: loads are unaligned and touch 16 words; the rest is register arithmetic of AVX-512 F, and of BW and VNNI in
// the methods on whole numbers, which only the kernel that asks for those calls.
unsafe impl Wide for __m512 {
    type Sum = __m512i;
    type Pairs = __m512i;

    #[inline(always)]
    unsafe fn load_lower_halves(p: *const u32) -> Self {
        // SAFETY: valid by the trait's contract.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_upper_halves(p: *const u32) -> Self {
        // SAFETY: valid by the trait's contract.
        unsafe {
            let mask = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p.cast()), mask))
        }
    }
    #[inline(always)]
    unsafe fn no_sum() -> __m512i {
        // SAFETY: register arithmetic.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn load_quads(p: *const i8) -> (__m512i, __m512i) {
        // SAFETY: 64 weights by the trait's contract.
        unsafe {
            let w = _mm512_loadu_si512(p.cast());
            (_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(w)), _mm512_srai_epi16::<8>(w))
        }
    }
    #[inline(always)]
    unsafe fn multiply_pairs(sum: __m512i, w: __m512i, x: *const i16) -> __m512i {
        // SAFETY: two inputs by the trait's contract.
        unsafe { _mm512_dpwssd_epi32(sum, w, _mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn from_sum(sum: __m512i) -> Self {
        // SAFETY: register arithmetic.
        unsafe { _mm512_cvtepi32_ps(sum) }
    }
    #[inline(always)]
    unsafe fn narrow_line(from: *const f32, factor: f32, to: *mut i16) {
        // SAFETY: sixteen of each by the trait's contract; a CPU with AVX-512 has AVX2.
        unsafe { <__m256 as Wide>::narrow_line(from, factor, to) }
    }
}

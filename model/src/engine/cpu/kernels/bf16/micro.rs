//! One tile of a product in registers: a few rows times two registers of columns.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::Bf16Isa;
use crate::engine::cpu::kernels::lanes::Lanes;

/// Words of two bf16 numbers that move together, beside the f32 lanes that sum their products.
///
/// # Safety
/// As for [`Lanes`]: only on a CPU that has the instruction set; loads touch `N` words, or one for `splat_pairs`.
pub(super) unsafe trait PairLanes: Lanes {
    type Pairs: Copy;
    unsafe fn load_pairs(p: *const u32) -> Self::Pairs;
    unsafe fn splat_pairs(p: *const u32) -> Self::Pairs;
    /// self + a.odd * b.odd + a.even * b.even, in this order.
    unsafe fn dot(self, a: Self::Pairs, b: Self::Pairs) -> Self;
}

// SAFETY: plain arithmetic on one word.
unsafe impl PairLanes for f32 {
    type Pairs = u32;
    #[inline(always)]
    unsafe fn load_pairs(p: *const u32) -> u32 {
        // SAFETY: valid by the trait's contract.
        unsafe { *p }
    }
    #[inline(always)]
    unsafe fn splat_pairs(p: *const u32) -> u32 {
        // SAFETY: valid by the trait's contract.
        unsafe { *p }
    }
    #[inline(always)]
    unsafe fn dot(self, a: u32, b: u32) -> f32 {
        let odd = |w: u32| f32::from_bits(w & 0xffff_0000);
        let even = |w: u32| f32::from_bits(w << 16);
        self + odd(a) * odd(b) + even(a) * even(b)
    }
}

#[cfg(target_arch = "x86_64")]
// SAFETY: unaligned loads of 8 words; the rest is register arithmetic.
unsafe impl PairLanes for __m256 {
    type Pairs = __m256i;
    #[inline(always)]
    unsafe fn load_pairs(p: *const u32) -> __m256i {
        // SAFETY: valid by the trait's contract.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat_pairs(p: *const u32) -> __m256i {
        // SAFETY: valid by the trait's contract.
        unsafe { _mm256_set1_epi32(*p as i32) }
    }
    #[inline(always)]
    unsafe fn dot(self, a: __m256i, b: __m256i) -> __m256 {
        // SAFETY: register arithmetic.
        unsafe {
            let mask = _mm256_set1_epi32(0xffff_0000u32 as i32);
            let odd = |w| _mm256_castsi256_ps(_mm256_and_si256(w, mask));
            let even = |w| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(w));
            _mm256_fmadd_ps(even(a), even(b), _mm256_fmadd_ps(odd(a), odd(b), self))
        }
    }
}

/// `__m512` with the bf16 instruction.
#[cfg(target_arch = "x86_64")]
// SAFETY: unaligned loads of 16 words; the rest is register arithmetic.
unsafe impl PairLanes for __m512 {
    type Pairs = __m512bh;
    #[inline(always)]
    unsafe fn load_pairs(p: *const u32) -> __m512bh {
        // SAFETY: valid by the trait's contract; both are 512 bits of any value.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(p.cast())) }
    }
    #[inline(always)]
    unsafe fn splat_pairs(p: *const u32) -> __m512bh {
        // SAFETY: valid by the trait's contract; both are 512 bits of any value.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(*p as i32)) }
    }
    #[inline(always)]
    unsafe fn dot(self, a: __m512bh, b: __m512bh) -> __m512 {
        // SAFETY: register arithmetic.
        unsafe { _mm512_dpbf16_ps(self, a, b) }
    }
}

/// A tile: `rows` rows of the left operand times `cols` columns of one panel of the right one.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// First word of the first row. A whole tile's rows are readable, whatever `rows` says.
    pub(super) left: *const u32,
    /// Words from a row to the next.
    pub(super) left_row: usize,
    /// Words from a pair to the next.
    pub(super) left_pair: usize,
    /// A panel of the right operand, pair after pair.
    pub(super) right: *const u32,
    /// Pairs to sum over.
    pub(super) pairs: usize,
    /// Where the first number of the result goes.
    pub(super) ret: *mut f32,
    /// Numbers from a row of the result to the next.
    pub(super) ret_row: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Whether the result has the products added, or becomes them.
    pub(super) accumulate: bool,
}

impl Bf16Isa {
    /// Rows of a tile: as many as leave room for two registers of columns and one of the row beside their sums.
    pub(super) const fn rows(self) -> usize {
        match self {
            Bf16Isa::Avx512Bf16 => 12,
            Bf16Isa::Avx2 => 6,
            Bf16Isa::Scalar => 4,
        }
    }

    /// Columns of a tile, and of a panel of the right operand: two registers.
    pub(super) const fn cols(self) -> usize {
        match self {
            Bf16Isa::Avx512Bf16 => 32,
            Bf16Isa::Avx2 => 16,
            Bf16Isa::Scalar => 2,
        }
    }
}

/// Multiplies one tile.
///
/// # Safety
/// The CPU has `isa`; a tile's rows and one panel are readable for `pairs` pairs; `rows` x `cols` numbers of the result,
/// at most a tile, are this thread's to write.
pub(super) unsafe fn multiply(isa: Bf16Isa, tile: Tile) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16,fma,avx2")]
    unsafe fn avx512(tile: Tile) {
        // SAFETY: handed on to the caller.
        unsafe { body::<__m512, { Bf16Isa::Avx512Bf16.rows() }>(tile) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(tile: Tile) {
        // SAFETY: handed on to the caller.
        unsafe { body::<__m256, { Bf16Isa::Avx2.rows() }>(tile) }
    }
    // SAFETY: the caller vouches for the instruction set and for the lengths.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Bf16Isa::Avx512Bf16 => avx512(tile),
            #[cfg(target_arch = "x86_64")]
            Bf16Isa::Avx2 => avx2(tile),
            _ => body::<f32, { Bf16Isa::Scalar.rows() }>(tile),
        }
    }
}

/// Numbers of the largest tile.
const TILE_MAX: usize = 12 * 32;

/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn body<V: PairLanes, const R: usize>(tile: Tile) {
    let row = tile.left_row;
    // SAFETY: the operands are readable by the caller's promise.
    unsafe {
        let mut sums = [[V::splat(0.0); 2]; R];
        // Several pointers, each for some rows: with one, the additions that lead from row to row would wait for one another
        // as long as the products take.
        let mut lefts = [tile.left, tile.left.add(R.div_ceil(3) * row), tile.left.add(2 * R.div_ceil(3) * row)];
        let mut right = tile.right;
        for _ in 0..tile.pairs {
            let (b0, b1) = (V::load_pairs(right), V::load_pairs(right.add(V::N)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let (group, r) = (r / R.div_ceil(3), r % R.div_ceil(3));
                let a = V::splat_pairs(lefts[group].add(r * row));
                sums[0] = sums[0].dot(a, b0);
                sums[1] = sums[1].dot(a, b1);
            }
            lefts = lefts.map(|left| left.add(tile.left_pair));
            right = right.add(2 * V::N);
        }
        // Through memory once: writing out straight from the registers, with its branches, makes the compiler keep them in
        // memory all along.
        let width = 2 * V::N;
        let mut lanes = [std::mem::MaybeUninit::<f32>::uninit(); TILE_MAX];
        let lanes: *mut f32 = lanes.as_mut_ptr().cast();
        for (r, sums) in sums.into_iter().enumerate() {
            sums[0].store(lanes.add(r * width));
            sums[1].store(lanes.add(r * width + V::N));
        }
        for r in 0..tile.rows {
            let (to, from) = (tile.ret.add(r * tile.ret_row), lanes.add(r * width));
            if tile.cols == width {
                for half in [0, V::N] {
                    let sum = V::load(from.add(half));
                    let sum = if tile.accumulate { sum.add(V::load(to.add(half))) } else { sum };
                    sum.store(to.add(half));
                }
            } else {
                for c in 0..tile.cols {
                    let before = if tile.accumulate { *to.add(c) } else { 0.0 };
                    *to.add(c) = before + *from.add(c);
                }
            }
        }
    }
}

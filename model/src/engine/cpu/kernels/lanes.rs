//! One abstraction over AVX-512, AVX2 and scalar arithmetic, and the functions built on it.
//!
//! A kernel is written once over [`Lanes`], `#[inline(always)]`, and compiled three times inside functions that
//! carry the right `#[target_feature]` (see [`isa_kernel`]). The scalar version is the plain one that the others are tested
//! against.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// An instruction set that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// 16 lanes; needs AVX-512 F and DQ.
    Avx512,
    /// 8 lanes; needs AVX2 and FMA.
    Avx2,
    /// One lane, any CPU.
    Scalar,
}

impl Isa {
    /// All of them, fastest first.
    pub const ALL: [Isa; 3] = [Isa::Avx512, Isa::Avx2, Isa::Scalar];

    /// The fastest that this CPU has.
    pub fn detect() -> Self {
        Self::ALL.into_iter().find(|isa| isa.is_supported()).expect("scalar is always supported")
    }

    /// Numbers in a register.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Isa::Avx512 => 16,
            Isa::Avx2 => 8,
            Isa::Scalar => 1,
        }
    }

    /// Whether this CPU has it.
    pub fn is_supported(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512 | Isa::Avx2 => false,
            Isa::Scalar => true,
        }
    }
}

/// `N` single-precision numbers that move together.
///
/// # Safety
/// Every method may use the instruction set of the implementing type: call them only on a CPU that has it. `load` and
/// `store` touch `N` consecutive numbers at the pointer, which must be valid; no alignment is needed.
pub(crate) unsafe trait Lanes: Copy {
    const N: usize;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn splat(v: f32) -> Self;
    unsafe fn add(self, o: Self) -> Self;
    unsafe fn sub(self, o: Self) -> Self;
    unsafe fn mul(self, o: Self) -> Self;
    unsafe fn div(self, o: Self) -> Self;
    unsafe fn max(self, o: Self) -> Self;
    unsafe fn min(self, o: Self) -> Self;
    unsafe fn abs(self) -> Self;
    /// self * m + a
    unsafe fn mul_add(self, m: Self, a: Self) -> Self;
    /// The sum of all lanes.
    unsafe fn sum(self) -> f32;
    /// The largest lane.
    unsafe fn largest(self) -> f32;
    /// The nearest whole number, and 2 to its power times `v`. Exact while the result is a normal number.
    unsafe fn round(self) -> Self;
    /// v * 2^whole for a whole number in [-126, 127].
    unsafe fn scale_by_power(v: Self, whole: Self) -> Self;
    /// 2^(self * m) for a product that is not positive, relative error below 3e-7; below 2^-125 something that is nothing.
    ///
    /// The scan's decay, of which there are `d_state` for each channel and token: with one sign only, and in the steps that
    /// each instruction set has for it, it takes two thirds of the instructions of [`exp2`].
    unsafe fn exp2_of_product(self, m: Self) -> Self;
}

/// Asks for the cache line of `p`, ahead of its use; a hint, so any address will do.
#[inline(always)]
pub(crate) fn prefetch(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has the instruction, and it never faults.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Asks for the cache line of `p` to come as near as the second-level cache; a hint, so any address will do.
#[inline(always)]
pub(crate) fn prefetch_second_level(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has the instruction, and it never faults.
    unsafe {
        _mm_prefetch::<_MM_HINT_T1>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Asks for the cache line of `p`, ahead of its being written; a hint, so any address will do.
#[inline(always)]
pub(crate) fn prefetch_to_write(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has the instruction, or takes it for none, and it never faults.
    unsafe {
        _mm_prefetch::<_MM_HINT_ET0>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Number of lanes' worth of the smallest exponent that `exp2` computes; below it the result is 2^-126, which is nothing.
const EXP2_MIN: f32 = -126.0;
/// The largest.
const EXP2_MAX: f32 = 126.0;

/// 2^x, relative error below 2e-7 between -126 and 126, clamped outside.
///
/// Rounds to a whole number and a rest in [-1/2, 1/2]; the rest by a polynomial of degree 5 fitted for least relative error
/// (9.2e-8).
#[inline(always)]
#[allow(clippy::approx_constant, reason = "a fitted coefficient is near ln 2, and not ln 2")]
pub(crate) unsafe fn exp2<V: Lanes>(x: V) -> V {
    // SAFETY: the caller has V's instruction set.
    unsafe {
        let x = x.max(V::splat(EXP2_MIN)).min(V::splat(EXP2_MAX));
        let whole = x.round();
        let r = x.sub(whole);
        let p = V::splat(0.001_326_472_6);
        let p = p.mul_add(r, V::splat(0.009_671_513));
        let p = p.mul_add(r, V::splat(0.055_507_337));
        let p = p.mul_add(r, V::splat(0.240_222_42));
        let p = p.mul_add(r, V::splat(0.693_147));
        let p = p.mul_add(r, V::splat(1.0));
        V::scale_by_power(p, whole)
    }
}

/// e^x, clamped like [`exp2`].
#[inline(always)]
pub(crate) unsafe fn exp<V: Lanes>(x: V) -> V {
    // SAFETY: the caller has V's instruction set.
    unsafe { exp2(x.mul(V::splat(std::f32::consts::LOG2_E))) }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) unsafe fn sigmoid<V: Lanes>(x: V) -> V {
    // SAFETY: the caller has V's instruction set.
    unsafe {
        let e = exp2(x.mul(V::splat(-std::f32::consts::LOG2_E)));
        V::splat(1.0).div(V::splat(1.0).add(e))
    }
}

/// ln(1 + e^x) as max(x, 0) + ln(1 + e^-|x|); relative error below 4e-7, also where the result is tiny.
///
/// ln(1 + e) = e P(e) on [0, 1] with P of degree 8 fitted for least relative error (3.3e-8).
#[inline(always)]
pub(crate) unsafe fn softplus<V: Lanes>(x: V) -> V {
    // SAFETY: the caller has V's instruction set.
    unsafe {
        let e = exp2(x.abs().mul(V::splat(-std::f32::consts::LOG2_E)));
        let p = V::splat(0.005_364_795);
        let p = p.mul_add(e, V::splat(-0.030_065_674));
        let p = p.mul_add(e, V::splat(0.079_204_34));
        let p = p.mul_add(e, V::splat(-0.137_537_86));
        let p = p.mul_add(e, V::splat(0.191_536_47));
        let p = p.mul_add(e, V::splat(-0.248_571_62));
        let p = p.mul_add(e, V::splat(0.333_213_2));
        let p = p.mul_add(e, V::splat(-0.499_996_48));
        let p = p.mul_add(e, V::splat(1.0));
        p.mul_add(e, x.max(V::splat(0.0)))
    }
}

// SAFETY: plain arithmetic; load and store are one number.
unsafe impl Lanes for f32 {
    const N: usize = 1;
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: valid by the trait's contract.
        unsafe { *p }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: valid by the trait's contract.
        unsafe { *p = self }
    }
    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        v
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        self + o
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        self - o
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        self * o
    }
    #[inline(always)]
    unsafe fn div(self, o: Self) -> Self {
        self / o
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        if self > o { self } else { o }
    }
    #[inline(always)]
    unsafe fn min(self, o: Self) -> Self {
        if self < o { self } else { o }
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        f32::abs(self)
    }
    #[inline(always)]
    unsafe fn mul_add(self, m: Self, a: Self) -> Self {
        // Not `f32::mul_add`: without the FMA instruction that is a library call.
        self * m + a
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        f32::round_ties_even(self)
    }
    #[inline(always)]
    unsafe fn scale_by_power(v: Self, whole: Self) -> Self {
        v * f32::from_bits(((whole as i32 + 127) << 23) as u32)
    }
    #[inline(always)]
    unsafe fn exp2_of_product(self, m: Self) -> Self {
        // SAFETY: plain arithmetic.
        unsafe { exp2(self * m) }
    }
}

/// Writes the methods that are one intrinsic each.
#[cfg(target_arch = "x86_64")]
macro_rules! one_intrinsic_each {
    ($($name:ident ( $($arg:ident),* ) = $intrinsic:ident;)*) => {
        $(#[inline(always)]
        unsafe fn $name(self, $($arg: Self),*) -> Self {
            // SAFETY: register arithmetic; the caller has the instruction set by the trait's contract.
            unsafe { $intrinsic(self, $($arg),*) }
        })*
    };
}

#[cfg(target_arch = "x86_64")]
// SAFETY: load and store are unaligned and touch 16 numbers; the rest is register arithmetic.
unsafe impl Lanes for __m512 {
    const N: usize = 16;
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: valid by the trait's contract.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: valid by the trait's contract.
        unsafe { _mm512_storeu_ps(p, self) }
    }
    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        // SAFETY: register arithmetic.
        unsafe { _mm512_set1_ps(v) }
    }
    one_intrinsic_each! {
        add(o) = _mm512_add_ps;
        sub(o) = _mm512_sub_ps;
        mul(o) = _mm512_mul_ps;
        div(o) = _mm512_div_ps;
        max(o) = _mm512_max_ps;
        min(o) = _mm512_min_ps;
        abs() = _mm512_abs_ps;
        mul_add(m, a) = _mm512_fmadd_ps;
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: register arithmetic.
        unsafe { _mm512_reduce_add_ps(self) }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: register arithmetic.
        unsafe { _mm512_reduce_max_ps(self) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: register arithmetic.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self) }
    }
    #[inline(always)]
    unsafe fn scale_by_power(v: Self, whole: Self) -> Self {
        // SAFETY: register arithmetic.
        unsafe { _mm512_scalef_ps(v, whole) }
    }
    #[inline(always)]
    #[allow(clippy::approx_constant, reason = "a fitted coefficient is near the root of a half, and not it")]
    unsafe fn exp2_of_product(self, m: Self) -> Self {
        // With y = x + 1/2, 2^x is 2^floor(y) times 2^(f - 1/2), f the rest of y in [0, 1): one instruction gives f, one floors
        // y and scales by its power. The polynomial is fitted for least relative error (7.5e-8).
        // SAFETY: register arithmetic.
        unsafe {
            let y = self.mul_add(m, Self::splat(0.5));
            let f = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(y);
            let p = Self::splat(0.001_327_647_1);
            let p = p.mul_add(f, Self::splat(0.006_356_423_7));
            let p = p.mul_add(f, Self::splat(0.039_475_17));
            let p = p.mul_add(f, Self::splat(0.169_814_26));
            let p = p.mul_add(f, Self::splat(0.490_133_23));
            let p = p.mul_add(f, Self::splat(0.707_106_7));
            _mm512_scalef_ps(p, y)
        }
    }
}

#[cfg(target_arch = "x86_64")]
// SAFETY: load and store are unaligned and touch 8 numbers; the rest is register arithmetic.
unsafe impl Lanes for __m256 {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: valid by the trait's contract.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: valid by the trait's contract.
        unsafe { _mm256_storeu_ps(p, self) }
    }
    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        // SAFETY: register arithmetic.
        unsafe { _mm256_set1_ps(v) }
    }
    one_intrinsic_each! {
        add(o) = _mm256_add_ps;
        sub(o) = _mm256_sub_ps;
        mul(o) = _mm256_mul_ps;
        div(o) = _mm256_div_ps;
        max(o) = _mm256_max_ps;
        min(o) = _mm256_min_ps;
        mul_add(m, a) = _mm256_fmadd_ps;
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        // SAFETY: register arithmetic.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self) }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: register arithmetic.
        unsafe {
            let s = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let s = _mm_add_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps::<1>(s, s)))
        }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: register arithmetic.
        unsafe {
            let s = _mm_max_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let s = _mm_max_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps::<1>(s, s)))
        }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: register arithmetic.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self) }
    }
    #[inline(always)]
    unsafe fn scale_by_power(v: Self, whole: Self) -> Self {
        // SAFETY: register arithmetic.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
            _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }
    #[inline(always)]
    #[allow(clippy::approx_constant, reason = "a fitted coefficient is near ln 2, and not ln 2")]
    unsafe fn exp2_of_product(self, m: Self) -> Self {
        // Beside 1.5 * 2^23 a number loses its fraction, and its whole part stands in the lowest bits: shifted to the exponent's
        // place they are added to the polynomial's bits, which multiplies it by that power of two. The polynomial is
        // that of `exp2`.
        // SAFETY: register arithmetic.
        unsafe {
            let x = self.mul(m).max(Self::splat(EXP2_MIN + 1.0));
            let shifted = x.add(Self::splat(12_582_912.0));
            let r = x.sub(shifted.sub(Self::splat(12_582_912.0)));
            let p = Self::splat(0.001_326_472_6);
            let p = p.mul_add(r, Self::splat(0.009_671_513));
            let p = p.mul_add(r, Self::splat(0.055_507_337));
            let p = p.mul_add(r, Self::splat(0.240_222_42));
            let p = p.mul_add(r, Self::splat(0.693_147));
            let p = p.mul_add(r, Self::splat(1.0));
            let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), power))
        }
    }
}

/// Compiles a kernel body, generic over [`Lanes`], for each instruction set, and picks one at run time.
///
/// `isa_kernel! { fn name<const S: usize>(args: &Args, ...) = body }` makes `unsafe fn name(isa, args, ...)`. It is
/// unsafe because the CPU must have `isa` and the body's own conditions must hold.
macro_rules! isa_kernel {
    ($(#[$doc:meta])* $vis:vis fn $name:ident $(<const $s:ident: usize>)? ($($arg:ident : $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        $vis unsafe fn $name $(<const $s: usize>)? (isa: $crate::engine::cpu::kernels::Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512dq,fma,avx2")]
            unsafe fn avx512 $(<const $s: usize>)? ($($arg: $ty),*) {
                // SAFETY: handed on to the caller.
                unsafe { $body::<std::arch::x86_64::__m512 $(, $s)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2 $(<const $s: usize>)? ($($arg: $ty),*) {
                // SAFETY: handed on to the caller.
                unsafe { $body::<std::arch::x86_64::__m256 $(, $s)?>($($arg),*) }
            }
            // SAFETY: the caller vouches for the instruction set and for the body's conditions.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    $crate::engine::cpu::kernels::Isa::Avx512 => avx512 $(::<$s>)? ($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::engine::cpu::kernels::Isa::Avx2 => avx2 $(::<$s>)? ($($arg),*),
                    _ => $body::<f32 $(, $s)?>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use isa_kernel;

/// Calls a function generic over [`Lanes`] for whole registers of a range, then for the rest one by one.
///
/// `over_lanes!(V, c in range => f::<_, S>(args, c))` calls `f::<V, S>` and `f::<f32, S>`: the first `_` stands for the type.
macro_rules! over_lanes {
    ($v:ident, $c:ident in $range:expr => $f:ident :: < _ $(, $s:ident)? > ($($arg:expr),* $(,)?)) => {{
        let range = $range;
        let mut $c = range.start;
        while $c + $v::N <= range.end {
            $f::<$v $(, $s)?>($($arg),*);
            $c += $v::N;
        }
        while $c < range.end {
            $f::<f32 $(, $s)?>($($arg),*);
            $c += 1;
        }
    }};
}
pub(crate) use over_lanes;

#[cfg(test)]
mod tests {
    use super::*;

    isa_kernel! { fn decays(dt: &[f32], a2: &[f32], ret: &mut [f32]) = decays_body }

    /// # Safety
    /// The three are equally long, a multiple of 16.
    #[inline(always)]
    unsafe fn decays_body<V: Lanes>(dt: &[f32], a2: &[f32], ret: &mut [f32]) {
        for i in (0..dt.len()).step_by(V::N) {
            // SAFETY: inside the slices by the caller's promise.
            unsafe {
                let e = V::load(dt.as_ptr().add(i)).exp2_of_product(V::load(a2.as_ptr().add(i)));
                e.store(ret.as_mut_ptr().add(i));
            }
        }
    }

    #[test]
    fn the_scans_decay_is_a_power_of_two_on_every_instruction_set() {
        // dt from 0 and nearly nothing to 30, A log2(e) from -0.001 to -40.
        let dt: Vec<f32> = (0..4096).map(|i| if i == 0 { 0.0 } else { 1e-6 * 1.0042f32.powi(i) }).collect();
        let a2: Vec<f32> = (0..4096).map(|i| -0.001 * 1.0116f32.powi(i * 37 % 911)).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            let mut ret = vec![0.0; dt.len()];
            // SAFETY: support was checked, and the lengths are equal and a multiple of 16.
            unsafe { decays(isa, &dt, &a2, &mut ret) };
            for ((dt, a2), e) in dt.iter().zip(&a2).zip(&ret) {
                // The product as f32 has it: its rounding is the argument's, not the function's.
                let x = f64::from(dt * a2);
                if x < -125.0 {
                    assert!((0.0..3e-38).contains(e), "{isa:?} 2^{x}: {e}");
                } else {
                    let error = (f64::from(*e) / x.exp2() - 1.0).abs();
                    // Beside the polynomial's error an argument of this size is known to half a last place.
                    assert!(error < 3e-7 + 6e-8 * x.abs(), "{isa:?} 2^{x}: {error:e}");
                }
            }
        }
    }
}

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

// What CUDA C++ has and C++ has not, for compiling the product's kernels with g++.
//
// Every kernel source is compiled with this header included before its first line. A CUDA thread is a fiber of the
// emulated machine (machine.h); barriers and warp operations are calls into it. Sources are plain CUDA with one rule:
// dynamic shared memory is named through DYNAMIC_SHARED(type, name), which the sources define for nvcc when this
// header has not. There is no atomicAdd on float: the order of its sums is not fixed, so no kernel may use it.
//
// EMULATED_CUDA is defined, and __CUDA_ARCH__ is not: code in PTX needs a plain twin.
#pragma once

#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "vectors.h"

#include "../machine.h"

#define EMULATED_CUDA 1

#ifndef EMULATED_LISTING // The listing pass looks for these words (build.sh).
#define __global__
#define __launch_bounds__(...)
#endif
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
// One block at a time runs on a thread of the operating system.
#define __shared__ static thread_local
#define DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(emulated_dynamic_shared())

#define threadIdx (emulated_current->index)
#define blockIdx (emulated_current->block->index)
#define blockDim (emulated_current->block->block_dim)
#define gridDim (emulated_current->block->grid_dim)
constexpr int warpSize = 32;

// Barriers.

static inline void __syncthreads() { emulated_block_barrier(0); }
static inline int __syncthreads_count(int p) { return emulated_block_barrier(p != 0); }
static inline int __syncthreads_or(int p) { return emulated_block_barrier(p != 0) != 0; }
static inline int __syncthreads_and(int p) { return emulated_block_barrier(p == 0) == 0; }
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// Operations of a warp.

static inline void __syncwarp(unsigned mask = 0xffffffffu) { emulated_warp(emulated::WarpOp::sync, mask, 0, 0, 32); }
static inline unsigned __ballot_sync(unsigned mask, int p) {
    return static_cast<unsigned>(emulated_warp(emulated::WarpOp::ballot, mask, p != 0, 0, 32));
}
static inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
static inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, p == 0) == 0; }

namespace emulated {
template <class T> inline T shuffle(WarpOp op, unsigned mask, T value, int arg, int width) {
    static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = emulated_warp(op, mask, bits, arg, width);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
} // namespace emulated

#define EMULATED_SHUFFLES(T)                                                                                           \
    static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {                                    \
        return emulated::shuffle(emulated::WarpOp::shuffle, mask, value, lane, width);                                 \
    }                                                                                                                  \
    static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {                           \
        return emulated::shuffle(emulated::WarpOp::shuffle_up, mask, value, static_cast<int>(delta), width);           \
    }                                                                                                                  \
    static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {                         \
        return emulated::shuffle(emulated::WarpOp::shuffle_down, mask, value, static_cast<int>(delta), width);         \
    }                                                                                                                  \
    static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {                               \
        return emulated::shuffle(emulated::WarpOp::shuffle_xor, mask, value, lanes, width);                            \
    }
EMULATED_SHUFFLES(int)
EMULATED_SHUFFLES(unsigned)
EMULATED_SHUFFLES(long long)
EMULATED_SHUFFLES(unsigned long long)
EMULATED_SHUFFLES(long)
EMULATED_SHUFFLES(unsigned long)
EMULATED_SHUFFLES(float)
EMULATED_SHUFFLES(double)

#define EMULATED_REDUCTION(T, name, op)                                                                                \
    static inline T name(unsigned mask, T value) {                                                                     \
        return static_cast<T>(emulated_warp(emulated::WarpOp::op, mask, static_cast<uint64_t>(value), 0, 32));         \
    }
EMULATED_REDUCTION(unsigned, __reduce_add_sync, add)
EMULATED_REDUCTION(int, __reduce_add_sync, add)
EMULATED_REDUCTION(unsigned, __reduce_max_sync, max_unsigned)
EMULATED_REDUCTION(int, __reduce_max_sync, max_signed)
EMULATED_REDUCTION(unsigned, __reduce_min_sync, min_unsigned)
EMULATED_REDUCTION(int, __reduce_min_sync, min_signed)
EMULATED_REDUCTION(unsigned, __reduce_or_sync, bit_or)
EMULATED_REDUCTION(unsigned, __reduce_and_sync, bit_and)

// Atomics: integers only.

#define EMULATED_ATOMICS(T)                                                                                            \
    static inline T atomicAdd(T *p, T v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }    \
    static inline T atomicSub(T *p, T v) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }    \
    static inline T atomicOr(T *p, T v) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }      \
    static inline T atomicAnd(T *p, T v) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }    \
    static inline T atomicXor(T *p, T v) { return __atomic_fetch_xor(p, v, __ATOMIC_SEQ_CST); }    \
    static inline T atomicExch(T *p, T v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }  \
    static inline T atomicCAS(T *p, T expected, T v) {                                                                 \
        __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                       \
        return expected;                                                                                               \
    }                                                                                                                  \
    static inline T atomicMax(T *p, T v) {                                                                             \
        T old = __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                                  \
        while (old < v && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {       \
        }                                                                                                              \
        return old;                                                                                                    \
    }                                                                                                                  \
    static inline T atomicMin(T *p, T v) {                                                                             \
        T old = __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                                  \
        while (old > v && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {       \
        }                                                                                                              \
        return old;                                                                                                    \
    }
EMULATED_ATOMICS(int)
EMULATED_ATOMICS(unsigned)
EMULATED_ATOMICS(unsigned long long)

// Bits and integers.

namespace emulated {
template <class To, class From> inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
} // namespace emulated
static inline unsigned __float_as_uint(float x) { return emulated::bits_as<unsigned>(x); }
static inline int __float_as_int(float x) { return emulated::bits_as<int>(x); }
static inline float __uint_as_float(unsigned x) { return emulated::bits_as<float>(x); }
static inline float __int_as_float(int x) { return emulated::bits_as<float>(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
static inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r = (r << 1) | ((x >> i) & 1);
    return r;
}
static inline unsigned long long __brevll(unsigned long long x) {
    return (static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32) | __brev(static_cast<unsigned>(x >> 32));
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
static inline int __mulhi(int a, int b) { return static_cast<int>((static_cast<long long>(a) * b) >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    shift &= 31;
    return shift == 0 ? high : (high << shift) | (low >> (32 - shift));
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    shift &= 31;
    return shift == 0 ? low : (low >> shift) | (high << (32 - shift));
}

static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline unsigned min(int a, unsigned b) { return min(static_cast<unsigned>(a), b); }
static inline unsigned max(int a, unsigned b) { return max(static_cast<unsigned>(a), b); }
static inline unsigned min(unsigned a, int b) { return min(a, static_cast<unsigned>(b)); }
static inline unsigned max(unsigned a, int b) { return max(a, static_cast<unsigned>(b)); }
static inline long min(long a, long b) { return a < b ? a : b; }
static inline long max(long a, long b) { return a > b ? a : b; }
static inline unsigned long min(unsigned long a, unsigned long b) { return a < b ? a : b; }
static inline unsigned long max(unsigned long a, unsigned long b) { return a > b ? a : b; }
static inline long long min(long long a, long long b) { return a < b ? a : b; }
static inline long long max(long long a, long long b) { return a > b ? a : b; }
static inline unsigned long long min(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
static inline unsigned long long max(unsigned long long a, unsigned long long b) { return a > b ? a : b; }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }

// Arithmetic. The fast versions are computed to full precision here. Some are macros, since the C library has declared
// functions of these names.

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
#define __expf(x) expf(x)
#define __exp2f(x) exp2f(x)
#define __exp10f(x) powf(10.0f, x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanhf(x) tanhf(x)
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
static inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
// An addition and a product that must not be contracted into one operation.
static inline float __fadd_rn(float a, float b) {
    float r = a + b;
    __asm__("" : "+x"(r));
    return r;
}
static inline float __fsub_rn(float a, float b) { return __fadd_rn(a, -b); }
static inline float __fmul_rn(float a, float b) {
    float r = a * b;
    __asm__("" : "+x"(r));
    return r;
}
namespace emulated {
// Casts of the GPU saturate, and make 0 of what is no number.
inline int saturated_int(float x) {
    if (!(x == x)) return 0;
    if (x >= 2147483648.0f) return INT32_MAX;
    if (x < -2147483648.0f) return INT32_MIN;
    return static_cast<int>(x);
}
} // namespace emulated
static inline int __float2int_rn(float x) { return emulated::saturated_int(rintf(x)); }
static inline int __float2int_rz(float x) { return emulated::saturated_int(truncf(x)); }
static inline int __float2int_rd(float x) { return emulated::saturated_int(floorf(x)); }
static inline int __float2int_ru(float x) { return emulated::saturated_int(ceilf(x)); }
static inline float __int2float_rn(int x) { return static_cast<float>(x); }
static inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

// Loads and stores with hints.

template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T __ldcs(const T *p) { return *p; }
template <class T> static inline T __ldcg(const T *p) { return *p; }
template <class T> static inline T __ldca(const T *p) { return *p; }
template <class T> static inline T __ldlu(const T *p) { return *p; }
template <class T> static inline void __stcs(T *p, T v) { *p = v; }
template <class T> static inline void __stcg(T *p, T v) { *p = v; }
template <class T> static inline void __stwb(T *p, T v) { *p = v; }
template <class T> static inline void __stwt(T *p, T v) { *p = v; }

static inline void __trap() { emulated_fail("__trap() was reached"); }
static inline void __nanosleep(unsigned) {}

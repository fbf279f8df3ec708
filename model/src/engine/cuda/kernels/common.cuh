// What the kernels share: number types, conversions, sums over a warp or a block in a fixed order.
//
// Activations are of a type T, f32 or bf16; states, sums, norms, gradients of parameters and losses are f32 or f64.
// No kernel adds with float atomics: the same inputs give the same bits.
#pragma once
#include <cuda_bf16.h>

typedef __nv_bfloat16 bf16;

#define WARP 32
#define FULL_WARP 0xffffffffu
#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void store(float *to, float x) { *to = x; }
__device__ __forceinline__ void store(bf16 *to, float x) { *to = __float2bfloat16(x); }

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

// log(1 + exp(x)) without overflow; for large x it is x.
__device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : log1pf(__expf(x)); }

// The sum over a warp, in every lane.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_WARP, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, offset));
    return x;
}

// The sum (or maximum) over a block of up to 32 warps, in every thread; `scratch` holds 32 floats.
template <bool IS_MAX> __device__ __forceinline__ float block_reduce(float x, float *scratch) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x = IS_MAX ? warp_max(x) : warp_sum(x);
    __syncthreads(); // whoever used `scratch` before has read it
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = lane < warps ? scratch[lane] : (IS_MAX ? -INFINITY : 0.0f);
    return IS_MAX ? warp_max(x) : warp_sum(x);
}

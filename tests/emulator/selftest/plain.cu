// Kernels without fault, for the test of the emulator itself.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

constexpr int THREADS = 256;

// out[i] = a x[i] + y[i]; no thread waits for another.
extern "C" __global__ void saxpy(float a, const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = fmaf(a, x[i], y[i]);
}

// One sum a block: shuffles within the warps, shared memory between them.
extern "C" __global__ void __launch_bounds__(THREADS) sum(const float *x, float *out, int n) {
    __shared__ float partial[THREADS / 32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float s = 0;
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < n; i += gridDim.x * THREADS) s += x[i];
#pragma unroll
    for (int delta = 16; delta > 0; delta /= 2) s += __shfl_down_sync(0xffffffffu, s, delta);
    if (lane == 0) partial[warp] = s;
    __syncthreads();
    if (warp == 0) {
        s = lane < THREADS / 32 ? partial[lane] : 0.0f;
        for (int delta = 16; delta > 0; delta /= 2) s += __shfl_xor_sync(0xffffffffu, s, delta);
        if (lane == 0) out[blockIdx.x] = s;
    }
}

// The transposed matrix, by tiles in dynamic shared memory, over a grid of two dimensions.
extern "C" __global__ void transpose(const float *in, float *out, int rows, int columns) {
    DYNAMIC_SHARED(float, tile);
    int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    if (x < columns && y < rows) tile[threadIdx.y * 33 + threadIdx.x] = in[y * columns + x];
    __syncthreads();
    int tx = blockIdx.y * 32 + threadIdx.x, ty = blockIdx.x * 32 + threadIdx.y;
    if (tx < rows && ty < columns) out[ty * rows + tx] = tile[threadIdx.x * 33 + threadIdx.y];
}

struct Pair {
    float scale;
    int count;
};

// Everything at once: a struct as argument, bfloat16 in pairs, votes, atomics, vectors. out[0..4]:
// pairs above 0, lanes voted for, the greatest index, the bits of bf16(scale).
extern "C" __global__ void mixed(Pair pair, const __nv_bfloat162 *x, unsigned *out, float4 *vectors) {
    int i = threadIdx.x;
    float2 v = __bfloat1622float2(x[i]);
    unsigned above = __ballot_sync(0xffffffffu, v.x + v.y > 0);
    if (i % 32 == 0) atomicAdd(&out[0], static_cast<unsigned>(__popc(above)));
    if (__any_sync(0xffffffffu, i == pair.count) && i % 32 == 0) out[1] = i / 32;
    atomicMax(&out[2], static_cast<unsigned>(i));
    if (i == 0) out[3] = __bfloat16_as_ushort(__float2bfloat16_rn(pair.scale));
    vectors[i] = make_float4(v.x, v.y, v.x * pair.scale, static_cast<float>(__syncthreads_count(v.x > 0)));
}

// A prefix sum within segments of 8 lanes.
extern "C" __global__ void segments(const int *in, int *out) {
    int value = in[threadIdx.x];
    for (int delta = 1; delta < 8; delta *= 2) {
        int before = __shfl_up_sync(0xffffffffu, value, delta, 8);
        if (threadIdx.x % 8 >= static_cast<unsigned>(delta)) value += before;
    }
    out[threadIdx.x] = value;
}

// Exchanges within a warp and within halves of it through shared memory, byte by byte too; blocks share an atomic counter.
extern "C" __global__ void exchanges(int *out, unsigned *counter) {
    __shared__ int line[64];
    __shared__ unsigned char bytes[64];
    int i = threadIdx.x, warp = i / 32 * 32, half = i / 16 * 16;
    unsigned lanes = 0xffffu << (half - warp);
    line[i] = i;
    bytes[i] = static_cast<unsigned char>(i);
    __syncwarp();
    int other = line[warp + (31 - i % 32)] + bytes[warp + (i + 1) % 32];
    __syncwarp();
    line[i] = other;
    __syncwarp(lanes);
    out[blockIdx.x * 64 + i] = line[half + (15 - i % 16)];
    if (i == 0) atomicAdd(counter, 1u);
}

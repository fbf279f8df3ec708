// Kernels with one fault each: what the emulator has to find.
#include <cuda_runtime.h>

// The barrier between the write and the read is missing.
extern "C" __global__ void no_barrier(const float *in, float *out) {
    __shared__ float line[64];
    line[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = line[63 - threadIdx.x];
}

// The barrier before the next round's write is missing.
extern "C" __global__ void no_second_barrier(float *out) {
    __shared__ float first;
    float sum = 0;
    for (int i = 0; i < 3; i++) {
        if (threadIdx.x == static_cast<unsigned>(i)) first = static_cast<float>(i + 1);
        __syncthreads();
        sum += first;
    }
    out[threadIdx.x] = sum;
}

// Blocks write to one place.
extern "C" __global__ void blocks_collide(float *out) {
    if (threadIdx.x == 0) out[0] = static_cast<float>(blockIdx.x);
}

extern "C" __global__ void reads_behind(const float *in, float *out, int n) { out[threadIdx.x] = in[threadIdx.x + n]; }

extern "C" __global__ void writes_before(float *out) { out[static_cast<int>(threadIdx.x) - 2000] = 1; }

extern "C" __global__ void index_outside(float *out, int i) {
    __shared__ float line[8];
    line[threadIdx.x] = 0;
    __syncthreads();
    out[threadIdx.x] = line[threadIdx.x + i];
}

extern "C" __global__ void misaligned(const float *in, float *out) {
    float4 v = *reinterpret_cast<const float4 *>(in + 1);
    out[threadIdx.x] = v.x;
}

// Half of the threads leave before the barrier.
extern "C" __global__ void divergent(float *out) {
    if (threadIdx.x >= blockDim.x / 2) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}

// A whole warp is named, half of it comes.
extern "C" __global__ void half_a_warp(float *out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1.0f, 1);
    else out[threadIdx.x] = 0;
}

// Lanes wait for each other in different operations.
extern "C" __global__ void different_operations(float *out) {
    float v;
    if (threadIdx.x < 16) v = __shfl_sync(0xffffffffu, 1.0f, 0);
    else v = static_cast<float>(__ballot_sync(0xffffffffu, 1));
    out[threadIdx.x] = v;
}

// Shared memory is read and nobody wrote it: NaN.
extern "C" __global__ void unwritten(float *out) {
    __shared__ float line[32];
    if (threadIdx.x != 7) line[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = line[threadIdx.x];
}

// Shuffles order no memory: the barrier of the warp is missing.
extern "C" __global__ void shuffle_is_no_barrier(float *out) {
    __shared__ float line[32];
    line[threadIdx.x] = 1;
    float one = __shfl_sync(0xffffffffu, 1.0f, 0);
    out[threadIdx.x] = one + line[31 - threadIdx.x];
}

// As above, for blocks: what one writes another reads.
extern "C" __global__ void blocks_peek(float *out) {
    if (threadIdx.x == 0) out[blockIdx.x] = out[(blockIdx.x + 1) % gridDim.x] + 1;
}

// Bytes beside each other have an owner each; the last is written by two.
extern "C" __global__ void bytes_collide(float *out) {
    __shared__ unsigned char line[32];
    line[threadIdx.x == 31 ? 30 : threadIdx.x] = 1;
    __syncthreads();
    if (threadIdx.x < 30) out[threadIdx.x] = line[threadIdx.x];
}

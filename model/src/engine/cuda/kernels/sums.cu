// Sums in a fixed order, and conversions.
#include "common.cuh"

#define SUM_COLUMNS 32
#define SUM_GROUPS 8

// Adds the sum over the rows of `from`, (rows, columns), to `to`, (columns). A block of (32, 8) threads has 32 columns.
extern "C" __global__ void sum_rows(const float *from, float *to, int rows, int columns) {
    __shared__ float scratch[SUM_GROUPS][SUM_COLUMNS];
    int c = blockIdx.x * SUM_COLUMNS + threadIdx.x;
    float sum = 0.0f;
    if (c < columns) for (int r = threadIdx.y; r < rows; r += SUM_GROUPS) sum += from[(size_t)r * columns + c];
    scratch[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || c >= columns) return;
    sum = 0.0f;
    for (int g = 0; g < SUM_GROUPS; g++) sum += scratch[g][threadIdx.x];
    to[c] += sum;
}

#define TOTAL_THREADS 256

// The sum of doubles over a block of TOTAL_THREADS, in thread 0; the others get 0.
__device__ __forceinline__ double block_total(double sum) {
    __shared__ double scratch[TOTAL_THREADS];
    scratch[threadIdx.x] = sum;
    for (int half = TOTAL_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
    }
    return threadIdx.x == 0 ? scratch[0] : 0.0; // the others would read while it is written
}

// Sums of squares of `from`, a part to each block, to partial, (blocks).
extern "C" __global__ void square_sums(const float *from, double *partial, unsigned long long count) {
    double sum = 0.0;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x)
        sum += (double)from[i] * (double)from[i];
    sum = block_total(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// The sum of `count` doubles to *ret: one block.
extern "C" __global__ void total_f64(const double *from, double *ret, int count) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += from[i];
    sum = block_total(sum);
    if (threadIdx.x == 0) *ret = sum;
}

// The sum of `count` floats to *ret: one block.
extern "C" __global__ void total_f32(const float *from, double *ret, int count) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += (double)from[i];
    sum = block_total(sum);
    if (threadIdx.x == 0) *ret = sum;
}

// The same numbers as bf16, rounded to nearest even.
extern "C" __global__ void cast_bf16(const float *from, bf16 *to, unsigned long long count) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x)
        to[i] = __float2bfloat16(from[i]);
}

// RMSNorm, forward and backward: y = w x / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019, arXiv:1910.07467).
// Twin: engine/cpu/kernels/norm.rs.
#include "common.cuh"

// A warp to a row. x is (rows, d); `kept`, where not null, gets a copy of it for the backward pass.
// grid: rows / (block / 32), rounded up.
template <class T>
__device__ __forceinline__ void norm_forward(const float *x, const float *weight, T *y, float *kept, int rows, int d, float eps) {
    int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    const float *from = x + (size_t)row * d;
    float sum = 0.0f;
    for (int c = lane; c < d; c += WARP) sum = fmaf(from[c], from[c], sum);
    float scale = rsqrtf(warp_sum(sum) / d + eps);
    for (int c = lane; c < d; c += WARP) {
        float v = from[c];
        store(y + (size_t)row * d + c, v * scale * weight[c]);
        if (kept) kept[(size_t)row * d + c] = v;
    }
}

extern "C" __global__ void norm_forward_f32(const float *x, const float *weight, float *y, float *kept, int rows, int d, float eps) {
    norm_forward(x, weight, y, kept, rows, d, eps);
}
extern "C" __global__ void norm_forward_bf16(const float *x, const float *weight, bf16 *y, float *kept, int rows, int d, float eps) {
    norm_forward(x, weight, y, kept, rows, d, eps);
}

#define NORM_ROWS 64
#define NORM_THREADS 256

// NORM_ROWS rows to a block of NORM_THREADS. Adds to d_x the gradient of x, writes the sum as T to `cast` as well, and writes
// what the block's rows give to the weight's gradient to partial, (blocks, d).
template <class T>
__device__ __forceinline__ void norm_backward(const float *x, const float *weight, const T *d_y, float *d_x, T *cast,
                                              float *partial, int rows, int d, float eps) {
    __shared__ float scales[NORM_ROWS], means[NORM_ROWS];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int first = blockIdx.x * NORM_ROWS;
    for (int r = warp; r < NORM_ROWS; r += NORM_THREADS / WARP) {
        float square = 0.0f, dot = 0.0f;
        if (first + r < rows) {
            const float *xr = x + (size_t)(first + r) * d;
            const T *gr = d_y + (size_t)(first + r) * d;
            for (int c = lane; c < d; c += WARP) {
                float v = xr[c];
                square = fmaf(v, v, square);
                dot = fmaf(to_float(gr[c]) * weight[c], v, dot);
            }
        }
        float scale = rsqrtf(warp_sum(square) / d + eps);
        dot = warp_sum(dot);
        if (lane == 0) {
            scales[r] = scale;
            means[r] = dot * scale * scale / d;
        }
    }
    __syncthreads();
    for (int c = threadIdx.x; c < d; c += NORM_THREADS) {
        float w = weight[c], sum = 0.0f;
        for (int r = 0; r < NORM_ROWS && first + r < rows; r++) {
            size_t at = (size_t)(first + r) * d + c;
            float g = to_float(d_y[at]), v = x[at], scale = scales[r];
            sum = fmaf(g * v, scale, sum);
            float total = d_x[at] + scale * (g * w - v * means[r]);
            d_x[at] = total;
            store(cast + at, total);
        }
        partial[(size_t)blockIdx.x * d + c] = sum;
    }
}

extern "C" __global__ void __launch_bounds__(NORM_THREADS)
norm_backward_f32(const float *x, const float *weight, const float *d_y, float *d_x, float *cast, float *partial, int rows, int d, float eps) {
    norm_backward(x, weight, d_y, d_x, cast, partial, rows, d, eps);
}
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
norm_backward_bf16(const float *x, const float *weight, const bf16 *d_y, float *d_x, bf16 *cast, float *partial, int rows, int d, float eps) {
    norm_backward(x, weight, d_y, d_x, cast, partial, rows, d, eps);
}

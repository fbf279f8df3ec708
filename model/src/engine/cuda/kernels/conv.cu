// The causal depthwise convolution with SiLU, forward and backward. Twin: engine/cpu/kernels/conv.rs.
//
// out_t = silu(bias + sum_j w_j x_{t-j}), j up to reach_t, the tokens before t in its sample (at most d_conv - 1). Inputs before a
// row come from the carried window, (b, d_conv - 1, d_inner), oldest first. Weights are (d_inner, d_conv), oldest tap first.
// A thread has one channel and walks CONV_TOKENS tokens of a row. grid: (d_inner / block, l / CONV_TOKENS, b), rounded up.
#include "common.cuh"

#define CONV_TOKENS 128
#define TAPS_MAX 4

// x of channel c at `time`, which may lie up to d_conv - 1 before the row.
template <class T>
__device__ __forceinline__ float input(const T *xz, const float *window, int row, int time, int c, int l, int d_inner, int d_conv) {
    if (time >= 0) return to_float(xz[((size_t)row * l + time) * 2 * d_inner + c]);
    int slot = d_conv - 1 + time;
    return slot >= 0 ? window[((size_t)row * (d_conv - 1) + slot) * d_inner + c] : 0.0f;
}

// The taps of a channel, the newest first; absent ones are zero.
__device__ __forceinline__ void load_taps(const float *weight, int c, int d_conv, float *taps) {
#pragma unroll
    for (int j = 0; j < TAPS_MAX; j++) taps[j] = j < d_conv ? weight[(size_t)c * d_conv + d_conv - 1 - j] : 0.0f;
}

template <class T>
__device__ __forceinline__ void conv_forward(const T *xz, const float *weight, const float *bias, const float *window,
                                             const unsigned char *reach, T *y, int l, int d_inner, int d_conv) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, first = blockIdx.y * CONV_TOKENS, row = blockIdx.z;
    if (c >= d_inner) return;
    float taps[TAPS_MAX], x[TAPS_MAX]; // x[j] is the input j tokens back
    load_taps(weight, c, d_conv, taps);
    float b = bias[c];
#pragma unroll
    for (int j = 0; j < TAPS_MAX - 1; j++) x[j] = input(xz, window, row, first - 1 - j, c, l, d_inner, d_conv);
    for (int time = first; time < first + CONV_TOKENS && time < l; time++) {
        size_t t = (size_t)row * l + time;
        int back = reach[t];
#pragma unroll
        for (int j = TAPS_MAX - 1; j > 0; j--) x[j] = x[j - 1];
        x[0] = to_float(xz[t * 2 * d_inner + c]);
        float sum = b;
#pragma unroll
        for (int j = TAPS_MAX - 1; j >= 0; j--) sum = fmaf(taps[j], j <= back ? x[j] : 0.0f, sum);
        store(y + t * d_inner + c, sum * sigmoid(sum));
    }
}

extern "C" __global__ void conv_forward_f32(const float *xz, const float *weight, const float *bias, const float *window,
                                            const unsigned char *reach, float *y, int l, int d_inner, int d_conv) {
    conv_forward(xz, weight, bias, window, reach, y, l, d_inner, d_conv);
}
extern "C" __global__ void conv_forward_bf16(const bf16 *xz, const float *weight, const float *bias, const float *window,
                                             const unsigned char *reach, bf16 *y, int l, int d_inner, int d_conv) {
    conv_forward(xz, weight, bias, window, reach, y, l, d_inner, d_conv);
}

// The window to carry on with: the last d_conv - 1 inputs of each row, zero before a sample's start. In place; a thread has one
// channel of one row. grid: (d_inner / block, b)
template <class T>
__device__ __forceinline__ void conv_window(const T *xz, float *window, const unsigned char *reach, int l, int d_inner, int d_conv) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (c >= d_inner) return;
    int last = reach[(size_t)row * l + l - 1];
    float next[TAPS_MAX];
#pragma unroll
    for (int j = 0; j < TAPS_MAX - 1; j++) next[j] = j <= last ? input(xz, window, row, l - 1 - j, c, l, d_inner, d_conv) : 0.0f;
#pragma unroll
    for (int j = 0; j < TAPS_MAX - 1; j++)
        if (j < d_conv - 1) window[((size_t)row * (d_conv - 1) + d_conv - 2 - j) * d_inner + c] = next[j];
}

extern "C" __global__ void conv_window_f32(const float *xz, float *window, const unsigned char *reach, int l, int d_inner, int d_conv) {
    conv_window(xz, window, reach, l, d_inner, d_conv);
}
extern "C" __global__ void conv_window_bf16(const bf16 *xz, float *window, const unsigned char *reach, int l, int d_inner, int d_conv) {
    conv_window(xz, window, reach, l, d_inner, d_conv);
}

// d_y is the gradient of the output. Writes that of x into the first half of d_xz's rows, and what these tokens give to the
// gradients of weights (newest tap first) and bias to partial, (b * tiles, TAPS_MAX + 1, d_inner). d_xz is another buffer than xz: a block
// reads xz of the tokens after its tile, and before it, while other blocks write their tiles of d_xz.
template <class T>
__device__ __forceinline__ void conv_backward(const T *xz, const float *weight, const float *bias, const float *window,
                                              const unsigned char *reach, const T *d_y, T *d_xz, float *partial, int l, int d_inner,
                                              int d_conv) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, first = blockIdx.y * CONV_TOKENS, row = blockIdx.z;
    if (c >= d_inner) return;
    float taps[TAPS_MAX], x[TAPS_MAX], d_taps[TAPS_MAX] = {0.0f, 0.0f, 0.0f, 0.0f}, d_bias = 0.0f;
    float d_x[TAPS_MAX] = {0.0f, 0.0f, 0.0f, 0.0f}; // d_x[j]: gradient so far of the input j tokens back
    load_taps(weight, c, d_conv, taps);
    float b = bias[c];
#pragma unroll
    for (int j = 0; j < TAPS_MAX - 1; j++) x[j] = input(xz, window, row, first - 1 - j, c, l, d_inner, d_conv);
    // The tokens after the tile still give to its last inputs.
    int end = min(first + CONV_TOKENS, l);
    for (int time = first; time < end + TAPS_MAX - 1; time++) {
#pragma unroll
        for (int j = TAPS_MAX - 1; j > 0; j--) { x[j] = x[j - 1]; d_x[j] = d_x[j - 1]; }
        x[0] = d_x[0] = 0.0f;
        if (time < l) {
            size_t t = (size_t)row * l + time;
            int back = reach[t];
            x[0] = to_float(xz[t * 2 * d_inner + c]);
            float sum = b;
#pragma unroll
            for (int j = TAPS_MAX - 1; j >= 0; j--) sum = fmaf(taps[j], j <= back ? x[j] : 0.0f, sum);
            float s = sigmoid(sum), d_sum = to_float(d_y[t * d_inner + c]) * s * fmaf(sum, 1.0f - s, 1.0f);
            bool is_own = time < end;
            d_bias += is_own ? d_sum : 0.0f;
#pragma unroll
            for (int j = 0; j < TAPS_MAX; j++) {
                bool reaches = j <= back;
                if (reaches && is_own) d_taps[j] = fmaf(d_sum, x[j], d_taps[j]);
                if (reaches) d_x[j] = fmaf(taps[j], d_sum, d_x[j]);
            }
        }
        int done = time - (TAPS_MAX - 1);
        if (done >= first && done < end) store(d_xz + ((size_t)row * l + done) * 2 * d_inner + c, d_x[TAPS_MAX - 1]);
    }
    size_t at = ((size_t)row * gridDim.y + blockIdx.y) * (TAPS_MAX + 1);
#pragma unroll
    for (int j = 0; j < TAPS_MAX; j++) partial[(at + j) * d_inner + c] = d_taps[j];
    partial[(at + TAPS_MAX) * d_inner + c] = d_bias;
}

extern "C" __global__ void conv_backward_f32(const float *xz, const float *weight, const float *bias, const float *window,
                                             const unsigned char *reach, const float *d_y, float *d_xz, float *partial, int l,
                                             int d_inner, int d_conv) {
    conv_backward(xz, weight, bias, window, reach, d_y, d_xz, partial, l, d_inner, d_conv);
}
extern "C" __global__ void conv_backward_bf16(const bf16 *xz, const float *weight, const float *bias, const float *window,
                                              const unsigned char *reach, const bf16 *d_y, bf16 *d_xz, float *partial, int l,
                                              int d_inner, int d_conv) {
    conv_backward(xz, weight, bias, window, reach, d_y, d_xz, partial, l, d_inner, d_conv);
}

// Adds the partial sums, (rows, TAPS_MAX + 1, d_inner), to the gradients of weights, (d_inner, d_conv), and bias.
// grid: (d_inner / block, TAPS_MAX + 1)
extern "C" __global__ void conv_parameters(const float *partial, float *d_weight, float *d_bias, int rows, int d_inner, int d_conv) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, j = blockIdx.y;
    if (c >= d_inner || (j >= d_conv && j < TAPS_MAX)) return;
    float sum = 0.0f;
    for (int r = 0; r < rows; r++) sum += partial[((size_t)r * (TAPS_MAX + 1) + j) * d_inner + c];
    if (j == TAPS_MAX) d_bias[c] += sum;
    else d_weight[(size_t)c * d_conv + d_conv - 1 - j] += sum;
}

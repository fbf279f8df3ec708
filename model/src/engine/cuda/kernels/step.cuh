// The convolution and the scan over one token, for few streams and for many.
#pragma once
#include "scan.cuh"

#define TAPS_MAX 4

// silu(conv(x) + bias) of channel c of a stream whose newest input is x; moves its window, (b, d_conv - 1, d_inner), oldest first, on.
// Weights are (d_inner, d_conv), oldest tap first.
__device__ __forceinline__ float conv_step(float x, const float *weight, const float *bias, float *window, int stream, int c, int d_inner,
                                           int d_conv) {
    float *slots = window + (size_t)stream * (d_conv - 1) * d_inner + c;
    const float *taps = weight + (size_t)c * d_conv;
    float sum = bias[c];
#pragma unroll
    for (int j = 0; j < TAPS_MAX - 1; j++) {
        if (j >= d_conv - 1) break;
        float value = slots[(size_t)j * d_inner];
        if (j > 0) slots[(size_t)(j - 1) * d_inner] = value;
        sum = fmaf(taps[j], value, sum);
    }
    slots[(size_t)(d_conv - 2) * d_inner] = x;
    sum = fmaf(taps[d_conv - 1], x, sum);
    return sum * sigmoid(sum);
}

// A channel of the scan as four neighbouring threads have it, each with four of its states. A block has SCAN_THREADS threads.
struct StepChannel {
    int index;
    bool is_real;
    float a2[4], dt_bias, d_skip;

    __device__ __forceinline__ StepChannel(const float *a_log, const float *all_dt_bias, const float *all_d_skip, int d_inner) {
        int q = threadIdx.x % SCAN_QUAD;
        index = blockIdx.x * SCAN_CHANNELS + threadIdx.x / SCAN_QUAD;
        is_real = index < d_inner;
#pragma unroll
        for (int n = 0; n < 4; n++) a2[n] = is_real ? -__expf(a_log[(size_t)index * SCAN_STATES + 4 * q + n]) * LOG2E : 0.0f;
        dt_bias = is_real ? all_dt_bias[index] : 0.0f;
        d_skip = is_real ? all_d_skip[index] : 0.0f;
    }

    // Moves `state`, (b, d_inner, SCAN_STATES), of a stream on, and writes the gated output to y, (b, d_inner). `bc` has B and C.
    template <class T>
    __device__ __forceinline__ void step(const T *x, float dt_raw, const T *xz, const T *bc, float *state, T *y, int stream, int d_inner) const {
        int q = threadIdx.x % SCAN_QUAD;
        float dt = softplus(dt_raw + dt_bias), sum = 0.0f;
        size_t at = (size_t)stream * d_inner + index;
        float v = is_real ? to_float(x[at]) : 0.0f, u = dt * v;
        if (is_real) {
            float4 *states = (float4 *)(state + at * SCAN_STATES + 4 * q);
            float4 h = *states;
            h.x = fmaf(exp2f(dt * a2[0]), h.x, u * to_float(bc[4 * q]));
            h.y = fmaf(exp2f(dt * a2[1]), h.y, u * to_float(bc[4 * q + 1]));
            h.z = fmaf(exp2f(dt * a2[2]), h.z, u * to_float(bc[4 * q + 2]));
            h.w = fmaf(exp2f(dt * a2[3]), h.w, u * to_float(bc[4 * q + 3]));
            *states = h;
            const T *c = bc + SCAN_STATES + 4 * q;
            sum = fmaf(h.x, to_float(c[0]), h.y * to_float(c[1])) + fmaf(h.z, to_float(c[2]), h.w * to_float(c[3]));
        }
        sum = quad_sum(sum);
        if (!is_real || q > 0) return;
        float z = to_float(xz[((size_t)stream * 2 + 1) * d_inner + index]);
        store(y + at, fmaf(d_skip, v, sum) * z * sigmoid(z));
    }
};

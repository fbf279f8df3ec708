// The selective scan, forward, fused with softplus before it and the skip and the gate after it.
// dt = softplus(dt_raw + bias); h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t; y_t = (C_t h_t + D x_t) silu(z_t)
// (Gu and Dao 2023, arXiv:2312.00752, equation 2 and section 3.2.) Twin: engine/cpu/kernels/scan.rs.
#include "scan.cuh"

// Walks a segment. In `states`, (b, segments, d_inner, SCAN_STATES), is the state before each segment; the last segment writes the
// state after the row to `ret_state`, (b, d_inner, SCAN_STATES), which may be `states` where there is one segment. `checkpoints`, where
// not null, (b, l / SCAN_TOKENS rounded up, d_inner, SCAN_STATES), gets the state before every SCAN_TOKENS tokens.
// grid: (d_inner / SCAN_CHANNELS rounded up, segments, b)
template <class T>
__device__ __forceinline__ void scan_forward(const T *x, const T *dt_raw, const T *xz, const T *x_dbl, const unsigned char *starts,
                                             const float *a_log, const float *dt_bias, const float *d_skip, const float *states,
                                             float *ret_state, float *checkpoints, T *y, int l, int d_inner, int dt_rank,
                                             int segment_tokens) {
    __shared__ float s_dt[SCAN_TOKENS][SCAN_CHANNELS], s_x[SCAN_TOKENS][SCAN_CHANNELS], s_y[SCAN_TOKENS][SCAN_CHANNELS];
    __shared__ __align__(16) float s_bc[SCAN_TOKENS][2 * SCAN_STATES];
    __shared__ bool s_starts[SCAN_TOKENS];
    int lane_channel = threadIdx.x / SCAN_QUAD, q = threadIdx.x % SCAN_QUAD;
    int channel = blockIdx.x * SCAN_CHANNELS + lane_channel, segment = blockIdx.y, row = blockIdx.z;
    bool is_real = channel < d_inner;
    size_t row_start = (size_t)row * l;
    int begin = segment * segment_tokens, end = min(begin + segment_tokens, l), chunks = (l + SCAN_TOKENS - 1) / SCAN_TOKENS;
    float a2[4], h[4];
#pragma unroll
    for (int n = 0; n < 4; n++) {
        a2[n] = is_real ? -__expf(a_log[(size_t)channel * SCAN_STATES + 4 * q + n]) * LOG2E : 0.0f;
        h[n] = is_real ? states[(((size_t)row * gridDim.y + segment) * d_inner + channel) * SCAN_STATES + 4 * q + n] : 0.0f;
    }
    for (int first = begin; first < end; first += SCAN_TOKENS) {
        __syncthreads(); // the tile before has been written out
        load_bc(x_dbl, s_bc, row_start, first, end, dt_rank);
        for (int i = threadIdx.x; i < SCAN_TOKENS * SCAN_CHANNELS; i += SCAN_THREADS) {
            int token = i / SCAN_CHANNELS, j = i % SCAN_CHANNELS, c = blockIdx.x * SCAN_CHANNELS + j;
            bool is_in = first + token < end && c < d_inner;
            size_t at = (row_start + first + token) * d_inner + c;
            s_dt[token][j] = is_in ? softplus(to_float(dt_raw[at]) + dt_bias[c]) : 0.0f;
            s_x[token][j] = is_in ? to_float(x[at]) : 0.0f;
        }
        if (threadIdx.x < SCAN_TOKENS) s_starts[threadIdx.x] = first + threadIdx.x < end && starts[row_start + first + threadIdx.x];
        __syncthreads();
        if (checkpoints && is_real) {
            size_t at = (((size_t)row * chunks + first / SCAN_TOKENS) * d_inner + channel) * SCAN_STATES + 4 * q;
            *(float4 *)(checkpoints + at) = make_float4(h[0], h[1], h[2], h[3]);
        }
#pragma unroll 4
        for (int token = 0; token < SCAN_TOKENS; token++) {
            float dt = s_dt[token][lane_channel], u = dt * s_x[token][lane_channel];
            float4 b = *(const float4 *)&s_bc[token][4 * q], c = *(const float4 *)&s_bc[token][SCAN_STATES + 4 * q];
            float keep = s_starts[token] ? 0.0f : 1.0f;
            h[0] = fmaf(exp2f(dt * a2[0]), keep * h[0], u * b.x);
            h[1] = fmaf(exp2f(dt * a2[1]), keep * h[1], u * b.y);
            h[2] = fmaf(exp2f(dt * a2[2]), keep * h[2], u * b.z);
            h[3] = fmaf(exp2f(dt * a2[3]), keep * h[3], u * b.w);
            float sum = quad_sum(fmaf(h[0], c.x, h[1] * c.y) + fmaf(h[2], c.z, h[3] * c.w));
            if (q == token % SCAN_QUAD) s_y[token][lane_channel] = sum;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < SCAN_TOKENS * SCAN_CHANNELS; i += SCAN_THREADS) {
            int token = i / SCAN_CHANNELS, j = i % SCAN_CHANNELS, c = blockIdx.x * SCAN_CHANNELS + j;
            if (first + token >= end || c >= d_inner) continue;
            size_t t = row_start + first + token;
            float z = to_float(xz[t * 2 * d_inner + d_inner + c]);
            store(y + t * d_inner + c, fmaf(d_skip[c], s_x[token][j], s_y[token][j]) * z * sigmoid(z));
        }
    }
    if (is_real && end == l && segment == gridDim.y - 1) {
        size_t at = ((size_t)row * d_inner + channel) * SCAN_STATES + 4 * q;
        *(float4 *)(ret_state + at) = make_float4(h[0], h[1], h[2], h[3]);
    }
}

extern "C" __global__ void __launch_bounds__(SCAN_THREADS)
scan_forward_f32(const float *x, const float *dt_raw, const float *xz, const float *x_dbl, const unsigned char *starts,
                 const float *a_log, const float *dt_bias, const float *d_skip, const float *states, float *ret_state,
                 float *checkpoints, float *y, int l, int d_inner, int dt_rank, int segment_tokens) {
    scan_forward(x, dt_raw, xz, x_dbl, starts, a_log, dt_bias, d_skip, states, ret_state, checkpoints, y, l, d_inner, dt_rank, segment_tokens);
}
extern "C" __global__ void __launch_bounds__(SCAN_THREADS)
scan_forward_bf16(const bf16 *x, const bf16 *dt_raw, const bf16 *xz, const bf16 *x_dbl, const unsigned char *starts,
                  const float *a_log, const float *dt_bias, const float *d_skip, const float *states, float *ret_state,
                  float *checkpoints, bf16 *y, int l, int d_inner, int dt_rank, int segment_tokens) {
    scan_forward(x, dt_raw, xz, x_dbl, starts, a_log, dt_bias, d_skip, states, ret_state, checkpoints, y, l, d_inner, dt_rank, segment_tokens);
}

// The state after each segment but the last when walked from zero, to `ends`, (b, segments, d_inner, SCAN_STATES), and the sum of its
// dt, infinite where a sample begins in it, to `sums`, (b, segments, d_inner).
// grid: (d_inner / SCAN_CHANNELS rounded up, segments - 1, b)
template <class T>
__device__ __forceinline__ void scan_ends(const T *x, const T *dt_raw, const T *x_dbl, const unsigned char *starts, const float *a_log,
                                          const float *dt_bias, float *ends, float *sums, int l, int d_inner, int dt_rank,
                                          int segment_tokens) {
    __shared__ float s_dt[SCAN_TOKENS][SCAN_CHANNELS], s_x[SCAN_TOKENS][SCAN_CHANNELS];
    __shared__ __align__(16) float s_bc[SCAN_TOKENS][2 * SCAN_STATES];
    __shared__ bool s_starts[SCAN_TOKENS];
    int lane_channel = threadIdx.x / SCAN_QUAD, q = threadIdx.x % SCAN_QUAD;
    int channel = blockIdx.x * SCAN_CHANNELS + lane_channel, segment = blockIdx.y, row = blockIdx.z, segments = gridDim.y + 1;
    bool is_real = channel < d_inner;
    size_t row_start = (size_t)row * l;
    int begin = segment * segment_tokens, end = begin + segment_tokens; // never the last, so whole
    float a2[4], h[4] = {0.0f, 0.0f, 0.0f, 0.0f}, sum = 0.0f;
#pragma unroll
    for (int n = 0; n < 4; n++) a2[n] = is_real ? -__expf(a_log[(size_t)channel * SCAN_STATES + 4 * q + n]) * LOG2E : 0.0f;
    for (int first = begin; first < end; first += SCAN_TOKENS) {
        __syncthreads();
        load_bc(x_dbl, s_bc, row_start, first, end, dt_rank);
        for (int i = threadIdx.x; i < SCAN_TOKENS * SCAN_CHANNELS; i += SCAN_THREADS) {
            int token = i / SCAN_CHANNELS, j = i % SCAN_CHANNELS, c = blockIdx.x * SCAN_CHANNELS + j;
            bool is_in = c < d_inner;
            size_t at = (row_start + first + token) * d_inner + c;
            s_dt[token][j] = is_in ? softplus(to_float(dt_raw[at]) + dt_bias[c]) : 0.0f;
            s_x[token][j] = is_in ? to_float(x[at]) : 0.0f;
        }
        if (threadIdx.x < SCAN_TOKENS) s_starts[threadIdx.x] = starts[row_start + first + threadIdx.x];
        __syncthreads();
#pragma unroll 4
        for (int token = 0; token < SCAN_TOKENS; token++) {
            float dt = s_dt[token][lane_channel], u = dt * s_x[token][lane_channel];
            float4 b = *(const float4 *)&s_bc[token][4 * q];
            float keep = s_starts[token] ? 0.0f : 1.0f;
            sum += s_starts[token] ? INFINITY : dt;
            h[0] = fmaf(exp2f(dt * a2[0]), keep * h[0], u * b.x);
            h[1] = fmaf(exp2f(dt * a2[1]), keep * h[1], u * b.y);
            h[2] = fmaf(exp2f(dt * a2[2]), keep * h[2], u * b.z);
            h[3] = fmaf(exp2f(dt * a2[3]), keep * h[3], u * b.w);
        }
    }
    if (!is_real) return;
    size_t at = ((size_t)row * segments + segment) * d_inner + channel;
    *(float4 *)(ends + at * SCAN_STATES + 4 * q) = make_float4(h[0], h[1], h[2], h[3]);
    if (q == 0) sums[at] = sum;
}

extern "C" __global__ void __launch_bounds__(SCAN_THREADS)
scan_ends_f32(const float *x, const float *dt_raw, const float *x_dbl, const unsigned char *starts, const float *a_log,
              const float *dt_bias, float *ends, float *sums, int l, int d_inner, int dt_rank, int segment_tokens) {
    scan_ends(x, dt_raw, x_dbl, starts, a_log, dt_bias, ends, sums, l, d_inner, dt_rank, segment_tokens);
}
extern "C" __global__ void __launch_bounds__(SCAN_THREADS)
scan_ends_bf16(const bf16 *x, const bf16 *dt_raw, const bf16 *x_dbl, const unsigned char *starts, const float *a_log,
               const float *dt_bias, float *ends, float *sums, int l, int d_inner, int dt_rank, int segment_tokens) {
    scan_ends(x, dt_raw, x_dbl, starts, a_log, dt_bias, ends, sums, l, d_inner, dt_rank, segment_tokens);
}

// Turns the ends from zero in `ends` into the state before each segment, in place, beginning with `state`, (b, d_inner, SCAN_STATES).
// A thread has one state of one channel of one row.
extern "C" __global__ void scan_join(const float *state, const float *a_log, const float *sums, float *ends, int b, int segments, int d_inner) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, per_row = d_inner * SCAN_STATES;
    if (i >= b * per_row) return;
    int row = i / per_row, cell = i % per_row, channel = cell / SCAN_STATES;
    float a2 = -__expf(a_log[cell]) * LOG2E, h = state[i];
    for (int segment = 0; segment < segments; segment++) {
        size_t at = (size_t)row * segments + segment;
        bool is_last = segment == segments - 1;
        float end = is_last ? 0.0f : ends[at * per_row + cell];
        ends[at * per_row + cell] = h;
        if (!is_last) h = fmaf(decay_over(sums[at * d_inner + channel], a2), h, end);
    }
}

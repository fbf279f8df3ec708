// The selective scan, backward: rebuilds SCAN_TOKENS tokens from their checkpoint, then walks them in reverse.
//
// With g_t the gradient of h_t: g_t = C_t dy_t + exp(dt_{t+1} A) g_{t+1}; from it dC = dy h, dB = g dt x,
// dx = dt (g B) + D dy, dA = g exp(dt A) h_{t-1} dt, and d(dt) = x (g B) + g exp(dt A) h_{t-1} A. Twin:
// engine/cpu/kernels/scan_backward.rs. Shapes as in scan_forward.cu.
#include "scan.cuh"

#define SCAN_WARPS (SCAN_THREADS / WARP)

// Keeps the compiler from reading shared memory for many tokens ahead, which costs more registers than there are.
#define IN_ORDER() asm volatile("" ::: "memory")

__device__ __forceinline__ float silu_slope(float z) {
    float s = sigmoid(z);
    return s * fmaf(z, 1.0f - s, 1.0f);
}

// Sums each of eight numbers over the eight channels of a warp; the thread of channel k (0 to 7) gets the k-th. Seven exchanges
// instead of 24: each halves what a thread is responsible for.
__device__ __forceinline__ float sum_channels(const float *v) {
    int lane = threadIdx.x % WARP, k = lane / SCAN_QUAD;
    float four[4], two[2];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float mine = k & 4 ? v[4 + i] : v[i], theirs = k & 4 ? v[i] : v[4 + i];
        four[i] = mine + __shfl_xor_sync(FULL_WARP, theirs, 16);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float mine = k & 2 ? four[2 + i] : four[i], theirs = k & 2 ? four[i] : four[2 + i];
        two[i] = mine + __shfl_xor_sync(FULL_WARP, theirs, 8);
    }
    float mine = k & 1 ? two[1] : two[0], theirs = k & 1 ? two[0] : two[1];
    return mine + __shfl_xor_sync(FULL_WARP, theirs, 4);
}

// `carry`, (b, segments, d_inner, SCAN_STATES), is the gradient that comes into each segment from the tokens after it; null where
// there is one segment: nothing comes from behind a row. dt_raw becomes its gradient. d_y is the gradient of the gated output; y
// gets that output, computed again; d_x the gradient of x; the second halves of d_xz's rows that of z. What cannot be added up here goes
// to partial sums: dB and dC to partial_bc, (gridDim.x, b l, 2 SCAN_STATES); dA, (b, segments, d_inner, SCAN_STATES); dD and that of dt's
// bias, (b, segments, 2, d_inner).
// grid: (d_inner / SCAN_CHANNELS rounded up, segments, b)
template <class T>
__device__ __forceinline__ void scan_backward(const T *x, T *dt_raw, const T *xz, const T *x_dbl, const unsigned char *starts,
                                              const float *a_log, const float *dt_bias, const float *d_skip, const float *checkpoints,
                                              const float *carry, const T *d_y, T *y, T *d_x, T *d_xz, float *partial_bc,
                                              float *partial_a, float *partial_channel, int l, int d_inner, int dt_rank,
                                              int segment_tokens) {
    __shared__ float s_dt[SCAN_TOKENS][SCAN_CHANNELS], s_x[SCAN_TOKENS][SCAN_CHANNELS], s_dy[SCAN_TOKENS][SCAN_CHANNELS];
    __shared__ float s_y[SCAN_TOKENS][SCAN_CHANNELS], s_gb[SCAN_TOKENS][SCAN_CHANNELS], s_ga[SCAN_TOKENS][SCAN_CHANNELS];
    __shared__ __align__(16) float s_bc[SCAN_TOKENS][2 * SCAN_STATES];
    __shared__ float s_d_bc[SCAN_WARPS][SCAN_TOKENS][2 * SCAN_STATES];
    // What each thread has summed up of the channel whose inputs and outputs it moves; registers are scarcer.
    __shared__ float s_bias[SCAN_THREADS], s_skip[SCAN_THREADS];
    __shared__ bool s_starts[SCAN_TOKENS];
    int warp = threadIdx.x / WARP, k = threadIdx.x % WARP / SCAN_QUAD;
    int lane_channel = threadIdx.x / SCAN_QUAD, q = threadIdx.x % SCAN_QUAD;
    int channel = blockIdx.x * SCAN_CHANNELS + lane_channel, segment = blockIdx.y, row = blockIdx.z, segments = gridDim.y;
    bool is_real = channel < d_inner;
    size_t row_start = (size_t)row * l, tokens = (size_t)gridDim.z * l;
    int begin = segment * segment_tokens, end = min(begin + segment_tokens, l), chunks = (l + SCAN_TOKENS - 1) / SCAN_TOKENS;
    size_t cell = (((size_t)row * segments + segment) * d_inner + channel) * SCAN_STATES + 4 * q;
    float a2[4], dh[4], d_a[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int n = 0; n < 4; n++) {
        a2[n] = is_real ? -__expf(a_log[(size_t)channel * SCAN_STATES + 4 * q + n]) * LOG2E : 0.0f;
        dh[n] = is_real && carry ? carry[cell + n] : 0.0f;
    }
    // Of the channel whose inputs and outputs this thread moves.
    int own = blockIdx.x * SCAN_CHANNELS + threadIdx.x % SCAN_CHANNELS;
    s_bias[threadIdx.x] = s_skip[threadIdx.x] = 0.0f;
    int last = begin + (end - 1 - begin) / SCAN_TOKENS * SCAN_TOKENS;
    for (int first = last; first >= begin; first -= SCAN_TOKENS) {
        __syncthreads(); // the tile before has been written out
        load_bc(x_dbl, s_bc, row_start, first, end, dt_rank);
        for (int i = threadIdx.x; i < SCAN_TOKENS * SCAN_CHANNELS; i += SCAN_THREADS) {
            int token = i / SCAN_CHANNELS, j = i % SCAN_CHANNELS;
            bool is_in = first + token < end && own < d_inner;
            size_t t = row_start + first + token, at = t * d_inner + own;
            float z = is_in ? to_float(xz[t * 2 * d_inner + d_inner + own]) : 0.0f;
            s_dt[token][j] = is_in ? softplus(to_float(dt_raw[at]) + dt_bias[own]) : 0.0f;
            s_x[token][j] = is_in ? to_float(x[at]) : 0.0f;
            s_dy[token][j] = is_in ? to_float(d_y[at]) * z * sigmoid(z) : 0.0f;
        }
        if (threadIdx.x < SCAN_TOKENS) s_starts[threadIdx.x] = first + threadIdx.x < end && starts[row_start + first + threadIdx.x];
        __syncthreads();
        float before[SCAN_TOKENS][4], h[4]; // before[i]: the state after the token before i, whether or not i wipes it out
        {
            size_t at = (((size_t)row * chunks + first / SCAN_TOKENS) * d_inner + channel) * SCAN_STATES + 4 * q;
            float4 from = is_real ? *(const float4 *)(checkpoints + at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            h[0] = from.x; h[1] = from.y; h[2] = from.z; h[3] = from.w;
        }
#pragma unroll
        for (int token = 0; token < SCAN_TOKENS; token++) {
            IN_ORDER();
            float dt = s_dt[token][lane_channel], u = dt * s_x[token][lane_channel];
            float4 b = *(const float4 *)&s_bc[token][4 * q], c = *(const float4 *)&s_bc[token][SCAN_STATES + 4 * q];
            float keep = s_starts[token] ? 0.0f : 1.0f;
#pragma unroll
            for (int n = 0; n < 4; n++) before[token][n] = h[n];
            h[0] = fmaf(exp2f(dt * a2[0]), keep * h[0], u * b.x);
            h[1] = fmaf(exp2f(dt * a2[1]), keep * h[1], u * b.y);
            h[2] = fmaf(exp2f(dt * a2[2]), keep * h[2], u * b.z);
            h[3] = fmaf(exp2f(dt * a2[3]), keep * h[3], u * b.w);
            float sum = quad_sum(fmaf(h[0], c.x, h[1] * c.y) + fmaf(h[2], c.z, h[3] * c.w));
            if (q == token % SCAN_QUAD) s_y[token][lane_channel] = sum;
        }
#pragma unroll
        for (int token = SCAN_TOKENS - 1; token >= 0; token--) {
            IN_ORDER();
            float dt = s_dt[token][lane_channel], u = dt * s_x[token][lane_channel], dy = s_dy[token][lane_channel];
            float4 b4 = *(const float4 *)&s_bc[token][4 * q], c4 = *(const float4 *)&s_bc[token][SCAN_STATES + 4 * q];
            const float b[4] = {b4.x, b4.y, b4.z, b4.w}, c[4] = {c4.x, c4.y, c4.z, c4.w};
            float keep = s_starts[token] ? 0.0f : 1.0f, d_bc[8], g_b = 0.0f, g_a = 0.0f;
#pragma unroll
            for (int n = 0; n < 4; n++) {
                float decay = exp2f(dt * a2[n]), g = fmaf(dy, c[n], dh[n]);
                d_bc[n] = g * u;
                d_bc[4 + n] = dy * h[n];
                g_b = fmaf(g, b[n], g_b);
                dh[n] = keep * decay * g;
                float g_decay = dh[n] * before[token][n];
                g_a = fmaf(g_decay, a2[n], g_a);
                d_a[n] = fmaf(g_decay, dt, d_a[n]);
                h[n] = before[token][n];
            }
            g_b = quad_sum(g_b);
            g_a = quad_sum(g_a);
            if (q == token % SCAN_QUAD) {
                s_gb[token][lane_channel] = g_b;
                s_ga[token][lane_channel] = g_a * LN2;
            }
            // k = 0 to 3: dB of state 4 q + k; 4 to 7: dC of state 4 q + k - 4.
            float sum = sum_channels(d_bc);
            s_d_bc[warp][token][(k < 4 ? 0 : SCAN_STATES) + 4 * q + k % 4] = sum;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < SCAN_TOKENS * SCAN_CHANNELS; i += SCAN_THREADS) {
            int token = i / SCAN_CHANNELS, j = i % SCAN_CHANNELS;
            if (first + token >= end || own >= d_inner) continue;
            size_t t = row_start + first + token, at = t * d_inner + own;
            float z = to_float(xz[t * 2 * d_inner + d_inner + own]), d_gated = to_float(d_y[at]), dy = s_dy[token][j];
            float dt = s_dt[token][j], x_now = s_x[token][j], skip = d_skip[own];
            float y_now = fmaf(skip, x_now, s_y[token][j]);
            store(y + at, y_now * z * sigmoid(z));
            store(d_xz + t * 2 * d_inner + d_inner + own, d_gated * y_now * silu_slope(z));
            store(d_x + at, fmaf(s_gb[token][j], dt, dy * skip));
            float d_raw = fmaf(s_gb[token][j], x_now, s_ga[token][j]) * sigmoid(to_float(dt_raw[at]) + dt_bias[own]);
            store(dt_raw + at, d_raw);
            s_bias[threadIdx.x] += d_raw;
            s_skip[threadIdx.x] += dy * x_now;
        }
        for (int i = threadIdx.x; i < SCAN_TOKENS * 2 * SCAN_STATES; i += SCAN_THREADS) {
            int token = i / (2 * SCAN_STATES), n = i % (2 * SCAN_STATES);
            if (first + token >= end) continue;
            float sum = 0.0f;
#pragma unroll
            for (int w = 0; w < SCAN_WARPS; w++) sum += s_d_bc[w][token][n];
            partial_bc[((size_t)blockIdx.x * tokens + row_start + first + token) * 2 * SCAN_STATES + n] = sum;
        }
    }
    if (is_real) *(float4 *)(partial_a + cell) = make_float4(d_a[0], d_a[1], d_a[2], d_a[3]);
    __syncthreads();
    if (threadIdx.x < SCAN_CHANNELS && own < d_inner) {
        float skip_total = 0.0f, bias_total = 0.0f;
#pragma unroll
        for (int i = 0; i < SCAN_THREADS / SCAN_CHANNELS; i++) {
            skip_total += s_skip[i * SCAN_CHANNELS + threadIdx.x];
            bias_total += s_bias[i * SCAN_CHANNELS + threadIdx.x];
        }
        size_t at = ((size_t)row * segments + segment) * 2 * d_inner + own;
        partial_channel[at] = skip_total;
        partial_channel[at + d_inner] = bias_total;
    }
}

extern "C" __global__ void __launch_bounds__(SCAN_THREADS, 3)
scan_backward_f32(const float *x, float *dt_raw, const float *xz, const float *x_dbl, const unsigned char *starts, const float *a_log,
                  const float *dt_bias, const float *d_skip, const float *checkpoints, const float *carry, const float *d_y, float *y,
                  float *d_x, float *d_xz, float *partial_bc, float *partial_a, float *partial_channel, int l, int d_inner,
                  int dt_rank, int segment_tokens) {
    scan_backward(x, dt_raw, xz, x_dbl, starts, a_log, dt_bias, d_skip, checkpoints, carry, d_y, y, d_x, d_xz, partial_bc, partial_a,
                  partial_channel, l, d_inner, dt_rank, segment_tokens);
}
extern "C" __global__ void __launch_bounds__(SCAN_THREADS, 3)
scan_backward_bf16(const bf16 *x, bf16 *dt_raw, const bf16 *xz, const bf16 *x_dbl, const unsigned char *starts, const float *a_log,
                   const float *dt_bias, const float *d_skip, const float *checkpoints, const float *carry, const bf16 *d_y, bf16 *y,
                   bf16 *d_x, bf16 *d_xz, float *partial_bc, float *partial_a, float *partial_channel, int l, int d_inner, int dt_rank,
                   int segment_tokens) {
    scan_backward(x, dt_raw, xz, x_dbl, starts, a_log, dt_bias, d_skip, checkpoints, carry, d_y, y, d_x, d_xz, partial_bc, partial_a,
                  partial_channel, l, d_inner, dt_rank, segment_tokens);
}

// What each segment but the first gives to the tokens before it when nothing comes in from behind, to `ends`, and the sum of its dt,
// infinite where a sample begins in it, to `sums`: shapes as of scan_ends in scan_forward.cu.
// grid: (d_inner / SCAN_CHANNELS rounded up, segments - 1, b); the block with y index i has segment i + 1.
template <class T>
__device__ __forceinline__ void scan_begins(const T *dt_raw, const T *xz, const T *x_dbl, const unsigned char *starts,
                                            const float *a_log, const float *dt_bias, const T *d_y, float *begins, float *sums, int l,
                                            int d_inner, int dt_rank, int segment_tokens) {
    __shared__ float s_dt[SCAN_TOKENS][SCAN_CHANNELS], s_dy[SCAN_TOKENS][SCAN_CHANNELS];
    __shared__ __align__(16) float s_bc[SCAN_TOKENS][2 * SCAN_STATES];
    __shared__ bool s_starts[SCAN_TOKENS];
    int lane_channel = threadIdx.x / SCAN_QUAD, q = threadIdx.x % SCAN_QUAD;
    int channel = blockIdx.x * SCAN_CHANNELS + lane_channel, segment = blockIdx.y + 1, row = blockIdx.z, segments = gridDim.y + 1;
    bool is_real = channel < d_inner;
    size_t row_start = (size_t)row * l;
    int begin = segment * segment_tokens, end = min(begin + segment_tokens, l);
    float a2[4], dh[4] = {0.0f, 0.0f, 0.0f, 0.0f}, sum = 0.0f;
#pragma unroll
    for (int n = 0; n < 4; n++) a2[n] = is_real ? -__expf(a_log[(size_t)channel * SCAN_STATES + 4 * q + n]) * LOG2E : 0.0f;
    int last = begin + (end - 1 - begin) / SCAN_TOKENS * SCAN_TOKENS;
    for (int first = last; first >= begin; first -= SCAN_TOKENS) {
        __syncthreads();
        load_bc(x_dbl, s_bc, row_start, first, end, dt_rank);
        for (int i = threadIdx.x; i < SCAN_TOKENS * SCAN_CHANNELS; i += SCAN_THREADS) {
            int token = i / SCAN_CHANNELS, j = i % SCAN_CHANNELS, c = blockIdx.x * SCAN_CHANNELS + j;
            bool is_in = first + token < end && c < d_inner;
            size_t t = row_start + first + token, at = t * d_inner + c;
            float z = is_in ? to_float(xz[t * 2 * d_inner + d_inner + c]) : 0.0f;
            s_dt[token][j] = is_in ? softplus(to_float(dt_raw[at]) + dt_bias[c]) : 0.0f;
            s_dy[token][j] = is_in ? to_float(d_y[at]) * z * sigmoid(z) : 0.0f;
        }
        if (threadIdx.x < SCAN_TOKENS) s_starts[threadIdx.x] = first + threadIdx.x < end && starts[row_start + first + threadIdx.x];
        __syncthreads();
#pragma unroll 4
        for (int token = SCAN_TOKENS - 1; token >= 0; token--) {
            float dt = s_dt[token][lane_channel], dy = s_dy[token][lane_channel];
            float4 c = *(const float4 *)&s_bc[token][SCAN_STATES + 4 * q];
            float keep = s_starts[token] ? 0.0f : 1.0f;
            sum += s_starts[token] ? INFINITY : dt;
            dh[0] = keep * exp2f(dt * a2[0]) * fmaf(dy, c.x, dh[0]);
            dh[1] = keep * exp2f(dt * a2[1]) * fmaf(dy, c.y, dh[1]);
            dh[2] = keep * exp2f(dt * a2[2]) * fmaf(dy, c.z, dh[2]);
            dh[3] = keep * exp2f(dt * a2[3]) * fmaf(dy, c.w, dh[3]);
        }
    }
    if (!is_real) return;
    size_t at = ((size_t)row * segments + segment) * d_inner + channel;
    *(float4 *)(begins + at * SCAN_STATES + 4 * q) = make_float4(dh[0], dh[1], dh[2], dh[3]);
    if (q == 0) sums[at] = sum;
}

extern "C" __global__ void __launch_bounds__(SCAN_THREADS)
scan_begins_f32(const float *dt_raw, const float *xz, const float *x_dbl, const unsigned char *starts, const float *a_log,
                const float *dt_bias, const float *d_y, float *begins, float *sums, int l, int d_inner, int dt_rank, int segment_tokens) {
    scan_begins(dt_raw, xz, x_dbl, starts, a_log, dt_bias, d_y, begins, sums, l, d_inner, dt_rank, segment_tokens);
}
extern "C" __global__ void __launch_bounds__(SCAN_THREADS)
scan_begins_bf16(const bf16 *dt_raw, const bf16 *xz, const bf16 *x_dbl, const unsigned char *starts, const float *a_log,
                 const float *dt_bias, const bf16 *d_y, float *begins, float *sums, int l, int d_inner, int dt_rank, int segment_tokens) {
    scan_begins(dt_raw, xz, x_dbl, starts, a_log, dt_bias, d_y, begins, sums, l, d_inner, dt_rank, segment_tokens);
}

// Turns what scan_begins left in `begins` into the gradient that comes into each segment from behind, in place.
extern "C" __global__ void scan_join_backward(const float *a_log, const float *sums, float *begins, int b, int segments, int d_inner) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, per_row = d_inner * SCAN_STATES;
    if (i >= b * per_row) return;
    int row = i / per_row, cell = i % per_row, channel = cell / SCAN_STATES;
    float a2 = -__expf(a_log[cell]) * LOG2E, dh = 0.0f;
    for (int segment = segments - 1; segment >= 0; segment--) {
        size_t at = (size_t)row * segments + segment;
        float begin = segment > 0 ? begins[at * per_row + cell] : 0.0f;
        begins[at * per_row + cell] = dh;
        if (segment > 0) dh = fmaf(decay_over(sums[at * d_inner + channel], a2), dh, begin);
    }
}

// Adds the partial sums over the tiles of channels to B's and C's columns of d_x_dbl, (tokens, dt_rank + 2 SCAN_STATES).
// A thread has one number; what was in these columns before is overwritten.
template <class T>
__device__ __forceinline__ void scan_bc(const float *partial, T *d_x_dbl, int tiles, int tokens, int dt_rank) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, count = (size_t)tokens * 2 * SCAN_STATES;
    if (i >= count) return;
    float sum = 0.0f;
    for (int tile = 0; tile < tiles; tile++) sum += partial[tile * count + i];
    size_t token = i / (2 * SCAN_STATES), n = i % (2 * SCAN_STATES);
    store(d_x_dbl + token * (dt_rank + 2 * SCAN_STATES) + dt_rank + n, sum);
}

extern "C" __global__ void scan_bc_f32(const float *partial, float *d_x_dbl, int tiles, int tokens, int dt_rank) {
    scan_bc(partial, d_x_dbl, tiles, tokens, dt_rank);
}
extern "C" __global__ void scan_bc_bf16(const float *partial, bf16 *d_x_dbl, int tiles, int tokens, int dt_rank) {
    scan_bc(partial, d_x_dbl, tiles, tokens, dt_rank);
}

// Adds the partial sums over rows and segments (`rows` of them) to the gradients of A_log, D and dt's bias. A thread has one state of
// one channel; d A / d A_log = A.
extern "C" __global__ void scan_parameters(const float *partial_a, const float *partial_channel, const float *a_log, float *d_a_log,
                                           float *d_skip, float *d_bias, int rows, int d_inner) {
    int cell = blockIdx.x * blockDim.x + threadIdx.x, per_row = d_inner * SCAN_STATES;
    if (cell >= per_row) return;
    float sum = 0.0f;
    for (int r = 0; r < rows; r++) sum += partial_a[(size_t)r * per_row + cell];
    d_a_log[cell] -= sum * __expf(a_log[cell]);
    int channel = cell / SCAN_STATES, n = cell % SCAN_STATES;
    if (n > 1) return;
    float total = 0.0f;
    for (int r = 0; r < rows; r++) total += partial_channel[((size_t)r * 2 + n) * d_inner + channel];
    if (n == 0) d_skip[channel] += total;
    else d_bias[channel] += total;
}

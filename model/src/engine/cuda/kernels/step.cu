// One token for each of a few streams, up to STREAMS_MAX: four launches to a block of the network. Twin: the passes in forward.rs with
// rows of one token.
//
// The products are of matrices with vectors: a warp has some rows of the matrix, reads their weights (W: f32 or bf16) once, and
// multiplies them with every stream's activations, which are f32. Nothing about a stream depends on the others, nor on how many
// there are: each sum is taken in the same order, by the same operations.
#include "step.cuh"

#define STREAMS_MAX 8
#define VECTOR 8

// `count` numbers, at most VECTOR, as f32, zeros behind them; `is_whole` when there are VECTOR and their addresses are multiples of 16.
__device__ __forceinline__ void load(const float *from, int count, bool is_whole, float *to) {
    if (is_whole) {
        float4 a = *(const float4 *)from, b = *(const float4 *)(from + 4);
        to[0] = a.x; to[1] = a.y; to[2] = a.z; to[3] = a.w;
        to[4] = b.x; to[5] = b.y; to[6] = b.z; to[7] = b.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < VECTOR; i++) to[i] = i < count ? from[i] : 0.0f;
}
__device__ __forceinline__ void load(const bf16 *from, int count, bool is_whole, float *to) {
    if (is_whole) {
        uint4 a = *(const uint4 *)from;
        unsigned words[VECTOR / 2] = {a.x, a.y, a.z, a.w};
#pragma unroll
        for (int i = 0; i < VECTOR / 2; i++) {
            to[2 * i] = __uint_as_float(words[i] << 16);
            to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < VECTOR; i++) to[i] = i < count ? to_float(from[i]) : 0.0f;
}

__device__ __forceinline__ bool is_aligned(const void *p) { return (size_t)p % 16 == 0; }

// The first of the rows that this warp has, each warp having ROWS.
template <int ROWS> __device__ __forceinline__ int first_row() {
    return (blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP) * ROWS;
}

// Rows `first` to `first` + ROWS of `matrix`, (rows, columns), times x, (b, columns), b up to STREAMS. Where `norm` is not null, x is
// taken through RMSNorm first, whose factor is applied to the sum. The product of row r and stream s comes back in lane
// r * STREAMS + s.
template <int STREAMS, int ROWS, class W>
__device__ __forceinline__ float products(const W *matrix, const float *x, const float *norm, float eps, int first, int rows, int columns,
                                          int b) {
    int lane = threadIdx.x % WARP;
    bool is_whole = columns % VECTOR == 0 && is_aligned(matrix) && is_aligned(x) && is_aligned(norm);
    float sums[ROWS][STREAMS], squares[STREAMS];
#pragma unroll
    for (int s = 0; s < STREAMS; s++) {
        squares[s] = 0.0f;
#pragma unroll
        for (int r = 0; r < ROWS; r++) sums[r][s] = 0.0f;
    }
    for (int c = lane * VECTOR; c < columns; c += WARP * VECTOR) {
        int count = min(VECTOR, columns - c);
        float weights[ROWS][VECTOR], factors[VECTOR], v[VECTOR];
#pragma unroll
        for (int r = 0; r < ROWS; r++) load(matrix + (size_t)min(first + r, rows - 1) * columns + c, count, is_whole, weights[r]);
        if (norm) load(norm + c, count, is_whole, factors);
#pragma unroll
        for (int s = 0; s < STREAMS; s++) {
            load(x + (size_t)min(s, b - 1) * columns + c, count, is_whole, v);
            if (norm) {
#pragma unroll
                for (int i = 0; i < VECTOR; i++) {
                    squares[s] = fmaf(v[i], v[i], squares[s]);
                    v[i] *= factors[i];
                }
            }
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int i = 0; i < VECTOR; i++) sums[r][s] = fmaf(weights[r][i], v[i], sums[r][s]);
        }
    }
    float own = 0.0f;
#pragma unroll
    for (int s = 0; s < STREAMS; s++) {
        float scale = norm ? rsqrtf(warp_sum(squares[s]) / columns + eps) : 1.0f;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float sum = warp_sum(sums[r][s]) * scale;
            if (lane == r * STREAMS + s) own = sum;
        }
    }
    return own;
}

// Which product a lane has after `products`, and whether there is one.
template <int STREAMS, int ROWS> struct Own {
    int row, stream;
    bool is_real;

    __device__ __forceinline__ Own(int first, int rows, int b) {
        int lane = threadIdx.x % WARP;
        row = first + lane / STREAMS;
        stream = lane % STREAMS;
        is_real = lane < ROWS * STREAMS && row < rows && stream < b;
    }
};

// Calls BODY with STREAMS as small as serves b streams.
#define FOR_STREAMS(b, BODY)                                                                                                               \
    if (b == 1) { constexpr int STREAMS = 1; BODY; }                                                                                       \
    else if (b == 2) { constexpr int STREAMS = 2; BODY; }                                                                                  \
    else if (b <= 4) { constexpr int STREAMS = 4; BODY; }                                                                                  \
    else { constexpr int STREAMS = STREAMS_MAX; BODY; }

#define IN_ROWS 2

// RMSNorm, the input projection, and of its first half the convolution with SiLU; moves the window, (b, d_conv - 1, d_inner), on.
// x is (b, d_model); the first half's result goes to conv, (b, d_inner), the second half to that of xz, (b, 2 d_inner).
// grid: 2 d_inner / (IN_ROWS * warps of a block), rounded up
template <int STREAMS, class W>
__device__ __forceinline__ void step_in(const float *x, const float *norm, const W *matrix, const float *weight, const float *bias,
                                        float *window, float *conv, float *xz, int b, int d_model, int d_inner, int d_conv, float eps) {
    int first = first_row<IN_ROWS>();
    if (first >= 2 * d_inner) return;
    float found = products<STREAMS, IN_ROWS>(matrix, x, norm, eps, first, 2 * d_inner, d_model, b);
    Own<STREAMS, IN_ROWS> own(first, 2 * d_inner, b);
    if (!own.is_real) return;
    if (own.row < d_inner)
        conv[(size_t)own.stream * d_inner + own.row] = conv_step(found, weight, bias, window, own.stream, own.row, d_inner, d_conv);
    else xz[(size_t)own.stream * 2 * d_inner + own.row] = found;
}

extern "C" __global__ void __launch_bounds__(128)
step_in_f32(const float *x, const float *norm, const float *matrix, const float *weight, const float *bias, float *window, float *conv,
            float *xz, int b, int d_model, int d_inner, int d_conv, float eps) {
    FOR_STREAMS(b, step_in<STREAMS>(x, norm, matrix, weight, bias, window, conv, xz, b, d_model, d_inner, d_conv, eps))
}
extern "C" __global__ void __launch_bounds__(128)
step_in_bf16(const float *x, const float *norm, const bf16 *matrix, const float *weight, const float *bias, float *window, float *conv,
             float *xz, int b, int d_model, int d_inner, int d_conv, float eps) {
    FOR_STREAMS(b, step_in<STREAMS>(x, norm, matrix, weight, bias, window, conv, xz, b, d_model, d_inner, d_conv, eps))
}

// matrix, (rows, columns), times x, (b, columns), to y, (b, rows), or added to it.
// grid: rows / warps of a block, rounded up
template <int STREAMS, class W>
__device__ __forceinline__ void step_product(const W *matrix, const float *x, float *y, int b, int rows, int columns, int adds) {
    int first = first_row<1>();
    if (first >= rows) return;
    float found = products<STREAMS, 1>(matrix, x, nullptr, 0.0f, first, rows, columns, b);
    Own<STREAMS, 1> own(first, rows, b);
    if (!own.is_real) return;
    float *to = y + (size_t)own.stream * rows + own.row;
    *to = adds ? *to + found : found;
}

extern "C" __global__ void __launch_bounds__(128)
step_product_f32(const float *matrix, const float *x, float *y, int b, int rows, int columns, int adds) {
    FOR_STREAMS(b, step_product<STREAMS>(matrix, x, y, b, rows, columns, adds))
}
extern "C" __global__ void __launch_bounds__(128)
step_product_bf16(const bf16 *matrix, const float *x, float *y, int b, int rows, int columns, int adds) {
    FOR_STREAMS(b, step_product<STREAMS>(matrix, x, y, b, rows, columns, adds))
}

#define HEAD_ROWS 2

// RMSNorm of x, (b, columns), and the head: matrix, (rows, columns), times it to y, (b, rows).
// grid: rows / (HEAD_ROWS * warps of a block), rounded up
template <int STREAMS, class W>
__device__ __forceinline__ void step_head(const float *x, const float *norm, const W *matrix, float *y, int b, int rows, int columns,
                                          float eps) {
    int first = first_row<HEAD_ROWS>();
    if (first >= rows) return;
    float found = products<STREAMS, HEAD_ROWS>(matrix, x, norm, eps, first, rows, columns, b);
    Own<STREAMS, HEAD_ROWS> own(first, rows, b);
    if (own.is_real) y[(size_t)own.stream * rows + own.row] = found;
}

extern "C" __global__ void __launch_bounds__(128)
step_head_f32(const float *x, const float *norm, const float *matrix, float *y, int b, int rows, int columns, float eps) {
    FOR_STREAMS(b, step_head<STREAMS>(x, norm, matrix, y, b, rows, columns, eps))
}
extern "C" __global__ void __launch_bounds__(128)
step_head_bf16(const float *x, const float *norm, const bf16 *matrix, float *y, int b, int rows, int columns, float eps) {
    FOR_STREAMS(b, step_head<STREAMS>(x, norm, matrix, y, b, rows, columns, eps))
}

// The projection of dt, and the scan. `matrix` is (d_inner, dt_rank), its input the first dt_rank columns of x_dbl.
// grid: (d_inner / SCAN_CHANNELS rounded up, b)
template <class W>
__device__ __forceinline__ void step_dt_scan(const float *x, const W *matrix, const float *xz, const float *x_dbl, const float *a_log,
                                             const float *dt_bias, const float *d_skip, float *state, float *y, int d_inner, int dt_rank) {
    StepChannel channel(a_log, dt_bias, d_skip, d_inner);
    int stream = blockIdx.y, q = threadIdx.x % SCAN_QUAD;
    const float *low = x_dbl + (size_t)stream * (dt_rank + 2 * SCAN_STATES);
    float dt = 0.0f;
    if (channel.is_real)
        for (int j = q; j < dt_rank; j += SCAN_QUAD) dt = fmaf(to_float(matrix[(size_t)channel.index * dt_rank + j]), low[j], dt);
    channel.step(x, quad_sum(dt), xz, low + dt_rank, state, y, stream, d_inner);
}

extern "C" __global__ void __launch_bounds__(SCAN_THREADS)
step_dt_scan_f32(const float *x, const float *matrix, const float *xz, const float *x_dbl, const float *a_log, const float *dt_bias,
                 const float *d_skip, float *state, float *y, int d_inner, int dt_rank) {
    step_dt_scan(x, matrix, xz, x_dbl, a_log, dt_bias, d_skip, state, y, d_inner, dt_rank);
}
extern "C" __global__ void __launch_bounds__(SCAN_THREADS)
step_dt_scan_bf16(const float *x, const bf16 *matrix, const float *xz, const float *x_dbl, const float *a_log, const float *dt_bias,
                  const float *d_skip, float *state, float *y, int d_inner, int dt_rank) {
    step_dt_scan(x, matrix, xz, x_dbl, a_log, dt_bias, d_skip, state, y, d_inner, dt_rank);
}

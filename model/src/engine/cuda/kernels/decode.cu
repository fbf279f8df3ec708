// Many streams, one token each: what stands between the products of a block, and what moves streams about.
#include "step.cuh"

// Copies streams from one buffer, (layers, from_streams, width), to another, (layers, to_streams, width): the i-th goes from
// places[i] to places[count + i]. grid: (width / block rounded up, count, layers)
extern "C" __global__ void move_streams(const float *from, float *to, const unsigned *places, int width, int from_streams, int to_streams) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, layer = blockIdx.z;
    if (c >= width) return;
    size_t source = (size_t)layer * from_streams + places[blockIdx.y], target = (size_t)layer * to_streams + places[gridDim.y + blockIdx.y];
    to[target * width + c] = from[source * width + c];
}

// silu(conv(x) + bias) to conv, (b, d_inner), of the first halves of xz's rows, (b, 2 d_inner); moves the windows on.
// grid: (d_inner / block rounded up, b)
template <class T>
__device__ __forceinline__ void step_conv(const T *xz, const float *weight, const float *bias, float *window, T *conv, int d_inner, int d_conv) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, stream = blockIdx.y;
    if (c >= d_inner) return;
    float x = to_float(xz[(size_t)stream * 2 * d_inner + c]);
    store(conv + (size_t)stream * d_inner + c, conv_step(x, weight, bias, window, stream, c, d_inner, d_conv));
}

extern "C" __global__ void step_conv_f32(const float *xz, const float *weight, const float *bias, float *window, float *conv, int d_inner,
                                         int d_conv) {
    step_conv(xz, weight, bias, window, conv, d_inner, d_conv);
}
extern "C" __global__ void step_conv_bf16(const bf16 *xz, const float *weight, const float *bias, float *window, bf16 *conv, int d_inner,
                                          int d_conv) {
    step_conv(xz, weight, bias, window, conv, d_inner, d_conv);
}

#define SCAN_STREAMS 4

// The scan. A block has SCAN_STREAMS streams, so that exp(A_log) is worked out for all of them at once.
// grid: (d_inner / SCAN_CHANNELS, b / SCAN_STREAMS), rounded up
template <class T>
__device__ __forceinline__ void step_scan(const T *x, const T *dt_raw, const T *xz, const T *x_dbl, const float *a_log, const float *dt_bias,
                                          const float *d_skip, float *state, T *y, int b, int d_inner, int dt_rank) {
    StepChannel channel(a_log, dt_bias, d_skip, d_inner);
    int begin = blockIdx.y * SCAN_STREAMS, end = min(begin + SCAN_STREAMS, b);
    for (int stream = begin; stream < end; stream++) {
        float dt = channel.is_real ? to_float(dt_raw[(size_t)stream * d_inner + channel.index]) : 0.0f;
        channel.step(x, dt, xz, x_dbl + (size_t)stream * (dt_rank + 2 * SCAN_STATES) + dt_rank, state, y, stream, d_inner);
    }
}

extern "C" __global__ void __launch_bounds__(SCAN_THREADS)
step_scan_f32(const float *x, const float *dt_raw, const float *xz, const float *x_dbl, const float *a_log, const float *dt_bias,
              const float *d_skip, float *state, float *y, int b, int d_inner, int dt_rank) {
    step_scan(x, dt_raw, xz, x_dbl, a_log, dt_bias, d_skip, state, y, b, d_inner, dt_rank);
}
extern "C" __global__ void __launch_bounds__(SCAN_THREADS)
step_scan_bf16(const bf16 *x, const bf16 *dt_raw, const bf16 *xz, const bf16 *x_dbl, const float *a_log, const float *dt_bias,
               const float *d_skip, float *state, bf16 *y, int b, int d_inner, int dt_rank) {
    step_scan(x, dt_raw, xz, x_dbl, a_log, dt_bias, d_skip, state, y, b, d_inner, dt_rank);
}

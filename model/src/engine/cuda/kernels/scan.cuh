// What the forward and backward scans share.
//
// A block has SCAN_CHANNELS channels of one segment of one row; four neighbouring threads have a channel, each with four of its
// sixteen states in registers, and walk time serially, SCAN_TOKENS tokens of inputs in shared memory at a time. A row is cut into
// segments where rows and channels alone would leave the device idle: first each segment is walked from zero (scan_ends), then
// the states between segments are put together (scan_join), then all segments are walked at once. Since a product of decays is
// the decay over the sum of dt, a segment is described by that sum and its end from zero.
#pragma once
#include "common.cuh"

#define SCAN_STATES 16
#define SCAN_QUAD 4
#define SCAN_CHANNELS 32
#define SCAN_THREADS (SCAN_CHANNELS * SCAN_QUAD)
// Tokens between two checkpoints of the state.
#define SCAN_TOKENS 16

// B and C of the tokens from `first` on, side by side (SCAN_TOKENS, 2 SCAN_STATES); zero behind the row's end.
template <class T>
__device__ __forceinline__ void load_bc(const T *x_dbl, float (*bc)[2 * SCAN_STATES], size_t row_start, int first, int end, int dt_rank) {
    int width = dt_rank + 2 * SCAN_STATES;
    for (int i = threadIdx.x; i < SCAN_TOKENS * 2 * SCAN_STATES; i += SCAN_THREADS) {
        int token = i / (2 * SCAN_STATES), n = i % (2 * SCAN_STATES);
        bool is_in = first + token < end;
        bc[token][n] = is_in ? to_float(x_dbl[(row_start + first + token) * width + dt_rank + n]) : 0.0f;
    }
}

// What is left of a state after a segment whose dt sum to `sum`; nothing where a sample starts in it, which is a sum of infinity (times
// an A that is zero in f32 it would be no number).
__device__ __forceinline__ float decay_over(float sum, float a2) { return sum < INFINITY ? exp2f(sum * a2) : 0.0f; }

// The sum of x over the four threads of a channel, in each of them.
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(FULL_WARP, x, 1);
    return x + __shfl_xor_sync(FULL_WARP, x, 2);
}

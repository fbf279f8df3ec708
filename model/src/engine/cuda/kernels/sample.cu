// Draws tokens from logits: a mask of what may come, temperature, top-k, top-p. Twin: generate/sampling.rs, to which a draw is equal
// unless its number falls within rounding of the border between two tokens: weights are the same f32 numbers up to the last bit of exp,
// and are summed in f64, here in another order.
#include "common.cuh"
#include <float.h>

#define DRAW_THREADS 256
#define DRAW_WARPS (DRAW_THREADS / WARP)
#define NO_TOKEN 0xffffffffu

// The sum over the block in a fixed order, in every thread; `scratch` holds DRAW_WARPS.
__device__ __forceinline__ double block_sum(double x, double *scratch) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_WARP, x, offset);
    __syncthreads(); // whoever used `scratch` before has read it
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    x = 0.0;
#pragma unroll
    for (int w = 0; w < DRAW_WARPS; w++) x += scratch[w];
    return x;
}

// The sum over the threads before this one, and with it to `end`: exactly where the next thread begins. `total` is that of all.
__device__ __forceinline__ double block_scan(double x, double *scratch, double *end, double *total) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (int offset = 1; offset < WARP; offset *= 2) {
        double before = __shfl_up_sync(FULL_WARP, x, offset);
        if (lane >= offset) x += before;
    }
    double before = __shfl_up_sync(FULL_WARP, x, 1);
    __syncthreads();
    if (lane == WARP - 1) scratch[warp] = x;
    __syncthreads();
    double sum = 0.0, begin = 0.0;
#pragma unroll
    for (int w = 0; w < DRAW_WARPS; w++) {
        if (w == warp) {
            begin = lane == 0 ? sum : sum + before;
            *end = sum + x;
        }
        sum += scratch[w];
    }
    *total = sum;
    return begin;
}

// What is drawn from: the tokens that have a key above `cut`, and those of key `cut` up to token `last`.
struct Candidates {
    const float *logits;
    const unsigned *mask; // null when everything may come
    int count;
    unsigned cut;
    int last;

    __device__ __forceinline__ float logit(int t) const { return fminf(logits[t], FLT_MAX); }
    // Ordered as f32's total order, which no usable logit's key is the least of.
    __device__ __forceinline__ unsigned key(int t) const {
        unsigned bits = __float_as_uint(logit(t));
        return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    }
    __device__ __forceinline__ bool is_usable(int t) const {
        float x = logits[t];
        return x == x && x != -INFINITY && (!mask || (mask[t / 32] >> (t % 32) & 1));
    }
    __device__ __forceinline__ bool is_kept(int t) const {
        unsigned k = key(t);
        return k > cut || (k == cut && t <= last);
    }
    __device__ __forceinline__ bool has(int t) const { return is_usable(t) && is_kept(t); }

    // The tokens of this thread where order matters: `begin` to `end`.
    __device__ __forceinline__ int part() const { return (count + DRAW_THREADS - 1) / DRAW_THREADS; }
    __device__ __forceinline__ int begin() const { return min((int)threadIdx.x * part(), count); }
    __device__ __forceinline__ int end() const { return min(begin() + part(), count); }

    // The sum of `mass` over the tokens of key `from` and above.
    template <class Mass> __device__ __forceinline__ double above(unsigned from, double *scratch, Mass mass) const {
        double sum = 0.0;
        for (int t = threadIdx.x; t < count; t += DRAW_THREADS)
            if (key(t) >= from) sum += mass(t);
        return block_sum(sum, scratch);
    }

    // The largest key from which on masses come to `enough`, which is above zero; 0 when all of them do not.
    template <class Mass> __device__ __forceinline__ unsigned find_cut(double enough, double *scratch, Mass mass) const {
        unsigned found = 0;
        for (unsigned bit = 0x80000000u; bit > 0; bit /= 2)
            if (above(found | bit, scratch, mass) >= enough) found |= bit;
        return found;
    }

    // The first candidate of key `of` with which the masses of those so far come to `enough`; the last token when they do not.
    template <class Mass> __device__ __forceinline__ int find_tie(unsigned of, double enough, double *scratch, Mass mass) const {
        __shared__ int found;
        double own = 0.0;
        for (int t = begin(); t < end(); t++) own += key(t) == of ? mass(t) : 0.0;
        double to, total, from = block_scan(own, scratch, &to, &total);
        if (threadIdx.x == 0) found = count - 1;
        __syncthreads();
        if (from < enough && enough <= to)
            for (int t = begin(); t < end() && from < enough; t++) {
                from += key(t) == of ? mass(t) : 0.0;
                if (from >= enough) atomicMin(&found, t);
            }
        __syncthreads();
        return found;
    }

    // Keeps the likeliest, of equals the first, as many as `enough` of mass needs.
    template <class Mass> __device__ __forceinline__ void keep(double enough, double *scratch, Mass mass) {
        unsigned at = find_cut(enough, scratch, mass);
        last = find_tie(at, enough - above(at + 1, scratch, mass), scratch, mass);
        cut = at;
    }
};

// The largest logit, and the first token that has it, in every thread; NO_TOKEN where there is none.
__device__ __forceinline__ unsigned find_likeliest(const Candidates &all, float *largest) {
    __shared__ float values[DRAW_WARPS];
    __shared__ unsigned tokens[DRAW_WARPS];
    float value = -INFINITY;
    unsigned token = NO_TOKEN;
    // + 0: the two zeros are equals.
    for (int t = threadIdx.x; t < all.count; t += DRAW_THREADS)
        if (all.is_usable(t) && all.logit(t) + 0.0f > value) value = all.logit(t) + 0.0f, token = t;
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        float other = __shfl_xor_sync(FULL_WARP, value, offset);
        unsigned other_token = __shfl_xor_sync(FULL_WARP, token, offset);
        if (other > value || (other == value && other_token < token)) value = other, token = other_token;
    }
    if (threadIdx.x % WARP == 0) {
        values[threadIdx.x / WARP] = value;
        tokens[threadIdx.x / WARP] = token;
    }
    __syncthreads();
    for (int w = 0; w < DRAW_WARPS; w++)
        if (values[w] > value || (values[w] == value && tokens[w] < token)) value = values[w], token = tokens[w];
    *largest = value;
    return token;
}

// A block to a draw. `inputs` has a number in [0, 1) for each draw (f64, as two words), then its slot, then, where mask_words is not
// 0, its mask. The slot's row of `logits`, (slots, stride), is drawn from, of which the first vocab_size count. `weights` is scratch,
// (draws, vocab_size). The token goes to ret, or NO_TOKEN. A temperature of 0 takes the
// likeliest, top_k 0 is all, top_p 1 is all. grid: draws
extern "C" __global__ void __launch_bounds__(DRAW_THREADS, 2)
draw(const float *logits, const unsigned *inputs, float *weights, unsigned *ret, int stride, int vocab_size, int mask_words,
     float temperature, int top_k, float top_p) {
    __shared__ double scratch[DRAW_WARPS];
    __shared__ unsigned picked;
    int draws = gridDim.x, index = blockIdx.x;
    double uniform = ((const double *)inputs)[index];
    unsigned slot = inputs[2 * draws + index];
    Candidates all;
    all.logits = logits + (size_t)slot * stride;
    all.mask = mask_words > 0 ? inputs + 3 * draws + (size_t)index * mask_words : nullptr;
    all.count = vocab_size;
    all.cut = 0;
    all.last = -1;
    weights += (size_t)index * vocab_size;

    float largest;
    unsigned likeliest = find_likeliest(all, &largest);
    if (likeliest == NO_TOKEN || temperature <= 0.0f) {
        if (threadIdx.x == 0) ret[index] = likeliest;
        return;
    }
    if (top_k > 0) all.keep(top_k, scratch, [&](int t) { return all.is_usable(t) ? 1.0 : 0.0; });
    for (int t = threadIdx.x; t < vocab_size; t += DRAW_THREADS)
        weights[t] = all.has(t) ? (float)exp(((double)all.logit(t) - (double)largest) / (double)temperature) : 0.0f;
    __syncthreads();
    if (top_p < 1.0f) {
        auto weight = [&](int t) { return (double)weights[t]; };
        all.keep((double)top_p * all.above(0, scratch, weight), scratch, weight);
        for (int t = threadIdx.x; t < vocab_size; t += DRAW_THREADS)
            if (!all.is_kept(t)) weights[t] = 0.0f;
        __syncthreads();
    }
    double own = 0.0, to, total;
    for (int t = all.begin(); t < all.end(); t++) own += (double)weights[t];
    double from = block_scan(own, scratch, &to, &total), target = uniform * total;
    if (threadIdx.x == 0) picked = NO_TOKEN;
    __syncthreads();
    if (from <= target && target < to) {
        double left = target - from;
        unsigned token = NO_TOKEN;
        // Where rounding leaves something behind the last token, it is the last.
        for (int t = all.begin(); t < all.end() && left >= 0.0; t++) {
            if (weights[t] > 0.0f) token = t;
            left -= (double)weights[t];
        }
        atomicMin(&picked, token);
    }
    __syncthreads();
    // Only rounding leaves none; the likeliest is always a right answer.
    if (threadIdx.x == 0) ret[index] = picked == NO_TOKEN ? likeliest : picked;
}

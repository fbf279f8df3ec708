// The embedding, forward and backward, and the head's cross-entropy.
#include "common.cuh"

// Rows of the table, (vocab_size, d), to x, (tokens, d). A block has one token.
extern "C" __global__ void embed(const float *table, const unsigned *tokens, float *x, int d) {
    const float *from = table + (size_t)tokens[blockIdx.x] * d;
    float *to = x + (size_t)blockIdx.x * d;
    for (int c = threadIdx.x; c < d; c += blockDim.x) to[c] = from[c];
}

// Sums the rows of d_x, (tokens, d), that belong to one token of the vocabulary, a piece at a time. `order` has the places of the
// tokens, sorted by what they are; `pieces[i]` to `pieces[i + 1]` is a piece of it, all of one token. Block i writes the sum of piece
// i to partial, (pieces, d); blocks behind `count` do nothing, so that one launch serves every batch of a shape.
extern "C" __global__ void embed_pieces(const float *d_x, const unsigned *order, const unsigned *pieces, const unsigned *count,
                                        float *partial, int d) {
    if (blockIdx.x >= *count) return;
    unsigned begin = pieces[blockIdx.x], end = pieces[blockIdx.x + 1];
    for (int c = threadIdx.x; c < d; c += blockDim.x) {
        float sum = 0.0f;
        for (unsigned i = begin; i < end; i++) sum += d_x[(size_t)order[i] * d + c];
        partial[(size_t)blockIdx.x * d + c] = sum;
    }
}

// Adds the sums of a token's pieces, `of_token[v]` to `of_token[v + 1]`, to its row of the table's gradient. A block has one token of
// the vocabulary.
extern "C" __global__ void embed_table(const float *partial, const unsigned *of_token, float *d_table, int d) {
    unsigned begin = of_token[blockIdx.x], end = of_token[blockIdx.x + 1];
    if (begin == end) return;
    for (int c = threadIdx.x; c < d; c += blockDim.x) {
        float sum = 0.0f;
        for (unsigned i = begin; i < end; i++) sum += partial[(size_t)i * d + c];
        d_table[(size_t)blockIdx.x * d + c] += sum;
    }
}

#define IGNORE 0xffffffffu

// Cross-entropy of one token's logits, in nats, and, where d_logits is not null, its derivative times *scale. A block has one row; rows
// begin `stride` numbers apart.
template <class T>
__device__ __forceinline__ void cross_entropy(const float *logits, const unsigned *targets, const float *scale, float *losses, T *d_logits,
                                              int vocab_size, int stride) {
    __shared__ float scratch[WARP];
    const float *row = logits + (size_t)blockIdx.x * stride;
    unsigned target = targets[blockIdx.x];
    T *to = d_logits ? d_logits + (size_t)blockIdx.x * stride : nullptr;
    if (target == IGNORE) {
        if (to) for (int v = threadIdx.x; v < vocab_size; v += blockDim.x) store(to + v, 0.0f);
        if (threadIdx.x == 0) losses[blockIdx.x] = 0.0f;
        return;
    }
    float largest = -INFINITY;
    for (int v = threadIdx.x; v < vocab_size; v += blockDim.x) largest = fmaxf(largest, row[v]);
    largest = block_reduce<true>(largest, scratch);
    float sum = 0.0f;
    for (int v = threadIdx.x; v < vocab_size; v += blockDim.x) sum += __expf(row[v] - largest);
    sum = block_reduce<false>(sum, scratch);
    if (threadIdx.x == 0) losses[blockIdx.x] = logf(sum) + largest - row[target];
    if (!to) return;
    float factor = *scale / sum;
    for (int v = threadIdx.x; v < vocab_size; v += blockDim.x) {
        float p = __expf(row[v] - largest) * factor;
        store(to + v, v == (int)target ? p - *scale : p);
    }
}

extern "C" __global__ void cross_entropy_f32(const float *logits, const unsigned *targets, const float *scale, float *losses,
                                             float *d_logits, int vocab_size, int stride) {
    cross_entropy(logits, targets, scale, losses, d_logits, vocab_size, stride);
}
extern "C" __global__ void cross_entropy_bf16(const float *logits, const unsigned *targets, const float *scale, float *losses,
                                              bf16 *d_logits, int vocab_size, int stride) {
    cross_entropy(logits, targets, scale, losses, d_logits, vocab_size, stride);
}

// AdamW over the flat buffers, with PyTorch's order of operations (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2).
// Twin: train/optimizer.rs.
#include "common.cuh"

// `pieces`, (blocks, 3): where a block's piece of the buffers begins, how long it is, and whether it decays. `halves`, where not null,
// gets the new parameters as bf16.
extern "C" __global__ void adamw(float *params, const float *gradients, float *first, float *second, bf16 *halves, const unsigned *pieces,
                                 float clip, float beta1, float rest1, float beta2, float rest2, float eps, float step_size,
                                 float root_correction, float kept) {
    unsigned begin = pieces[3 * blockIdx.x], len = pieces[3 * blockIdx.x + 1];
    float keep = pieces[3 * blockIdx.x + 2] ? kept : 1.0f;
    for (size_t i = begin + threadIdx.x; i < (size_t)begin + len; i += blockDim.x) {
        float g = gradients[i] * clip;
        float m = beta1 * first[i] + rest1 * g, v = beta2 * second[i] + rest2 * g * g;
        float p = params[i] * keep - step_size * (m / (sqrtf(v) / root_correction + eps));
        first[i] = m;
        second[i] = v;
        params[i] = p;
        if (halves) halves[i] = __float2bfloat16(p);
    }
}

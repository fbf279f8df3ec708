// Decoding: what moves the states of streams about.
#include "common.cuh"

// Copies streams from one buffer, (layers, from_streams, width), to another, (layers, to_streams, width): the i-th goes from
// places[i] to places[count + i]. grid: (width / block rounded up, count, layers)
extern "C" __global__ void move_streams(const float *from, float *to, const unsigned *places, int width, int from_streams, int to_streams) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, layer = blockIdx.z;
    if (c >= width) return;
    size_t source = (size_t)layer * from_streams + places[blockIdx.y], target = (size_t)layer * to_streams + places[gridDim.y + blockIdx.y];
    to[target * width + c] = from[source * width + c];
}

// Keeps more numbers in each of 1,024 threads than there are registers.
extern "C" __global__ void __launch_bounds__(1024) heavy(float *p, int n) {
    float a[200];
#pragma unroll
    for (int i = 0; i < 200; i++) a[i] = p[i * 1024 + threadIdx.x];
    for (int k = 0; k < n; k++) {
#pragma unroll
        for (int i = 0; i < 200; i++) a[i] = a[i] * a[(i + 7) % 200] + k;
    }
#pragma unroll
    for (int i = 0; i < 200; i++) p[i * 1024 + threadIdx.x] = a[i];
}

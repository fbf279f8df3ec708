// Runs the kernels beside this file through the emulated driver, and says what came out: one case a call, so that a
// fault that ends the process ends one case. The test (tests/tests/emulator.rs) knows what each case has to print.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "../driver.h"

extern "C" {
CUresult cuInit(unsigned);
CUresult cuDriverGetVersion(int *);
CUresult cuDeviceGetCount(int *);
CUresult cuDeviceGet(CUdevice *, int);
CUresult cuDeviceGetAttribute(int *, int, CUdevice);
CUresult cuDevicePrimaryCtxRetain(CUcontext *, CUdevice);
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice);
CUresult cuCtxSetCurrent(CUcontext);
CUresult cuCtxSynchronize();
CUresult cuModuleLoadData(CUmodule *, const void *);
CUresult cuModuleGetFunction(CUfunction *, CUmodule, const char *);
CUresult cuMemAlloc_v2(CUdeviceptr *, size_t);
CUresult cuMemAllocAsync(CUdeviceptr *, size_t, CUstream);
CUresult cuMemFree_v2(CUdeviceptr);
CUresult cuMemFreeAsync(CUdeviceptr, CUstream);
CUresult cuMemGetInfo_v2(size_t *, size_t *);
CUresult cuMemHostAlloc(void **, size_t, unsigned);
CUresult cuMemFreeHost(void *);
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr, const void *, size_t, CUstream);
CUresult cuMemcpyDtoHAsync_v2(void *, CUdeviceptr, size_t, CUstream);
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, size_t, CUstream);
CUresult cuMemcpyHtoD_v2(CUdeviceptr, const void *, size_t);
CUresult cuMemcpyDtoH_v2(void *, CUdeviceptr, size_t);
CUresult cuMemsetD8Async(CUdeviceptr, unsigned char, size_t, CUstream);
CUresult cuMemsetD32Async(CUdeviceptr, unsigned, size_t, CUstream);
CUresult cuStreamCreate(CUstream *, unsigned);
CUresult cuStreamSynchronize(CUstream);
CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned);
CUresult cuStreamDestroy_v2(CUstream);
CUresult cuEventCreate(CUevent *, unsigned);
CUresult cuEventRecord(CUevent, CUstream);
CUresult cuEventSynchronize(CUevent);
CUresult cuEventElapsedTime_v2(float *, CUevent, CUevent);
CUresult cuStreamBeginCapture_v2(CUstream, unsigned);
CUresult cuStreamEndCapture(CUstream, CUgraph *);
CUresult cuStreamIsCapturing(CUstream, int *);
CUresult cuGraphInstantiateWithFlags(CUgraphExec *, CUgraph, unsigned long long);
CUresult cuGraphLaunch(CUgraphExec, CUstream);
CUresult cuGraphExecDestroy(CUgraphExec);
CUresult cuGraphDestroy(CUgraph);
CUresult cuFuncSetAttribute(CUfunction, int, int);
CUresult cuLaunchKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **);
CUresult cuGetErrorName(CUresult, const char **);
CUresult cuGetProcAddress_v2(const char *, void **, int, uint64_t, int *);
int cublasCreate_v2(void **);
int cublasDestroy_v2(void *);
int cublasSetStream_v2(void *, void *);
int cublasGemmEx(void *, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int, const void *, void *, int, int, int, int);
int cublasGemmStridedBatchedEx(void *, int, int, int, int, int, const void *, const void *, int, int, long long, const void *, int, int, long long,
                               const void *, void *, int, int, long long, int, int, int);
int cublasSgemm_v2(void *, int, int, int, int, int, const float *, const float *, int, const float *, int, const float *, float *, int);
}

namespace {

const char *name(CUresult result) {
    const char *text = nullptr;
    cuGetErrorName(result, &text);
    return text ? text : "an error without a name";
}
void check(CUresult result, int line) {
    if (result == 0) return;
    printf("line %d: %s\n", line, name(result));
    exit(1);
}
#define CHECK(call) check(call, __LINE__)
#define EXPECT(what)                                                                                                   \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            printf("line %d: not so: %s\n", __LINE__, #what);                                                          \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

CUmodule module;
CUstream stream;

template <class T> struct Buffer {
    CUdeviceptr data = 0;
    size_t count;
    explicit Buffer(size_t count) : count(count) { CHECK(cuMemAlloc_v2(&data, count * sizeof(T))); }
    explicit Buffer(const std::vector<T> &values) : Buffer(values.size()) { CHECK(cuMemcpyHtoDAsync_v2(data, values.data(), count * sizeof(T), stream)); }
    Buffer(const Buffer &) = delete;
    ~Buffer() { CHECK(cuMemFree_v2(data)); }
    std::vector<T> read() const {
        std::vector<T> values(count);
        CHECK(cuMemcpyDtoHAsync_v2(values.data(), data, count * sizeof(T), stream));
        CHECK(cuStreamSynchronize(stream));
        return values;
    }
};

CUfunction function(const char *name) {
    CUfunction found;
    CHECK(cuModuleGetFunction(&found, module, name));
    return found;
}

template <class... Args> CUresult launch(const char *name, dim3 grid, dim3 block, unsigned shared, Args... args) {
    void *parameters[] = {&args..., nullptr};
    return cuLaunchKernel(function(name), grid.x, grid.y, grid.z, block.x, block.y, block.z, shared, stream, parameters, nullptr);
}

uint32_t seed = 12345;
float next() { // -1 to 1, in steps that bfloat16 holds
    seed = seed * 1664525 + 1013904223;
    return static_cast<float>(static_cast<int>(seed >> 24) - 128) / 128;
}
std::vector<float> values(size_t count) {
    std::vector<float> v(count);
    for (float &x : v) x = next();
    return v;
}
uint16_t bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
float from_bf16(uint16_t x) {
    uint32_t bits = static_cast<uint32_t>(x) << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

void open() {
    CUdevice device;
    CUcontext context;
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuModuleLoadData(&module, "any image"));
    CHECK(cuStreamCreate(&stream, 1));
}

void plain() {
    const int n = 10000;
    std::vector<float> x = values(n), y = values(n);
    Buffer<float> dx(x), dy(y), out(n), sums(16);
    CHECK(launch("saxpy", (n + 255) / 256, 256, 0, 0.5f, dx.data, dy.data, out.data, n));
    std::vector<float> got = out.read();
    for (size_t i = 0; i < n; i++) EXPECT(got[i] == fmaf(0.5f, x[i], y[i]));

    CHECK(launch("sum", 16, 256, 0, dx.data, sums.data, n));
    double expected = 0, sum = 0;
    for (float v : x) expected += v;
    for (float v : sums.read()) sum += v;
    EXPECT(std::abs(sum - expected) < 1e-2);

    const int rows = 100, columns = 70;
    Buffer<float> turned(rows * columns);
    CHECK(launch("transpose", dim3(3, 4), dim3(32, 32), 32 * 33 * 4, dx.data, turned.data, rows, columns));
    got = turned.read();
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < columns; c++) EXPECT(got[static_cast<size_t>(c * rows + r)] == x[static_cast<size_t>(r * columns + c)]);
    }

    struct Pair {
        float scale;
        int count;
    } pair{1.00390625f, 40};
    std::vector<uint16_t> halves;
    for (int i = 0; i < 128; i++) halves.push_back(bf16(x[static_cast<size_t>(i)]));
    Buffer<uint16_t> pairs(halves);
    Buffer<uint32_t> words(std::vector<uint32_t>(4, 0));
    Buffer<float> vectors(64 * 4);
    CHECK(launch("mixed", 1, 64, 0, pair, pairs.data, words.data, vectors.data));
    unsigned above = 0, positive = 0;
    for (size_t i = 0; i < 64; i++) {
        above += x[2 * i] + x[2 * i + 1] > 0;
        positive += x[2 * i] > 0;
    }
    std::vector<uint32_t> w = words.read();
    EXPECT(w[0] == above && w[1] == 1 && w[2] == 63);
    EXPECT(w[3] == 0x3f80); // 1 + 2^-8 lies half way between 1 and the next: to even
    got = vectors.read();
    for (size_t i = 0; i < 64; i++) {
        EXPECT(got[4 * i] == x[2 * i] && got[4 * i + 1] == x[2 * i + 1] && got[4 * i + 3] == static_cast<float>(positive));
    }

    Buffer<int> exchanged(128);
    CHECK(cuMemsetD32Async(words.data, 0, 4, stream));
    CHECK(launch("exchanges", 2, 64, 0, exchanged.data, words.data));
    EXPECT(words.read()[0] == 2);
    std::vector<int> e = exchanged.read();
    for (int i = 0; i < 128; i++) {
        int t = i % 64, from = t / 16 * 16 + (15 - t % 16), warp = from / 32 * 32; // whose value of the first exchange
        EXPECT(e[static_cast<size_t>(i)] == (warp + 31 - from % 32) + (warp + (from + 1) % 32));
    }

    std::vector<int> ones(64, 1);
    Buffer<int> in(ones), prefix(64);
    CHECK(launch("segments", 1, 64, 0, in.data, prefix.data));
    std::vector<int> p = prefix.read();
    for (int i = 0; i < 64; i++) EXPECT(p[static_cast<size_t>(i)] == i % 8 + 1);
}

// op(A) is m x k, op(B) is k x n: against sums in double, all transpositions, both types.
void products() {
    void *blas;
    EXPECT(cublasCreate_v2(&blas) == 0);
    EXPECT(cublasSetStream_v2(blas, stream) == 0);
    for (auto [m, n, k] : {std::tuple{3, 5, 7}, {64, 4, 16}, {70, 33, 129}, {130, 200, 64}}) {
        for (int ta = 0; ta < 2; ta++) {
            for (int tb = 0; tb < 2; tb++) {
                for (int type : {0, 14}) {
                    for (float beta : {0.0f, 1.0f}) {
                        int lda = (ta ? k : m) + 2, ldb = (tb ? n : k) + 1, ldc = m + 3;
                        auto a = values(static_cast<size_t>(lda * (ta ? m : k))), b = values(static_cast<size_t>(ldb * (tb ? k : n)));
                        auto c = values(static_cast<size_t>(ldc * n));
                        std::vector<uint16_t> a16, b16;
                        for (float v : a) a16.push_back(bf16(v));
                        for (float v : b) b16.push_back(bf16(v));
                        Buffer<float> da(a), db(b), dc(c);
                        Buffer<uint16_t> da16(a16), db16(b16);
                        float alpha = 0.5f;
                        auto address = [](CUdeviceptr p) { return reinterpret_cast<void *>(p); };
                        if (type == 14) {
                            EXPECT(cublasGemmEx(blas, ta, tb, m, n, k, &alpha, address(da16.data), 14, lda, address(db16.data), 14, ldb, &beta, address(dc.data), 0, ldc, 68, -1) == 0);
                        } else {
                            EXPECT(cublasSgemm_v2(blas, ta, tb, m, n, k, &alpha, reinterpret_cast<float *>(da.data), lda, reinterpret_cast<float *>(db.data), ldb, &beta, reinterpret_cast<float *>(dc.data), ldc) == 0);
                        }
                        auto got = dc.read();
                        for (int j = 0; j < n; j++) {
                            for (int i = 0; i < ldc; i++) {
                                size_t at = static_cast<size_t>(j * ldc + i);
                                if (i >= m) {
                                    EXPECT(got[at] == c[at]); // between the columns nothing is written
                                    continue;
                                }
                                double sum = 0;
                                for (int l = 0; l < k; l++) {
                                    sum += static_cast<double>(a[static_cast<size_t>(ta ? i * lda + l : l * lda + i)]) * b[static_cast<size_t>(tb ? l * ldb + j : j * ldb + l)];
                                }
                                sum = alpha * sum + beta * c[at];
                                EXPECT(std::abs(got[at] - sum) <= 1e-4);
                            }
                        }
                    }
                }
            }
        }
    }
    // A batch, to bfloat16; C is fresh memory (NaN), which beta = 0 must not read.
    auto a = values(3 * 8 * 8), b = values(3 * 8 * 8);
    std::vector<uint16_t> a16, b16;
    for (float v : a) a16.push_back(bf16(v));
    for (float v : b) b16.push_back(bf16(v));
    Buffer<uint16_t> da(a16), db(b16), dc(3 * 8 * 8);
    float one = 1, zero = 0;
    EXPECT(cublasGemmStridedBatchedEx(blas, 0, 0, 8, 8, 8, &one, reinterpret_cast<void *>(da.data), 14, 8, 64, reinterpret_cast<void *>(db.data), 14, 8, 64, &zero,
                                      reinterpret_cast<void *>(dc.data), 14, 8, 64, 3, 68, -1) == 0);
    auto got = dc.read();
    for (size_t g = 0; g < 3; g++) {
        for (size_t j = 0; j < 8; j++) {
            for (size_t i = 0; i < 8; i++) {
                double sum = 0;
                for (size_t l = 0; l < 8; l++) sum += static_cast<double>(a[g * 64 + l * 8 + i]) * b[g * 64 + j * 8 + l];
                EXPECT(std::abs(from_bf16(got[g * 64 + j * 8 + i]) - sum) <= std::abs(sum) / 128);
            }
        }
    }
    EXPECT(cublasDestroy_v2(blas) == 0);
}

void graph() {
    const int n = 1000;
    std::vector<float> x = values(n), zeros(n, 0);
    Buffer<float> dx(x), total(zeros), copy(n);
    CUgraph graph;
    CUgraphExec exec;
    int status;
    CHECK(cuStreamBeginCapture_v2(stream, 0));
    CHECK(launch("saxpy", 4, 256, 0, 1.0f, dx.data, total.data, total.data, n));
    CHECK(cuMemcpyDtoDAsync_v2(copy.data, total.data, n * 4, stream));
    CHECK(cuMemsetD32Async(dx.data, 0x3f800000, n, stream));
    CHECK(cuStreamIsCapturing(stream, &status));
    EXPECT(status == 1);
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuGraphDestroy(graph));
    auto got = total.read();
    for (float v : got) EXPECT(v == 0); // recorded, not run
    for (int i = 0; i < 3; i++) CHECK(cuGraphLaunch(exec, stream));
    got = copy.read();
    for (size_t i = 0; i < n; i++) EXPECT(got[i] == (x[i] + 1) + 1);
    CHECK(cuGraphExecDestroy(exec));

    // What a capture forbids, and what becomes of it.
    CHECK(cuStreamBeginCapture_v2(stream, 0));
    EXPECT(cuStreamSynchronize(stream) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK(cuStreamIsCapturing(stream, &status));
    EXPECT(status == 2);
    EXPECT(cuStreamEndCapture(stream, &graph) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CUdeviceptr memory;
    CHECK(cuStreamBeginCapture_v2(stream, 0));
    EXPECT(cuMemAlloc_v2(&memory, 16) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    EXPECT(cuStreamEndCapture(stream, &graph) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    float word;
    CHECK(cuStreamBeginCapture_v2(stream, 0));
    EXPECT(cuMemcpyDtoHAsync_v2(&word, total.data, 4, stream) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    EXPECT(cuStreamEndCapture(stream, &graph) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // Work outside of the capture is no part of it; a stream that joined has to be waited for.
    CUevent event, joined;
    CUstream other;
    CHECK(cuEventCreate(&event, 2));
    CHECK(cuEventCreate(&joined, 2));
    CHECK(cuStreamCreate(&other, 1));
    CHECK(cuEventRecord(event, other));
    CHECK(cuStreamBeginCapture_v2(stream, 0));
    EXPECT(cuStreamWaitEvent(stream, event, 0) == CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    EXPECT(cuStreamEndCapture(stream, &graph) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK(cuStreamBeginCapture_v2(stream, 0));
    CHECK(cuEventRecord(event, stream));
    CHECK(cuStreamWaitEvent(other, event, 0));
    CHECK(cuMemsetD8Async(dx.data, 0, 4, other));
    EXPECT(cuStreamEndCapture(stream, &graph) == CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    CHECK(cuStreamBeginCapture_v2(stream, 0));
    CHECK(cuEventRecord(event, stream));
    CHECK(cuStreamWaitEvent(other, event, 0));
    CHECK(cuMemsetD8Async(dx.data, 0, 4, other));
    CHECK(cuEventRecord(joined, other));
    CHECK(cuStreamWaitEvent(stream, joined, 0));
    CHECK(cuStreamEndCapture(stream, &graph));
}

// With EMULATED_CUDA_DEFERRED=1: work runs when it is waited for, and what does not wait sees the state before.
void deferred() {
    std::vector<float> zeros(4, 0);
    Buffer<float> a(zeros);
    CHECK(cuCtxSynchronize());
    CUstream other;
    CUevent event;
    float *pinned;
    CHECK(cuStreamCreate(&other, 1));
    CHECK(cuEventCreate(&event, 2));
    CHECK(cuMemHostAlloc(reinterpret_cast<void **>(&pinned), 16, 0));
    pinned[0] = 5;
    CHECK(cuMemsetD32Async(a.data, 0x3f800000, 4, stream)); // 1
    CHECK(cuEventRecord(event, stream));
    float word;
    CHECK(cuMemcpyDtoHAsync_v2(&word, a.data, 4, other)); // another stream, which waits for nothing
    EXPECT(word == 0);
    CHECK(cuStreamWaitEvent(other, event, 0));
    CHECK(cuMemcpyDtoHAsync_v2(&word, a.data, 4, other));
    EXPECT(word == 1);
    CHECK(cuMemsetD32Async(a.data, 0x40000000, 4, stream)); // 2
    CHECK(cuMemcpyDtoHAsync_v2(pinned, a.data, 4, stream));
    EXPECT(pinned[0] == 5);
    CHECK(cuStreamSynchronize(stream));
    EXPECT(pinned[0] == 2);
    CHECK(cuMemFreeHost(pinned));
}

void memory() {
    CUdeviceptr a, b;
    size_t free, total;
    EXPECT(cuMemAlloc_v2(&a, 0) == CUDA_ERROR_INVALID_VALUE);
    CHECK(cuMemGetInfo_v2(&free, &total));
    EXPECT(free == total && total == 1 << 20);
    CHECK(cuMemAlloc_v2(&a, 1000));
    EXPECT(cuMemAlloc_v2(&b, 1 << 20) == CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT(cuMemAllocAsync(&b, (1 << 20) - 999, stream) == CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(cuMemAllocAsync(&b, (1 << 20) - 1000, stream));
    CHECK(cuMemFreeAsync(b, stream));
    float fresh;
    CHECK(cuMemcpyDtoH_v2(&fresh, a, 4));
    EXPECT(fresh != fresh);
    EXPECT(cuMemsetD8Async(a, 0, 1001, stream) == CUDA_ERROR_INVALID_VALUE);
    EXPECT(cuMemcpyHtoD_v2(a + 999, &fresh, 2) == CUDA_ERROR_INVALID_VALUE);
    EXPECT(cuMemFree_v2(a + 16) == CUDA_ERROR_INVALID_VALUE);
    CUdeviceptr leaked;
    CHECK(cuMemAlloc_v2(&leaked, 77));
    CHECK(cuMemFree_v2(a));
    EXPECT(cuMemFree_v2(a) == CUDA_ERROR_INVALID_VALUE);
}

void limits() {
    Buffer<float> a(64);
    int n = 0;
    EXPECT(launch("sum", 1, 512, 0, a.data, a.data, n) == CUDA_ERROR_INVALID_VALUE); // __launch_bounds__(256)
    EXPECT(launch("saxpy", 0, 32, 0, 1.0f, a.data, a.data, a.data, n) == CUDA_ERROR_INVALID_VALUE);
    EXPECT(launch("saxpy", 1, 2048, 0, 1.0f, a.data, a.data, a.data, n) == CUDA_ERROR_INVALID_VALUE);
    EXPECT(launch("transpose", 1, dim3(32, 32), 100 << 10, a.data, a.data, n, n) == CUDA_ERROR_INVALID_VALUE);
    CHECK(cuFuncSetAttribute(function("transpose"), 8, 100 << 10));
    CHECK(launch("transpose", 1, dim3(32, 32), 100 << 10, a.data, a.data, n, n));
    CUfunction none;
    EXPECT(cuModuleGetFunction(&none, module, "none_such") == CUDA_ERROR_NOT_FOUND);
    void *found;
    int status;
    CHECK(cuGetProcAddress_v2("cuMemAlloc", &found, 13000, 0, &status));
    EXPECT(found == reinterpret_cast<void *>(&cuMemAlloc_v2) && status == 0);
}

void print(const Buffer<float> &out, size_t count) {
    auto got = out.read();
    for (size_t i = 0; i < count; i++) printf("%g ", static_cast<double>(got[i]));
    printf("\n");
}

// A kernel of faulty.cu, by its name.
void faulty(const std::string &kernel) {
    std::vector<float> x(64);
    for (size_t i = 0; i < 64; i++) x[i] = static_cast<float>(i);
    Buffer<float> in(x), out(std::vector<float>(64, -1));
    CUresult result = 0;
    const char *k = kernel.c_str();
    if (kernel == "no_barrier") result = launch(k, 1, 64, 0, in.data, out.data);
    else if (kernel == "reads_behind") result = launch(k, 1, 64, 0, in.data, out.data, 1);
    else if (kernel == "index_outside") result = launch(k, 1, 8, 0, out.data, 1);
    else if (kernel == "misaligned") result = launch(k, 1, 1, 0, in.data, out.data);
    else if (kernel == "blocks_collide" || kernel == "blocks_peek") result = launch(k, 64, 64, 0, out.data);
    else result = launch(k, 1, kernel == "no_second_barrier" ? 64 : 32, 0, out.data);
    if (result) {
        printf("%s, then %s\n", name(result), name(cuStreamSynchronize(stream)));
        _Exit(0); // a broken device frees nothing
    }
    print(out, 64);
}

void after_free() {
    CUdeviceptr a;
    CHECK(cuMemAlloc_v2(&a, 256));
    Buffer<float> out(64);
    CUgraph graph;
    CUgraphExec exec;
    CHECK(cuStreamBeginCapture_v2(stream, 0));
    CHECK(launch("reads_behind", 1, 64, 0, a, out.data, 0));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuMemFree_v2(a));
    printf("%s\n", name(cuGraphLaunch(exec, stream)));
}

void wild_pointer() {
    Buffer<float> out(64);
    CUdeviceptr a = 0x1000;
    printf("%s\n", name(launch("reads_behind", 1, 64, 0, a, out.data, 0)));
}

// How long a change of threads takes: 1,024 threads, shuffles and barriers.
void speed() {
    Buffer<float> x(values(1 << 20)), sums(64);
    CUevent begin, end;
    CHECK(cuEventCreate(&begin, 0));
    CHECK(cuEventCreate(&end, 0));
    CHECK(cuEventRecord(begin, stream));
    for (int i = 0; i < 100; i++) CHECK(launch("sum", 64, 256, 0, x.data, sums.data, 1 << 14));
    CHECK(cuEventRecord(end, stream));
    CHECK(cuEventSynchronize(end));
    float ms;
    CHECK(cuEventElapsedTime_v2(&ms, begin, end));
    printf("%.1f ns a thread and wait\n", static_cast<double>(ms) * 1e6 / (100.0 * 64 * 256 * 6));
}

} // namespace

int main(int argc, char **argv) {
    setvbuf(stdout, nullptr, _IONBF, 0);
    std::string what = argc > 1 ? argv[1] : "";
    if (what == "init") {
        CUresult result = cuInit(0);
        int version = 0, count = 0, major = 0, minor = 0;
        cuDriverGetVersion(&version);
        if (result == 0) {
            CHECK(cuDeviceGetCount(&count));
            CHECK(cuDeviceGetAttribute(&major, 75, 0));
            CHECK(cuDeviceGetAttribute(&minor, 76, 0));
        }
        printf("%d %d %d %d.%d\n", result, version, count, major, minor);
        return 0;
    }
    open();
    const std::map<std::string, std::function<void()>> cases{{"plain", plain},   {"products", products}, {"graph", graph}, {"deferred", deferred},
                                                             {"memory", memory}, {"limits", limits},     {"speed", speed}, {"after_free", after_free},
                                                             {"wild_pointer", wild_pointer}};
    auto known = cases.find(what);
    if (known != cases.end()) {
        known->second();
        printf("ok\n");
    } else {
        faulty(what);
    }
}

// The products of cuBLAS, on the host: column-major, f32 or bfloat16 in and out, sums in f32 in the order of k.
#include <cstdlib>
#include <cstring>
#include <algorithm>
#include <set>

#include "internal.h"

#define EMULATED_API extern "C" __attribute__((visibility("default")))

namespace {

constexpr int success = 0, not_initialised = 1, invalid_value = 7, not_supported = 15, execution_failed = 13;
constexpr int f32 = 0, bf16 = 14; // cudaDataType

struct Handle {
    void *stream = nullptr;
    int pointer_mode = 0, math_mode = 0, atomics_mode = 0;
};
std::mutex lock;
std::set<Handle *> handles;
bool known(Handle *handle) {
    std::lock_guard guard(lock);
    return handles.count(handle) != 0;
}

float widen(uint16_t x) {
    uint32_t bits = static_cast<uint32_t>(x) << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
uint16_t narrow(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return f != f ? 0x7fff : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}
float load(const void *data, int type, size_t i) {
    return type == f32 ? static_cast<const float *>(data)[i] : widen(static_cast<const uint16_t *>(data)[i]);
}
size_t size_of(int type) { return type == f32 ? 4 : 2; }

struct Matrix {
    const void *data;
    int type, leading;
    bool transposed;
};
struct Product {
    int m, n, k;
    float alpha, beta;
    Matrix a, b, c;
};

// C = alpha A B + beta C for the columns from..to of C. The values of A are first laid out so that the innermost loop
// runs along a column of C; each element of C is one sum over k, begun at 0, in order.
void multiply(const Product &p, int from, int to) {
    constexpr int tile = 64, columns = 4;
    std::vector<float> a(static_cast<size_t>(tile) * static_cast<size_t>(p.k)), b(static_cast<size_t>(columns) * static_cast<size_t>(p.k));
    auto *c = const_cast<void *>(p.c.data);
    for (int i0 = 0; i0 < p.m; i0 += tile) {
        int rows = p.m - i0 < tile ? p.m - i0 : tile;
        for (int l = 0; l < p.k; l++) {
            for (int i = 0; i < tile; i++) {
                size_t at = p.a.transposed ? static_cast<size_t>(i0 + i) * static_cast<size_t>(p.a.leading) + static_cast<size_t>(l)
                                           : static_cast<size_t>(l) * static_cast<size_t>(p.a.leading) + static_cast<size_t>(i0 + i);
                a[static_cast<size_t>(l) * tile + static_cast<size_t>(i)] = i < rows ? load(p.a.data, p.a.type, at) : 0;
            }
        }
        for (int j0 = from; j0 < to; j0 += columns) {
            int width = to - j0 < columns ? to - j0 : columns;
            for (int l = 0; l < p.k; l++) {
                for (int j = 0; j < columns; j++) {
                    size_t at = p.b.transposed ? static_cast<size_t>(l) * static_cast<size_t>(p.b.leading) + static_cast<size_t>(j0 + j)
                                               : static_cast<size_t>(j0 + j) * static_cast<size_t>(p.b.leading) + static_cast<size_t>(l);
                    b[static_cast<size_t>(l) * columns + static_cast<size_t>(j)] = j < width ? load(p.b.data, p.b.type, at) : 0;
                }
            }
            float sum[columns][tile] = {};
            for (int l = 0; l < p.k; l++) {
                const float *column = &a[static_cast<size_t>(l) * tile];
                for (int j = 0; j < columns; j++) {
                    float factor = b[static_cast<size_t>(l) * columns + static_cast<size_t>(j)];
                    for (int i = 0; i < tile; i++) sum[j][i] += column[i] * factor;
                }
            }
            for (int j = 0; j < width; j++) {
                for (int i = 0; i < rows; i++) {
                    size_t at = static_cast<size_t>(j0 + j) * static_cast<size_t>(p.c.leading) + static_cast<size_t>(i0 + i);
                    float value = p.alpha * sum[j][i];
                    if (p.beta != 0) value += p.beta * load(c, p.c.type, at); // with 0, C is not read
                    if (p.c.type == f32) {
                        static_cast<float *>(c)[at] = value;
                    } else {
                        static_cast<uint16_t *>(c)[at] = narrow(value);
                    }
                }
            }
        }
    }
}

size_t extent(int rows, int columns, const Matrix &m) {
    if (rows == 0 || columns == 0) return 0;
    return (static_cast<size_t>(columns - 1) * static_cast<size_t>(m.leading) + static_cast<size_t>(rows)) * size_of(m.type);
}

int products(Handle *handle, const char *name, Product p, long long stride_a, long long stride_b, long long stride_c, int count) {
    if (!known(handle)) return not_initialised;
    if (p.m < 0 || p.n < 0 || p.k < 0 || count < 0) return invalid_value;
    int a_rows = p.a.transposed ? p.k : p.m, b_rows = p.b.transposed ? p.n : p.k;
    if (p.a.leading < std::max(1, a_rows) || p.b.leading < std::max(1, b_rows) || p.c.leading < std::max(1, p.m)) return invalid_value;
    if (p.m == 0 || p.n == 0 || count == 0) return success;
    for (const Matrix &m : {p.a, p.b, p.c}) {
        if (m.type != f32 && m.type != bf16) return not_supported;
        if (reinterpret_cast<uintptr_t>(m.data) % size_of(m.type)) return invalid_value;
    }
    if (p.a.type != p.b.type || (p.a.type == f32 && p.c.type == bf16)) return not_supported;
    if (handle->pointer_mode != 0) return not_supported;
    auto all = [=] {
        for (int i = 0; i < count; i++) {
            Product one = p;
            auto move = [&](Matrix &m, long long stride) { m.data = static_cast<const char *>(m.data) + i * stride * static_cast<long long>(size_of(m.type)); };
            move(one.a, stride_a);
            move(one.b, stride_b);
            move(one.c, stride_c);
            emulated_check_range(name, "A", one.a.data, extent(a_rows, p.a.transposed ? p.m : p.k, one.a));
            emulated_check_range(name, "B", one.b.data, extent(b_rows, p.b.transposed ? p.k : p.n, one.b));
            emulated_check_range(name, "C", one.c.data, extent(p.m, p.n, one.c));
            constexpr int columns = 32;
            size_t parts = static_cast<size_t>((p.n + columns - 1) / columns);
            bool small = static_cast<double>(p.m) * p.n * p.k < 1e6;
            auto part = [&](size_t j) { multiply(one, static_cast<int>(j) * columns, std::min(p.n, static_cast<int>(j + 1) * columns)); };
            if (small) {
                for (size_t j = 0; j < parts; j++) part(j);
            } else {
                emulated_parallel(parts, part);
            }
        }
    };
    return emulated_submit(handle->stream, name, all) == 0 ? success : execution_failed;
}

bool f32_sums(int compute) { return compute == 68 || compute == 69 || compute == 74 || compute == 75 || compute == 77; }

} // namespace

EMULATED_API int cublasCreate_v2(Handle **handle) {
    if (emulated_submit(nullptr, "cublasCreate", [] {}) != 0) return not_initialised;
    std::lock_guard guard(lock);
    *handle = new Handle;
    handles.insert(*handle);
    return success;
}
EMULATED_API int cublasDestroy_v2(Handle *handle) {
    std::lock_guard guard(lock);
    if (!handles.erase(handle)) return not_initialised;
    delete handle;
    return success;
}
EMULATED_API int cublasGetVersion_v2(Handle *, int *version) {
    *version = 130000;
    return success;
}
EMULATED_API int cublasGetProperty(int type, int *value) {
    *value = type == 0 ? 13 : 0;
    return success;
}
EMULATED_API const char *cublasGetStatusName(int status) { return status == 0 ? "CUBLAS_STATUS_SUCCESS" : "CUBLAS_STATUS_ERROR"; }
EMULATED_API const char *cublasGetStatusString(int status) { return status == 0 ? "the operation completed successfully" : "an error"; }
EMULATED_API int cublasSetStream_v2(Handle *handle, void *stream) {
    if (!known(handle)) return not_initialised;
    handle->stream = stream;
    return success;
}
EMULATED_API int cublasGetStream_v2(Handle *handle, void **stream) {
    if (!known(handle)) return not_initialised;
    *stream = handle->stream;
    return success;
}
EMULATED_API int cublasSetWorkspace_v2(Handle *handle, void *workspace, size_t bytes) {
    if (!known(handle)) return not_initialised;
    if (reinterpret_cast<uintptr_t>(workspace) % 16) return invalid_value;
    if (workspace) emulated_check_range("cublasSetWorkspace", "the workspace", workspace, bytes);
    return success;
}
#define EMULATED_MODE(Name, field)                                                                                     \
    EMULATED_API int cublasSet##Name(Handle *handle, int mode) {                                                       \
        if (!known(handle)) return not_initialised;                                                                    \
        handle->field = mode;                                                                                          \
        return success;                                                                                                \
    }                                                                                                                  \
    EMULATED_API int cublasGet##Name(Handle *handle, int *mode) {                                                      \
        if (!known(handle)) return not_initialised;                                                                    \
        *mode = handle->field;                                                                                         \
        return success;                                                                                                \
    }
EMULATED_MODE(PointerMode_v2, pointer_mode)
EMULATED_MODE(MathMode, math_mode)
EMULATED_MODE(AtomicsMode, atomics_mode)

EMULATED_API int cublasGemmStridedBatchedEx(Handle *handle, int transa, int transb, int m, int n, int k, const float *alpha, const void *a, int a_type,
                                            int lda, long long stride_a, const void *b, int b_type, int ldb, long long stride_b, const float *beta,
                                            void *c, int c_type, int ldc, long long stride_c, int count, int compute, int) {
    if (!f32_sums(compute)) return not_supported;
    Product p{m, n, k, *alpha, *beta, {a, a_type, lda, transa != 0}, {b, b_type, ldb, transb != 0}, {c, c_type, ldc, false}};
    return products(handle, __func__, p, stride_a, stride_b, stride_c, count);
}
EMULATED_API int cublasGemmEx(Handle *handle, int transa, int transb, int m, int n, int k, const float *alpha, const void *a, int a_type, int lda,
                              const void *b, int b_type, int ldb, const float *beta, void *c, int c_type, int ldc, int compute, int) {
    if (!f32_sums(compute)) return not_supported;
    Product p{m, n, k, *alpha, *beta, {a, a_type, lda, transa != 0}, {b, b_type, ldb, transb != 0}, {c, c_type, ldc, false}};
    return products(handle, __func__, p, 0, 0, 0, 1);
}
EMULATED_API int cublasSgemmStridedBatched(Handle *handle, int transa, int transb, int m, int n, int k, const float *alpha, const float *a, int lda,
                                           long long stride_a, const float *b, int ldb, long long stride_b, const float *beta, float *c, int ldc,
                                           long long stride_c, int count) {
    Product p{m, n, k, *alpha, *beta, {a, f32, lda, transa != 0}, {b, f32, ldb, transb != 0}, {c, f32, ldc, false}};
    return products(handle, __func__, p, stride_a, stride_b, stride_c, count);
}
EMULATED_API int cublasSgemm_v2(Handle *handle, int transa, int transb, int m, int n, int k, const float *alpha, const float *a, int lda, const float *b,
                                int ldb, const float *beta, float *c, int ldc) {
    Product p{m, n, k, *alpha, *beta, {a, f32, lda, transa != 0}, {b, f32, ldb, transb != 0}, {c, f32, ldc, false}};
    return products(handle, __func__, p, 0, 0, 0, 1);
}

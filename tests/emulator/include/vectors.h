// The vector types of CUDA, with CUDA's alignment.
#pragma once

#define EMULATED_VECTOR2(name, T, a)                                                                                   \
    struct alignas(a) name {                                                                                           \
        T x, y;                                                                                                        \
    };                                                                                                                 \
    static inline name make_##name(T x, T y) { return name{x, y}; }
#define EMULATED_VECTOR3(name, T)                                                                                      \
    struct name {                                                                                                      \
        T x, y, z;                                                                                                     \
    };                                                                                                                 \
    static inline name make_##name(T x, T y, T z) { return name{x, y, z}; }
#define EMULATED_VECTOR4(name, T, a)                                                                                   \
    struct alignas(a) name {                                                                                           \
        T x, y, z, w;                                                                                                  \
    };                                                                                                                 \
    static inline name make_##name(T x, T y, T z, T w) { return name{x, y, z, w}; }

EMULATED_VECTOR2(float2, float, 8)
EMULATED_VECTOR2(int2, int, 8)
EMULATED_VECTOR2(uint2, unsigned, 8)
EMULATED_VECTOR2(short2, short, 4)
EMULATED_VECTOR2(ushort2, unsigned short, 4)
EMULATED_VECTOR2(uchar2, unsigned char, 2)
EMULATED_VECTOR2(double2, double, 16)
EMULATED_VECTOR2(longlong2, long long, 16)
EMULATED_VECTOR2(ulonglong2, unsigned long long, 16)
EMULATED_VECTOR3(float3, float)
EMULATED_VECTOR3(int3, int)
EMULATED_VECTOR3(uint3, unsigned)
EMULATED_VECTOR4(float4, float, 16)
EMULATED_VECTOR4(int4, int, 16)
EMULATED_VECTOR4(uint4, unsigned, 16)
EMULATED_VECTOR4(short4, short, 8)
EMULATED_VECTOR4(ushort4, unsigned short, 8)
EMULATED_VECTOR4(uchar4, unsigned char, 4)
EMULATED_VECTOR4(char4, signed char, 4)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

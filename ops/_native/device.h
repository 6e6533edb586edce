// The CUDA that kernels are written in. nvcc compiles them for a GPU; with INR_EMULATE a C++
// compiler compiles the same kernels for the CPU, where tests run them (emulation.h).
//
// Offers half_t, bfloat16_t, to_float, from_float, accumulator_t, Vector, load_vector,
// store_vector, mma_16x8x16, ldmatrix_x4, ldmatrix_x4_trans, copy_async16, DYNAMIC_SHARED, launch.
#pragma once

#include "abi.h"

#ifdef INR_EMULATE
#include "emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

typedef __half half_t;
typedef __nv_bfloat16 bfloat16_t;

__device__ __forceinline__ float to_float(half_t x) { return __half2float(x); }
__device__ __forceinline__ float to_float(bfloat16_t x) { return __bfloat162float(x); }

template <typename T>
struct Rounding {
    template <typename A>
    __device__ static __forceinline__ T from(A x) { return static_cast<T>(x); }
};
template <>
struct Rounding<half_t> {
    __device__ static __forceinline__ half_t from(float x) { return __float2half_rn(x); }
};
template <>
struct Rounding<bfloat16_t> {
    __device__ static __forceinline__ bfloat16_t from(float x) { return __float2bfloat16_rn(x); }
};
#endif

// In float, but double stays double.
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ double to_float(double x) { return x; }

// Rounds to T.
template <typename T, typename A>
__device__ __forceinline__ T from_float(A x) { return Rounding<T>::from(x); }

// What sums of T are kept in.
template <typename T>
struct Accumulator { typedef float type; };
template <>
struct Accumulator<double> { typedef double type; };
template <typename T>
using accumulator_t = typename Accumulator<T>::type;

// N neighbours in memory, moved at once; addresses must be multiples of N * sizeof(T).
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector { T values[N]; };

template <typename T, int N>
__device__ __forceinline__ Vector<T, N> load_vector(const T* from) {
    return *reinterpret_cast<const Vector<T, N>*>(from);
}

template <typename T, int N>
__device__ __forceinline__ void store_vector(T* to, const Vector<T, N>& vector) {
    *reinterpret_cast<Vector<T, N>*>(to) = vector;
}

#ifndef INR_EMULATE
// D += A B for 16 x 16 by 16 x 8 matrices of half_t or bfloat16_t; every lane of a warp holds the
// fragments of PTX's mma.m16n8k16 (row, col).
template <typename T>
__device__ __forceinline__ void mma_16x8x16(
    float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]
);

template <>
__device__ __forceinline__ void mma_16x8x16<half_t>(
    float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]
) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    // Compute capability 7.5 takes eight of k at a time.
#pragma unroll
    for (int k = 0; k < 2; ++k) {
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
            "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[2 * k]), "r"(a[2 * k + 1]), "r"(b[k]));
    }
#endif
}

template <>
__device__ __forceinline__ void mma_16x8x16<bfloat16_t>(
    float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]
) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    // Python refuses bfloat16 there before it comes to this.
    __trap();
#endif
}

// Four 8 x 8 matrices of 2-byte entries from shared memory: lane 8 i + j names row j of matrix i.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* shared) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// Starts a copy of 16 bytes, of zeros if not `valid`; both addresses are multiples of 16.
__device__ __forceinline__ void copy_async16(void* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(address), "l"(global), "r"(bytes)
                 : "memory");
#else
    uint4 value = make_uint4(0, 0, 0, 0);
    if (valid) value = *static_cast<const uint4*>(global);
    *static_cast<uint4*>(shared) = value;
#endif
}

// Closes a group of copies.
__device__ __forceinline__ void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most N of this thread's groups are under way.
template <int N>
__device__ __forceinline__ void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
#endif
}

#define DYNAMIC_SHARED(type, name)                              \
    extern __shared__ __align__(16) unsigned char inr_shared[]; \
    type* name = reinterpret_cast<type*>(inr_shared)

// Queues a kernel on a stream; returns an error text or null.
template <typename... Params, typename... Args>
const char* launch(
    void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
    Args&&... args
) {
    if (shared_bytes > 48 * 1024) {
        const cudaError_t error = cudaFuncSetAttribute(
            reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
            static_cast<int>(shared_bytes)
        );
        if (error != cudaSuccess) return cudaGetErrorString(error);
    }
    kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(Params(args)...);
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
#endif

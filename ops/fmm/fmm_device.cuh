#pragma once
// What the CUDA kernels of fmm share: strided rows in, a tile of M = scale a b, g(M), warp sums.
//
// A warp owns kRows rows of one image. In each step a lane owns kColumns neighbouring columns, so
// a step covers 32 kColumns of them: column = step * 32 kColumns + lane * kColumns + j. Factors b
// come through the L1 cache (r x I values shared by all warps of a block), factors a from shared
// memory as [r][kRows], scaled, so that the values of one k are one broadcast load.
#include "../_native/device.h"
#include "fmm.h"

namespace fmm {

constexpr int kWarp = 32;
constexpr int kWarps = 4;
constexpr int kMaxRank = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

inline int64_t ceil_divide(int64_t x, int64_t y) { return (x + y - 1) / y; }

// Which tensors may be read and written 16 bytes at a time.
struct Aligned {
    bool weight, b, out, grad_out;
};

// True if every row of `p` starts at a multiple of 16 bytes.
inline bool is_aligned(const void* p, int64_t size, int64_t stride, int64_t image_stride) {
    return reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride * size % 16 == 0 &&
           image_stride * size % 16 == 0;
}

template <typename In, typename Out>
Aligned find_aligned(const FmmParams& p) {
    return {is_aligned(p.weight, sizeof(In), p.weight_stride, 0),
            is_aligned(p.b, sizeof(In), p.b_row_stride, p.b_image_stride),
            is_aligned(p.out, sizeof(Out), p.i, 0),
            is_aligned(p.grad_out, sizeof(Out), p.grad_row_stride, p.grad_image_stride)};
}

// The values at p[0 .. N), zeros from `valid` on.
template <typename T, typename Acc, int N>
__device__ __forceinline__ void read(const T* p, int64_t valid, bool aligned, Acc (&x)[N]) {
    constexpr int kPiece = 16 / sizeof(T) < N ? 16 / sizeof(T) : N;
    if (aligned && valid >= N) {
#pragma unroll
        for (int at = 0; at < N; at += kPiece) {
            const Vector<T, kPiece> piece = load_vector<T, kPiece>(p + at);
#pragma unroll
            for (int j = 0; j < kPiece; ++j) x[at + j] = to_float(piece.values[j]);
        }
    } else {
#pragma unroll
        for (int j = 0; j < N; ++j) x[j] = j < valid ? Acc(to_float(p[j])) : Acc(0);
    }
}

template <typename T, typename Acc, int N>
__device__ __forceinline__ void write(T* p, int64_t valid, bool aligned, const Acc (&x)[N]) {
    constexpr int kPiece = 16 / sizeof(T) < N ? 16 / sizeof(T) : N;
    if (aligned && valid >= N) {
#pragma unroll
        for (int at = 0; at < N; at += kPiece) {
            Vector<T, kPiece> piece;
#pragma unroll
            for (int j = 0; j < kPiece; ++j) piece.values[j] = from_float<T>(x[at + j]);
            store_vector(p + at, piece);
        }
    } else {
#pragma unroll
        for (int j = 0; j < N; ++j)
            if (j < valid) p[j] = from_float<T>(x[j]);
    }
}

template <typename Acc>
__device__ __forceinline__ Acc activate(Acc m, int64_t activation) {
    if (activation == FMM_DEMOD || activation == FMM_NONE) return 1 + m;
    if (activation == FMM_IDENTITY) return m;
    if (activation == FMM_TANH) return 1 + tanh(m);
    const Acc sigmoid = 1 / (1 + exp(-m));
    return activation == FMM_HALF_SIGMOID ? Acc(0.5) + sigmoid : 2 * sigmoid;
}

// dg/dm from g.
template <typename Acc>
__device__ __forceinline__ Acc slope(Acc g, int64_t activation) {
    if (activation == FMM_TANH) return (2 - g) * g;  // 1 - t^2 with t = g - 1
    if (activation == FMM_HALF_SIGMOID) return (g - Acc(0.5)) * (Acc(1.5) - g);
    if (activation == FMM_SIGMOID) return g * (1 - g * Acc(0.5));
    return 1;
}

// The sum over the warp, in every lane, in a fixed order.
template <typename Acc>
__device__ __forceinline__ Acc warp_sum(Acc x) {
#pragma unroll
    for (int distance = kWarp / 2; distance; distance /= 2)
        x += __shfl_xor_sync(kAllLanes, x, distance);
    return x;
}

// Factors of kRows rows from `row` on into shared memory [r][kRows], zeros beyond the last row.
template <int kRows, typename In, typename Acc>
__device__ __forceinline__ void stage_a(const FmmParams& p, int64_t n, int64_t row, Acc* shared) {
    const In* const a = static_cast<const In*>(p.a) + n * p.a_image_stride;
    for (int at = threadIdx.x % kWarp; at < p.r * kRows; at += kWarp) {
        const int64_t q = row + at % kRows;
        const Acc x = q < p.o ? Acc(to_float(a[q * p.a_row_stride + at / kRows])) : Acc(0);
        shared[at] = Acc(p.scale) * x;
    }
    __syncwarp();
}

// g(M) at kRows rows and kColumns columns from `column` on.
template <int kRows, int kColumns, typename In, typename Acc>
__device__ __forceinline__ void modulate(const FmmParams& p, int64_t n, int64_t column,
                                         bool aligned, const Acc* a, Acc (&g)[kRows][kColumns]) {
    const In* b = static_cast<const In*>(p.b) + n * p.b_image_stride + column;
#pragma unroll
    for (int q = 0; q < kRows; ++q)
#pragma unroll
        for (int j = 0; j < kColumns; ++j) g[q][j] = 0;
#pragma unroll 2
    for (int k = 0; k < p.r; ++k, b += p.b_row_stride) {
        Acc right[kColumns];
        read(b, p.i - column, aligned, right);
#pragma unroll
        for (int q = 0; q < kRows; ++q)
#pragma unroll
            for (int j = 0; j < kColumns; ++j) g[q][j] += a[k * kRows + q] * right[j];
    }
#pragma unroll
    for (int q = 0; q < kRows; ++q)
#pragma unroll
        for (int j = 0; j < kColumns; ++j) g[q][j] = activate(g[q][j], p.activation);
}

}  // namespace fmm

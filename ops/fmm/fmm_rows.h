#pragma once
// Six modulated rows at a time: what both directions of FMM on the CPU are made of.
//
//   6 x kTile        register tile of the product a[n] b[n]: 6 rows, 2 vectors of columns
//   g    [6, stride] g(M) of six rows, later dM
//   v    [6, stride] weight * g(M)
//
// A task copies scale * b[n] (r x I, about 20 KB) into its scratch as the accumulator's type, padded
// with zeros to whole tiles, and goes through a chunk of rows.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../_native/cpu.h"
#include "../_native/lanes.h"
#include "fmm.h"

namespace {

using namespace inr;

constexpr double kEpsilon = 1e-8;
constexpr int kRows = 6;

inline bool is_linear(int64_t activation) {
    return activation == FMM_DEMOD || activation == FMM_NONE || activation == FMM_IDENTITY;
}

// What the product is accumulated onto.
template <typename Acc>
inline Acc offset(int64_t activation) {
    return activation == FMM_DEMOD || activation == FMM_NONE ? 1 : 0;
}

// g of the activations that are not linear.
template <typename Acc>
inline lanes_t<Acc> activate(lanes_t<Acc> m, int64_t activation) {
    for (int k = 0; k < Lanes<Acc>::kCount; ++k) {
        if (activation == FMM_TANH) {
            m[k] = 1 + std::tanh(m[k]);
        } else {
            const Acc sigmoid = 1 / (1 + std::exp(-m[k]));
            m[k] = activation == FMM_HALF_SIGMOID ? Acc(0.5) + sigmoid : 2 * sigmoid;
        }
    }
    return m;
}

// dg/dm from g.
template <typename Acc>
inline lanes_t<Acc> slope(lanes_t<Acc> g, int64_t activation) {
    if (activation == FMM_TANH) return (2 - g) * g;  // 1 - t^2 with t = g - 1
    if (activation == FMM_HALF_SIGMOID) return (g - Acc(0.5)) * (Acc(1.5) - g);
    if (activation == FMM_SIGMOID) return g * (1 - g * Acc(0.5));
    return lanes_t<Acc>{} + Acc(1);
}

template <typename Acc>
int64_t count_tiles(const FmmParams& p) {
    return (p.i + Lanes<Acc>::kWidth - 1) / Lanes<Acc>::kWidth;
}

template <typename Acc, typename In>
struct Chunk {
    static constexpr int kCount = Lanes<Acc>::kCount, kTile = Lanes<Acc>::kWidth;

    const FmmParams& p;
    int64_t tiles;   // of a row
    int64_t stride;  // between the rows of g and v
    Acc* b;          // [tiles, r, kTile] of the current image, times scale
    Acc* g;          // [kRows, stride]
    Acc* v;          // [kRows, stride]
    Acc* copied;     // [kRows, r]: memory for a
    const Acc* a;    // [kRows, a_stride >= r] of the current rows; rows beyond the last are zero
    int64_t a_stride;
    lanes_t<Acc> squares[kRows];  // of v, to be summed over the lanes for the norms

    // One tile more than a row has: rows a power of two apart would share their cache lines' sets.
    static int64_t row_stride(const FmmParams& p) { return (count_tiles<Acc>(p) + 1) * kTile; }

    static int64_t size(const FmmParams& p) {
        return p.r * count_tiles<Acc>(p) * kTile + 2 * kRows * row_stride(p) + kRows * p.r;
    }

    Chunk(const FmmParams& params, Acc* memory)
        : p(params), tiles(count_tiles<Acc>(p)), stride(row_stride(p)), b(memory),
          g(b + p.r * tiles * kTile), v(g + kRows * stride), copied(v + kRows * stride) {}

    void read_b(int64_t n) {
        const In* from = static_cast<const In*>(p.b) + n * p.b_image_stride;
        const Acc scale = Acc(p.scale);
        for (int64_t k = 0; k < p.r; ++k, from += p.b_row_stride)
            for (int64_t i = 0; i < tiles * kTile; i += kCount)
                store<Acc>(b + (i / kTile * p.r + k) * kTile + i % kTile,
                           load_some<Acc>(from + i, p.i - i) * scale);
    }

    void read_a(int64_t n, int64_t row, int64_t rows) {
        const In* from = static_cast<const In*>(p.a) + n * p.a_image_stride + row * p.a_row_stride;
        if constexpr (std::is_same_v<In, Acc>) {
            if (rows == kRows) {
                a = from;
                a_stride = p.a_row_stride;
                return;
            }
        }
        for (int64_t q = 0; q < kRows; ++q)
            for (int64_t k = 0; k < p.r; ++k)
                copied[q * p.r + k] = q < rows ? to_sum(from[q * p.a_row_stride + k]) : 0;
        a = copied;
        a_stride = p.r;
    }

    const In* weight(int64_t row) const {
        return static_cast<const In*>(p.weight) + row * p.weight_stride;
    }

    // Of row q of v.
    Acc norm(int64_t q) const { return std::sqrt(sum<Acc>(squares[q])); }

    // g (only with kKeep), v and the squares of the norms of up to six rows.
    template <bool kKeep>
    void modulate(int64_t row, int64_t rows) {
        if (is_linear(p.activation)) modulate_as<kKeep, true>(row, rows);
        else modulate_as<kKeep, false>(row, rows);
    }

    template <bool kKeep, bool kLinear>
    void modulate_as(int64_t row, int64_t rows) {
        const In* weights[kRows];
        for (int64_t q = 0; q < kRows; ++q) {
            weights[q] = weight(row + std::min(q, rows - 1));
            squares[q] = lanes_t<Acc>{};
        }
        const int64_t whole = p.i / kTile;
        for (int64_t tile = 0; tile < whole; ++tile)
            modulate_tile<kKeep, kLinear, true>(tile, weights);
        if (whole < tiles) modulate_tile<kKeep, kLinear, false>(whole, weights);
    }

    template <bool kKeep, bool kLinear, bool kWhole>
    void modulate_tile(int64_t tile, const In* const (&weights)[kRows]) {
        using lanes = lanes_t<Acc>;
        const int64_t rank = p.r, at = tile * kTile;
        const lanes start = lanes{} + offset<Acc>(p.activation);
        lanes m[kRows][2];
#pragma GCC unroll 6
        for (int q = 0; q < kRows; ++q) m[q][0] = m[q][1] = start;
        const Acc* right = b + tile * rank * kTile;
        const Acc* left[kRows];
        for (int q = 0; q < kRows; ++q) left[q] = a + q * a_stride;
        for (int64_t k = 0; k < rank; ++k, right += kTile) {
            const lanes first = in_register(load<Acc>(right));
            const lanes second = in_register(load<Acc>(right + kCount));
#pragma GCC unroll 6
            for (int q = 0; q < kRows; ++q) {
                m[q][0] += left[q][k] * first;
                m[q][1] += left[q][k] * second;
            }
        }
#pragma GCC unroll 6
        for (int q = 0; q < kRows; ++q) {
            const lanes g0 = kLinear ? m[q][0] : activate<Acc>(m[q][0], p.activation);
            const lanes g1 = kLinear ? m[q][1] : activate<Acc>(m[q][1], p.activation);
            const In* const from = weights[q] + at;
            const int64_t valid = kWhole ? kTile : p.i - at;
            const lanes v0 = load_some<Acc>(from, valid) * g0;
            const lanes v1 = load_some<Acc>(from + kCount, valid - kCount) * g1;
            store<Acc>(v + q * stride + at, v0);
            store<Acc>(v + q * stride + at + kCount, v1);
            if (kKeep) {
                store<Acc>(g + q * stride + at, g0);
                store<Acc>(g + q * stride + at + kCount, g1);
            }
            squares[q] += v0 * v0 + v1 * v1;
        }
    }
};

// W of rows [begin, end) of one image.
template <typename Acc, typename In, typename Out>
void forward_chunk(const FmmParams& p, int64_t n, int64_t begin, int64_t end) {
    constexpr int kCount = Lanes<Acc>::kCount;
    Chunk<Acc, In> chunk(p, scratch<Acc>(Chunk<Acc, In>::size(p)));
    chunk.read_b(n);
    for (int64_t row = begin; row < end; row += kRows) {
        const int64_t rows = std::min<int64_t>(kRows, end - row);
        chunk.read_a(n, row, rows);
        chunk.template modulate<false>(row, rows);
        Acc factors[kRows];
        for (int q = 0; q < kRows; ++q)
            factors[q] = p.activation == FMM_DEMOD ? 1 / (chunk.norm(q) + Acc(kEpsilon)) : 1;
        for (int64_t q = 0; q < rows; ++q) {
            const Acc factor = factors[q];
            Out* const out = static_cast<Out*>(p.out) + (n * p.o + row + q) * p.i;
            const Acc* const v = chunk.v + q * chunk.stride;
            int64_t i = 0;
            for (; i + kCount <= p.i; i += kCount) store<Acc>(out + i, load<Acc>(v + i) * factor);
            store_some<Acc>(out + i, load<Acc>(v + i) * factor, p.i - i);
        }
    }
}

using Launcher = void (*)(const FmmParams&);

inline const char* run(const FmmParams& p, Launcher f32, Launcher f64, Launcher bf16, Launcher mixed) {
    Launcher launcher = nullptr;
    if (p.dtype == p.out_dtype) {
        if (p.dtype == INR_FLOAT32) launcher = f32;
        if (p.dtype == INR_FLOAT64) launcher = f64;
        if (p.dtype == INR_BFLOAT16) launcher = bf16;
    } else if (p.dtype == INR_FLOAT32 && p.out_dtype == INR_BFLOAT16) {
        launcher = mixed;
    }
    if (!launcher) return "fmm on the CPU: this pair of dtypes is not compiled";
    if (p.n && p.o && p.i) launcher(p);
    return nullptr;
}

}  // namespace

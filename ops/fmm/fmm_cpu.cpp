// FMM on the CPU: the modulated rows live in the L1 cache between product, norm and store.
//
// A task is a chunk of rows; it copies b[n] (r x I, about 20 KB) into its scratch as the
// accumulator's type, padded with zeros to whole tiles, and goes through its rows six at a time:
//
//   6 x kTile        register tile of the product a[n] b[n]: 6 rows, 2 vectors of columns
//   g    [6, stride] g(M) of six rows, later dM
//   v    [6, stride] weight * g(M)
//
// Every sum has a fixed order that does not depend on the number of threads.
#include "fmm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../_native/cpu.h"
#include "../_native/lanes.h"

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
    Acc* b;          // [tiles, r, kTile] of the current image
    Acc* g;          // [kRows, stride]
    Acc* v;          // [kRows, stride]
    Acc* a;          // [r, kRows] of the current rows, times scale; rows beyond the last are zero
    lanes_t<Acc> squares[kRows];  // of v, to be summed over the lanes for the norms

    // One tile more than a row has: rows a power of two apart would share their cache lines' sets.
    static int64_t row_stride(const FmmParams& p) { return (count_tiles<Acc>(p) + 1) * kTile; }

    static int64_t size(const FmmParams& p) {
        return p.r * count_tiles<Acc>(p) * kTile + 2 * kRows * row_stride(p) + kRows * p.r;
    }

    Chunk(const FmmParams& params, Acc* memory)
        : p(params), tiles(count_tiles<Acc>(p)), stride(row_stride(p)), b(memory),
          g(b + p.r * tiles * kTile), v(g + kRows * stride), a(v + kRows * stride) {}

    void read_b(int64_t n) {
        const In* from = static_cast<const In*>(p.b) + n * p.b_image_stride;
        for (int64_t k = 0; k < p.r; ++k, from += p.b_row_stride)
            for (int64_t tile = 0; tile < tiles; ++tile)
                for (int64_t j = 0; j < kTile; j += kCount)
                    store<Acc>(b + (tile * p.r + k) * kTile + j,
                               load_some<Acc>(from + tile * kTile + j, p.i - tile * kTile - j));
    }

    void read_a(int64_t n, int64_t row, int64_t rows) {
        const In* from = static_cast<const In*>(p.a) + n * p.a_image_stride + row * p.a_row_stride;
        for (int64_t q = 0; q < kRows; ++q)
            for (int64_t k = 0; k < p.r; ++k)
                a[k * kRows + q] =
                    q < rows ? Acc(p.scale) * to_sum(from[q * p.a_row_stride + k]) : 0;
    }

    const In* weight(int64_t row) const {
        return static_cast<const In*>(p.weight) + row * p.weight_stride;
    }

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
        const Acc* left = a;
        for (int64_t k = 0; k < rank; ++k, right += kTile, left += kRows) {
            const lanes first = in_register(load<Acc>(right));
            const lanes second = in_register(load<Acc>(right + kCount));
#pragma GCC unroll 6
            for (int q = 0; q < kRows; ++q) {
                m[q][0] += left[q] * first;
                m[q][1] += left[q] * second;
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

template <typename Acc, typename In, typename Out>
void forward_chunk(const FmmParams& p, int64_t n, int64_t begin, int64_t end) {
    constexpr int kCount = Lanes<Acc>::kCount;
    Chunk<Acc, In> chunk(p, scratch<Acc>(Chunk<Acc, In>::size(p)));
    chunk.read_b(n);
    for (int64_t row = begin; row < end; row += kRows) {
        const int64_t rows = std::min<int64_t>(kRows, end - row);
        chunk.read_a(n, row, rows);
        chunk.template modulate<false>(row, rows);
        for (int64_t q = 0; q < rows; ++q) {
            Acc factor = 1;
            if (p.activation == FMM_DEMOD)
                factor = 1 / (std::sqrt(sum<Acc>(chunk.squares[q])) + Acc(kEpsilon));
            Out* const out = static_cast<Out*>(p.out) + (n * p.o + row + q) * p.i;
            const Acc* const v = chunk.v + q * chunk.stride;
            int64_t i = 0;
            for (; i + kCount <= p.i; i += kCount) store<Acc>(out + i, load<Acc>(v + i) * factor);
            store_some<Acc>(out + i, load<Acc>(v + i) * factor, p.i - i);
        }
    }
}

template <typename Acc, typename In, typename Out>
void forward(const FmmParams& p) {
    const int64_t chunks = (p.o + p.chunk - 1) / p.chunk;
    parallel_for(p.n * chunks, p.threads, [&](int64_t task, int64_t) {
        const int64_t begin = task % chunks * p.chunk;
        forward_chunk<Acc, In, Out>(p, task / chunks, begin, std::min(begin + p.chunk, p.o));
    });
}

// The backward of a chunk of rows for all images. dV is the gradient of V = weight * g(M), dM that
// of M; of the row norm, dV = (dW - V <dW, V> / (norm (norm + eps))) / (norm + eps).
template <typename Acc, typename In, typename Out>
struct Backward {
    const FmmParams& p;
    Chunk<Acc, In>& chunk;
    Acc* weights;  // [p.chunk, chunk.stride]: sum of grad_weight over the images so far
    Acc* share;    // [tiles, r, kTile]: this chunk's grad_b of the current image

    static constexpr int kCount = Lanes<Acc>::kCount, kTile = Lanes<Acc>::kWidth;

    // dM of row q of the six into chunk.g; adds to the row's grad_weight.
    void row(int64_t q, const Out* grad, const In* weight, Acc* total) {
        Acc* const g = chunk.g + q * chunk.stride;
        const Acc* const v = chunk.v + q * chunk.stride;
        const int64_t columns = p.i, activation = p.activation;
        Acc inverse = 1, along = 0;
        if (activation == FMM_DEMOD) {
            lanes_t<Acc> dot = {};
            for (int64_t i = 0; i < columns; i += kCount)
                dot += load_some<Acc>(grad + i, columns - i) * load<Acc>(v + i);
            const Acc norm = std::sqrt(sum<Acc>(chunk.squares[q]));
            inverse = 1 / (norm + Acc(kEpsilon));
            along = norm > 0 ? sum<Acc>(dot) * inverse * inverse / norm : 0;
        }
        for (int64_t i = 0; i < chunk.tiles * kTile; i += kCount) {
            const lanes_t<Acc> factor = load<Acc>(g + i);
            const lanes_t<Acc> dv =
                load_some<Acc>(grad + i, columns - i) * inverse - load<Acc>(v + i) * along;
            const lanes_t<Acc> dg = dv * load_some<Acc>(weight + i, columns - i);
            store<Acc>(total + i, load<Acc>(total + i) + dv * factor);
            store<Acc>(g + i, is_linear(activation) ? dg : dg * slope<Acc>(factor, activation));
        }
    }

    // grad_a[n, row, k] = scale * <dM of the row, b[n, k]> for up to six rows.
    void factors_a(int64_t n, int64_t row, int64_t rows) {
        In* const out = static_cast<In*>(p.grad_a) + (n * p.o + row) * p.r;
        const int64_t rank = p.r, tiles = chunk.tiles, stride = chunk.stride;
        for (int64_t k = 0; k < rank; ++k) {
            lanes_t<Acc> dot[kRows][2] = {};
            const Acc* b = chunk.b + k * kTile;
            const Acc* dm = chunk.g;
            for (int64_t tile = 0; tile < tiles; ++tile, b += rank * kTile, dm += kTile) {
                const lanes_t<Acc> first = load<Acc>(b), second = load<Acc>(b + kCount);
#pragma GCC unroll 6
                for (int q = 0; q < kRows; ++q) {
                    dot[q][0] += first * load<Acc>(dm + q * stride);
                    dot[q][1] += second * load<Acc>(dm + q * stride + kCount);
                }
            }
            for (int64_t q = 0; q < rows; ++q)
                from_sum(Acc(p.scale) * sum<Acc>(dot[q][0] + dot[q][1]), out[q * rank + k]);
        }
    }

    // share[k] += sum over six rows of scale * a[n, row, k] * dM of the row.
    void factors_b() {
        const int64_t rank = p.r, stride = chunk.stride;
        Acc* to = share;
        for (int64_t tile = 0; tile < chunk.tiles; ++tile) {
            const Acc* const dm = chunk.g + tile * kTile;
            lanes_t<Acc> first[kRows], second[kRows];
#pragma GCC unroll 6
            for (int q = 0; q < kRows; ++q) {
                first[q] = load<Acc>(dm + q * stride);
                second[q] = load<Acc>(dm + q * stride + kCount);
            }
            const Acc* a = chunk.a;
            for (int64_t k = 0; k < rank; ++k, to += kTile, a += kRows) {
                lanes_t<Acc> x = load<Acc>(to), y = load<Acc>(to + kCount);
#pragma GCC unroll 6
                for (int q = 0; q < kRows; ++q) {
                    x += a[q] * first[q];
                    y += a[q] * second[q];
                }
                store<Acc>(to, x);
                store<Acc>(to + kCount, y);
            }
        }
    }

    void image(int64_t n, int64_t index, int64_t begin, int64_t end) {
        const int64_t tiles = chunk.tiles, stride = chunk.stride;
        const Out* const grad = static_cast<const Out*>(p.grad_out) + n * p.grad_image_stride;
        chunk.read_b(n);
        std::fill(share, share + p.r * tiles * kTile, Acc(0));
        for (int64_t at = begin; at < end; at += kRows) {
            const int64_t rows = std::min<int64_t>(kRows, end - at);
            chunk.read_a(n, at, rows);
            chunk.template modulate<true>(at, rows);
            for (int64_t q = 0; q < rows; ++q)
                row(q, grad + (at + q) * p.grad_row_stride, chunk.weight(at + q),
                    weights + (at + q - begin) * stride);
            std::fill(chunk.g + rows * stride, chunk.g + kRows * stride, Acc(0));
            if (p.grad_a) factors_a(n, at, rows);
            if (p.grad_b) factors_b();
        }
        if (!p.grad_b) return;
        Acc* const to = static_cast<Acc*>(p.partial_b) + (index * p.n + n) * p.r * p.i;
        for (int64_t k = 0; k < p.r; ++k)
            for (int64_t i = 0; i < p.i; i += kTile) {
                const Acc* const from = share + (i / kTile * p.r + k) * kTile;
                std::copy(from, from + std::min<int64_t>(kTile, p.i - i), to + k * p.i + i);
            }
    }
};

template <typename Acc, typename In, typename Out>
void backward_chunk(const FmmParams& p, int64_t index) {
    const int64_t begin = index * p.chunk, end = std::min(begin + p.chunk, p.o);
    const int64_t weights = p.chunk * Chunk<Acc, In>::row_stride(p);
    const int64_t share = p.r * count_tiles<Acc>(p) * Lanes<Acc>::kWidth;
    Acc* const memory = scratch<Acc>(weights + share + Chunk<Acc, In>::size(p));
    Chunk<Acc, In> chunk(p, memory + weights + share);
    Backward<Acc, In, Out> backward{p, chunk, memory, memory + weights};
    std::fill(memory, memory + weights, Acc(0));
    for (int64_t n = 0; n < p.n; ++n) backward.image(n, index, begin, end);
    if (!p.grad_weight) return;
    for (int64_t row = begin; row < end; ++row) {
        In* const out = static_cast<In*>(p.grad_weight) + row * p.i;
        const Acc* const total = memory + (row - begin) * chunk.stride;
        for (int64_t i = 0; i < p.i; i += Lanes<Acc>::kCount)
            store_some<Acc>(out + i, load<Acc>(total + i), p.i - i);
    }
}

template <typename Acc, typename In, typename Out>
void backward(const FmmParams& p) {
    const int64_t chunks = (p.o + p.chunk - 1) / p.chunk, size = p.n * p.r * p.i;
    parallel_for(chunks, p.threads, [&](int64_t index, int64_t) {
        backward_chunk<Acc, In, Out>(p, index);
    });
    constexpr int64_t kBlock = 1024;
    const int64_t blocks = p.grad_b ? (size + kBlock - 1) / kBlock : 0;
    const Acc* const from = static_cast<const Acc*>(p.partial_b);
    parallel_for(blocks, p.threads, [&](int64_t block, int64_t) {
        const int64_t stop = std::min(size, (block + 1) * kBlock);
        for (int64_t at = block * kBlock; at < stop; at += Lanes<Acc>::kCount) {
            lanes_t<Acc> total = {};
            for (int64_t index = 0; index < chunks; ++index)
                total += load_some<Acc>(from + index * size + at, stop - at);
            store_some<Acc>(static_cast<In*>(p.grad_b) + at, total, stop - at);
        }
    });
}

using Launcher = void (*)(const FmmParams&);

const char* run(const FmmParams& p, Launcher f32, Launcher f64, Launcher bf16, Launcher mixed) {
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

const char* fmm_forward(const FmmParams* p) {
    return run(*p, forward<float, float, float>, forward<double, double, double>,
               forward<float, bfloat16, bfloat16>, forward<float, float, bfloat16>);
}

const char* fmm_backward(const FmmParams* p) {
    return run(*p, backward<float, float, float>, backward<double, double, double>,
               backward<float, bfloat16, bfloat16>, backward<float, float, bfloat16>);
}

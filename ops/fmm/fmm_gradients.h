#pragma once
// The gradients of FMM on the CPU: tasks are chunks of rows, or parts of the batch where there are
// few rows. Every sum has a fixed order that does not depend on the number of threads.

#include "fmm_rows.h"

namespace {

// The backward of a chunk of rows for some images. dV is the gradient of V = weight * g(M), dM that
// of M; of the row norm, dV = (dW - V <dW, V> / (norm (norm + eps))) / (norm + eps).
template <typename Acc, typename In, typename Out>
struct Backward {
    static constexpr int kCount = Lanes<Acc>::kCount, kTile = Lanes<Acc>::kWidth;
    using lanes = lanes_t<Acc>;

    const FmmParams& p;
    Chunk<Acc, In>& chunk;
    Acc* weights;  // [rows of the chunk, chunk.stride]: sum of grad_weight over the images so far
    Acc* share;    // [tiles, r, kTile]: this chunk's grad_b of the current image, over scale

    // Six rows; beyond the last one it is repeated.
    struct Rows {
        int64_t valid;
        const Out* grads[kRows];
        const In* weights[kRows];
        Acc* totals[kRows];
        Acc inverse[kRows];  // dV = inverse dW - along V
        Acc along[kRows];
    };

    void image(int64_t n, int64_t begin, int64_t end) {
        const Out* const grad = static_cast<const Out*>(p.grad_out) + n * p.grad_image_stride;
        chunk.read_b(n);
        std::fill(share, share + p.r * chunk.tiles * kTile, Acc(0));
        for (int64_t at = begin; at < end; at += kRows) {
            Rows rows;
            rows.valid = std::min<int64_t>(kRows, end - at);
            for (int64_t q = 0; q < kRows; ++q) {
                const int64_t row = at + std::min(q, rows.valid - 1);
                rows.grads[q] = grad + row * p.grad_row_stride;
                rows.weights[q] = chunk.weight(row);
                rows.totals[q] = weights + (row - begin) * chunk.stride;
            }
            chunk.read_a(n, at, rows.valid);
            chunk.template modulate<true>(at, rows.valid);
            norms(rows);
            if (is_linear(p.activation)) differentiate<true>(rows);
            else differentiate<false>(rows);
            if (p.grad_a) {
                In* const to = static_cast<In*>(p.grad_a) + n * p.grad_a_image_stride;
                factors_a(to + at * p.r, rows.valid);
            }
        }
    }

    void norms(Rows& rows) const {
        if (p.activation != FMM_DEMOD) {
            std::fill_n(rows.inverse, kRows, Acc(1));
            std::fill_n(rows.along, kRows, Acc(0));
            return;
        }
        lanes dot[kRows];
        for (int q = 0; q < kRows; ++q) {
            const Acc* const v = chunk.v + q * chunk.stride;
            lanes even = {}, odd = {};
            int64_t i = 0;
            for (; i + kTile <= p.i; i += kTile) {
                even += load<Acc>(rows.grads[q] + i) * load<Acc>(v + i);
                odd += load<Acc>(rows.grads[q] + i + kCount) * load<Acc>(v + i + kCount);
            }
            for (; i < p.i; i += kCount)
                even += load_some<Acc>(rows.grads[q] + i, p.i - i) * load<Acc>(v + i);
            dot[q] = even + odd;
        }
        for (int q = 0; q < kRows; ++q) {
            const Acc norm = chunk.norm(q), inverse = 1 / (norm + Acc(kEpsilon));
            rows.inverse[q] = inverse;
            rows.along[q] = norm > 0 ? sum<Acc>(dot[q]) * inverse * inverse / norm : 0;
        }
    }

    // dM into chunk.g; adds to the rows' grad_weight and to the share of grad_b.
    template <bool kLinear>
    void differentiate(const Rows& rows) {
        const int64_t whole = p.i / kTile;
        for (int64_t tile = 0; tile < whole; ++tile) differentiate_tile<kLinear, true>(tile, rows);
        if (whole < chunk.tiles) differentiate_tile<kLinear, false>(whole, rows);
    }

    template <bool kLinear, bool kWhole>
    void differentiate_tile(int64_t tile, const Rows& rows) {
        lanes dm[kRows][2];
#pragma GCC unroll 6
        for (int q = 0; q < kRows; ++q) {
            for (int half = 0; half < 2; ++half) {
                const int64_t i = tile * kTile + half * kCount, valid = kWhole ? kTile : p.i - i;
                Acc* const g = chunk.g + q * chunk.stride + i;
                const lanes factor = load<Acc>(g), v = load<Acc>(chunk.v + q * chunk.stride + i);
                const lanes dv =
                    load_some<Acc>(rows.grads[q] + i, valid) * rows.inverse[q] - v * rows.along[q];
                const lanes dg = dv * load_some<Acc>(rows.weights[q] + i, valid);
                dm[q][half] = kLinear ? dg : dg * slope<Acc>(factor, p.activation);
                if (q < rows.valid) {
                    Acc* const total = rows.totals[q] + i;
                    store<Acc>(total, load<Acc>(total) + dv * factor);
                } else {
                    dm[q][half] = lanes{};
                }
                store<Acc>(g, dm[q][half]);
            }
        }
        if (p.grad_b) factors_b(dm, share + tile * p.r * kTile);
    }

    // share[k] += sum over six rows of a[n, row, k] * dM of the row.
    void factors_b(const lanes (&dm)[kRows][2], Acc* to) const {
        const Acc* a[kRows];
        for (int q = 0; q < kRows; ++q) a[q] = chunk.a + q * chunk.a_stride;
        for (int64_t k = 0; k < p.r; ++k, to += kTile) {
            lanes x = load<Acc>(to), y = load<Acc>(to + kCount);
#pragma GCC unroll 6
            for (int q = 0; q < kRows; ++q) {
                x += a[q][k] * dm[q][0];
                y += a[q][k] * dm[q][1];
            }
            store<Acc>(to, x);
            store<Acc>(to + kCount, y);
        }
    }

    // grad_a[row, k] = <dM of the row, scale * b[k]> for up to six rows.
    void factors_a(In* out, int64_t rows) const {
        const int64_t rank = p.r, stride = chunk.stride;
        for (int64_t k = 0; k < rank; ++k) {
            lanes dot[kRows][2] = {};
            const Acc* b = chunk.b + k * kTile;
            const Acc* dm = chunk.g;
            for (int64_t tile = 0; tile < chunk.tiles; ++tile, b += rank * kTile, dm += kTile) {
                const lanes first = load<Acc>(b), second = load<Acc>(b + kCount);
#pragma GCC unroll 6
                for (int q = 0; q < kRows; ++q) {
                    dot[q][0] += first * load<Acc>(dm + q * stride);
                    dot[q][1] += second * load<Acc>(dm + q * stride + kCount);
                }
            }
            for (int64_t q = 0; q < rows; ++q)
                from_sum(sum<Acc>(dot[q][0] + dot[q][1]), out[q * rank + k]);
        }
    }

    // The share of grad_b as rows [r, I].
    template <typename T>
    void write_share(T* to) const {
        for (int64_t k = 0; k < p.r; ++k, to += p.i)
            for (int64_t i = 0; i < p.i; i += kCount) {
                const Acc* const from = share + (i / kTile * p.r + k) * kTile + i % kTile;
                store_some<Acc>(to + i, load<Acc>(from) * Acc(p.scale), p.i - i);
            }
    }

    template <typename T>
    void write_weights(T* to, int64_t rows) const {
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t i = 0; i < p.i; i += kCount)
                store_some<Acc>(to + row * p.i + i, load<Acc>(weights + row * chunk.stride + i),
                                p.i - i);
    }
};

// One chunk of rows, for one part of the images.
template <typename Acc, typename In, typename Out>
void backward_task(const FmmParams& p, int64_t index, int64_t chunks, int64_t split) {
    const int64_t begin = index * p.chunk, end = std::min(begin + p.chunk, p.o);
    const int64_t weights = (end - begin) * Chunk<Acc, In>::row_stride(p);
    const int64_t share = p.r * count_tiles<Acc>(p) * Lanes<Acc>::kWidth;
    Acc* const memory = scratch<Acc>(weights + share + Chunk<Acc, In>::size(p));
    Chunk<Acc, In> chunk(p, memory + weights + share);
    Backward<Acc, In, Out> backward{p, chunk, memory, memory + weights};
    std::fill(memory, memory + weights, Acc(0));
    for (int64_t n = split * p.n / p.splits; n < (split + 1) * p.n / p.splits; ++n) {
        backward.image(n, begin, end);
        const int64_t size = p.r * p.i;
        if (p.grad_b && chunks == 1)
            backward.write_share(static_cast<In*>(p.grad_b) + n * p.grad_b_image_stride);
        else if (p.grad_b)
            backward.write_share(static_cast<Acc*>(p.partial_b) + (index * p.n + n) * size);
    }
    if (p.grad_weight && p.splits == 1)
        backward.write_weights(static_cast<In*>(p.grad_weight) + begin * p.i, end - begin);
    else if (p.grad_weight)
        backward.write_weights(
            static_cast<Acc*>(p.partial_weight) + (split * p.o + begin) * p.i, end - begin);
}

// out [count] = the sum of so many parts, `apart` elements from each other.
template <typename Acc, typename In>
void sum_parts(const Acc* from, int64_t parts, int64_t apart, int64_t count, In* out) {
    for (int64_t at = 0; at < count; at += Lanes<Acc>::kCount) {
        lanes_t<Acc> total = {};
        for (int64_t part = 0; part < parts; ++part)
            total += load_some<Acc>(from + part * apart + at, count - at);
        store_some<Acc>(out + at, total, count - at);
    }
}

}  // namespace

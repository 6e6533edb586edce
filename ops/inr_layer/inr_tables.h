#pragma once
// What coordinate features of one axis add to a layer, for CPUs: a small product per axis instead of
// one per pixel.

#include <algorithm>
#include <cstdint>

#include "../_native/lanes.h"

namespace inr {

// to[0 .. count) += factor * from. Written for rows of a few vectors, where what a compiler adds to
// a loop, in case the two overlap, takes longer than the loop.
template <typename T, typename S>
inline void add_scaled(const T* from, S factor, int64_t count, S* to) {
    constexpr int64_t step = Lanes<S>::kCount;
    for (; count >= step; count -= step, from += step, to += step) {
        store<S>(to, load<S>(to) + factor * load<S>(from));
    }
    for (int64_t i = 0; i < count; ++i) {
        to[i] += factor * to_sum(from[i]);
    }
}

// out[0 .. count) = terms + term.
template <typename S>
inline void write_sums(const S* terms, S term, int64_t count, S* out) {
    constexpr int64_t step = Lanes<S>::kCount;
    int64_t i = 0;
    for (; i + step <= count; i += step) {
        store<S>(out + i, load<S>(terms + i) + term);
    }
    for (; i < count; ++i) {
        out[i] = terms[i] + term;
    }
}

// The tables of two axes, whose columns of a weight follow each other.
template <typename T>
struct AxisTables {
    const T* cols;  // [col_channels, width]
    int64_t col_channels;
    int64_t width;
    const T* rows;  // [row_channels, height]
    int64_t row_channels;
    int64_t height;

    // col_terms [O, W] = W_c cols and row_terms [O, H] = W_r rows + bias, where weight [O, ..] begins
    // with the tables' columns and its rows are `stride` apart.
    template <typename S>
    void terms(
        const T* weight, int64_t stride, int64_t outs, const S* bias, S* col_terms,
        S* row_terms) const {
        for (int64_t o = 0; o < outs; ++o, weight += stride) {
            std::fill_n(col_terms + o * width, width, S(0));
            std::fill_n(row_terms + o * height, height, bias[o]);
            for (int64_t e = 0; e < col_channels; ++e) {
                add_scaled(cols + e * width, to_sum(weight[e]), width, col_terms + o * width);
            }
            for (int64_t e = 0; e < row_channels; ++e) {
                const S factor = to_sum(weight[col_channels + e]);
                add_scaled(rows + e * height, factor, height, row_terms + o * height);
            }
        }
    }
};

}  // namespace inr

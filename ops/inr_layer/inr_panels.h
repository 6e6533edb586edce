#pragma once
// Matrix products on panels, for CPUs: what a tile of pixels is made of.
//
// A panel holds kWidth pixels of all channels, [channels][kWidth], contiguous. Pixels are counted
// row by row, so a panel may hold the end of one row and the start of the next. A product takes a
// panel of inputs and packed weights to a panel of outputs, which is the next product's input:
// nothing is rearranged in between. Its inner kernel keeps the sums of kRows rows x kWidth pixels in
// registers, as many as they allow. The last rows of a weight are taken kFewRows at a time where
// fewer zeros fill them up then: 16 rows are 6 + 6 + 4. Fewer still would not keep the units busy.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <type_traits>

#include "../_native/lanes.h"
#include "../_native/transpose.h"

namespace inr {

#if defined(__AVX512F__)
constexpr int kRows = 12;
#else
constexpr int kRows = 6;
#endif
constexpr int kFewRows = 4;

// y = max(-limit, min(limit, gain * (v > 0 ? v : slope * v))), NaN stays NaN.
template <typename S>
struct Activation {
    S slope;
    S gain;
    S limit;  // infinity = none
};

enum class Start { kSum, kBias };
enum class Finish { kSum, kActivate };

// c [kCount][kWidth] = (c or bias) + a^T b, a [K][kCount], b [K][kWidth], then the activation.
// A function of its own: inlined, it has to share the registers.
template <typename S, int kCount, Start kStart, Finish kFinish>
__attribute__((noinline)) void multiply(
    int64_t depth, const S* a, const S* b, const S* bias, S* c, const Activation<S>& act) {
    using L = Lanes<S>;
    typename L::vector sum[kCount][2];
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) {
        for (int half = 0; half < 2; ++half) {
            if (kStart == Start::kBias) {
                sum[i][half] = splat<S>(bias[i]);
            } else {
                sum[i][half] = load<S>(c + i * L::kWidth + half * L::kCount);
            }
        }
    }
    for (int64_t k = 0; k < depth; ++k) {
        const typename L::vector left = load<S>(b);
        const typename L::vector right = load<S>(b + L::kCount);
        b += L::kWidth;
#pragma GCC unroll 16
        for (int i = 0; i < kCount; ++i) {
            sum[i][0] += a[i] * left;
            sum[i][1] += a[i] * right;
        }
        a += kCount;
    }
    // Copies: for all the compiler knows, a store to c could change the original.
    const bool clamps = act.limit < std::numeric_limits<S>::infinity();
    const typename L::vector above = splat<S>(act.gain), below = splat<S>(act.gain * act.slope);
    const typename L::vector high = splat<S>(act.limit), low = -high;
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) {
        for (int half = 0; half < 2; ++half) {
            typename L::vector v = sum[i][half];
            if (kFinish == Finish::kActivate) {
                v *= v > 0 ? above : below;
                if (clamps) {
                    v = v > high ? high : v;
                    v = v < low ? low : v;
                }
            }
            store<S>(c + i * L::kWidth + half * L::kCount, v);
        }
    }
}

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// How many rows panels of kRows and kFewRows have that together have at least `rows`.
inline int64_t padded_rows(int64_t rows) {
    constexpr int64_t step = std::gcd(kRows, kFewRows);
    return std::max<int64_t>(round_up(rows, step), rows > 0 ? kFewRows : 0);
}

// Calls panel(first, height) for the panels of so many rows; height is known to the compiler:
// std::integral_constant of kRows or kFewRows.
template <typename F>
void for_row_panels(int64_t rows, F panel) {
    const int64_t padded = padded_rows(rows);
    int64_t large = padded;
    while (large % kRows != 0) {
        large -= kFewRows;
    }
    int64_t first = 0;
    for (; first < large; first += kRows) {
        panel(first, std::integral_constant<int, kRows>());
    }
    for (; first < padded; first += kFewRows) {
        panel(first, std::integral_constant<int, kFewRows>());
    }
}

// Rows `first` .. first + kCount of a weight, K of its columns, as [K][kCount]; zeros beyond.
template <int kCount, typename T, typename S>
void pack_rows(
    const T* weight, int64_t row_stride, int64_t rows, int64_t first, int64_t depth, S* packed) {
    using L = Lanes<S>;
    const T* const from = weight + first * row_stride;
    const int64_t count = std::min<int64_t>(kCount, rows - first);
    int64_t k = 0;
    if constexpr (kCount <= L::kCount) {
        // Squares of columns. A vector is longer than kCount: the next column overwrites its end.
        for (; k + L::kCount < depth; k += L::kCount) {
            lanes_t<S> square[L::kCount] = {};
            for (int64_t i = 0; i < count; ++i) {
                square[i] = load<S>(from + i * row_stride + k);
            }
            transpose<S>(square);
            for (int64_t j = 0; j < L::kCount; ++j) {
                store<S>(packed + (k + j) * kCount, square[j]);
            }
        }
    }
    for (; k < depth; ++k) {
        for (int64_t i = 0; i < kCount; ++i) {
            packed[k * kCount + i] = i < count ? to_sum(from[i * row_stride + k]) : S(0);
        }
    }
}

// A weight [rows, head + tail] as multiply_tile takes it, [panels][head + tail][rows of the panel];
// the tail's columns begin at `tail_at` of a row.
template <typename T, typename S>
void pack_weight(
    const T* weight, int64_t row_stride, int64_t rows, int64_t head, int64_t tail_at, int64_t tail,
    S* packed) {
    for_row_panels(rows, [&](int64_t first, auto height) {
        S* const panel = packed + first * (head + tail);
        pack_rows<height>(weight, row_stride, rows, first, head, panel);
        pack_rows<height>(weight + tail_at, row_stride, rows, first, tail, panel + height * head);
    });
}

template <typename T, typename S>
void pack_weight(const T* weight, int64_t row_stride, int64_t rows, int64_t depth, S* packed) {
    pack_weight(weight, row_stride, rows, depth, 0, 0, packed);
}

// Copies channels [C, pixels], as panels from `panel` on; lanes beyond the last pixel are 0.
// Panels are stride apart.
template <typename T, typename S>
void pack_pixels(
    const T* from, int64_t channels, int64_t pixels, int64_t panel, int64_t panels, int64_t stride,
    S* out) {
    constexpr int64_t width = Lanes<S>::kWidth;
    for (int64_t k = 0; k < channels; ++k) {
        const T* plane = from + k * pixels + panel * width;
        for (int64_t j = 0; j < panels; ++j) {
            const int64_t left = pixels - (panel + j) * width;
            S* lanes = out + j * stride + k * width;
            if (left >= width) {
                constexpr int64_t half = Lanes<S>::kCount;
                store<S>(lanes, load<S>(plane + j * width));
                store<S>(lanes + half, load<S>(plane + j * width + half));
                continue;
            }
            for (int64_t lane = 0; lane < width; ++lane) {
                lanes[lane] = lane < left ? to_sum(plane[j * width + lane]) : S(0);
            }
        }
    }
}

// The way back.
template <typename T, typename S>
void unpack_pixels(
    const S* panels_in, int64_t channels, int64_t pixels, int64_t panel, int64_t panels,
    int64_t stride, T* out) {
    constexpr int64_t width = Lanes<S>::kWidth;
    for (int64_t k = 0; k < channels; ++k) {
        T* plane = out + k * pixels + panel * width;
        for (int64_t j = 0; j < panels; ++j) {
            const int64_t left = pixels - (panel + j) * width;
            const S* lanes = panels_in + j * stride + k * width;
            if (left >= width) {
                constexpr int64_t half = Lanes<S>::kCount;
                store<S>(plane + j * width, load<S>(lanes));
                store<S>(plane + j * width + half, load<S>(lanes + half));
                continue;
            }
            for (int64_t lane = 0; lane < left; ++lane) {
                from_sum(lanes[lane], plane[j * width + lane]);
            }
        }
    }
}

// One product for a tile: every weight panel, as long as it is in the cache, with all pixels.
// Panels of inputs are in_stride apart, those of outputs out_stride.
template <typename S, Start kStart, Finish kFinish>
void multiply_tile(
    int64_t rows,
    int64_t depth,
    int64_t panels,
    const S* weight,
    const S* bias,
    const S* in,
    int64_t in_stride,
    S* out,
    int64_t out_stride,
    const Activation<S>& act) {
    for_row_panels(rows, [&](int64_t first, auto height) {
        for (int64_t j = 0; j < panels; ++j) {
            multiply<S, height, kStart, kFinish>(
                depth,
                weight + first * depth,
                in + j * in_stride,
                bias + first,
                out + j * out_stride + first * Lanes<S>::kWidth,
                act);
        }
    });
}

}  // namespace inr

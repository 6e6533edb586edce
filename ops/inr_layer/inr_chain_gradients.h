#pragma once
// Steps of inr_chain_backward.

#include "../_native/transpose.h"
#include "inr_chain_parts.h"

namespace inr {

// Columns of what add_outer writes: whole vectors.
template <typename S>
int64_t outer_stride(int64_t columns) {
    return round_up(columns, Lanes<S>::kWidth);
}

// Elements of some panels by pixels.
template <typename S>
int64_t turned_size(int64_t panels, int64_t channels) {
    return panels * Lanes<S>::kWidth * outer_stride<S>(channels);
}

// Panels [channels][kWidth pixels] as [channels / kWidth][pixels][kWidth channels], a factor of
// add_outer. What the lanes beyond the last channel hold is of no meaning.
template <typename S>
void by_pixels(const S* panels, int64_t stride, int64_t channels, int64_t count, S* out) {
    using L = Lanes<S>;
    for (int64_t d = 0; d < channels; d += L::kWidth) {
        for (int64_t j = 0; j < count; ++j, out += L::kWidth * L::kWidth) {
            for (int64_t part = 0; part < 4; ++part) {
                const int64_t pixel = part / 2 * L::kCount, shift = part % 2 * L::kCount;
                lanes_t<S> square[L::kCount];
#pragma GCC unroll 16
                for (int64_t i = 0; i < L::kCount; ++i) {
                    const int64_t channel = std::min(d + shift + i, channels - 1);
                    square[i] = load<S>(panels + j * stride + channel * L::kWidth + pixel);
                }
                transpose<S>(square);
#pragma GCC unroll 16
                for (int64_t i = 0; i < L::kCount; ++i) {
                    store<S>(out + (pixel + i) * L::kWidth + shift, square[i]);
                }
            }
        }
    }
}

// The features of all tiles by pixels, one tile after the other, if the batch shares them.
template <typename S>
std::vector<S> shared_by_pixels(const ChainSizes<S>& sizes) {
    const std::vector<S> panels = sizes.shared_inputs();
    const int64_t channels = sizes.depths[0], stride = panel_stride<S>(channels);
    const int64_t all = panels.empty() ? 0 : panels_of<S>(sizes.pixels);
    std::vector<S> turned(turned_size<S>(all, channels));
    for (int64_t at = 0; at < all; at += sizes.tile_panels) {
        const int64_t count = std::min(sizes.tile_panels, all - at);
        S* const to = turned.data() + turned_size<S>(at, channels);
        by_pixels(panels.data() + at * stride, stride, channels, count, to);
    }
    return turned;
}

// out [kCount][kWidth] = (or +=) the sum over pixels of kCount channels of a panel times kWidth of
// by_pixels.
template <typename S, int kCount>
__attribute__((noinline)) void outer_rows(
    int64_t panels, const S* left, int64_t left_stride, const S* right, bool adds, S* out,
    int64_t out_stride) {
    using L = Lanes<S>;
    typename L::vector sum[kCount][2] = {};
    for (int64_t j = 0; j < panels; ++j, left += left_stride) {
        for (int64_t pixel = 0; pixel < L::kWidth; ++pixel, right += L::kWidth) {
            const typename L::vector first = in_register(load<S>(right));
            const typename L::vector second = in_register(load<S>(right + L::kCount));
#pragma GCC unroll 16
            for (int q = 0; q < kCount; ++q) {
                const S factor = left[q * L::kWidth + pixel];
                sum[q][0] += factor * first;
                sum[q][1] += factor * second;
            }
        }
    }
#pragma GCC unroll 16
    for (int q = 0; q < kCount; ++q) {
        S* const to = out + q * out_stride;
        if (adds) {
            sum[q][0] += load<S>(to);
            sum[q][1] += load<S>(to + L::kCount);
        }
        store<S>(to, sum[q][0]);
        store<S>(to + L::kCount, sum[q][1]);
    }
}

// out[o, d] = (or +=) the sum over pixels of left[o] right[d]. Left in panels, whose pixels beyond
// an image are 0, right from by_pixels; rows of out are outer_stride apart, padded_rows of them.
template <typename S>
void add_outer(
    int64_t rows, int64_t columns, int64_t panels, const S* left, int64_t left_stride,
    const S* right, bool adds, S* out) {
    using L = Lanes<S>;
    const int64_t stride = outer_stride<S>(columns);
    for (int64_t d = 0; d < columns; d += L::kWidth, right += panels * L::kWidth * L::kWidth) {
        for_row_panels(rows, [&](int64_t o, auto height) {
            outer_rows<S, height>(panels, left + o * L::kWidth, left_stride, right, adds,
                                  out + o * stride + d, stride);
        });
    }
}

// The same for few rows: sums over lanes, both factors in panels.
template <typename S>
void add_dots(
    int64_t rows, int64_t columns, int64_t panels, const S* left, int64_t left_stride,
    const S* right, int64_t right_stride, bool adds, S* out) {
    using L = Lanes<S>;
    for (int64_t o = 0; o < rows; ++o) {
        for (int64_t d = 0; d < columns; ++d) {
            const S* a = left + o * L::kWidth;
            const S* b = right + d * L::kWidth;
            lanes_t<S> even = {}, odd = {};
            for (int64_t j = 0; j < panels; ++j, a += left_stride, b += right_stride) {
                even += load<S>(a) * load<S>(b);
                odd += load<S>(a + L::kCount) * load<S>(b + L::kCount);
            }
            S& to = out[o * outer_stride<S>(columns) + d];
            to = sum<S>(even + odd) + (adds ? to : S(0));
        }
    }
}

// Gradients of y = act(v): g *= act'(v), which y tells; sums[o] += sum over pixels.
template <typename S>
void differentiate(
    int64_t rows, int64_t panels, int64_t stride, const S* y, const Activation<S>& act, S* g,
    S* sums) {
    using L = Lanes<S>;
    const typename L::vector above = splat<S>(act.gain), below = splat<S>(act.gain * act.slope);
    const bool clamps = act.limit < std::numeric_limits<S>::infinity();
    for (int64_t o = 0; o < rows; ++o) {
        typename L::vector sum = {};
        for (int64_t j = 0; j < panels; ++j) {
            for (int64_t half = 0; half < L::kWidth; half += L::kCount) {
                const int64_t at = j * stride + o * L::kWidth + half;
                const typename L::vector value = load<S>(y + at);
                typename L::vector slope = value > 0 ? above : below;
                if (clamps) {
                    slope = value < act.limit ? slope : typename L::vector{};
                    slope = value > -act.limit ? slope : typename L::vector{};
                }
                const typename L::vector result = load<S>(g + at) * slope;
                store<S>(g + at, result);
                sum += result;
            }
        }
        sums[o] += inr::sum<S>(sum);
    }
}

// W^T [columns, rows] packed as the weight of a product.
template <typename S>
void pack_transposed(const S* weight, int64_t stride, int64_t rows, int64_t columns, S* packed) {
    // Row by row, as they come from memory.
    for (int64_t o = 0; o < rows; ++o, weight += stride) {
        for_row_panels(columns, [&](int64_t first, auto height) {
            S* const to = packed + first * rows + o * height;
            if (first + height <= columns) {
                std::memcpy(to, weight + first, height * sizeof(S));
                return;
            }
            for (int64_t r = 0; r < height; ++r) {
                to[r] = first + r < columns ? weight[first + r] : S(0);
            }
        });
    }
}

// Image n of `to` [N, rows, columns] from rows as add_outer's.
template <typename S>
void keep(const S* from, int64_t rows, int64_t columns, void* to, int64_t n) {
    for (int64_t row = 0; to != nullptr && row < rows; ++row) {
        const S* const line = from + row * outer_stride<S>(columns);
        std::copy_n(line, columns, static_cast<S*>(to) + (n * rows + row) * columns);
    }
}

// The gradient of a bias from sums of images, which are `apart`: [N, count], or of all [count].
template <typename S>
void write_bias(
    const S* sums, int64_t apart, int64_t batch, int64_t count, bool per_image, void* to) {
    S* const out = static_cast<S*>(to);
    if (out == nullptr) {
        return;
    }
    std::fill_n(out, per_image ? 0 : count, S(0));
    for (int64_t n = 0; n < batch; ++n, sums += apart) {
        if (per_image) {
            std::copy_n(sums, count, out + n * count);
        } else {
            add_scaled(sums, S(1), count, out);
        }
    }
}

// to [count] += row; returns the sum of the row.
template <typename S>
inline S add_row(const S* row, int64_t count, S* to) {
    lanes_t<S> sums = {};
    int64_t i = 0;
    for (; i + Lanes<S>::kCount <= count; i += Lanes<S>::kCount) {
        const lanes_t<S> values = load<S>(row + i);
        store<S>(to + i, load<S>(to + i) + values);
        sums += values;
    }
    S total = sum<S>(sums);
    for (; i < count; ++i) {
        to[i] += row[i];
        total += row[i];
    }
    return total;
}

// to[e] = <left, row e of a table>.
template <typename S>
void dot_rows(const S* left, const void* table, int64_t channels, int64_t count, S* to) {
    for (int64_t e = 0; e < channels; ++e) {
        const S* const line = static_cast<const S*>(table) + e * count;
        S total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < count; ++i) {
            total += left[i] * line[i];
        }
        to[e] = total;
    }
}

}  // namespace inr

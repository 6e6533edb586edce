#pragma once
// Steps of inr_chain_backward.

#include "inr_chain_parts.h"

namespace inr {

// Lanes of two vectors of four, those of the second counted on.
#if defined(__clang__)
#define INR_PICK(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define INR_PICK(a, b, i, j, k, l) __builtin_shuffle(a, b, picks{i, j, k, l})
#endif

// out[0 .. 4) += the sums of the lanes of four vectors.
template <typename S>
inline void add_sums(const lanes_t<S> (&v)[4], S* out) {
    constexpr int kParts = Lanes<S>::kCount / 4;
    if constexpr (kParts == 0) {
        for (int i = 0; i < 4; ++i) {
            out[i] += sum<S>(v[i]);
        }
    } else {
        typedef S four __attribute__((vector_size(4 * sizeof(S))));
        typedef decltype(four{} < four{}) picks;
        four parts[4];
        for (int i = 0; i < 4; ++i) {
            four pieces[kParts];
            std::memcpy(pieces, &v[i], sizeof pieces);
            parts[i] = pieces[0];
            for (int part = 1; part < kParts; ++part) {
                parts[i] += pieces[part];
            }
        }
        // 0 1 0 1 and 2 3 2 3: two lanes of each, then one.
        const four low = INR_PICK(parts[0], parts[1], 0, 4, 1, 5) +
            INR_PICK(parts[0], parts[1], 2, 6, 3, 7);
        const four high = INR_PICK(parts[2], parts[3], 0, 4, 1, 5) +
            INR_PICK(parts[2], parts[3], 2, 6, 3, 7);
        four total;
        std::memcpy(&total, out, sizeof total);
        total += INR_PICK(low, high, 0, 1, 4, 5) + INR_PICK(low, high, 2, 3, 6, 7);
        std::memcpy(out, &total, sizeof total);
    }
}

// out[o, d] += sum over pixels of left[o] right[d]; panels of pixels, those beyond an image are 0.
// Twelve sums at a time stay in registers, a lane for each pixel of half a panel.
template <typename S>
__attribute__((noinline)) void add_outer(
    int64_t rows, int64_t columns, int64_t panels, const S* left, int64_t left_stride,
    const S* right, int64_t right_stride, S* out, int64_t out_stride) {
    using L = Lanes<S>;
    constexpr int kLeft = 3, kRight = 4;
    for (int64_t o = 0; o < rows; o += kLeft) {
        for (int64_t d = 0; d < columns; d += kRight) {
            const S* a[kLeft];
            const S* b[kRight];
            for (int64_t q = 0; q < kLeft; ++q) {
                a[q] = left + std::min(o + q, rows - 1) * L::kWidth;
            }
            for (int64_t r = 0; r < kRight; ++r) {
                b[r] = right + std::min(d + r, columns - 1) * L::kWidth;
            }
            typename L::vector sum[kLeft][kRight] = {};
            int64_t at_left = 0, at_right = 0;
            for (int64_t j = 0; j < panels; ++j, at_left += left_stride, at_right += right_stride) {
#pragma GCC unroll 2
                for (int64_t half = 0; half < L::kWidth; half += L::kCount) {
                    typename L::vector values[kLeft];
#pragma GCC unroll 3
                    for (int q = 0; q < kLeft; ++q) {
                        values[q] = load<S>(a[q] + at_left + half);
                    }
#pragma GCC unroll 4
                    for (int r = 0; r < kRight; ++r) {
                        const typename L::vector value = load<S>(b[r] + at_right + half);
#pragma GCC unroll 3
                        for (int q = 0; q < kLeft; ++q) {
                            sum[q][r] += values[q] * value;
                        }
                    }
                }
            }
            for (int64_t q = 0; q < kLeft && o + q < rows; ++q) {
                S* const to = out + (o + q) * out_stride + d;
                if (d + kRight <= columns) {
                    add_sums<S>(sum[q], to);
                    continue;
                }
                S some[kRight] = {};
                add_sums<S>(sum[q], some);
                for (int64_t r = 0; d + r < columns; ++r) {
                    to[r] += some[r];
                }
            }
        }
    }
}

// Gradients of y = act(v): g *= act'(v), which y tells; sums[o] += sum over pixels.
template <typename S>
void differentiate(
    int64_t rows, int64_t panels, int64_t stride, const S* y, const Activation<S>& act, S* g,
    S* sums) {
    using L = Lanes<S>;
    const typename L::vector above = typename L::vector{} + act.gain;
    const typename L::vector below = typename L::vector{} + act.gain * act.slope;
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
    for (int64_t i = 0; i < columns; i += kRows) {
        const int64_t count = std::min<int64_t>(kRows, columns - i);
        for (int64_t o = 0; o < rows; ++o, packed += kRows) {
            const S* from = weight + o * stride + i;
            for (int64_t r = 0; r < kRows; ++r) {
                packed[r] = r < count ? from[r] : S(0);
            }
        }
    }
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

// Which columns of the grid read each column of the lattice below, and with what weight: as many
// for each, those that there are not with weight 0.
template <typename S>
struct ColumnReaders {
    int64_t columns;  // w
    int64_t most;     // readers of a column
    std::vector<int32_t> at;  // [w, most]
    std::vector<S> share;     // [w, most]

    explicit ColumnReaders(const InrChainParams& p) : columns(p.taps > 0 ? p.low_width : 0) {
        const int64_t* index = static_cast<const int64_t*>(p.col_index);
        const S* weight = static_cast<const S*>(p.col_weight);
        const int64_t count = columns == 0 ? 0 : p.width * p.taps;
        std::vector<int64_t> readers(columns, 0);
        for (int64_t i = 0; i < count; ++i) {
            ++readers[index[i]];
        }
        most = 4;
        for (const int64_t number : readers) {
            most = std::max(most, number);
        }
        at.assign(columns * most, 0);
        share.assign(columns * most, S(0));
        std::vector<int64_t> placed(columns, 0);
        for (int64_t i = 0; i < count; ++i) {
            const int64_t first = index[i] * most, place = first + placed[index[i]]++;
            share[place] = p.taps == 1 ? S(1) : weight[i];
            // Where there is none, too: nothing else may reach a column, not even times 0.
            std::fill(at.begin() + place, at.begin() + first + most, int32_t(i / p.taps));
        }
    }

    // out [w] = what the columns of one row [W] pass on.
    void reduce(const S* row, S* out) const {
        const int32_t* from = at.data();
        const S* weight = share.data();
        for (int64_t c = 0; c < columns; ++c, from += most, weight += most) {
            S sum = weight[0] * row[from[0]] + weight[1] * row[from[1]];
            sum += weight[2] * row[from[2]] + weight[3] * row[from[3]];
            for (int64_t i = 4; i < most; ++i) {
                sum += weight[i] * row[from[i]];
            }
            out[c] = sum;
        }
    }
};

}  // namespace inr

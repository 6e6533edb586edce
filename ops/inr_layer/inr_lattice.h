#pragma once
// How pixels read a lattice below, for CPUs.

#include <algorithm>
#include <cstdint>

#include "inr_panels.h"

namespace inr {

// Where values of a lattice are: row r, column c of channel k at
// r * row + (c / width) * block + c % width + k * channel.
struct LatticeLayout {
    int64_t row;
    int64_t block;
    int64_t width;
    int64_t channel;
};

// Taps of all rows and columns of the fine grid.
template <typename S>
struct GridTaps {
    int64_t count;  // per axis: 1 or 2
    const int64_t* row_index;
    const int64_t* col_index;
    const S* row_weight;
    const S* col_weight;
};

// Lanes [lane, lane + count) of a panel are columns x, x + 1, ... of row y.
struct Segment {
    int64_t y;
    int64_t x;
    int64_t lane;
    int64_t count;
};

// Calls f(segment) for the rows that a panel of kWidth pixels has parts of.
template <typename F>
void for_segments(int64_t panel, int64_t panel_width, int64_t height, int64_t width, F f) {
    const int64_t first = panel * panel_width;
    const int64_t last = std::min(first + panel_width, height * width);
    for (int64_t pixel = first; pixel < last;) {
        const int64_t y = pixel / width, x = pixel % width;
        const int64_t count = std::min(last - pixel, width - x);
        f(Segment{y, x, pixel - first, count});
        pixel += count;
    }
}

// The taps of one segment, as offsets into a lattice.
template <typename S>
struct SegmentTaps {
    using L = Lanes<S>;
    int64_t count;
    int64_t channel;
    int64_t lane;
    int64_t lanes;
    int64_t row[2];
    S row_share[2];
    int64_t col[2][L::kWidth];
    S col_share[2][L::kWidth];
    // With two taps: the blocks from `first` on, at most two, that hold all columns; else 0 blocks.
    int64_t first;
    int64_t blocks;
    int64_t block;
    // With few columns in these blocks: what lane j of the panel takes of column base + c is
    // shares[c][j], 0 for other segments' lanes; else 0 columns.
    static constexpr int64_t kColumns = 12;
    int64_t base;
    int64_t columns;
    S shares[kColumns][L::kWidth];
    // With one tap: whether lanes 2i and 2i + 1 read column i of those from the first lane's on.
    bool doubles;

    // Further lanes repeat the segment's last one.
    SegmentTaps(const GridTaps<S>& taps, const LatticeLayout& at, const Segment& segment)
        : count(taps.count),
          channel(at.channel),
          lane(segment.lane),
          lanes(segment.count),
          first(0),
          blocks(0),
          block(at.block),
          base(0),
          columns(0),
          doubles(count == 1) {
        const int64_t y = segment.y, x = segment.x, valid = segment.count;
        int64_t low = INT64_MAX, high = 0;
        for (int64_t t = 0; t < count; ++t) {
            row[t] = taps.row_index[y * count + t] * at.row;
            row_share[t] = count == 1 ? S(1) : taps.row_weight[y * count + t];
            for (int64_t j = 0; j < L::kWidth; ++j) {
                const int64_t tap = (x + std::min(j, valid - 1)) * count + t;
                const int64_t cell = taps.col_index[tap];
                col[t][j] = cell / at.width * at.block + cell % at.width;
                col_share[t][j] = count == 1 ? S(1) : taps.col_weight[tap];
                low = std::min(low, cell);
                high = std::max(high, cell);
            }
        }
        for (int64_t j = 0; j < L::kWidth; ++j) {
            doubles = doubles && col[0][j] == col[0][0] + j / 2;
        }
        if (count == 2 && at.width == L::kWidth && high / at.width - low / at.width < 2) {
            use_blocks(taps, segment, low, high);
        }
    }

    // out[0 .. lanes) += what the segment reads of channel k.
    void add(const S* lattice, int64_t k, S* out) const {
        if (columns > 0) {
            add_columns(lattice, k, out - lane);
            return;
        }
        if (lanes == L::kWidth) {
            add_all(lattice, k, out);
            return;
        }
        alignas(kVectorBytes) S sums[L::kWidth] = {};
        add_all(lattice, k, sums);
        for (int64_t j = 0; j < lanes; ++j) {
            out[j] += sums[j];
        }
    }

private:
    void use_blocks(const GridTaps<S>& taps, const Segment& segment, int64_t low, int64_t high) {
        first = low / L::kWidth;
        blocks = high / L::kWidth - first + 1;
        for (int64_t j = 0; j < L::kWidth; ++j) {
            for (int64_t t = 0; t < 2; ++t) {
                const int64_t x = segment.x + std::min(j, segment.count - 1);
                col[t][j] = taps.col_index[x * 2 + t] - first * L::kWidth;
            }
        }
        if (high - low >= kColumns) {
            return;
        }
        base = low - first * L::kWidth;
        columns = high - low + 1;
        std::fill(&shares[0][0], &shares[0][0] + columns * L::kWidth, S(0));
        for (int64_t j = 0; j < segment.count; ++j) {
            for (int64_t t = 0; t < 2; ++t) {
                shares[col[t][j] - base][lane + j] += col_share[t][j];
            }
        }
    }

    // Between rows first, where the values lie side by side: all columns of the blocks.
    void mix_rows(const S* lattice, int64_t k, S* line) const {
        const S* top = lattice + row[0] + k * channel + first * block;
        const S* bottom = lattice + row[1] + k * channel + first * block;
        for (int64_t b = 0; b < blocks; ++b) {
            for (int64_t j = 0; j < L::kWidth; ++j) {
                const S upper = row_share[0] * top[b * block + j];
                line[b * L::kWidth + j] = upper + row_share[1] * bottom[b * block + j];
            }
        }
    }

    // panel[0 .. kWidth) += a small dense product.
    void add_columns(const S* lattice, int64_t k, S* panel) const {
        alignas(kVectorBytes) S line[2 * L::kWidth];
        mix_rows(lattice, k, line);
        typename L::vector left = {}, right = {};
        // From the last column to the first: rounded as in add_all.
        for (int64_t c = columns - 1; c >= 0; --c) {
            left += line[base + c] * load<S>(shares[c]);
            right += line[base + c] * load<S>(shares[c] + L::kCount);
        }
        store<S>(panel, load<S>(panel) + left);
        store<S>(panel + L::kCount, load<S>(panel + L::kCount) + right);
    }

    void add_all(const S* lattice, int64_t k, S* out) const {
        const S* top = lattice + row[0] + k * channel;
        if (count == 1) {
            const S* from = top + col[0][0];
            for (int64_t i = 0; doubles && i < L::kCount; ++i) {
                out[2 * i] += from[i];
                out[2 * i + 1] += from[i];
            }
            for (int64_t j = 0; !doubles && j < L::kWidth; ++j) {
                out[j] += top[col[0][j]];
            }
            return;
        }
        const S* bottom = lattice + row[1] + k * channel;
        if (blocks == 0) {
            for (int64_t j = 0; j < L::kWidth; ++j) {
                const int64_t left = col[0][j], right = col[1][j];
                const S near = row_share[0] * top[left] + row_share[1] * bottom[left];
                const S far = row_share[0] * top[right] + row_share[1] * bottom[right];
                // In this order, whatever is in out: inr_tiles_upsample rounds the same way.
                const S sum = col_share[0][j] * near + col_share[1][j] * far;
                out[j] += sum;
            }
            return;
        }
        alignas(kVectorBytes) S line[2 * L::kWidth];
        mix_rows(lattice, k, line);
        for (int64_t j = 0; j < L::kWidth; ++j) {
            const S sum = col_share[0][j] * line[col[0][j]] + col_share[1][j] * line[col[1][j]];
            out[j] += sum;
        }
    }
};

}  // namespace inr

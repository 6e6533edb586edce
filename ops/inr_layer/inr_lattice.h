#pragma once
// How pixels read a lattice below, for CPUs.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "inr_panels.h"

namespace inr {

// Where values of a lattice are: row r, column c of channel k at r * row + c + k * channel, or with
// block > 0 in blocks of kWidth columns, r * row + (c / kWidth) * block + c % kWidth + k * channel.
struct LatticeLayout {
    int64_t row;
    int64_t block;
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

// The taps of some columns of the grid, as offsets into a row of a lattice.
template <typename S>
struct ColumnTaps {
    using L = Lanes<S>;
    int64_t lane;
    int64_t lanes;
    int64_t col[2][L::kWidth];
    S col_share[2][L::kWidth];
    // With two taps: the blocks from `first` on, at most two, that hold all columns; else 0 blocks.
    int64_t first;
    int64_t blocks;
    // With few columns in these blocks: what lane j of the panel takes of column base + c is
    // shares[c][j], 0 for other segments' lanes; else 0 columns.
    static constexpr int64_t kColumns = 12;
    int64_t base;
    int64_t columns;
    S shares[kColumns][L::kWidth];
    // With one tap: whether lanes 2i and 2i + 1 read column i of those from the first lane's on.
    bool doubles;

    // Further lanes repeat the segment's last one.
    ColumnTaps(const GridTaps<S>& taps, const LatticeLayout& at, const Segment& segment)
        : lane(segment.lane),
          lanes(segment.count),
          first(0),
          blocks(0),
          base(0),
          columns(0),
          doubles(taps.count == 1) {
        const int64_t count = taps.count, x = segment.x, valid = segment.count;
        int64_t low = INT64_MAX, high = 0;
        for (int64_t t = 0; t < count; ++t) {
            for (int64_t j = 0; j < L::kWidth; ++j) {
                const int64_t tap = (x + std::min(j, valid - 1)) * count + t;
                const int64_t cell = taps.col_index[tap];
                col[t][j] = cell;
                col_share[t][j] = count == 1 ? S(1) : taps.col_weight[tap];
                low = std::min(low, cell);
                high = std::max(high, cell);
            }
        }
        if (count == 2 && at.block > 0 && high / L::kWidth - low / L::kWidth < 2) {
            use_blocks(segment, low, high);
        } else if (at.block > 0) {
            for (int64_t t = 0; t < count; ++t) {
                for (int64_t j = 0; j < L::kWidth; ++j) {
                    col[t][j] += col[t][j] / L::kWidth * (at.block - L::kWidth);
                }
            }
        }
        for (int64_t j = 0; j < L::kWidth; ++j) {
            doubles = doubles && col[0][j] == col[0][0] + j / 2;
        }
    }

private:
    void use_blocks(const Segment& segment, int64_t low, int64_t high) {
        first = low / L::kWidth;
        blocks = high / L::kWidth - first + 1;
        for (int64_t t = 0; t < 2; ++t) {
            for (int64_t j = 0; j < L::kWidth; ++j) {
                col[t][j] -= first * L::kWidth;
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
};

// What the grid reads of a lattice below.
template <typename S>
class LatticeReader {
public:
    using L = Lanes<S>;

    LatticeReader(const GridTaps<S>& grid, const LatticeLayout& layout, int64_t width)
        : taps(grid), at(layout) {
        // Panels that are part of one row have the same taps in every row and for every image.
        for (int64_t x = 0; width % L::kWidth == 0 && x < width; x += L::kWidth) {
            whole.emplace_back(taps, at, Segment{0, x, 0, L::kWidth});
        }
    }

    // out[channel * stride + 0 .. lanes) += what the segment reads of the first channels.
    void add(
        const Segment& segment, const S* lattice, int64_t channels, int64_t stride, S* out) const {
        if (!whole.empty()) {
            const Reading reading(*this, whole[segment.x / L::kWidth], segment.y);
            reading.add(lattice, channels, stride, out);
            return;
        }
        const ColumnTaps<S> columns(taps, at, segment);
        Reading(*this, columns, segment.y).add(lattice, channels, stride, out);
    }

private:
    const GridTaps<S> taps;
    const LatticeLayout at;
    std::vector<ColumnTaps<S>> whole;

    // One row of the grid at some columns.
    struct Reading;
};

template <typename S>
struct LatticeReader<S>::Reading {
    const ColumnTaps<S>& across;
    const int64_t count;
    const int64_t channel;
    const int64_t block;
    int64_t row[2];
    S row_share[2];

    Reading(const LatticeReader& reader, const ColumnTaps<S>& columns, int64_t y)
        : across(columns), count(reader.taps.count), channel(reader.at.channel),
          block(reader.at.block) {
        for (int64_t t = 0; t < count; ++t) {
            row[t] = reader.taps.row_index[y * count + t] * reader.at.row;
            row_share[t] = count == 1 ? S(1) : reader.taps.row_weight[y * count + t];
        }
    }

    void add(const S* lattice, int64_t channels, int64_t stride, S* out) const {
        int64_t k = 0;
        for (; across.columns > 0 && k + kTogether <= channels; k += kTogether) {
            add_columns<kTogether>(lattice, k, stride, out + k * stride - across.lane);
        }
        for (; across.columns > 0 && k < channels; ++k) {
            add_columns<1>(lattice, k, stride, out + k * stride - across.lane);
        }
        for (; k < channels; ++k) {
            add_one(lattice, k, out + k * stride);
        }
    }

    // Channels whose sums are in registers at a time: each is a chain of dependent additions.
    static constexpr int kTogether = 4;

    void add_one(const S* lattice, int64_t k, S* out) const {
        if (across.lanes == L::kWidth) {
            add_all(lattice, k, out);
            return;
        }
        alignas(kVectorBytes) S sums[L::kWidth] = {};
        add_all(lattice, k, sums);
        for (int64_t j = 0; j < across.lanes; ++j) {
            out[j] += sums[j];
        }
    }

    // Between rows first, where the values lie side by side: all columns of the blocks.
    void mix_rows(const S* lattice, int64_t k, S* line) const {
        const S* top = lattice + row[0] + k * channel + across.first * block;
        const S* bottom = lattice + row[1] + k * channel + across.first * block;
        for (int64_t b = 0; b < across.blocks; ++b) {
            for (int64_t j = 0; j < L::kWidth; ++j) {
                const S upper = row_share[0] * top[b * block + j];
                line[b * L::kWidth + j] = upper + row_share[1] * bottom[b * block + j];
            }
        }
    }

    // panels[channel * stride + 0 .. kWidth) += a small dense product.
    template <int kChannels>
    void add_columns(const S* lattice, int64_t k, int64_t stride, S* panels) const {
        alignas(kVectorBytes) S line[kChannels][2 * L::kWidth];
        typename L::vector left[kChannels] = {}, right[kChannels] = {};
        for (int i = 0; i < kChannels; ++i) {
            mix_rows(lattice, k + i, line[i]);
        }
        // From the last column to the first: rounded as in add_all.
        for (int64_t c = across.columns - 1; c >= 0; --c) {
            const typename L::vector lower = load<S>(across.shares[c]);
            const typename L::vector upper = load<S>(across.shares[c] + L::kCount);
#pragma GCC unroll 4
            for (int i = 0; i < kChannels; ++i) {
                left[i] += line[i][across.base + c] * lower;
                right[i] += line[i][across.base + c] * upper;
            }
        }
        for (int i = 0; i < kChannels; ++i, panels += stride) {
            store<S>(panels, load<S>(panels) + left[i]);
            store<S>(panels + L::kCount, load<S>(panels + L::kCount) + right[i]);
        }
    }

    void add_all(const S* lattice, int64_t k, S* out) const {
        const S* top = lattice + row[0] + k * channel;
        if (count == 1) {
            const S* from = top + across.col[0][0];
            alignas(kVectorBytes) S values[L::kWidth];
            for (int64_t i = 0; across.doubles && i < L::kCount; ++i) {
                values[2 * i] = values[2 * i + 1] = from[i];
            }
            for (int64_t j = 0; !across.doubles && j < L::kWidth; ++j) {
                values[j] = top[across.col[0][j]];
            }
            add_panel(values, out);
            return;
        }
        const S* bottom = lattice + row[1] + k * channel;
        if (across.blocks == 0) {
            for (int64_t j = 0; j < L::kWidth; ++j) {
                const int64_t left = across.col[0][j], right = across.col[1][j];
                const S near = row_share[0] * top[left] + row_share[1] * bottom[left];
                const S far = row_share[0] * top[right] + row_share[1] * bottom[right];
                // In this order, whatever is in out: inr_tiles_upsample rounds the same way.
                const S sum = across.col_share[0][j] * near + across.col_share[1][j] * far;
                out[j] += sum;
            }
            return;
        }
        alignas(kVectorBytes) S line[2 * L::kWidth];
        mix_rows(lattice, k, line);
        for (int64_t j = 0; j < L::kWidth; ++j) {
            const S near = line[across.col[0][j]], far = line[across.col[1][j]];
            const S sum = across.col_share[0][j] * near + across.col_share[1][j] * far;
            out[j] += sum;
        }
    }

    static void add_panel(const S* values, S* out) {
        store<S>(out, load<S>(out) + load<S>(values));
        store<S>(out + L::kCount, load<S>(out + L::kCount) + load<S>(values + L::kCount));
    }
};

}  // namespace inr

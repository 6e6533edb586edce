#pragma once
// How a chain reads the lattice below, forward and transposed.

#include <algorithm>
#include <utility>
#include <vector>

#include "inr_chain.h"
#include "inr_panels.h"
#include "inr_tables.h"

namespace inr {

// A sparse matrix that maps rows of values: each vector of results comes from neighbouring values,
// all of which it multiplies, by 0 where it has no entry.
template <typename S>
class BandMatrix {
public:
    using L = Lanes<S>;

    // Entries as (result, value) and their weight; several for one pair are added up.
    template <typename F>
    BandMatrix(int64_t results, int64_t entries, F entry) : results_(results) {
        const int64_t blocks = (results + L::kCount - 1) / L::kCount;
        std::vector<int64_t> low(blocks, INT64_MAX), high(blocks, -1);
        for (int64_t i = 0; i < entries; ++i) {
            const auto found = entry(i);
            const int64_t block = found.result / L::kCount;
            low[block] = std::min(low[block], found.value);
            high[block] = std::max(high[block], found.value);
        }
        int64_t size = 0;
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t count = high[block] < 0 ? 0 : high[block] - low[block] + 1;
            blocks_.push_back({low[block], count, size});
            size += count * L::kCount;
        }
        weights_.assign(size, S(0));
        for (int64_t i = 0; i < entries; ++i) {
            const auto found = entry(i);
            const Block& block = blocks_[found.result / L::kCount];
            const int64_t column = (found.value - block.first) * L::kCount;
            weights_[block.at + column + found.result % L::kCount] += found.weight;
        }
    }

    // out = this matrix times a row.
    void apply(const S* row, S* out) const {
        int64_t left = results_;
        for (const Block& block : blocks_) {
            const S* values = row + block.first;
            const S* weight = weights_.data() + block.at;
            lanes_t<S> even = {}, odd = {};
            int64_t i = 0;
            for (; i + 2 <= block.count; i += 2, weight += 2 * L::kCount) {
                even += values[i] * load<S>(weight);
                odd += values[i + 1] * load<S>(weight + L::kCount);
            }
            if (i < block.count) {
                even += values[i] * load<S>(weight);
            }
            store_some<S>(out, even + odd, left);
            out += L::kCount;
            left -= L::kCount;
        }
    }

private:
    // Results of one vector: values from `first` on, weights from `at` on.
    struct Block {
        int64_t first;
        int64_t count;
        int64_t at;
    };

    int64_t results_;
    std::vector<Block> blocks_;
    std::vector<S> weights_;
};

// Rows of the lattice below that rows of the grid read, one after the other.
template <typename S>
struct ChainTaps {
    int64_t count;
    int64_t width;
    const int64_t* row_index;
    const S* row_weight;
    BandMatrix<S> across;  // columns of the grid from those of the lattice
    BandMatrix<S> back;    // the transposed matrix

    explicit ChainTaps(const InrChainParams& p)
        : count(p.taps), width(p.width), row_index(static_cast<const int64_t*>(p.row_index)),
          row_weight(static_cast<const S*>(p.row_weight)),
          across(count > 0 ? width : 0, count * width, [&p](int64_t i) { return column(p, i); }),
          back(count > 0 ? p.low_width : 0, count * width, [&p](int64_t i) {
              Entry entry = column(p, i);
              std::swap(entry.result, entry.value);
              return entry;
          }) {}

    int64_t row(int64_t y, int64_t t) const { return row_index[y * count + t]; }

    S row_share(int64_t y, int64_t t) const { return count == 1 ? S(1) : row_weight[y * 2 + t]; }

    // lines [h, W] += columns of a row of the grid, from x on, as rows of the lattice are read.
    void spread(int64_t y, int64_t x, int64_t columns, const S* in, S* lines) const {
        for (int64_t t = 0; t < count; ++t) {
            add_scaled(in, row_share(y, t), columns, lines + row(y, t) * width + x);
        }
    }

private:
    struct Entry {
        int64_t result;
        int64_t value;
        S weight;
    };

    static Entry column(const InrChainParams& p, int64_t i) {
        const S weight = p.taps == 1 ? S(1) : static_cast<const S*>(p.col_weight)[i];
        return {i / p.taps, static_cast<const int64_t*>(p.col_index)[i], weight};
    }
};

}  // namespace inr

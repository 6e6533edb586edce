// inr_tiles_backward: see inr_tiles.h. Planes (one channel of one image) are independent of each
// other; each is read once.

#include <algorithm>
#include <limits>
#include <new>
#include <vector>

#include "../_native/cpu.h"
#include "inr_panels.h"
#include "inr_tiles.h"

namespace {

using namespace inr;

// Which columns of the fine grid read each column of the lattice below, and with what weight.
template <typename S>
struct Readers {
    std::vector<int64_t> start;  // [w + 1]
    std::vector<int64_t> at;
    std::vector<S> share;
    bool doubles;  // column c is read by 2c and 2c + 1 with weight 1, and by nothing else

    Readers(const int64_t* index, const S* weight, int64_t width, int64_t taps, int64_t low)
        : start(low + 1, 0), at(width * taps), share(width * taps), doubles(taps == 1) {
        const int64_t count = width * taps;
        for (int64_t i = 0; i < count; ++i) {
            ++start[index[i] + 1];
            doubles = doubles && index[i] == i / 2;
        }
        doubles = doubles && width == 2 * low;
        for (int64_t c = 0; c < low; ++c) {
            start[c + 1] += start[c];
        }
        std::vector<int64_t> next(start.begin(), start.end() - 1);
        for (int64_t i = 0; i < count; ++i) {
            const int64_t place = next[index[i]]++;
            at[place] = i / taps;
            share[place] = taps == 1 ? S(1) : weight[i];
        }
    }

    // sums [w] = what the columns of one row pass on.
    void reduce(const S* row, S* sums) const {
        const int64_t low = static_cast<int64_t>(start.size()) - 1;
        for (int64_t c = 0; doubles && c < low; ++c) {
            sums[c] = row[2 * c] + row[2 * c + 1];
        }
        for (int64_t c = 0; !doubles && c < low; ++c) {
            S sum = 0;
            for (int64_t i = start[c]; i < start[c + 1]; ++i) {
                sum += share[i] * row[at[i]];
            }
            sums[c] = sum;
        }
    }
};

// Elements that a thread takes at a time, at least.
constexpr int64_t kJobSize = 8192;

template <typename T>
struct Backward {
    using S = typename SumOf<T>::type;

    const InrTilesBackwardParams p;
    const S above;
    const S below;
    const S limit;
    const Readers<S> readers;

    // As y holds it: an output that reached the limit was rounded.
    static S stored(S value) {
        T rounded;
        from_sum(value, rounded);
        return to_sum(rounded);
    }

    explicit Backward(const InrTilesBackwardParams& params)
        : p(as_lines(params)),
          above(S(p.gain)),
          below(S(p.gain * p.slope)),
          limit(p.clamp < 0 ? std::numeric_limits<S>::infinity() : stored(S(p.clamp))),
          readers(
              static_cast<const int64_t*>(p.col_index), static_cast<const S*>(p.col_weight),
              p.context == nullptr ? 0 : p.width, p.taps, p.low_width) {}

    // Where rows and columns do not matter, a plane is one long row.
    static InrTilesBackwardParams as_lines(InrTilesBackwardParams p) {
        if (p.context == nullptr && p.cols == nullptr && p.rows == nullptr) {
            p.width *= p.height;
            p.height = 1;
        }
        return p;
    }

    void run() const {
        const int64_t rows_below = p.context == nullptr ? 0 : p.low_height;
        const int64_t size = (2 + rows_below) * p.width + p.low_width;
        std::vector<S> memory(p.threads * size);
        const int64_t grain = std::max<int64_t>(1, kJobSize / (p.height * p.width));
        const auto job = [&](int64_t plane, int64_t thread) {
            S* const row = memory.data() + thread * size;
            one_plane(plane, row, row + p.width, row + 2 * p.width);
        };
        parallel_for(p.planes, p.threads, job, grain);
    }

    // below: [h, W], then one row [w].
    void one_plane(int64_t plane, S* row, S* columns, S* below) const {
        const int64_t rows_below = p.context == nullptr ? 0 : p.low_height;
        std::fill(columns, columns + p.width, S(0));
        std::fill(below, below + rows_below * p.width, S(0));
        S total = 0;
        for (int64_t y = 0; y < p.height; ++y) {
            const int64_t at = (plane * p.height + y) * p.width;
            differentiate(static_cast<const T*>(p.grad) + at, static_cast<const T*>(p.y) + at, row);
            S sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t x = 0; x < p.width; ++x) {
                sum += row[x];
            }
            total += sum;
            if (p.rows != nullptr) {
                static_cast<S*>(p.rows)[plane * p.height + y] = sum;
            }
            for (int64_t x = 0; p.cols != nullptr && x < p.width; ++x) {
                columns[x] += row[x];
            }
            for (int64_t x = 0; p.inner != nullptr && x < p.width; ++x) {
                from_sum(row[x], static_cast<T*>(p.inner)[at + x]);
            }
            if (p.context != nullptr) {
                add_rows(y, row, below);
            }
        }
        // Along columns last, where there are fewest rows.
        S* const reduced = below + rows_below * p.width;
        for (int64_t r = 0; r < rows_below; ++r) {
            readers.reduce(below + r * p.width, reduced);
            T* const out = static_cast<T*>(p.context) + (plane * p.low_height + r) * p.low_width;
            for (int64_t c = 0; c < p.low_width; ++c) {
                from_sum(reduced[c], out[c]);
            }
        }
        for (int64_t x = 0; p.cols != nullptr && x < p.width; ++x) {
            static_cast<S*>(p.cols)[plane * p.width + x] = columns[x];
        }
        if (p.total != nullptr) {
            static_cast<S*>(p.total)[plane] = total;
        }
    }

    // A NaN in y stays one: 0 NaN.
    void differentiate(const T* grad, const T* y, S* row) const {
        for (int64_t x = 0; x < p.width; ++x) {
            const S value = to_sum(y[x]);
            const S slope = value > 0 ? above : below;
            const S kept = value < limit && value > -limit ? slope : S(0);
            row[x] = to_sum(grad[x]) * (value == value ? kept : value);
        }
    }

    void add_rows(int64_t y, const S* row, S* below) const {
        for (int64_t t = 0; t < p.taps; ++t) {
            const int64_t tap = y * p.taps + t;
            S* const line = below + static_cast<const int64_t*>(p.row_index)[tap] * p.width;
            const S share = p.taps == 1 ? S(1) : static_cast<const S*>(p.row_weight)[tap];
            for (int64_t x = 0; x < p.width; ++x) {
                line[x] += share * row[x];
            }
        }
    }
};

}  // namespace

const char* inr_tiles_backward(const InrTilesBackwardParams* p) try {
    switch (p->dtype) {
        case INR_FLOAT32:
            Backward<float>(*p).run();
            return nullptr;
        case INR_FLOAT64:
            Backward<double>(*p).run();
            return nullptr;
        case INR_BFLOAT16:
            Backward<bfloat16>(*p).run();
            return nullptr;
    }
    return "inr_tiles_backward takes float32, float64 and bfloat16";
} catch (const std::bad_alloc&) {
    return "out of memory";
}

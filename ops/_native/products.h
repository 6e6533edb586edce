#pragma once
// Small matrix products of rows as they lie in memory, for CPUs. Every sum has a fixed order.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "lanes.h"

namespace inr {

// out [kCount][kWidth] = sum over i of left[q * apart + i * step] * right[i * stride + lane].
template <typename S, int kCount>
__attribute__((noinline)) void sum_products(
    int64_t count, const S* left, int64_t apart, int64_t step, const S* right, int64_t stride,
    lanes_t<S> (&out)[kCount][2]) {
    lanes_t<S> sum[kCount][2] = {};
    for (int64_t i = 0; i < count; ++i, left += step, right += stride) {
        const lanes_t<S> first = in_register(load<S>(right));
        const lanes_t<S> second = in_register(load<S>(right + Lanes<S>::kCount));
#pragma GCC unroll 6
        for (int q = 0; q < kCount; ++q) {
            const S factor = left[q * apart];
            sum[q][0] += factor * first;
            sum[q][1] += factor * second;
        }
    }
    std::memcpy(&out, &sum, sizeof sum);
}

// gain L R of any size: entry (q, i) of L is left[q * apart + i * step], R's rows are contiguous.
template <typename S>
struct Product {
    using L = Lanes<S>;

    int64_t rows;
    int64_t count;  // what is summed over
    const S* left;
    int64_t apart;
    int64_t step;
    const S* right;
    int64_t stride;  // from one of R's rows to the next
    S gain;

    // Columns [first, last) of the result to out [rows, ..], whose rows are out_stride apart.
    void write(int64_t first, int64_t last, S* out, int64_t out_stride) const {
        std::vector<S> filled;
        for (int64_t at = first; at < last; at += L::kWidth) {
            const int64_t valid = std::min<int64_t>(L::kWidth, last - at);
            const S* from = right + at;
            int64_t between = stride;
            if (valid < L::kWidth) {
                // Vectors would end behind the last row.
                filled.assign(count * L::kWidth, S(0));
                for (int64_t i = 0; i < count; ++i) {
                    std::copy_n(from + i * stride, valid, filled.data() + i * L::kWidth);
                }
                from = filled.data();
                between = L::kWidth;
            }
            int64_t q = 0;
            for (; q + 6 <= rows; q += 6) tile<6>(q, from, between, valid, out + at, out_stride);
            for (; q + 2 <= rows; q += 2) tile<2>(q, from, between, valid, out + at, out_stride);
            for (; q < rows; ++q) tile<1>(q, from, between, valid, out + at, out_stride);
        }
    }

private:
    template <int kCount>
    void tile(
        int64_t q, const S* from, int64_t between, int64_t valid, S* out,
        int64_t out_stride) const {
        lanes_t<S> sum[kCount][2];
        sum_products<S, kCount>(count, left + q * apart, apart, step, from, between, sum);
        for (int r = 0; r < kCount; ++r) {
            S* const to = out + (q + r) * out_stride;
            store_some<S>(to, sum[r][0] * gain, valid);
            store_some<S>(to + L::kCount, sum[r][1] * gain, valid - L::kCount);
        }
    }
};

}  // namespace inr

// Squares of lanes, transposed in registers.
#pragma once

#include "lanes.h"

namespace inr {

// Riffles a list of vectors, as cards, once per bit of their number: units of kUnit lanes within
// each kSpan lanes change places with the vectors of the list.
template <typename S, int kUnit, int kSpan>
inline void riffle(lanes_t<S>* list, int64_t apart) {
    constexpr int kCount = Lanes<S>::kCount, kSize = kSpan / kUnit;
    typedef lanes_t<S> V;
    decltype(V{} < V{}) picks[2];
    for (int i = 0; i < kCount; ++i) {
        const int unit = i % kSpan / kUnit;
        for (int upper = 0; upper < 2; ++upper) {
            const int from = unit / 2 + upper * kSize / 2;
            picks[upper][i] = i / kSpan * kSpan + from * kUnit + i % kUnit + unit % 2 * kCount;
        }
    }
#pragma GCC unroll 4
    for (int bit = 1; bit < kSize; bit *= 2) {
        V next[kSize];
#pragma GCC unroll 8
        for (int i = 0; i < kSize / 2; ++i) {
            const V a = list[i * apart], b = list[(i + kSize / 2) * apart];
#pragma GCC unroll 2
            for (int upper = 0; upper < 2; ++upper) {
#if defined(__clang__)
                for (int lane = 0; lane < kCount; ++lane) {
                    const int pick = picks[upper][lane];
                    next[2 * i + upper][lane] = pick < kCount ? a[pick] : b[pick - kCount];
                }
#else
                next[2 * i + upper] = __builtin_shuffle(a, b, picks[upper]);
#endif
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < kSize; ++i) {
            list[i * apart] = next[i];
        }
    }
}

// Transposes a square of lanes: its quarters of 16 bytes, then each, which is what processors can.
template <typename S>
inline void transpose(lanes_t<S> (&square)[Lanes<S>::kCount]) {
    constexpr int kCount = Lanes<S>::kCount, kQuarter = 16 / sizeof(S);
#pragma GCC unroll 4
    for (int i = 0; i < kQuarter; ++i) {
        riffle<S, kQuarter, kCount>(square + i, kQuarter);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kCount; i += kQuarter) {
        riffle<S, 1, kQuarter>(square + i, 1);
    }
}

}  // namespace inr

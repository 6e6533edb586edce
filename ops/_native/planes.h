// Images as planes, [channels][h][w], and as pixels, eight neighbouring channels a vector. For CPUs.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu.h"

namespace inr {

// Eight float32, whatever the processor: its own vectors may be half or twice as long.
constexpr int64_t kEight = 8;
typedef float Eight __attribute__((vector_size(32)));

inline Eight load8(const float* p) {
    Eight x;
    std::memcpy(&x, p, sizeof x);
    return x;
}

inline void store8(float* p, Eight x) { std::memcpy(p, &x, sizeof x); }

// rows[i][j] <-> rows[j][i].
inline void transpose8(Eight (&r)[kEight]) {
    typedef int Order __attribute__((vector_size(32)));
    const Order low = {0, 8, 1, 9, 4, 12, 5, 13}, high = {2, 10, 3, 11, 6, 14, 7, 15};
    const Order low2 = {0, 1, 8, 9, 4, 5, 12, 13}, high2 = {2, 3, 10, 11, 6, 7, 14, 15};
    const Order left = {0, 1, 2, 3, 8, 9, 10, 11}, right = {4, 5, 6, 7, 12, 13, 14, 15};
    Eight a[kEight], b[kEight];
    for (int i = 0; i < kEight; i += 2) {
        a[i] = __builtin_shuffle(r[i], r[i + 1], low);
        a[i + 1] = __builtin_shuffle(r[i], r[i + 1], high);
    }
    for (int i = 0; i < kEight; i += 4) {
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = __builtin_shuffle(a[i + j], a[i + 2 + j], low2);
            b[i + 2 * j + 1] = __builtin_shuffle(a[i + j], a[i + 2 + j], high2);
        }
    }
    for (int i = 0; i < 4; i++) {
        r[i] = __builtin_shuffle(b[i], b[i + 4], left);
        r[i + 4] = __builtin_shuffle(b[i], b[i + 4], right);
    }
}

// Planes at `from` to pixels at `to`: to[y * row + x * pixel + c] for c < channels rounded up to
// eight; what is beyond `channels` becomes zero.
inline void interleave(const float* from, int64_t channels, int64_t h, int64_t w, float* to,
                       int64_t row, int64_t pixel) {
    for (int64_t first = 0; first < channels; first += kEight) {
        const int64_t count = std::min(channels - first, kEight);
        for (int64_t y = 0; y < h; y++) {
            const float* source = from + first * h * w + y * w;
            float* target = to + y * row + first;
            int64_t x = 0;
            for (; count == kEight && x + kEight <= w; x += kEight) {
                Eight r[kEight];
                for (int64_t c = 0; c < kEight; c++) r[c] = load8(source + c * h * w + x);
                transpose8(r);
                for (int64_t i = 0; i < kEight; i++) store8(target + (x + i) * pixel, r[i]);
            }
            for (; x < w; x++)
                for (int64_t c = 0; c < kEight; c++)
                    target[x * pixel + c] = c < count ? source[c * h * w + x] : 0.0f;
        }
    }
}

// The reverse.
inline void separate(const float* from, int64_t row, int64_t pixel, int64_t channels, int64_t h,
                     int64_t w, float* to) {
    for (int64_t first = 0; first < channels; first += kEight) {
        const int64_t count = std::min(channels - first, kEight);
        for (int64_t y = 0; y < h; y++) {
            const float* source = from + y * row + first;
            float* target = to + first * h * w + y * w;
            int64_t x = 0;
            for (; count == kEight && x + kEight <= w; x += kEight) {
                Eight r[kEight];
                for (int64_t i = 0; i < kEight; i++) r[i] = load8(source + (x + i) * pixel);
                transpose8(r);
                for (int64_t c = 0; c < kEight; c++) store8(target + c * h * w + x, r[c]);
            }
            for (; x < w; x++)
                for (int64_t c = 0; c < count; c++) target[c * h * w + x] = source[x * pixel + c];
        }
    }
}

}  // namespace inr

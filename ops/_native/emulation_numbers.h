// The half types of emulation.h: IEEE binary16 and bfloat16 with the rounding of the hardware, to
// nearest, ties to even.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

namespace emulation {

inline float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline uint32_t to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

}  // namespace emulation

struct half_t {
    uint16_t bits;
};
struct bfloat16_t {
    uint16_t bits;
};

inline float to_float(bfloat16_t x) { return emulation::from_bits(uint32_t(x.bits) << 16); }

inline float to_float(half_t x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 31;
    const uint32_t fraction = x.bits & 1023;
    if (exponent == 31) return emulation::from_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) {
        const float small = float(fraction) * 0x1p-24f;
        return sign ? -small : small;
    }
    return emulation::from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

template <typename T>
struct Rounding {
    template <typename A>
    static T from(A x) { return static_cast<T>(x); }
};

template <>
struct Rounding<bfloat16_t> {
    static bfloat16_t from(float x) {
        const uint32_t bits = emulation::to_bits(x);
        if (x != x) return {0x7fc0};
        return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
    }
};

template <>
struct Rounding<half_t> {
    static half_t from(float x) {
        const uint16_t sign = emulation::to_bits(x) >> 16 & 0x8000;
        const float size = fabsf(x);
        if (x != x) return {0x7e00};
        if (size >= 65520) return {uint16_t(sign | 0x7c00)};
        if (size < 0x1p-14f) return {uint16_t(sign | uint16_t(nearbyintf(size * 0x1p24f)))};
        const uint32_t bits = emulation::to_bits(size);
        const uint32_t rounded = (bits + 0xfff + (bits >> 13 & 1)) >> 13;
        return {uint16_t(sign | (rounded - (112 << 10)))};
    }
};

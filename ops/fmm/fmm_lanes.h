#pragma once
// Vectors of float or double for fmm_cpu.cpp, loaded from and stored as float, double or bfloat16.

#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

struct bfloat16_t {
    uint16_t bits;
};

template <typename Acc>
struct Lanes {
    static constexpr int count = kVectorBytes / sizeof(Acc);
    static constexpr int tile = 2 * count;  // columns of a register tile
    typedef Acc type __attribute__((vector_size(kVectorBytes)));
};
template <typename Acc>
using lanes_t = typename Lanes<Acc>::type;

typedef uint32_t words_t __attribute__((vector_size(kVectorBytes)));
typedef uint16_t shorts_t __attribute__((vector_size(kVectorBytes / 2)));

template <typename Acc, typename T>
inline lanes_t<Acc> load(const T* p) {
    if constexpr (sizeof(T) == sizeof(Acc)) {
        lanes_t<Acc> x;
        std::memcpy(&x, p, sizeof x);
        return x;
    } else {
        shorts_t shorts;
        std::memcpy(&shorts, p, sizeof shorts);
        return (lanes_t<Acc>)(__builtin_convertvector(shorts, words_t) << 16);
    }
}

// Keeps the compiler from loading an operand again for each product that uses it.
template <typename V>
inline V in_register(V x) {
#if defined(__x86_64__)
    asm("" : "+x"(x));
#endif
    return x;
}

// Rounds to nearest even; NaN stays NaN.
template <typename Acc, typename T>
inline void store(T* p, lanes_t<Acc> x) {
    if constexpr (sizeof(T) == sizeof(Acc)) {
        std::memcpy(p, &x, sizeof x);
    } else {
        const words_t bits = (words_t)x;
        const words_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        const words_t is_number = (words_t)(x == x);
        const words_t words = (rounded & is_number) | (0x7fc0u & ~is_number);
        const shorts_t shorts = __builtin_convertvector(words, shorts_t);
        std::memcpy(p, &shorts, sizeof shorts);
    }
}

// One vector of the `valid` first values at p, zeros behind them.
template <typename Acc, typename T>
inline lanes_t<Acc> load_some(const T* p, int64_t valid) {
    if (valid >= Lanes<Acc>::count) return load<Acc>(p);
    T buffer[Lanes<Acc>::count] = {};
    if (valid > 0) std::memcpy(buffer, p, valid * sizeof(T));
    return load<Acc>(buffer);
}

template <typename Acc, typename T>
inline void store_some(T* p, lanes_t<Acc> x, int64_t valid) {
    if (valid >= Lanes<Acc>::count) return store<Acc>(p, x);
    T buffer[Lanes<Acc>::count];
    store<Acc>(buffer, x);
    if (valid > 0) std::memcpy(p, buffer, valid * sizeof(T));
}

template <typename Acc, typename T>
inline Acc load_one(const T* p) {
    if constexpr (sizeof(T) == sizeof(Acc)) {
        return *p;
    } else {
        const uint32_t bits = uint32_t(p->bits) << 16;
        float x;
        std::memcpy(&x, &bits, sizeof x);
        return x;
    }
}

template <typename Acc, typename T>
inline void store_one(T* p, Acc x) {
    const lanes_t<Acc> all = x - lanes_t<Acc>{};
    store_some<Acc>(p, all, 1);
}

template <typename Acc>
inline Acc sum(lanes_t<Acc> x) {
    Acc total = 0;
    for (int k = 0; k < Lanes<Acc>::count; ++k) total += x[k];
    return total;
}

}  // namespace

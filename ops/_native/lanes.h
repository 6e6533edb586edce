// Numbers and vectors of them for the C++ kernels: bfloat16, the types sums are taken in, and lanes
// of a vector register, loaded from and stored as float, double or bfloat16.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace inr {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

struct bfloat16 {
    uint16_t bits;
};

// Type of sums of T.
template <typename T>
struct SumOf {
    typedef float type;
};
template <>
struct SumOf<double> {
    typedef double type;
};

inline float to_sum(float x) { return x; }
inline double to_sum(double x) { return x; }
inline float to_sum(bfloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float y;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}

// To bfloat16, to the nearest, ties to even; NaN stays NaN.
inline void from_sum(float x, float& y) { y = x; }
inline void from_sum(double x, double& y) { y = x; }
inline void from_sum(float x, bfloat16& y) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    // Adding could turn a NaN into infinity.
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    y.bits = static_cast<uint16_t>(x == x ? rounded : 0x7fc0);
}

// A vector of S of as many bytes: a register's, unless a kernel is written for a certain number.
template <typename S, int kBytes = kVectorBytes>
struct Lanes {
    typedef S vector __attribute__((vector_size(kBytes)));
    static constexpr int kCount = kBytes / sizeof(S);
    static constexpr int kWidth = 2 * kCount;  // columns of a product's register tile
};
template <typename S, int kBytes = kVectorBytes>
using lanes_t = typename Lanes<S, kBytes>::vector;

typedef uint32_t words_t __attribute__((vector_size(kVectorBytes)));
typedef uint16_t shorts_t __attribute__((vector_size(kVectorBytes / 2)));

template <typename S, int kBytes = kVectorBytes, typename T>
inline lanes_t<S, kBytes> load(const T* p) {
    if constexpr (sizeof(T) == sizeof(S)) {
        lanes_t<S, kBytes> x;
        std::memcpy(&x, p, sizeof x);
        return x;
    } else {
        static_assert(kBytes == kVectorBytes, "bfloat16 fills a register of floats");
        shorts_t shorts;
        std::memcpy(&shorts, p, sizeof shorts);
        return (lanes_t<S, kBytes>)(__builtin_convertvector(shorts, words_t) << 16);
    }
}

// x in all lanes; 0 + x would have to be computed, since it is not x for x = -0.
template <typename S>
inline lanes_t<S> splat(S x) {
    return x - lanes_t<S>{};
}

// Rounds as from_sum does.
template <typename S, int kBytes = kVectorBytes, typename T>
inline void store(T* p, lanes_t<S, kBytes> x) {
    if constexpr (sizeof(T) == sizeof(S)) {
        std::memcpy(p, &x, sizeof x);
    } else {
        static_assert(kBytes == kVectorBytes, "bfloat16 fills a register of floats");
        const words_t bits = (words_t)x;
        const words_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        const words_t is_number = (words_t)(x == x);
        const words_t words = (rounded & is_number) | (0x7fc0u & ~is_number);
        const shorts_t shorts = __builtin_convertvector(words, shorts_t);
        std::memcpy(p, &shorts, sizeof shorts);
    }
}

// Past the caches, to an address that is a multiple of a vector's size: for results that are larger
// than the caches and that nobody reads soon. Other threads see them after streamed().
template <typename S>
inline void stream(S* p, lanes_t<S> x) {
#if defined(__AVX512F__)
    _mm512_stream_ps(reinterpret_cast<float*>(p), (__m512)x);
#elif defined(__AVX__)
    _mm256_stream_ps(reinterpret_cast<float*>(p), (__m256)x);
#elif defined(__SSE2__)
    _mm_stream_ps(reinterpret_cast<float*>(p), (__m128)x);
#else
    store<S>(p, x);
#endif
}
inline void streamed() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

// One vector of the `valid` first values at p, zeros behind them.
template <typename S, typename T>
inline lanes_t<S> load_some(const T* p, int64_t valid) {
    if (valid >= Lanes<S>::kCount) return load<S>(p);
    T buffer[Lanes<S>::kCount] = {};
    if (valid > 0) std::memcpy(buffer, p, valid * sizeof(T));
    return load<S>(buffer);
}

template <typename S, typename T>
inline void store_some(T* p, lanes_t<S> x, int64_t valid) {
    if (valid >= Lanes<S>::kCount) return store<S>(p, x);
    T buffer[Lanes<S>::kCount];
    store<S>(buffer, x);
    if (valid > 0) std::memcpy(p, buffer, valid * sizeof(T));
}

// Of all lanes, halves first.
template <typename S, int kBytes = kVectorBytes>
inline S sum(lanes_t<S, kBytes> x) {
    if constexpr (kBytes == sizeof(S) * 2) {
        return x[0] + x[1];
    } else {
        lanes_t<S, kBytes / 2> low, high;
        std::memcpy(&low, &x, sizeof low);
        std::memcpy(&high, reinterpret_cast<const char*>(&x) + sizeof low, sizeof high);
        return sum<S, kBytes / 2>(low + high);
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

}  // namespace inr

// bias_act for CPU tensors: linear, relu and lrelu, whose passes over memory are the whole cost.
// (PyTorch's own vectorised functions are as fast as anything for the smooth activations.)
#include <algorithm>
#include <cmath>

#include "../_native/cpu.h"
#include "bias_act.h"

namespace {

constexpr int64_t LINEAR = 1, RELU = 2, LRELU = 3;
constexpr int64_t PARALLEL_SIZE = 1 << 15;  // elements below which threads cost more than they save

template <typename T>
struct Options {
    T positive, negative;  // gain times the slope on either side of 0
    T clamp;               // NaN = no limit: every comparison with it is false
};

template <typename T>
Options<T> options_of(const BiasActParams& p) {
    double slope = p.act == LINEAR ? 1 : p.act == RELU ? 0 : p.alpha;
    return {T(p.gain), T(slope * p.gain), p.clamp < 0 ? T(NAN) : T(p.clamp)};
}

template <typename T>
inline T forward(T x, const Options<T>& o) {
    T y = x * (x > 0 ? o.positive : o.negative);
    y = y > o.clamp ? o.clamp : y;
    return y < -o.clamp ? -o.clamp : y;
}

template <typename T, bool FROM_RESULT>
inline T gradient(T x, T dy, const Options<T>& o) {
    T slope = x > 0 ? o.positive : o.negative;
    T y = FROM_RESULT ? x : x * slope;
    return (y >= o.clamp) | (y <= -o.clamp) ? T(0) : dy * slope;
}

// Calls f(first element, elements, bias number) for every run of one bias number, or, where step
// is 1, f(first element, channels, 0) for every row. A tensor without a bias is one long run, which
// is cut into pieces.
template <typename F>
void for_each_run(const BiasActParams& p, F f) {
    int64_t length = p.step == 1 ? p.channels : p.step;
    if (length == 0) return;
    if (p.channels == 1) {
        int64_t piece = std::min<int64_t>(length, 1 << 13);
#pragma omp parallel for if (p.size >= PARALLEL_SIZE)
        for (int64_t first = 0; first < p.size; first += piece)
            f(first, std::min(piece, p.size - first), int64_t(0));
        return;
    }
    int64_t runs = p.size / length;
#pragma omp parallel for if (p.size >= PARALLEL_SIZE)
    for (int64_t run = 0; run < runs; run++)
        f(run * length, length, p.step == 1 ? int64_t(0) : run % p.channels);
}

template <typename T>
const char* run_forward(const BiasActParams& p) {
    const T* x = static_cast<const T*>(p.x);
    const T* b = static_cast<const T*>(p.b);
    T* out = static_cast<T*>(p.out);
    Options<T> o = options_of<T>(p);
    for_each_run(p, [=](int64_t first, int64_t length, int64_t number) {
        const T* from = x + first;
        T* to = out + first;
        if (b && p.step == 1 && p.channels > 1) {
            for (int64_t i = 0; i < length; i++) to[i] = forward(from[i] + b[i], o);
        } else {
            T bias = b ? b[number] : T(0);
            for (int64_t i = 0; i < length; i++) to[i] = forward(from[i] + bias, o);
        }
    });
    return nullptr;
}

template <typename T, bool FROM_RESULT>
const char* run_gradient(const BiasActParams& p) {
    const T* x = static_cast<const T*>(p.x);
    const T* b = FROM_RESULT ? nullptr : static_cast<const T*>(p.b);
    const T* dy = static_cast<const T*>(p.dy);
    T* out = static_cast<T*>(p.out);
    Options<T> o = options_of<T>(p);
    for_each_run(p, [=](int64_t first, int64_t length, int64_t number) {
        const T *from = x + first, *grad = dy + first;
        T* to = out + first;
        if (b && p.step == 1 && p.channels > 1) {
            for (int64_t i = 0; i < length; i++)
                to[i] = gradient<T, false>(from[i] + b[i], grad[i], o);
        } else {
            T bias = b ? b[number] : T(0);
            for (int64_t i = 0; i < length; i++)
                to[i] = gradient<T, FROM_RESULT>(from[i] + bias, grad[i], o);
        }
    });
    return nullptr;
}

// The gradient and, while it is in the cache, its sum over everything but the bias number. A thread
// owns a bias number, so that the sum does not depend on their count.
template <typename T, bool FROM_RESULT>
const char* run_gradient_sum(const BiasActParams& p) {
    const T* x = static_cast<const T*>(p.x);
    const T* b = FROM_RESULT ? nullptr : static_cast<const T*>(p.b);
    const T* dy = static_cast<const T*>(p.dy);
    T *out = static_cast<T*>(p.out), *db = static_cast<T*>(p.db);
    Options<T> o = options_of<T>(p);
    int64_t step = p.step, channels = p.channels;
    int64_t outer = step * channels == 0 ? 0 : p.size / (step * channels);
#pragma omp parallel for if (p.size >= PARALLEL_SIZE)
    for (int64_t c = 0; c < channels; c++) {
        T bias = b ? b[c] : T(0);
        double total = 0;
        for (int64_t n = 0; n < outer; n++) {
            int64_t first = (n * channels + c) * step;
            T rest = 0;
#pragma omp simd reduction(+ : rest)
            for (int64_t i = first; i < first + step; i++) {
                T value = gradient<T, FROM_RESULT>(x[i] + bias, dy[i], o);
                out[i] = value;
                rest += value;
            }
            total += rest;
        }
        db[c] = T(total);
    }
    return nullptr;
}

template <typename T>
const char* pick_gradient(const BiasActParams& p) {
    if (p.db) return p.from_result ? run_gradient_sum<T, true>(p) : run_gradient_sum<T, false>(p);
    return p.from_result ? run_gradient<T, true>(p) : run_gradient<T, false>(p);
}

const char* refused(const BiasActParams& p) {
    if (p.act < LINEAR || p.act > LRELU) return "bias_act: the CPU kernel has no such activation";
    if (p.dtype != INR_FLOAT32 && p.dtype != INR_FLOAT64) return "bias_act: unsupported dtype";
    return nullptr;
}

}  // namespace

INR_EXPORT const char* bias_act_forward(const BiasActParams* p) {
    if (const char* reason = refused(*p)) return reason;
    return p->dtype == INR_FLOAT32 ? run_forward<float>(*p) : run_forward<double>(*p);
}

INR_EXPORT const char* bias_act_gradient(const BiasActParams* p) {
    if (const char* reason = refused(*p)) return reason;
    return p->dtype == INR_FLOAT32 ? pick_gradient<float>(*p) : pick_gradient<double>(*p);
}

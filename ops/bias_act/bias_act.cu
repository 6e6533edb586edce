// Elementwise kernels of bias_act. Each thread handles 16 bytes per step of a grid-stride loop.
#include "../_native/device.h"
#include "bias_act.h"

namespace {

enum Order { FORWARD, GRADIENT, CURVATURE };

enum Act {
    LINEAR = 1, RELU = 2, LRELU = 3, TANH = 4, SIGMOID = 5, ELU = 6, SELU = 7, SOFTPLUS = 8,
    SWISH = 9
};

constexpr int THREADS = 256;
constexpr int MAX_BLOCKS = 132 * 8;

// The sigmoid of -|p| and its complement, neither of which overflows.
template <typename A>
struct Logistic {
    A high, low;

    __device__ __forceinline__ explicit Logistic(A p) {
        A e = exp(p < 0 ? p : -p);
        A one = 1 / (1 + e), other = e / (1 + e);
        high = p < 0 ? other : one;
        low = p < 0 ? one : other;
    }
};

// act(p), act'(p) or act''(p) of the smooth activations, with torch's conventions at p = 0.
template <int ORDER, typename A>
__device__ __forceinline__ A smooth(int act, A p, A alpha) {
    if (act == TANH) {
        A t = tanh(p);
        if (ORDER == FORWARD) return t;
        A slope = 1 - t * t;
        return ORDER == GRADIENT ? slope : -2 * t * slope;
    }
    if (act == SIGMOID || act == SWISH) {
        Logistic<A> s(p);
        A slope = s.high * s.low;
        if (act == SIGMOID) {
            if (ORDER == FORWARD) return s.high;
            return ORDER == GRADIENT ? slope : slope * (s.low - s.high);
        }
        if (ORDER == FORWARD) return p * s.high;
        if (ORDER == GRADIENT) return s.high + p * slope;
        return slope * (2 + p * (s.low - s.high));
    }
    if (act == SOFTPLUS) {
        // torch's softplus is the identity above 20.
        if (p > 20) return ORDER == FORWARD ? p : A(ORDER == GRADIENT);
        Logistic<A> s(p);
        if (ORDER == FORWARD) return log1p(exp(p));
        return ORDER == GRADIENT ? s.high : s.high * s.low;
    }
    // elu and selu: scale * (p > 0 ? p : steep * (e^p - 1))
    A scale = act == SELU ? A(1.0507009873554804934193349852946) : A(1);
    A steep = act == SELU ? A(1.6732632423543772848170429916717) : A(1);
    if (p > 0) return ORDER == FORWARD ? scale * p : ORDER == GRADIENT ? scale : A(0);
    return scale * steep * (ORDER == FORWARD ? expm1(p) : exp(p));
}

template <typename A>
struct Options {
    A alpha, gain, clamp;  // clamp: NaN = no limit, every comparison is false
    int act;
    bool from_result;
};

// `value` is x (without from_result), `bias` what is added to it.
template <int ORDER, bool SMOOTH, typename A>
__device__ __forceinline__ A element(A value, A bias, A dy, A ddx, const Options<A>& o) {
    if (SMOOTH) {
        A p = value + bias;
        A y = smooth<FORWARD>(o.act, p, o.alpha) * o.gain;
        if (ORDER == FORWARD) return y > o.clamp ? o.clamp : y < -o.clamp ? -o.clamp : y;
        if (y >= o.clamp || y <= -o.clamp) return 0;
        A slope = smooth<ORDER>(o.act, p, o.alpha) * o.gain;
        return ORDER == GRADIENT ? dy * slope : dy * ddx * slope;
    }
    A slope = o.act == LINEAR ? A(1) : o.act == RELU ? A(0) : o.alpha;
    A p = o.from_result ? value : value + bias;
    slope = (p > 0 ? A(1) : slope) * o.gain;
    if (ORDER == FORWARD) {
        // A product with slope 0 would turn an infinity into NaN.
        A y = o.act == RELU && p <= 0 ? A(0) : p * slope;
        return y > o.clamp ? o.clamp : y < -o.clamp ? -o.clamp : y;
    }
    A y = o.from_result ? value : p * slope;
    return y >= o.clamp || y <= -o.clamp ? A(0) : dy * slope;
}

template <typename T, int ORDER, bool SMOOTH>
__global__ void bias_act_kernel(BiasActParams p) {
    using A = accumulator_t<T>;
    constexpr int N = 16 / sizeof(T);
    const T* x = static_cast<const T*>(p.x);
    const T* b = static_cast<const T*>(p.b);
    const T* dy = static_cast<const T*>(p.dy);
    const T* ddx = static_cast<const T*>(p.ddx);
    T* out = static_cast<T*>(p.out);
    A limit = p.clamp < 0 ? A(NAN) : A(p.clamp);
    // A result that reached the limit holds it rounded.
    if (p.from_result && p.clamp >= 0) limit = to_float(from_float<T>(limit));
    Options<A> options = {A(p.alpha), A(p.gain), limit, int(p.act), p.from_result != 0};

    int64_t stride = int64_t(gridDim.x) * THREADS * N;
    for (int64_t i = (int64_t(blockIdx.x) * THREADS + threadIdx.x) * N; i < p.size; i += stride) {
        int count = p.size - i < N ? int(p.size - i) : N;
        Vector<T, N> values = {}, grads = {}, factors = {}, results = {};
        if (count == N) {
            values = load_vector<T, N>(x + i);
            if (ORDER != FORWARD) grads = load_vector<T, N>(dy + i);
            if (ORDER == CURVATURE) factors = load_vector<T, N>(ddx + i);
        } else {
#pragma unroll  // indices that are not constants would put the vectors into memory
            for (int k = 0; k < N; k++) {
                if (k >= count) break;
                values.values[k] = x[i + k];
                if (ORDER != FORWARD) grads.values[k] = dy[i + k];
                if (ORDER == CURVATURE) factors.values[k] = ddx[i + k];
            }
        }
        // One division per vector; successive elements count up.
        int64_t row = 0, within = 0;
        if (b) {
            int64_t number = p.size < (int64_t(1) << 31) ? uint32_t(i) / uint32_t(p.step)
                                                         : i / p.step;
            within = i - number * p.step;
            row = number % p.channels;
        }
#pragma unroll
        for (int k = 0; k < N; k++) {
            A bias = b ? A(to_float(b[row])) : A(0);
            A value = to_float(values.values[k]), grad = 0, factor = 0;
            if (ORDER != FORWARD) grad = to_float(grads.values[k]);
            if (ORDER == CURVATURE) factor = to_float(factors.values[k]);
            results.values[k] =
                from_float<T>(element<ORDER, SMOOTH, A>(value, bias, grad, factor, options));
            if (++within == p.step) {
                within = 0;
                row = row + 1 == p.channels ? 0 : row + 1;
            }
        }
        if (count == N) {
            store_vector(out + i, results);
        } else {
#pragma unroll
            for (int k = 0; k < N; k++)
                if (k < count) out[i + k] = results.values[k];
        }
    }
}

template <typename T, int ORDER>
const char* run(const BiasActParams& p) {
    constexpr int N = 16 / sizeof(T);
    if (p.size == 0) return nullptr;
    int64_t blocks = (p.size + THREADS * N - 1) / (THREADS * N);
    dim3 grid(unsigned(blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS));
    if (p.act <= LRELU)
        return launch(bias_act_kernel<T, ORDER, false>, grid, dim3(THREADS), 0, p.stream, p);
    return launch(bias_act_kernel<T, ORDER, true>, grid, dim3(THREADS), 0, p.stream, p);
}

template <int ORDER>
const char* dispatch(const BiasActParams* p) {
    if (p->act < LINEAR || p->act > SWISH) return "bias_act: unknown activation";
    if (p->from_result && p->act > LRELU) return "bias_act: this activation needs the input";
    if (ORDER == CURVATURE && p->act <= LRELU) return "bias_act: this activation has no curvature";
    if (p->db) return "bias_act: this library does not sum the gradient of the bias";
    switch (p->dtype) {
        case INR_FLOAT32: return run<float, ORDER>(*p);
        case INR_FLOAT64: return run<double, ORDER>(*p);
        case INR_FLOAT16: return run<half_t, ORDER>(*p);
        case INR_BFLOAT16: return run<bfloat16_t, ORDER>(*p);
    }
    return "bias_act: unsupported dtype";
}

}  // namespace

INR_EXPORT const char* bias_act_forward(const BiasActParams* p) { return dispatch<FORWARD>(p); }

INR_EXPORT const char* bias_act_gradient(const BiasActParams* p) { return dispatch<GRADIENT>(p); }

INR_EXPORT const char* bias_act_curvature(const BiasActParams* p) {
    return dispatch<CURVATURE>(p);
}

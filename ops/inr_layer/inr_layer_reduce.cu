// Sums of the layer's gradient over planes of points: to the lattice below, to the tables of the
// axes, to the bias. Every result is gathered by one thread or summed in a fixed order.
#include "inr_layer.h"
#include "../_native/plane_sums.cuh"
#include "inr_operand.cuh"

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// range[i] = first and last point that reads entry i, or (0, -1); one warp per entry.
__global__ void range_kernel(const int64_t* index, int64_t* range, int points, int taps, int size) {
    const int entry = int(blockIdx.x) * kWarps + int(threadIdx.x) / 32;
    const int lane = threadIdx.x % 32;
    int first = points, last = -1;
    if (entry < size) {
        for (int i = lane; i < points * taps; i += 32) {
            if (index[i] != entry) continue;
            const int point = i / taps;
            first = point < first ? point : first;
            last = point > last ? point : last;
        }
    }
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
        const int other_first = __shfl_xor_sync(0xffffffffu, first, apart);
        const int other_last = __shfl_xor_sync(0xffffffffu, last, apart);
        first = other_first < first ? other_first : first;
        last = other_last > last ? other_last : last;
    }
    if (lane == 0 && entry < size) {
        range[2 * entry] = last < 0 ? 0 : first;
        range[2 * entry + 1] = last;
    }
}

// The weight with which a point reads an entry, 0 if it does not.
template <typename A>
__device__ __forceinline__ A share_of(
    const int64_t* index, const A* weight, int point, int entry, int taps
) {
    A sum = 0;
    for (int t = 0; t < taps; ++t) {
        if (index[point * taps + t] != entry) continue;
        sum += taps == 1 ? A(1) : weight[point * taps + t];
    }
    return sum;
}

template <typename T>
__global__ void context_grad_kernel(InrContextGradParams p) {
    typedef accumulator_t<T> A;
    const int64_t* row_index = static_cast<const int64_t*>(p.row_index);
    const int64_t* col_index = static_cast<const int64_t*>(p.col_index);
    const A* row_weight = static_cast<const A*>(p.row_weight);
    const A* col_weight = static_cast<const A*>(p.col_weight);
    const int64_t* row_range = static_cast<const int64_t*>(p.row_range);
    const int64_t* col_range = static_cast<const int64_t*>(p.col_range);
    const ActivationGradient<T> gradient(p.gain, p.slope, p.clamp);
    const int taps = int(p.num_taps), width = int(p.width);
    const int64_t size = p.low_height * p.low_width, count = p.planes * size;
    int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    for (; at < count; at += int64_t(gridDim.x) * blockDim.x) {
        const int64_t plane = at / size;
        const int entry = int(at % size);
        const int i = entry / int(p.low_width), j = entry % int(p.low_width);
        const T* grad = static_cast<const T*>(p.grad) + plane * p.height * p.width;
        const T* saved = static_cast<const T*>(p.saved) + plane * p.height * p.width;
        const int left = int(col_range[2 * j]), right = int(col_range[2 * j + 1]);
        const int bottom = int(row_range[2 * i + 1]);
        A sum = 0;
        for (int y = int(row_range[2 * i]); y <= bottom; ++y) {
            const A row_share = share_of(row_index, row_weight, y, i, taps);
            A line = 0;
            for (int x = left; x <= right; ++x) {
                const A share = share_of(col_index, col_weight, x, j, taps);
                const int64_t point = int64_t(y) * width + x;
                line += share * gradient(grad[point], saved[point]);
            }
            sum += row_share * line;
        }
        static_cast<T*>(p.out)[at] = from_float<T>(sum);
    }
}

// grad act' of one plane, a vector at a time.
template <typename T, int kLength>
struct PlaneGradients {
    typedef accumulator_t<T> A;
    Operand<T> plane;
    ActivationGradient<T> gradient;

    __device__ __forceinline__ void operator()(int y, int x, A (&result)[kLength]) const {
        const Vector<T, kLength> g = read_vector<T, kLength>(plane, plane.data, y, x);
        const Vector<T, kLength> v = read_vector<T, kLength>(plane, plane.saved, y, x);
#pragma unroll
        for (int i = 0; i < kLength; ++i) result[i] = gradient(g.values[i], v.values[i]);
    }
};

template <typename T>
__global__ void __launch_bounds__(kPlaneThreads) sums_kernel(InrSumsParams p) {
    typedef accumulator_t<T> A;
    constexpr int kLength = 16 / int(sizeof(T));
    const int64_t plane = blockIdx.x, first = plane * p.height * p.width;
    const Operand<T> entries = make_operand<T>(
        static_cast<const T*>(p.grad) + first, p.width, p.height, p.width,
        static_cast<const T*>(p.saved) + first);
    A* cols = p.cols == nullptr ? nullptr : static_cast<A*>(p.cols) + plane * p.width;
    A* rows = p.rows == nullptr ? nullptr : static_cast<A*>(p.rows) + plane * p.height;
    A* total = p.total == nullptr ? nullptr : static_cast<A*>(p.total) + plane;
    const PlaneGradients<T, kLength> values{
        entries, ActivationGradient<T>(p.gain, p.slope, p.clamp)};
    plane_sums<kLength>(values, int(p.height), int(p.width), cols, rows, total);
}

template <typename T>
const char* launch_context_grad(const InrContextGradParams& p) {
    const int64_t* row_index = static_cast<const int64_t*>(p.row_index);
    const int64_t* col_index = static_cast<const int64_t*>(p.col_index);
    const dim3 block{kThreads, 1, 1};
    const char* error = launch(
        range_kernel, dim3{unsigned((p.low_height + kWarps - 1) / kWarps), 1, 1}, block, 0,
        p.stream, row_index, static_cast<int64_t*>(p.row_range), int(p.height), int(p.num_taps),
        int(p.low_height));
    if (error != nullptr) return error;
    error = launch(
        range_kernel, dim3{unsigned((p.low_width + kWarps - 1) / kWarps), 1, 1}, block, 0,
        p.stream, col_index, static_cast<int64_t*>(p.col_range), int(p.width), int(p.num_taps),
        int(p.low_width));
    if (error != nullptr) return error;
    const int64_t blocks = (p.planes * p.low_height * p.low_width + kThreads - 1) / kThreads;
    const unsigned most = 1u << 20;
    return launch(context_grad_kernel<T>, dim3{blocks < most ? unsigned(blocks) : most, 1, 1},
                  block, 0, p.stream, p);
}

template <typename T>
const char* launch_sums(const InrSumsParams& p) {
    return launch(sums_kernel<T>, dim3{unsigned(p.planes), 1, 1}, dim3{kPlaneThreads, 1, 1}, 0,
                  p.stream, p);
}

}  // namespace

INR_EXPORT const char* inr_layer_context_grad(const InrContextGradParams* params) {
    switch (params->dtype) {
        case INR_FLOAT16: return launch_context_grad<half_t>(*params);
        case INR_BFLOAT16: return launch_context_grad<bfloat16_t>(*params);
        case INR_FLOAT32: return launch_context_grad<float>(*params);
        case INR_FLOAT64: return launch_context_grad<double>(*params);
        default: return "inr_layer_context_grad: unknown dtype";
    }
}

INR_EXPORT const char* inr_layer_sums(const InrSumsParams* params) {
    switch (params->dtype) {
        case INR_FLOAT16: return launch_sums<half_t>(*params);
        case INR_BFLOAT16: return launch_sums<bfloat16_t>(*params);
        case INR_FLOAT32: return launch_sums<float>(*params);
        case INR_FLOAT64: return launch_sums<double>(*params);
        default: return "inr_layer_sums: unknown dtype";
    }
}

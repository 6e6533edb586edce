// Angles are computed and reduced in float32 (float64 for doubles); only the results are rounded.
#include "../_native/plane_sums.cuh"
#include "fourier.h"

namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float sine(float x) { return sinf(x); }
__device__ __forceinline__ double sine(double x) { return sin(x); }
__device__ __forceinline__ float cosine(float x) { return cosf(x); }
__device__ __forceinline__ double cosine(double x) { return cos(x); }

// One row of frequencies.
template <typename T>
struct Wave {
    typedef accumulator_t<T> A;
    const T* u;
    const T* v;
    A horizontal, vertical, phase;

    __device__ Wave(const FourierParams& p, int64_t row)
        : u(static_cast<const T*>(p.u)), v(static_cast<const T*>(p.v)),
          horizontal(to_float(static_cast<const T*>(p.rows)[2 * row])),
          vertical(to_float(static_cast<const T*>(p.rows)[2 * row + 1])),
          phase(p.phase == nullptr ? A(0) : to_float(static_cast<const T*>(p.phase)[row])) {}

    __device__ __forceinline__ A angle(int y, int x) const {
        return vertical * to_float(v[y]) + (horizontal * to_float(u[x]) + phase);
    }
};

// The planes of sines and cosines that belong to row `row` of all images, in a tensor like out.
template <typename T>
__device__ __forceinline__ T* sine_plane(T* tensor, const FourierParams& p, int64_t row) {
    const int64_t image = row / p.num_rows;
    return tensor + (image * p.num_rows + row) * p.height * p.width;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) forward_kernel(FourierParams p) {
    typedef accumulator_t<T> A;
    constexpr int kLength = 16 / int(sizeof(T));
    const int64_t row = blockIdx.y, points = p.height * p.width;
    const Wave<T> wave(p, row);
    T* sines = sine_plane(static_cast<T*>(p.out), p, row);
    T* cosines = sines + p.num_rows * points;
    const int width = int(p.width);
    const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kLength;
    if (first >= points) return;
    Vector<T, kLength> sine_part, cosine_part;
    int y = int(first / width), x = int(first % width);
    const int count = int(points - first < kLength ? points - first : kLength);
#pragma unroll
    for (int i = 0; i < kLength; ++i) {
        if (i < count) {
            const A angle = wave.angle(y, x);
            sine_part.values[i] = from_float<T>(sine(angle));
            cosine_part.values[i] = from_float<T>(cosine(angle));
        }
        if (++x == width) {
            x = 0;
            ++y;
        }
    }
    if (count == kLength && points % kLength == 0) {
        store_vector(sines + first, sine_part);
        store_vector(cosines + first, cosine_part);
        return;
    }
#pragma unroll
    for (int i = 0; i < kLength; ++i) {
        if (i >= count) break;
        sines[first + i] = sine_part.values[i];
        cosines[first + i] = cosine_part.values[i];
    }
}

// Gradient of the angles of one row.
template <typename T, int kLength>
struct AngleGradients {
    typedef accumulator_t<T> A;
    Wave<T> wave;
    const T* of_sines;
    const T* of_cosines;
    int width;

    __device__ __forceinline__ void operator()(int y, int x, A (&result)[kLength]) const {
        const int64_t line = int64_t(y) * width;
#pragma unroll
        for (int i = 0; i < kLength; ++i) {
            result[i] = 0;
            if (x + i >= width) continue;
            const A angle = wave.angle(y, x + i);
            result[i] = to_float(of_sines[line + x + i]) * cosine(angle) -
                to_float(of_cosines[line + x + i]) * sine(angle);
        }
    }
};

template <typename T>
__global__ void __launch_bounds__(kPlaneThreads) backward_kernel(FourierParams p) {
    typedef accumulator_t<T> A;
    // One entry at a time: lanes side by side read side by side, and the sines are the cost anyway.
    constexpr int kLength = 1;
    const int64_t row = blockIdx.x;
    const T* of_sines = sine_plane(static_cast<const T*>(p.grad), p, row);
    const AngleGradients<T, kLength> values{
        Wave<T>(p, row), of_sines, of_sines + p.num_rows * p.height * p.width, int(p.width)};
    plane_sums<kLength>(values, int(p.height), int(p.width),
                        static_cast<A*>(p.col_sums) + row * p.width,
                        static_cast<A*>(p.row_sums) + row * p.height, static_cast<A*>(nullptr));
}

template <typename T>
const char* launch_forward(const FourierParams& p) {
    constexpr int64_t kPoints = kThreads * 16 / int64_t(sizeof(T));
    const dim3 grid{unsigned((p.height * p.width + kPoints - 1) / kPoints),
                    unsigned(p.n * p.num_rows), 1};
    return launch(forward_kernel<T>, grid, dim3{kThreads, 1, 1}, 0, p.stream, p);
}

template <typename T>
const char* launch_backward(const FourierParams& p) {
    return launch(backward_kernel<T>, dim3{unsigned(p.n * p.num_rows), 1, 1},
                  dim3{kPlaneThreads, 1, 1}, 0, p.stream, p);
}

}  // namespace

INR_EXPORT const char* fourier_forward(const FourierParams* p) {
    if (p->n * p->num_rows > 65535) return "fourier_forward: more than 65535 rows of frequencies";
    switch (p->dtype) {
        case INR_FLOAT16: return launch_forward<half_t>(*p);
        case INR_BFLOAT16: return launch_forward<bfloat16_t>(*p);
        case INR_FLOAT32: return launch_forward<float>(*p);
        case INR_FLOAT64: return launch_forward<double>(*p);
        default: return "fourier_forward: unknown dtype";
    }
}

INR_EXPORT const char* fourier_backward(const FourierParams* p) {
    switch (p->dtype) {
        case INR_FLOAT16: return launch_backward<half_t>(*p);
        case INR_BFLOAT16: return launch_backward<bfloat16_t>(*p);
        case INR_FLOAT32: return launch_backward<float>(*p);
        case INR_FLOAT64: return launch_backward<double>(*p);
        default: return "fourier_backward: unknown dtype";
    }
}

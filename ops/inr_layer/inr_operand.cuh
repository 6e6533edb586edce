// Operands of the products: where a tile of them lies in global memory and how it gets to shared
// memory. A segment is a stretch of the sum over which both operands are dense; a product may have
// several (features of two kinds, all images of a batch), whose tiles are loaded one after another.
#pragma once

#include "../_native/device.h"

// Blocks per multiprocessor that registers are shared out for. Before sm_80 shared memory has room
// for one of the large tiles only, so that there is no use in sparing registers.
constexpr int blocks_per_sm(int wanted) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    return wanted > 0 ? 1 : 0;
#else
    return wanted;
#endif
}

// Rows of `inner` consecutive elements, `stride` apart; outside of them is zero. Offsets within an
// operand fit 32 bits (registers are scarce); those of its first element need not.
template <typename T>
struct Operand {
    const T* data;    // first element
    const T* saved;   // layer output at the same places if the elements are gradients, or null
    int stride;       // elements from row to row
    int outer;        // number of rows
    int inner;        // elements of a row
    bool aligned;     // rows begin at multiples of 16 bytes
};

template <typename T>
__device__ __forceinline__ Operand<T> make_operand(
    const T* data, int64_t stride, int64_t outer, int64_t inner, const T* saved = nullptr
) {
    constexpr int64_t kBytes = 16;
    const int64_t address = reinterpret_cast<int64_t>(data) | reinterpret_cast<int64_t>(saved);
    const bool aligned = address % kBytes == 0 && stride * int64_t(sizeof(T)) % kBytes == 0;
    return {data, saved, int(stride), int(outer), int(inner), aligned};
}

// From the gradient of y = clamp(gain * act(v)) to the gradient of v. Everything that is needed is
// in y: its sign is that of v, and where the limit was reached there is no gradient.
template <typename T>
struct ActivationGradient {
    typedef accumulator_t<T> A;
    A positive;   // factor where y > 0
    A other;      // factor elsewhere
    A clamp;      // the limit as y stores it; negative = none

    ActivationGradient() = default;
    __device__ ActivationGradient(double gain, double slope, double limit)
        : positive(A(gain)), other(A(gain * slope)),
          clamp(limit < 0 ? A(-1) : A(to_float(from_float<T>(A(limit))))) {}

    __device__ __forceinline__ A operator()(T grad, T y) const {
        const A value = to_float(y);
        const A factor = value > A(0) ? positive : other;
        const bool clipped = clamp >= A(0) && (value >= clamp || value <= -clamp);
        return clipped ? A(0) : to_float(grad) * factor;
    }
};

// Elements row, col ... col + kLength - 1 of `data`, which lies like the operand's data.
template <typename T, int kLength>
__device__ __forceinline__ Vector<T, kLength> read_vector(
    const Operand<T>& operand, const T* data, int row, int col
) {
    const T* source = data + row * operand.stride + col;
    const bool inside = row < operand.outer;
    if (operand.aligned && inside && col + kLength <= operand.inner) {
        return load_vector<T, kLength>(source);
    }
    Vector<T, kLength> result;
#pragma unroll
    for (int i = 0; i < kLength; ++i) {
        result.values[i] = inside && col + i < operand.inner ? source[i] : from_float<T>(0);
    }
    return result;
}

// A tile of kRows x kCols elements that kThreads threads move by vectors of 16 bytes.
template <typename T, int kRows, int kCols, int kStride, int kThreads>
struct TileMover {
    static constexpr int kLength = 16 / int(sizeof(T));
    static constexpr int kAcross = kCols / kLength;
    static constexpr int kVectors = kRows * kAcross / kThreads;
    static_assert(kVectors * kThreads == kRows * kAcross, "the threads divide the tile evenly");

    static __device__ __forceinline__ int row(int i) {
        return (int(threadIdx.x) + i * kThreads) / kAcross;
    }
    static __device__ __forceinline__ int col(int i) {
        return (int(threadIdx.x) + i * kThreads) % kAcross * kLength;
    }

    // Global to shared memory, asynchronously where the elements allow it.
    static __device__ __forceinline__ void copy(
        T* shared, const Operand<T>& operand, int first_row, int first_col
    ) {
#pragma unroll
        for (int i = 0; i < kVectors; ++i) {
            const int r = first_row + row(i), c = first_col + col(i);
            T* target = shared + row(i) * kStride + col(i);
            const T* source = operand.data + r * operand.stride + c;
            const bool some = r < operand.outer && c < operand.inner;
            if (!some || (operand.aligned && c + kLength <= operand.inner)) {
                copy_async16(target, some ? source : operand.data, some);
                continue;
            }
#pragma unroll
            for (int j = 0; j < kLength; ++j) {
                target[j] = c + j < operand.inner ? source[j] : from_float<T>(0);
            }
        }
    }
};

// A tile on its way through registers: read early, stored to shared memory once its turn has come.
template <typename T, typename Mover>
struct TileRegisters {
    static constexpr int kLength = Mover::kLength;
    Vector<T, kLength> values[Mover::kVectors];
    Vector<T, kLength> outputs[Mover::kVectors];

    __device__ __forceinline__ void read(const Operand<T>& operand, int first_row, int first_col) {
#pragma unroll
        for (int i = 0; i < Mover::kVectors; ++i) {
            const int r = first_row + Mover::row(i), c = first_col + Mover::col(i);
            values[i] = read_vector<T, kLength>(operand, operand.data, r, c);
            if (operand.saved != nullptr) {
                outputs[i] = read_vector<T, kLength>(operand, operand.saved, r, c);
            }
        }
    }

    // Multiplies by the activation's gradient if the tile holds gradients.
    __device__ __forceinline__ void finish(
        const Operand<T>& operand, const ActivationGradient<T>& gradient
    ) {
        if (operand.saved == nullptr) return;
#pragma unroll
        for (int i = 0; i < Mover::kVectors; ++i) {
#pragma unroll
            for (int j = 0; j < kLength; ++j) {
                T& value = values[i].values[j];
                value = from_float<T>(gradient(value, outputs[i].values[j]));
            }
        }
    }

    // Adds the elements of each vector to a sum of its own.
    __device__ __forceinline__ void add_to(accumulator_t<T> (&sums)[Mover::kVectors]) const {
#pragma unroll
        for (int i = 0; i < Mover::kVectors; ++i) {
#pragma unroll
            for (int j = 0; j < kLength; ++j) sums[i] += to_float(values[i].values[j]);
        }
    }

    template <int kStride>
    __device__ __forceinline__ void store(T* shared) const {
#pragma unroll
        for (int i = 0; i < Mover::kVectors; ++i) {
            store_vector(shared + Mover::row(i) * kStride + Mover::col(i), values[i]);
        }
    }

    template <int kStride>
    __device__ __forceinline__ void store_transposed(T* shared) const {
#pragma unroll
        for (int i = 0; i < Mover::kVectors; ++i) {
#pragma unroll
            for (int j = 0; j < kLength; ++j) {
                shared[(Mover::col(i) + j) * kStride + Mover::row(i)] = values[i].values[j];
            }
        }
    }
};

// Sums of the rows of a tile that passes through registers along its rows, step by step: a vector
// always belongs to the same row, and the threads of a row are neighbours.
template <typename T, typename Mover>
struct RowSums {
    accumulator_t<T> sums[Mover::kVectors] = {};

    __device__ __forceinline__ void store(accumulator_t<T>* target, int64_t num_rows) const {
#pragma unroll
        for (int i = 0; i < Mover::kVectors; ++i) {
            accumulator_t<T> sum = sums[i];
#pragma unroll
            for (int apart = 1; apart < Mover::kAcross; apart *= 2) {
                sum += __shfl_xor_sync(0xffffffffu, sum, apart);
            }
            if (threadIdx.x % Mover::kAcross == 0 && Mover::row(i) < num_rows) {
                target[Mover::row(i)] = sum;
            }
        }
    }
};

// The segments of a product, walked through kDepth steps at a time.
template <typename T, int kDepth, typename Product>
struct Walk {
    const Product& product;
    Operand<T> a, b;
    int depth = 0, position = 0, index = -1;

    __device__ explicit Walk(const Product& source) : product(source) { next_segment(); }

    __device__ __forceinline__ int steps() const {
        int sum = 0;
        for (int i = 0; i < product.segments(); ++i) {
            sum += (product.depth(i) + kDepth - 1) / kDepth;
        }
        return sum;
    }

    __device__ __forceinline__ void advance() {
        position += kDepth;
        if (position >= depth) next_segment();
    }

    __device__ __forceinline__ void next_segment() {
        position = 0;
        while (++index < product.segments()) {
            depth = product.depth(index);
            if (depth > 0) {
                product.segment(index, a, b);
                return;
            }
        }
    }
};

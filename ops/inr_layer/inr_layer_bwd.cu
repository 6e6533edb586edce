// Products of the backward: gradients of the features and of the weights. The gradient of the
// activation multiplies the output's gradient while its tiles are loaded.
#include "inr_layer.h"
#include "inr_output.cuh"
#include "inr_simt_tile.cuh"
#include "inr_tensor_tile.cuh"

namespace {

// sum over o of W[o, k] G[o, p]; with sum_images each image is a segment of the sum.
template <typename T>
struct InputProduct {
    const InrInputGradParams& p;
    int image, column;
    int64_t point;
    ActivationGradient<T> gradient;

    __device__ __forceinline__ int segments() const { return p.sum_images ? int(p.n) : 1; }
    __device__ __forceinline__ int depth(int) const { return int(p.out_channels); }

    __device__ __forceinline__ void segment(int i, Operand<T>& a, Operand<T>& b) const {
        const int64_t n = image + i, first = n * p.out_channels * p.points + point;
        const T* weight = static_cast<const T*>(p.weight) + n * p.weight_batch;
        const T* saved = static_cast<const T*>(p.saved);
        a = make_operand<T>(weight + p.column + column, p.weight_row, p.out_channels,
                            p.depth - column);
        b = make_operand<T>(static_cast<const T*>(p.grad) + first, p.points, p.out_channels,
                            p.points - point, saved == nullptr ? saved : saved + first);
    }
};

// sum over a part of the points of G[o, p] x[k, p].
template <typename T>
struct WeightProduct {
    const InrWeightGradParams& p;
    int image, channel, column;
    int64_t begin, end;   // points
    ActivationGradient<T> gradient;

    __device__ __forceinline__ int segments() const { return 1; }
    __device__ __forceinline__ int depth(int) const { return end > begin ? int(end - begin) : 0; }

    __device__ __forceinline__ void segment(int, Operand<T>& a, Operand<T>& b) const {
        const int64_t first = (image * p.out_channels + channel) * p.points + begin;
        const T* saved = static_cast<const T*>(p.saved);
        const T* x = static_cast<const T*>(p.x) + image * p.x_batch + column * p.points + begin;
        a = make_operand<T>(static_cast<const T*>(p.grad) + first, p.points,
                            p.out_channels - channel, end - begin,
                            saved == nullptr ? saved : saved + first);
        b = make_operand<T>(x, p.points, p.depth - column, end - begin);
    }
};

template <typename T, typename Shape, typename Tile>
__global__ void __launch_bounds__(Shape::kThreads, blocks_per_sm(Shape::kBlocksPerSM))
input_grad_kernel(InrInputGradParams p) {
    DYNAMIC_SHARED(unsigned char, shared);
    const int image = blockIdx.z, column = int(blockIdx.y) * Shape::kRows;
    const int64_t point = int64_t(blockIdx.x) * Shape::kCols;
    Tile tile(shared);
    const ActivationGradient<T> gradient(p.gain, p.slope, p.clamp);
    tile.run(InputProduct<T>{p, image, column, point, gradient});
    T* first = static_cast<T*>(p.out) + (image * p.depth + column) * p.points + point;
    StoreEpilogue<T, accumulator_t<T>> epilogue{
        OutputBlock<T>(first, p.points, p.depth - column, p.points - point)};
    tile.drain(epilogue);
}

template <typename T, typename Shape, typename Tile>
__global__ void __launch_bounds__(Shape::kThreads, blocks_per_sm(Shape::kBlocksPerSM))
weight_grad_kernel(InrWeightGradParams p) {
    typedef accumulator_t<T> A;
    DYNAMIC_SHARED(unsigned char, shared);
    const int image = int(blockIdx.z % p.n), channel = int(blockIdx.y) * Shape::kRows;
    const int column = int(blockIdx.x) * Shape::kCols;
    const int64_t part = blockIdx.z / p.n;
    // Parts begin at multiples of 128 points, so that their rows are as aligned as the tensor's.
    const int64_t length = ((p.points + p.splits - 1) / p.splits + 127) / 128 * 128;
    const int64_t begin = part * length < p.points ? part * length : p.points;
    const int64_t end = begin + length < p.points ? begin + length : p.points;
    Tile tile(shared);
    const ActivationGradient<T> gradient(p.gain, p.slope, p.clamp);
    tile.run(WeightProduct<T>{p, image, channel, column, begin, end, gradient});
    const int64_t rows = p.out_channels - channel, cols = p.depth - column;
    if (p.totals != nullptr && p.saved != nullptr && blockIdx.x == 0) {
        A* first = static_cast<A*>(p.totals) + (part * p.n + image) * p.out_channels + channel;
        tile.row_sums.store(first, rows);
    }
    if (p.partial != nullptr) {
        A* first = static_cast<A*>(p.partial) +
            ((part * p.n + image) * p.out_channels + channel) * p.depth + column;
        StoreEpilogue<A, A> epilogue{OutputBlock<A>(first, p.depth, rows, cols)};
        tile.drain(epilogue);
    } else {
        T* first = static_cast<T*>(p.out) + image * p.out_batch + channel * p.out_row + p.column +
            column;
        StoreEpilogue<T, A> epilogue{OutputBlock<T>(first, p.out_row, rows, cols)};
        tile.drain(epilogue);
    }
}

// Sums the parts in their order.
template <typename T>
__global__ void sum_parts_kernel(InrWeightGradParams p) {
    typedef accumulator_t<T> A;
    const int64_t count = p.n * p.out_channels * p.depth;
    const A* partial = static_cast<const A*>(p.partial);
    int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    for (; i < count; i += int64_t(gridDim.x) * blockDim.x) {
        A sum = 0;
        for (int64_t part = 0; part < p.splits; ++part) sum += partial[part * count + i];
        const int64_t row = i / p.depth, image = row / p.out_channels;
        const int64_t at = image * p.out_batch + row % p.out_channels * p.out_row + p.column;
        static_cast<T*>(p.out)[at + i % p.depth] = from_float<T>(sum);
    }
}

template <typename T, typename Shape, typename Tile>
const char* launch_input_grad(const InrInputGradParams& p) {
    const dim3 grid{unsigned((p.points + Shape::kCols - 1) / Shape::kCols),
                    unsigned((p.depth + Shape::kRows - 1) / Shape::kRows),
                    unsigned(p.sum_images ? 1 : p.n)};
    return launch(input_grad_kernel<T, Shape, Tile>, grid, dim3{Shape::kThreads, 1, 1},
                  Tile::shared_bytes(), p.stream, p);
}

template <typename T, typename Shape, typename Tile>
const char* launch_weight_grad(const InrWeightGradParams& p) {
    const dim3 grid{unsigned((p.depth + Shape::kCols - 1) / Shape::kCols),
                    unsigned((p.out_channels + Shape::kRows - 1) / Shape::kRows),
                    unsigned(p.n * p.splits)};
    const char* error = launch(weight_grad_kernel<T, Shape, Tile>, grid,
                               dim3{Shape::kThreads, 1, 1}, Tile::shared_bytes(), p.stream, p);
    if (error != nullptr || p.partial == nullptr) return error;
    const int64_t blocks = (p.n * p.out_channels * p.depth + 255) / 256;
    return launch(sum_parts_kernel<T>, dim3{unsigned(blocks < 4096 ? blocks : 4096), 1, 1},
                  dim3{256, 1, 1}, 0, p.stream, p);
}

// Chooses the tile by dtype and by whether there is an activation to differentiate.
template <typename T, bool kGrad>
const char* input_grad_on_tensor_cores(const InrInputGradParams& p) {
    typedef TensorTile<T, TensorLarge, false, false, false, kGrad> Large;
    typedef TensorTile<T, TensorSmall, false, false, false, kGrad> Small;
    return p.tile == 128 ? launch_input_grad<T, TensorLarge, Large>(p)
                         : launch_input_grad<T, TensorSmall, Small>(p);
}

template <typename T, bool kGrad>
const char* weight_grad_on_tensor_cores(const InrWeightGradParams& p) {
    typedef TensorTile<T, TensorLarge, true, true, kGrad, false> Large;
    typedef TensorTile<T, TensorSmall, true, true, kGrad, false> Small;
    return p.tile == 128 ? launch_weight_grad<T, TensorLarge, Large>(p)
                         : launch_weight_grad<T, TensorSmall, Small>(p);
}

template <typename T>
const char* input_grad_choice(const InrInputGradParams& p) {
    return p.saved != nullptr ? input_grad_on_tensor_cores<T, true>(p)
                              : input_grad_on_tensor_cores<T, false>(p);
}

template <typename T>
const char* weight_grad_choice(const InrWeightGradParams& p) {
    return p.saved != nullptr ? weight_grad_on_tensor_cores<T, true>(p)
                              : weight_grad_on_tensor_cores<T, false>(p);
}

}  // namespace

INR_EXPORT const char* inr_layer_input_grad(const InrInputGradParams* params) {
    const InrInputGradParams& p = *params;
    if (p.n > 65535) return "inr_layer_input_grad: more than 65535 images";
    typedef SimtTile<float, SimtLarge, false, false, false, true> LargeFloat;
    typedef SimtTile<float, SimtSmall, false, false, false, true> SmallFloat;
    typedef SimtTile<double, SimtSmall, false, false, false, true> SmallDouble;
    switch (p.dtype) {
        case INR_FLOAT16: return input_grad_choice<half_t>(p);
        case INR_BFLOAT16: return input_grad_choice<bfloat16_t>(p);
        case INR_FLOAT64: return launch_input_grad<double, SimtSmall, SmallDouble>(p);
        case INR_FLOAT32:
            return p.tile == 128 ? launch_input_grad<float, SimtLarge, LargeFloat>(p)
                                 : launch_input_grad<float, SimtSmall, SmallFloat>(p);
        default: return "inr_layer_input_grad: unknown dtype";
    }
}

INR_EXPORT const char* inr_layer_weight_grad(const InrWeightGradParams* params) {
    const InrWeightGradParams& p = *params;
    if (p.n * p.splits > 65535) return "inr_layer_weight_grad: more than 65535 images times splits";
    if (p.splits > 1 && p.partial == nullptr) return "inr_layer_weight_grad: no room for the parts";
    typedef SimtTile<float, SimtLarge, true, true, true, false> LargeFloat;
    typedef SimtTile<float, SimtSmall, true, true, true, false> SmallFloat;
    typedef SimtTile<double, SimtSmall, true, true, true, false> SmallDouble;
    switch (p.dtype) {
        case INR_FLOAT16: return weight_grad_choice<half_t>(p);
        case INR_BFLOAT16: return weight_grad_choice<bfloat16_t>(p);
        case INR_FLOAT64: return launch_weight_grad<double, SimtSmall, SmallDouble>(p);
        case INR_FLOAT32:
            return p.tile == 128 ? launch_weight_grad<float, SimtLarge, LargeFloat>(p)
                                 : launch_weight_grad<float, SimtSmall, SmallFloat>(p);
        default: return "inr_layer_weight_grad: unknown dtype";
    }
}

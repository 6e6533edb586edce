// Forward of the layer: one block computes a tile of channels x points of one image.
#include "inr_layer.h"
#include "inr_output.cuh"
#include "inr_simt_tile.cuh"
#include "inr_tensor_tile.cuh"

namespace {

// W_s x_s for the three kinds of features, each a segment of the sum.
template <typename T>
struct LayerProduct {
    const InrForwardParams& p;
    int image, channel;
    int64_t point;
    ActivationGradient<T> gradient;

    __device__ __forceinline__ int segments() const { return 3; }

    __device__ __forceinline__ int depth(int i) const {
        return int(i == 0 ? p.depth0 : i == 1 ? p.depth1 : p.depth2);
    }

    __device__ __forceinline__ void segment(int i, Operand<T>& a, Operand<T>& b) const {
        const void* x = i == 0 ? p.x0 : i == 1 ? p.x1 : p.x2;
        const int64_t batch = i == 0 ? p.batch0 : i == 1 ? p.batch1 : p.batch2;
        const int64_t column = i == 0 ? p.column0 : i == 1 ? p.column1 : p.column2;
        const T* weight = static_cast<const T*>(p.weight) + image * p.weight_batch;
        const int64_t points = p.height * p.width;
        a = make_operand<T>(weight + channel * p.weight_row + column, p.weight_row,
                            p.out_channels - channel, depth(i));
        b = make_operand<T>(static_cast<const T*>(x) + image * batch + point, points, depth(i),
                            points - point);
    }
};

template <typename T, typename Shape, typename Tile, bool kRgb>
struct ForwardBlock {
    typedef accumulator_t<T> A;
    typedef LayerEpilogue<T, Tile::kVector, Shape::kCols, Shape::kGroups, kRgb> Epilogue;
    static constexpr size_t kRing = (Tile::shared_bytes() + 15) / 16 * 16;
    static constexpr size_t kShared = kRing + sizeof(typename Epilogue::Table);
    static constexpr size_t kColors =
        Shape::kGroups * Epilogue::kMaxColors * Shape::kCols * sizeof(A);
    static_assert(kColors <= kRing, "the colours of all groups fit where the operands were");
};

template <typename T, typename Shape, typename Tile, bool kRgb>
__global__ void __launch_bounds__(Shape::kThreads, blocks_per_sm(Shape::kBlocksPerSM))
layer_kernel(InrForwardParams p) {
    typedef ForwardBlock<T, Shape, Tile, kRgb> Block;
    typedef typename Block::Epilogue Epilogue;
    DYNAMIC_SHARED(unsigned char, shared);
    typename Epilogue::Table* table =
        reinterpret_cast<typename Epilogue::Table*>(shared + Block::kRing);
    const int image = blockIdx.z, channel = int(blockIdx.y) * Shape::kRows;
    const int64_t point = int64_t(blockIdx.x) * Shape::kCols;
    table->fill(p, point, Shape::kThreads);
    Tile tile(shared);
    tile.run(LayerProduct<T>{p, image, channel, point, ActivationGradient<T>()});
    Epilogue epilogue(p, *table, reinterpret_cast<typename Block::A*>(shared), image, channel,
                      point, p.height * p.width);
    tile.drain(epilogue);
    epilogue.store_colors(Shape::kThreads);
}

template <typename T, typename Shape, typename Tile, bool kRgb>
const char* launch_layer(const InrForwardParams& p) {
    const int64_t across = (p.height * p.width + Shape::kCols - 1) / Shape::kCols;
    const int64_t down = (p.out_channels + Shape::kRows - 1) / Shape::kRows;
    const dim3 grid{unsigned(across), unsigned(down), unsigned(p.n)};
    return launch(layer_kernel<T, Shape, Tile, kRgb>, grid, dim3{Shape::kThreads, 1, 1},
                  ForwardBlock<T, Shape, Tile, kRgb>::kShared, p.stream, p);
}

template <typename T, typename Shape, typename Tile>
const char* with_colors(const InrForwardParams& p) {
    return p.rgb != nullptr ? launch_layer<T, Shape, Tile, true>(p)
                            : launch_layer<T, Shape, Tile, false>(p);
}

template <typename T>
const char* on_tensor_cores(const InrForwardParams& p) {
    typedef TensorTile<T, TensorLarge, true, false, false, false> Large;
    typedef TensorTile<T, TensorSmall, true, false, false, false> Small;
    return p.tile == 128 ? with_colors<T, TensorLarge, Large>(p)
                         : with_colors<T, TensorSmall, Small>(p);
}

}  // namespace

INR_EXPORT const char* inr_layer_forward(const InrForwardParams* params) {
    const InrForwardParams& p = *params;
    if (p.n > 65535) return "inr_layer_forward: more than 65535 images";
    if (p.out == nullptr && p.rgb == nullptr) return "inr_layer_forward: nothing is wanted";
    if (p.rgb_channels > 4) return "inr_layer_forward: more than 4 colours";
    typedef SimtTile<float, SimtLarge, true, false, false, false> LargeFloat;
    typedef SimtTile<float, SimtSmall, true, false, false, false> SmallFloat;
    typedef SimtTile<double, SimtSmall, true, false, false, false> SmallDouble;
    switch (p.dtype) {
        case INR_FLOAT16: return on_tensor_cores<half_t>(p);
        case INR_BFLOAT16: return on_tensor_cores<bfloat16_t>(p);
        case INR_FLOAT64: return with_colors<double, SimtSmall, SmallDouble>(p);
        case INR_FLOAT32:
            return p.tile == 128 ? with_colors<float, SimtLarge, LargeFloat>(p)
                                 : with_colors<float, SimtSmall, SmallFloat>(p);
        default: return "inr_layer_forward: unknown dtype";
    }
}

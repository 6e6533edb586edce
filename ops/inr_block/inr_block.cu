// Kernel and launcher of inr_block: see inr_block_tile.cuh for what a thread block does.
#include "inr_block.h"
#include "inr_block_tile.cuh"

// Thread blocks take equal shares of the tiles, image after image, so that weights that stay in
// shared memory are read once per thread block and image.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerSM)
inr_block_kernel(BlockArgs<T> args) {
    if constexpr (Shape::kThreads <= kLargestBlock) {
        DYNAMIC_SHARED(unsigned char, memory);
        BlockTile<T, Shape> tile(args, memory);
        const int tiles = (args.points + Shape::kPoints - 1) / Shape::kPoints;
        const int64_t total = int64_t(tiles) * args.n;
        const int64_t begin = total * blockIdx.x / gridDim.x;
        const int64_t end = total * (blockIdx.x + 1) / gridDim.x;
        for (int64_t i = begin; i < end; ++i) {
            tile.run(int(i / tiles), int(i % tiles) * Shape::kPoints);
        }
    }
}

template <typename T>
static BlockArgs<T> block_args(const InrBlockParams& p) {
    BlockArgs<T> a = {};
    const void* weights[4] = {p.weight0, p.weight1, p.weight2, p.weight3};
    const void* biases[4] = {p.bias0, p.bias1, p.bias2, p.bias3};
    const int64_t weight_batch[4] = {
        p.weight_batch0, p.weight_batch1, p.weight_batch2, p.weight_batch3};
    const int64_t weight_row[4] = {p.weight_row0, p.weight_row1, p.weight_row2, p.weight_row3};
    const int64_t bias_batch[4] = {p.bias_batch0, p.bias_batch1, p.bias_batch2, p.bias_batch3};
    for (int i = 0; i < 4; ++i) {
        a.weight[i] = static_cast<const T*>(weights[i]);
        a.weight_batch[i] = weight_batch[i];
        a.weight_row[i] = weight_row[i];
        a.bias[i] = static_cast<const T*>(biases[i]);
        a.bias_batch[i] = bias_batch[i];
    }
    const void* dense[3] = {p.x, p.shared, p.own};
    const int64_t channels[3] = {p.x_channels, p.shared_channels, p.own_channels};
    const int64_t points = p.height * p.width;
    for (int i = 0; i < 3; ++i) {
        a.dense[i] = static_cast<const T*>(dense[i]);
        a.dense_channels[i] = int(channels[i]);
        a.dense_batch[i] = i == 1 ? 0 : channels[i] * points;
    }
    a.context = static_cast<const T*>(p.context);
    a.cols = static_cast<const T*>(p.cols);
    a.rows = static_cast<const T*>(p.rows);
    a.row_index = static_cast<const int64_t*>(p.row_index);
    a.col_index = static_cast<const int64_t*>(p.col_index);
    a.row_weight = static_cast<const float*>(p.row_weight);
    a.col_weight = static_cast<const float*>(p.col_weight);
    a.rgb = static_cast<const T*>(p.rgb);
    a.rgb_batch = p.rgb_batch;
    a.rgb_row = p.rgb_row;
    a.rgb_bias = static_cast<const float*>(p.rgb_bias);
    a.img = static_cast<const float*>(p.img);
    a.features = static_cast<T*>(p.features);
    a.image = static_cast<float*>(p.image);
    a.n = int(p.n);
    a.channels = int(p.channels);
    a.rgb_channels = int(p.rgb_channels);
    a.num_layers = int(p.num_layers);
    a.num_taps = int(p.num_taps);
    a.depth0 = a.dense_channels[0] + a.dense_channels[1] + a.dense_channels[2];
    a.stages = int(p.stages);
    const int64_t steps = (a.depth0 + 31) / 32 + (p.num_layers - 1) * ((p.channels + 31) / 32);
    a.resident = p.stages >= steps;
    a.width = int(p.width);
    a.height = int(p.height);
    a.points = int(points);
    a.low_width = int(p.low_width);
    a.low_points = int(p.low_height * p.low_width);
    a.gain = float(p.gain);
    a.slope = float(p.slope);
    a.clamp = float(p.clamp);
    return a;
}

template <typename T, typename Shape>
static const char* launch_block(const InrBlockParams& p) {
    BlockArgs<T> args = block_args<T>(p);
    args.input_rows = Shape::input_rows(args.depth0);
    if (p.channels > Shape::kRows) return "inr_block: more channels than the tile has rows";
    if (p.stages < 2) return "inr_block: at least two weight tiles have to fit";
    if (p.shared_bytes != Shape::shared_bytes(args.input_rows, p.stages, p.rgb_channels)) {
        return "inr_block: native.py and inr_block.cu count shared memory differently";
    }
    return launch(
        inr_block_kernel<T, Shape>, dim3(unsigned(p.num_blocks)), dim3(Shape::kThreads),
        size_t(p.shared_bytes), p.stream, args
    );
}

// The table of native.py: 32 channels per warp and row of warps.
template <typename T>
static const char* launch_tile(const InrBlockParams& p) {
    switch (p.tile) {
        case 0: return launch_block<T, BlockShape<1, 2, 64>>(p);
        case 1: return launch_block<T, BlockShape<2, 2, 64>>(p);
        case 2: return launch_block<T, BlockShape<4, 4, 64>>(p);
        case 3: return launch_block<T, BlockShape<4, 2, 64>>(p);
        case 4: return launch_block<T, BlockShape<4, 1, 64>>(p);
        case 5: return launch_block<T, BlockShape<8, 2, 64>>(p);
        case 6: return launch_block<T, BlockShape<8, 1, 64>>(p);
        case 7: return launch_block<T, BlockShape<8, 1, 32>>(p);
    }
    return "inr_block: no such tile";
}

const char* inr_block_forward(const InrBlockParams* p) {
    if (p->n * p->height * p->width == 0) return nullptr;
    if (p->dtype == INR_FLOAT16) return launch_tile<half_t>(*p);
    if (p->dtype == INR_BFLOAT16) return launch_tile<bfloat16_t>(*p);
    return "inr_block: float16 or bfloat16 only";
}

// What a thread block of inr_block knows: arguments, tiles, how points read the lattice below.
#pragma once

#include "../_native/device.h"

// Threads per multiprocessor that leave 168 registers to each, which is enough; thread blocks of
// 512 make do with 128. On Turing copies need registers on their way, and the tiles of 512 threads
// do not fit the shared memory anyway.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kBlockThreads = 256, kLargestBlock = 256;
#else
constexpr int kBlockThreads = 384, kLargestBlock = 512;
#endif

// What a launch is about; InrBlockParams with types and arrays.
template <typename T>
struct BlockArgs {
    const T* weight[4];
    int64_t weight_batch[4];
    int64_t weight_row[4];
    const T* bias[4];
    int64_t bias_batch[4];
    const T* dense[3];          // inputs of the first layer on the grid itself: x, shared, own
    int dense_channels[3];
    int64_t dense_batch[3];
    const T* context;
    const T* cols;
    const T* rows;
    const int64_t* row_index;
    const int64_t* col_index;
    const float* row_weight;
    const float* col_weight;
    const T* rgb;
    int64_t rgb_batch;
    int64_t rgb_row;
    const float* rgb_bias;
    const float* img;
    T* features;
    float* image;
    int n, channels, rgb_channels, num_layers, num_taps;
    int depth0;                 // inputs of the first layer on the grid itself
    int stages, input_rows;     // tiles of the ring, rows of activations
    bool resident;              // the ring holds all weights of an image
    int width, height, points, low_width, low_points;
    float gain, slope, clamp;
};

// kDown x kAcross warps, each of which has 32 channels and kWarpPoints points.
template <int kDown_, int kAcross_, int kWarpPoints_>
struct BlockShape {
    static constexpr int kDown = kDown_, kAcross = kAcross_, kWarpPoints = kWarpPoints_;
    static constexpr int kRows = 32 * kDown, kPoints = kAcross * kWarpPoints;
    static constexpr int kWarps = kDown * kAcross, kThreads = 32 * kWarps;
    static constexpr int kBlocksPerSM = kThreads < kBlockThreads ? kBlockThreads / kThreads : 1;
    static constexpr int kDepth = 32;                     // inputs of a weight tile
    // Rows begin in different banks.
    static constexpr int kStride = kPoints + 8, kWeightStride = kDepth + 8, kRgbStride = kRows + 8;
    static constexpr int kStageSize = kRows * kWeightStride;
    static constexpr int kTiles = kWarpPoints / 8;

    static constexpr int input_rows(int depth) {
        const int rows = (depth + kDepth - 1) / kDepth * kDepth;
        return rows > kRows ? rows : kRows;
    }
    static constexpr int64_t shared_bytes(int rows, int64_t stages, int64_t rgb_channels) {
        return 2 * (rows * kStride + stages * kStageSize + rgb_channels * kRgbStride);
    }
};

// Where a point reads the lattice below.
struct LatticeReads {
    int y, x;          // of the point
    int offset[4];
    float share[4];

    template <typename T>
    __device__ __forceinline__ LatticeReads(const BlockArgs<T>& args, int point)
        : y(point / args.width), x(point % args.width) {
        const int taps = args.num_taps;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            offset[i] = point;
            share[i] = i == 0 ? 1.0f : 0.0f;
            const int down = i / 2, across = i % 2;
            if (down < taps && across < taps) {
                offset[i] = int(args.row_index[y * taps + down]) * args.low_width
                            + int(args.col_index[x * taps + across]);
                if (taps == 2) {
                    share[i] = args.row_weight[2 * y + down] * args.col_weight[2 * x + across];
                }
            }
        }
    }

    template <typename Value>
    __device__ __forceinline__ float read(const Value* plane, int taps) const {
        float sum = to_float(plane[offset[0]]) * share[0];
        if (taps == 2) {
#pragma unroll
            for (int i = 1; i < 4; ++i) sum += to_float(plane[offset[i]]) * share[i];
        }
        return sum;
    }
};

// Where points that are neighbours in a row read it: they share most of their columns. Shares of a
// point sum to 1, that of the first column and of the first row is what the others leave.
constexpr int kRun = 4;

struct RunReads {
    int y, x;                     // of the first point
    int top = 0, to_bottom = 0;   // the first column, and from there to the other row
    int span = 0;                 // columns; more than kRun are not described
    float of_bottom = 0.0f;       // share of the other row
    float share[kRun][kRun - 1];  // of point i, column j + 1

    template <typename T>
    __device__ __forceinline__ RunReads(const BlockArgs<T>& args, int point)
        : y(point / args.width), x(point % args.width) {
        const int taps = args.num_taps;
        if (args.context == nullptr) return;
        const int64_t* index = args.col_index + x * taps;
        int low = int(index[0]), high = low;
        for (int i = 1; i < kRun * taps; ++i) {
            const int column = int(index[i]);
            low = column < low ? column : low;
            high = column > high ? column : high;
        }
        span = high - low + 1;
        top = int(args.row_index[y * taps]) * args.low_width + low;
        if (taps == 2) {
            const int rows = int(args.row_index[2 * y + 1]) - int(args.row_index[2 * y]);
            to_bottom = rows * args.low_width;
            of_bottom = args.row_weight[2 * y + 1];
        }
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
            const int64_t* reads = index + i * taps;
            const float* shares = args.col_weight + (x + i) * taps;
#pragma unroll
            for (int j = 1; j < kRun; ++j) {
                float sum = int(reads[0]) == low + j ? (taps == 2 ? shares[0] : 1.0f) : 0.0f;
                if (taps == 2 && int(reads[1]) == low + j) sum += shares[1];
                share[i][j - 1] = sum;
            }
        }
    }
};

// What happens to a tile of sums: the layer's epilogue, or a plain store.
#pragma once

#include "inr_operand.cuh"
#include "inr_layer.h"

// A block of a matrix in global memory, written by vectors where its rows allow it.
template <typename T>
struct OutputBlock {
    T* data;         // entry (0, 0) of the block
    int stride;      // elements from row to row
    int rows, cols;  // entries that exist
    bool aligned;    // rows begin at multiples of 16 bytes

    __device__ OutputBlock(T* first, int64_t row_stride, int64_t num_rows, int64_t num_cols)
        : data(first), stride(int(row_stride)), rows(int(num_rows)), cols(int(num_cols)),
          aligned(make_operand<T>(first, row_stride, num_rows, num_cols).aligned) {}

    template <int kLength, typename A>
    __device__ __forceinline__ void put(int row, int col, const A (&values)[kLength]) const {
        constexpr int kPart = 16 / int(sizeof(T)) < kLength ? 16 / int(sizeof(T)) : kLength;
        if (row >= rows) return;
        T* target = data + row * stride + col;
#pragma unroll
        for (int i = 0; i < kLength; i += kPart) {
            if (aligned && col + i + kPart <= cols) {
                Vector<T, kPart> vector;
#pragma unroll
                for (int j = 0; j < kPart; ++j) vector.values[j] = from_float<T>(values[i + j]);
                store_vector(target + i, vector);
            } else {
#pragma unroll
                for (int j = 0; j < kPart; ++j) {
                    if (col + i + j < cols) target[i + j] = from_float<T>(values[i + j]);
                }
            }
        }
    }
};

// Stores the sums as they are.
template <typename T, typename A>
struct StoreEpilogue {
    OutputBlock<T> block;

    template <int kLength>
    __device__ __forceinline__ void apply(int row, int col, const A (&values)[kLength]) const {
        block.put(row, col, values);
    }
    template <int kDown>
    __device__ __forceinline__ void finish(int, int) const {}
};

// Where the points of a tile lie and what they read below; one table per block, in shared memory.
template <typename A, int kCols>
struct PointTable {
    A share[4][kCols];      // weight of each tap
    int entry[4][kCols];    // its entry of a plane of the context
    int x[kCols], y[kCols];

    __device__ __forceinline__ void fill(const InrForwardParams& p, int64_t first, int threads) {
        const int64_t* row_index = static_cast<const int64_t*>(p.row_index);
        const int64_t* col_index = static_cast<const int64_t*>(p.col_index);
        const A* row_weight = static_cast<const A*>(p.row_weight);
        const A* col_weight = static_cast<const A*>(p.col_weight);
        const int taps = int(p.num_taps), width = int(p.width);
        const int last = int(p.height * p.width) - 1;
        for (int i = threadIdx.x; i < kCols; i += threads) {
            // Beyond the last point the table repeats it, so that everything it reads exists.
            const int point = int(first) + i < last ? int(first) + i : last;
            x[i] = point % width;
            y[i] = point / width;
            if (p.context == nullptr) continue;
            for (int t = 0; t < taps * taps; ++t) {
                const int row = y[i] * taps + t / taps, col = x[i] * taps + t % taps;
                entry[t][i] = int(row_index[row] * p.low_width + col_index[col]);
                share[t][i] = taps == 1 ? A(1) : row_weight[row] * col_weight[col];
            }
        }
    }
};

// clamp(gain * act(sum + up(context) + cols + rows + bias)), stored, and its share of the colours.
template <typename T, int kLength, int kCols, int kGroups, bool kRgb>
struct LayerEpilogue {
    typedef accumulator_t<T> A;
    typedef PointTable<A, kCols> Table;
    static constexpr int kMaxColors = 4;

    const InrForwardParams& p;
    const Table& table;
    A* scratch;          // shared, kGroups x kMaxColors x kCols, free once all sums are handed over
    OutputBlock<T> block;
    int image, first_channel, first_point;
    bool aligned_tables;
    A colors[kRgb ? kMaxColors : 1][kLength];

    __device__ LayerEpilogue(
        const InrForwardParams& params, const Table& points, A* shared, int n, int channel,
        int64_t point, int64_t num_points
    )
        : p(params), table(points), scratch(shared),
          block(static_cast<T*>(params.out) +
                    (n * params.out_channels + channel) * num_points + point,
                num_points, params.out_channels - channel, num_points - point),
          image(n), first_channel(channel), first_point(int(point)) {
        aligned_tables = p.width % kLength == 0 && reinterpret_cast<int64_t>(p.cols) % 16 == 0;
        clear();
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int c = 0; c < (kRgb ? kMaxColors : 1); ++c) {
#pragma unroll
            for (int i = 0; i < kLength; ++i) colors[c][i] = 0;
        }
    }

    __device__ __forceinline__ void apply(int row, int col, A (&values)[kLength]) {
        if (row >= block.rows || col >= block.cols) return;
        const int channel = first_channel + row;
        const int64_t plane = image * p.out_channels + channel;
        if (p.context != nullptr) add_context(plane, col, values);
        if (p.cols != nullptr) add_cols(plane, col, values);
        if (p.rows != nullptr) add_rows(plane, col, values);
        const A bias = p.bias == nullptr
            ? A(0) : to_float(static_cast<const T*>(p.bias)[image * p.bias_batch + channel]);
        const A gain = A(p.gain), slope = A(p.slope), clamp = A(p.clamp);
#pragma unroll
        for (int i = 0; i < kLength; ++i) {
            A value = values[i] + bias;
            value = (value > A(0) ? value : value * slope) * gain;
            if (clamp >= A(0)) value = value > clamp ? clamp : value < -clamp ? -clamp : value;
            values[i] = value;
        }
        if (!kRgb || p.out != nullptr) block.put(row, col, values);
        if constexpr (kRgb) add_colors(channel, values);
    }

    __device__ __forceinline__ void add_context(
        int64_t plane, int col, A (&values)[kLength]
    ) const {
        const T* context =
            static_cast<const T*>(p.context) + plane * p.low_height * p.low_width;
        const int taps = int(p.num_taps);
        for (int t = 0; t < taps * taps; ++t) {
#pragma unroll
            for (int i = 0; i < kLength; i += 4) {
                const Vector<int, 4> entry = load_vector<int, 4>(&table.entry[t][col + i]);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const T value = context[entry.values[j]];
                    values[i + j] += table.share[t][col + i + j] * to_float(value);
                }
            }
        }
    }

    __device__ __forceinline__ void add_cols(int64_t plane, int col, A (&values)[kLength]) const {
        constexpr int kPart = 16 / int(sizeof(A));
        const A* source = static_cast<const A*>(p.cols) + plane * p.width;
        if (aligned_tables) {
#pragma unroll
            for (int i = 0; i < kLength; i += kPart) {
                const Vector<A, kPart> part = load_vector<A, kPart>(source + table.x[col] + i);
#pragma unroll
                for (int j = 0; j < kPart; ++j) values[i + j] += part.values[j];
            }
            return;
        }
#pragma unroll
        for (int i = 0; i < kLength; ++i) values[i] += source[table.x[col + i]];
    }

    __device__ __forceinline__ void add_rows(int64_t plane, int col, A (&values)[kLength]) const {
        const A* source = static_cast<const A*>(p.rows) + plane * p.height;
        if (p.width % kLength == 0) {
            const A same = source[table.y[col]];
#pragma unroll
            for (int i = 0; i < kLength; ++i) values[i] += same;
            return;
        }
#pragma unroll
        for (int i = 0; i < kLength; ++i) values[i] += source[table.y[col + i]];
    }

    // The colours read the features as they are (or would be) stored, rounded to T.
    __device__ __forceinline__ void add_colors(int channel, const A (&values)[kLength]) {
        const T* weight = static_cast<const T*>(p.rgb) + image * p.rgb_channels * p.out_channels;
#pragma unroll
        for (int c = 0; c < kMaxColors; ++c) {
            if (c >= p.rgb_channels) break;
            const A factor = to_float(weight[c * p.out_channels + channel]);
#pragma unroll
            for (int i = 0; i < kLength; ++i) {
                colors[c][i] += factor * to_float(from_float<T>(values[i]));
            }
        }
    }

    // Adds the colours of kDown lanes with the same columns, and leaves them for `store_colors`.
    template <int kDown>
    __device__ __forceinline__ void finish(int group, int col) {
        if constexpr (kRgb) {
            const int lane = threadIdx.x % 32;
            __syncthreads();
#pragma unroll
            for (int c = 0; c < kMaxColors; ++c) {
#pragma unroll
                for (int i = 0; i < kLength; ++i) {
                    A sum = colors[c][i];
#pragma unroll
                    for (int apart = 32 / kDown; apart < 32; apart *= 2) {
                        sum += __shfl_xor_sync(0xffffffffu, sum, apart);
                    }
                    if (kDown == 1 || lane < 32 / kDown) {
                        scratch[(group * kMaxColors + c) * kCols + col + i] = sum;
                    }
                }
            }
            clear();
        }
    }

    // Writes the sum over the tile's channels.
    __device__ __forceinline__ void store_colors(int threads) const {
        if constexpr (kRgb) {
            __syncthreads();
            const int64_t points = p.height * p.width;
            A* target = static_cast<A*>(p.rgb_out) +
                (blockIdx.y * p.n + image) * p.rgb_channels * points + first_point;
            for (int i = threadIdx.x; i < int(p.rgb_channels) * kCols; i += threads) {
                const int c = i / kCols, col = i % kCols;
                if (col >= block.cols) continue;
                A sum = 0;
                for (int group = 0; group < kGroups; ++group) {
                    sum += scratch[(group * kMaxColors + c) * kCols + col];
                }
                target[c * points + col] = sum;
            }
        }
    }
};

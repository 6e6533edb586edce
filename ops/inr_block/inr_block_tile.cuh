// A tile of points on its way through a block.
//
// Activations stay in shared memory, [channel][point]; every layer replaces them in place, which
// works because the sums of all its outputs fit the registers: 32 channels x 64 points per warp.
// Weights pass through a ring of tiles, [output][32 inputs], filled ahead by asynchronous copies
// across the layers' borders; where all of them fit they stay for all tiles of an image.
#pragma once

#include "inr_block_reads.cuh"

template <typename T, typename Shape>
struct BlockTile {
    typedef float Sums[2][Shape::kTiles][4];
    static constexpr int kVector = 8;   // elements of 16 bytes

    const BlockArgs<T>& args;
    T* x;                                         // [input_rows][kStride]
    int image = -1, first = 0;                    // of the tile
    int slot = 0;                                 // of the ring, to be read next
    int next_layer = 0, next_column = 0;          // to be asked for next

    __device__ BlockTile(const BlockArgs<T>& source, unsigned char* memory)
        : args(source), x(reinterpret_cast<T*>(memory)) {}

    // [stages][kRows][kWeightStride]
    __device__ __forceinline__ T* ring() const { return x + args.input_rows * Shape::kStride; }

    // [rgb_channels][kRgbStride]
    __device__ __forceinline__ T* rgb() const { return ring() + args.stages * Shape::kStageSize; }

    // Whether weights come along with the tile of points; else they are there.
    __device__ __forceinline__ bool loading() const { return next_layer <= args.num_layers; }

    // Weight tiles that are asked for ahead: 2, if there is room for them.
    __device__ __forceinline__ int distance() const { return args.stages > 2 ? 2 : 1; }

    __device__ __forceinline__ int depth(int layer) const {
        return layer == 0 ? args.depth0 : args.channels;
    }

    // Draws the points first ... of an image.
    __device__ __forceinline__ void run(int of_image, int first_point) {
        const bool stay = args.resident && of_image == image;
        image = of_image;
        first = first_point;
        slot = 0;
        load_inputs();
        if (stay) {
            next_layer = args.num_layers + 1;
            copy_async_commit();
            copy_async_wait<0>();
            __syncthreads();
        } else {
            load_rgb();
            next_column = 0;
            next_layer = args.depth0 == 0 ? 1 : 0;
            for (int ahead = 0; ahead < distance(); ++ahead) prefetch(ahead);
        }
        for (int layer = 0; layer < args.num_layers; ++layer) {
            Sums sums;
            multiply(sums, depth(layer));
            finish(sums, layer);
        }
        draw();
        if (args.features != nullptr) store_features();
        __syncthreads();   // before the next tile overwrites this one
    }

    // The first layer's inputs on the grid, rows of zeros up to a multiple of the depth of a step.
    __device__ __forceinline__ void load_inputs() {
        constexpr int kAcross = Shape::kPoints / kVector;
        const bool whole = args.points % kVector == 0;
        int row = 0;
        for (int part = 0; part < 3; ++part) {
            const int count = args.dense_channels[part] * kAcross;
            const T* source = args.dense[part] + image * args.dense_batch[part] + first;
            const bool aligned = whole && reinterpret_cast<uint64_t>(args.dense[part]) % 16 == 0;
            for (int i = threadIdx.x; i < count; i += Shape::kThreads) {
                const int c = i % kAcross * kVector, left = args.points - first - c;
                T* target = x + (row + i / kAcross) * Shape::kStride + c;
                const T* from = source + int64_t(i / kAcross) * args.points + c;
                if (aligned || left <= 0) {
                    copy_async16(target, left > 0 ? from : args.dense[part], left > 0);
                } else {
                    for (int j = 0; j < kVector; ++j) {
                        target[j] = j < left ? from[j] : from_float<T>(0.0f);
                    }
                }
            }
            row += args.dense_channels[part];
        }
        const int end = (row + 31) / 32 * 32;
        for (int i = threadIdx.x; i < (end - row) * Shape::kPoints; i += Shape::kThreads) {
            const int r = row + i / Shape::kPoints;
            x[r * Shape::kStride + i % Shape::kPoints] = from_float<T>(0.0f);
        }
    }

    __device__ __forceinline__ void load_rgb() {
        constexpr int kAcross = Shape::kRows / kVector;
        const T* source = args.rgb + image * args.rgb_batch;
        for (int i = threadIdx.x; i < args.rgb_channels * kAcross; i += Shape::kThreads) {
            const int row = i / kAcross, column = i % kAcross * kVector;
            const bool some = column < args.channels;
            const T* from = some ? source + row * args.rgb_row + column : source;
            copy_async16(rgb() + row * Shape::kRgbStride + column, from, some);
        }
    }

    // Asks for the next weight tile, if there is one; a group of copies in any case.
    __device__ __forceinline__ void prefetch(int ahead) {
        if (next_layer < args.num_layers) {
            constexpr int kAcross = Shape::kDepth / kVector;
            const T* source = args.weight[next_layer] + image * args.weight_batch[next_layer];
            const int wrap = slot + ahead < args.stages ? 0 : args.stages;
            T* stage = ring() + (slot + ahead - wrap) * Shape::kStageSize;
            const int end = depth(next_layer);
            const int64_t stride = args.weight_row[next_layer];
#pragma unroll
            for (int i = 0; i < Shape::kRows * kAcross / Shape::kThreads; ++i) {
                const int at = threadIdx.x + i * Shape::kThreads;
                const int row = at / kAcross, c = at % kAcross * kVector, column = next_column + c;
                const bool some = row < args.channels && column < end;
                const T* from = some ? source + row * stride + column : source;
                copy_async16(stage + row * Shape::kWeightStride + c, from, some);
            }
            next_column += Shape::kDepth;
            if (next_column >= end) {
                next_column = 0;
                ++next_layer;
            }
        }
        copy_async_commit();
    }

    // sums = W x, 32 inputs per step.
    __device__ __forceinline__ void multiply(Sums& sums, int depth) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const int weight_at = (warp / Shape::kAcross * 32 + lane % 16) * Shape::kWeightStride;
        const int input_at = lane % 16 * Shape::kStride
                             + warp % Shape::kAcross * Shape::kWarpPoints;
        const int shift = lane / 16 * 8;
#pragma unroll
        for (int i = 0; i < 2 * Shape::kTiles * 4; ++i) {
            sums[i / (4 * Shape::kTiles)][i / 4 % Shape::kTiles][i % 4] = 0.0f;
        }
        for (int k = 0; k < depth; k += Shape::kDepth) {
            if (loading()) {
                if (distance() == 2) copy_async_wait<1>();
                else copy_async_wait<0>();
                __syncthreads();   // the tile is there, and nobody reads the one before it any more
                prefetch(distance());
            }
            const T* left = ring() + slot * Shape::kStageSize + weight_at + shift;
            const T* right = x + k * Shape::kStride + input_at + shift;
#pragma unroll
            for (int step = 0; step < Shape::kDepth; step += 16) {
                uint32_t a[2][4];
                ldmatrix_x4(a[0], left + step);
                ldmatrix_x4(a[1], left + 16 * Shape::kWeightStride + step);
#pragma unroll
                for (int j = 0; j < Shape::kTiles; j += 2) {
                    uint32_t b[4];
                    ldmatrix_x4_trans(b, right + step * Shape::kStride + j * 8);
                    const uint32_t even[2] = {b[0], b[1]}, odd[2] = {b[2], b[3]};
                    mma_16x8x16<T>(sums[0][j], a[0], even);
                    mma_16x8x16<T>(sums[1][j], a[1], even);
                    mma_16x8x16<T>(sums[0][j + 1], a[0], odd);
                    mma_16x8x16<T>(sums[1][j + 1], a[1], odd);
                }
            }
            slot = slot + 1 == args.stages ? 0 : slot + 1;
        }
    }

    // Replaces the activations by those of the next layer.
    __device__ __forceinline__ void finish(const Sums& sums, int layer) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        if (layer + 1 == args.num_layers) copy_async_wait<0>();
        __syncthreads();
        if (layer == 0) {
            place_offsets();
            __syncthreads();
        }
        const T* bias = args.bias[layer] + image * args.bias_batch[layer];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = warp / Shape::kAcross * 32 + i * 8 + lane / 4;
            T* target = x + row * Shape::kStride + warp % Shape::kAcross * Shape::kWarpPoints
                        + lane % 4 * 2;
            const float shift = layer > 0 && row < args.channels ? to_float(bias[row]) : 0.0f;
#pragma unroll
            for (int j = 0; j < Shape::kTiles; ++j) {
                Vector<T, 2> pair;
                if (layer == 0) pair = load_vector<T, 2>(target + j * 8);
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    const float offset = layer == 0 ? to_float(pair.values[k]) : shift;
                    pair.values[k] = from_float<T>(activate(sums[i / 2][j][i % 2 * 2 + k] + offset));
                }
                store_vector(target + j * 8, pair);
            }
        }
        __syncthreads();
    }

    __device__ __forceinline__ float limit(float v) const {
        if (args.clamp < 0.0f) return v;
        return v > args.clamp ? args.clamp : v < -args.clamp ? -args.clamp : v;
    }

    __device__ __forceinline__ float activate(float v) const {
        return limit((v > 0.0f ? v : v * args.slope) * args.gain);
    }

    // What the first layer adds to its product, up(context) + cols[x] + rows[y] + bias, in place of
    // its inputs. Here neighbouring threads have neighbouring points.
    __device__ __forceinline__ void place_offsets() {
        constexpr int kRuns = Shape::kPoints / kRun;
        constexpr int kStep = Shape::kThreads > kRuns ? Shape::kThreads / kRuns : 1;
        static_assert(Shape::kThreads >= kRuns, "every run has a thread");
        const int c = threadIdx.x % kRuns * kRun, row = threadIdx.x / kRuns;
        const int point = first + c;
        const bool whole = point + kRun <= args.points && point % args.width + kRun <= args.width;
        if (whole && (args.context == nullptr || args.num_taps > 0)) {
            const RunReads reads(args, point);
            if (reads.span <= kRun) {
#pragma unroll 1
                for (int o = row; o < Shape::kRows; o += kStep) place_run(reads, o, c);
                return;
            }
        }
#pragma unroll 1
        for (int i = 0; i < kRun; ++i) {
            const int at = point + i < args.points ? point + i : args.points - 1;
            const LatticeReads reads(args, at);
#pragma unroll 1
            for (int o = row; o < Shape::kRows; o += kStep) place_point(reads, o, c + i);
        }
    }

    __device__ __forceinline__ void place_run(const RunReads& reads, int o, int c) {
        Vector<T, kRun> run;
        float sums[kRun] = {};
        if (o < args.channels) {
            // Offsets within an image fit 32 bits, and registers are scarce here.
            const int64_t plane = int64_t(image) * args.channels;
            float shift = to_float((args.bias[0] + image * args.bias_batch[0])[o]);
            if (args.rows != nullptr) {
                shift += to_float((args.rows + plane * args.height)[o * args.height + reads.y]);
            }
            const T* cols = args.cols + plane * args.width;
#pragma unroll
            for (int i = 0; i < kRun; ++i) {
                sums[i] = shift;
                if (args.cols != nullptr) sums[i] += to_float(cols[o * args.width + reads.x + i]);
            }
            const T* context = args.context + plane * args.low_points;
            const int at = o * args.low_points + reads.top;
            if (reads.span > 0) {
                const float left = read_column(context, at, reads);
#pragma unroll
                for (int i = 0; i < kRun; ++i) sums[i] += left;
#pragma unroll
                for (int j = 1; j < kRun; ++j) {
                    if (j < reads.span) {
                        const float more = read_column(context, at + j, reads) - left;
#pragma unroll
                        for (int i = 0; i < kRun; ++i) sums[i] += reads.share[i][j - 1] * more;
                    }
                }
            }
        }
#pragma unroll
        for (int i = 0; i < kRun; ++i) run.values[i] = from_float<T>(sums[i]);
        store_vector(x + o * Shape::kStride + c, run);
    }

    __device__ __forceinline__ float read_column(
        const T* context, int at, const RunReads& reads
    ) const {
        const float top = to_float(context[at]);
        if (args.num_taps != 2) return top;
        return top + (to_float(context[at + reads.to_bottom]) - top) * reads.of_bottom;
    }

    __device__ __forceinline__ void place_point(const LatticeReads& reads, int o, int c) {
        float sum = 0.0f;
        if (o < args.channels) {
            const int64_t plane = int64_t(image) * args.channels + o;
            sum = to_float(args.bias[0][image * args.bias_batch[0] + o]);
            if (args.context != nullptr) {
                sum += reads.read(args.context + plane * args.low_points, args.num_taps);
            }
            if (args.cols != nullptr) sum += to_float(args.cols[plane * args.width + reads.x]);
            if (args.rows != nullptr) sum += to_float(args.rows[plane * args.height + reads.y]);
        }
        x[o * Shape::kStride + c] = from_float<T>(sum);
    }

    // The image: one more product, of at most 8 rows, of which each warp has 16 points at a time.
    __device__ __forceinline__ void draw() {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, channel = lane / 4;
        // Rows beyond the last are read from the last and thrown away.
        const int row = lane % 16 < args.rgb_channels ? lane % 16 : args.rgb_channels - 1;
        for (int c = warp * 16; c < Shape::kPoints; c += Shape::kWarps * 16) {
            float sums[2][4] = {};
            for (int k = 0; k < Shape::kRows; k += 16) {
                uint32_t a[4], b[4];
                ldmatrix_x4(a, rgb() + row * Shape::kRgbStride + k + lane / 16 * 8);
                ldmatrix_x4_trans(b, x + (k + lane % 16) * Shape::kStride + c + lane / 16 * 8);
                const uint32_t even[2] = {b[0], b[1]}, odd[2] = {b[2], b[3]};
                mma_16x8x16<T>(sums[0], a, even);
                mma_16x8x16<T>(sums[1], a, odd);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int point = first + c + i / 2 * 8 + lane % 4 * 2 + i % 2;
                if (channel < args.rgb_channels && point < args.points) {
                    store_color(sums[i / 2][i % 2], channel, point);
                }
            }
            __syncwarp();   // all lanes together again for the next product
        }
    }

    __device__ __forceinline__ void store_color(float sum, int channel, int point) {
        const int64_t plane = int64_t(image) * args.rgb_channels + channel;
        float value = limit(sum + args.rgb_bias[channel]);
        if (args.img != nullptr) {
            const int64_t size = args.num_taps == 0 ? args.points : args.low_points;
            value += LatticeReads(args, point).read(args.img + plane * size, args.num_taps);
        }
        args.image[plane * args.points + point] = value;
    }

    __device__ __forceinline__ void store_features() {
        constexpr int kAcross = Shape::kPoints / kVector;
        const bool aligned = args.points % kVector == 0;
        T* target = args.features + int64_t(image) * args.channels * args.points + first;
        for (int i = threadIdx.x; i < args.channels * kAcross; i += Shape::kThreads) {
            const int row = i / kAcross, c = i % kAcross * kVector, left = args.points - first - c;
            const T* from = x + row * Shape::kStride + c;
            T* to = target + int64_t(row) * args.points + c;
            if (aligned && left > 0) {
                store_vector(to, load_vector<T, kVector>(from));
            } else {
                for (int j = 0; j < kVector && j < left; ++j) to[j] = from[j];
            }
        }
    }
};

// One tile of a product of half or bfloat16 matrices on tensor cores.
//
// D[m, p] = sum over k of A[m, k] B[k, p], kRows x kCols entries. Both operands go through a ring
// of kStages tiles in shared memory, filled by asynchronous copies, or through registers where they
// are gradients that the activation's derivative multiplies on the way. kAlongA says that A's rows
// are consecutive along k in memory (else along m), kAlongB the same of B: every combination is
// read by ldmatrix, transposing or not.
#pragma once

#include "inr_operand.cuh"

template <int kRows_, int kCols_, int kWarpsDown_, int kWarpsAcross_, int kBlocksPerSM_>
struct TensorShape {
    static constexpr int kRows = kRows_, kCols = kCols_, kDepth = 32, kStages = 3;
    static constexpr int kWarpsDown = kWarpsDown_, kWarpsAcross = kWarpsAcross_;
    static constexpr int kThreads = 32 * kWarpsDown * kWarpsAcross;
    static constexpr int kBlocksPerSM = kBlocksPerSM_;
    static constexpr int kWarpRows = kRows / kWarpsDown, kWarpCols = kCols / kWarpsAcross;
    static constexpr int kGroups = kWarpsDown;   // threads that share a column of D, when summing
};

typedef TensorShape<128, 128, 4, 2, 2> TensorLarge;
typedef TensorShape<64, 64, 2, 2, 4> TensorSmall;

template <typename T, typename Shape, bool kAlongA, bool kAlongB, bool kGradA, bool kGradB>
struct TensorTile {
    static constexpr int kPad = 8;   // elements; rows then begin in different banks
    static constexpr int kRowsA = kAlongA ? Shape::kRows : Shape::kDepth;
    static constexpr int kColsA = kAlongA ? Shape::kDepth : Shape::kRows;
    static constexpr int kRowsB = kAlongB ? Shape::kCols : Shape::kDepth;
    static constexpr int kColsB = kAlongB ? Shape::kDepth : Shape::kCols;
    static constexpr int kStrideA = kColsA + kPad, kStrideB = kColsB + kPad;
    static constexpr int kSizeA = kRowsA * kStrideA, kSizeB = kRowsB * kStrideB;
    static constexpr int kSlabStride = Shape::kWarpCols + 8;
    static constexpr int kVector = 8;   // consecutive columns that a thread hands to the epilogue
    static constexpr int kTilesDown = Shape::kWarpRows / 16, kTilesAcross = Shape::kWarpCols / 8;
    typedef TileMover<T, kRowsA, kColsA, kStrideA, Shape::kThreads> MoverA;
    typedef TileMover<T, kRowsB, kColsB, kStrideB, Shape::kThreads> MoverB;

    // Shared bytes of the ring; the epilogue uses them again for slabs of sums.
    static constexpr size_t shared_bytes() {
        constexpr size_t kRing = Shape::kStages * (kSizeA + kSizeB) * sizeof(T);
        constexpr size_t kSlabs = Shape::kThreads / 32 * 16 * kSlabStride * sizeof(float);
        return kRing > kSlabs ? kRing : kSlabs;
    }

    float sums[kTilesDown][kTilesAcross][4];
    T* ring;
    TileRegisters<T, MoverA> registers_a;
    TileRegisters<T, MoverB> registers_b;
    RowSums<T, MoverA> row_sums;   // of gradients along k: what a bias has for a gradient

    __device__ explicit TensorTile(unsigned char* shared) : ring(reinterpret_cast<T*>(shared)) {
#pragma unroll
        for (int i = 0; i < kTilesDown; ++i) {
#pragma unroll
            for (int j = 0; j < kTilesAcross; ++j) {
#pragma unroll
                for (int k = 0; k < 4; ++k) sums[i][j][k] = 0;
            }
        }
    }

    template <typename Product>
    __device__ __forceinline__ void run(const Product& product) {
        Walk<T, Shape::kDepth, Product> walk(product);
        const int steps = walk.steps();
#pragma unroll
        for (int i = 0; i < Shape::kStages - 1; ++i) {
            if (i < steps) {
                begin(walk, i);
                complete(walk, product.gradient, i);
                walk.advance();
            }
            copy_async_commit();
        }
        int slot = 0, ahead = Shape::kStages - 1;
        for (int step = 0; step < steps; ++step) {
            copy_async_wait<Shape::kStages - 2>();
            __syncthreads();
            const bool more = step + Shape::kStages - 1 < steps;
            if (more) begin(walk, ahead);
            copy_async_commit();
            multiply(slot);
            if (more) {
                complete(walk, product.gradient, ahead);
                walk.advance();
            }
            slot = slot + 1 == Shape::kStages ? 0 : slot + 1;
            ahead = ahead + 1 == Shape::kStages ? 0 : ahead + 1;
        }
        copy_async_wait<0>();
        __syncthreads();
    }

    __device__ __forceinline__ T* slot_a(int slot) const { return ring + slot * kSizeA; }
    __device__ __forceinline__ T* slot_b(int slot) const {
        return ring + Shape::kStages * kSizeA + slot * kSizeB;
    }

    // Starts the copies of the tile that the walk has come to.
    template <typename Steps>
    __device__ __forceinline__ void begin(const Steps& walk, int slot) {
        const int k = walk.position;
        if constexpr (kGradA) {
            registers_a.read(walk.a, kAlongA ? 0 : k, kAlongA ? k : 0);
        } else {
            MoverA::copy(slot_a(slot), walk.a, kAlongA ? 0 : k, kAlongA ? k : 0);
        }
        if constexpr (kGradB) {
            registers_b.read(walk.b, kAlongB ? 0 : k, kAlongB ? k : 0);
        } else {
            MoverB::copy(slot_b(slot), walk.b, kAlongB ? 0 : k, kAlongB ? k : 0);
        }
    }

    // Stores what came through registers.
    template <typename Steps>
    __device__ __forceinline__ void complete(
        const Steps& walk, const ActivationGradient<T>& gradient, int slot
    ) {
        if constexpr (kGradA) {
            registers_a.finish(walk.a, gradient);
            if constexpr (kAlongA) registers_a.add_to(row_sums.sums);
            registers_a.template store<kStrideA>(slot_a(slot));
        }
        if constexpr (kGradB) {
            registers_b.finish(walk.b, gradient);
            registers_b.template store<kStrideB>(slot_b(slot));
        }
    }

    __device__ __forceinline__ void multiply(int slot) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int top = warp / Shape::kWarpsAcross * Shape::kWarpRows;
        const int left = warp % Shape::kWarpsAcross * Shape::kWarpCols;
        const int low = lane % 8 + (lane / 8 & 1) * 8, high = lane / 16 * 8;
        const int swapped_low = lane / 8 % 2 * 8, swapped_high = lane % 8 + lane / 16 * 8;
#pragma unroll
        for (int k = 0; k < Shape::kDepth; k += 16) {
            uint32_t a[kTilesDown][4];
#pragma unroll
            for (int i = 0; i < kTilesDown; ++i) {
                // Matrices of 8 x 8 in the order (m, k) = (0, 0), (8, 0), (0, 8), (8, 8).
                const int m = top + i * 16;
                if constexpr (kAlongA) {
                    ldmatrix_x4(a[i], slot_a(slot) + (m + low) * kStrideA + k + high);
                } else {
                    const int row = k + high + lane % 8, col = m + swapped_low;
                    ldmatrix_x4_trans(a[i], slot_a(slot) + row * kStrideA + col);
                }
            }
#pragma unroll
            for (int j = 0; j < kTilesAcross; j += 2) {
                // Matrices in the order (k, p) = (0, 0), (8, 0), (0, 8), (8, 8).
                const int p = left + j * 8;
                uint32_t b[4];
                if constexpr (kAlongB) {
                    const int row = p + swapped_high, col = k + swapped_low;
                    ldmatrix_x4(b, slot_b(slot) + row * kStrideB + col);
                } else {
                    ldmatrix_x4_trans(b, slot_b(slot) + (k + low) * kStrideB + p + high);
                }
                const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
                for (int i = 0; i < kTilesDown; ++i) {
                    mma_16x8x16<T>(sums[i][j], a[i], b0);
                    mma_16x8x16<T>(sums[i][j + 1], a[i], b1);
                }
            }
        }
    }

    // Hands the sums to the epilogue, eight consecutive columns of one row at a time: through slabs
    // of 16 rows in shared memory, one per warp, because a thread's own sums are scattered.
    template <typename Epilogue>
    __device__ __forceinline__ void drain(Epilogue& epilogue) {
        constexpr int kAcross = Shape::kWarpCols / kVector, kDown = 32 / kAcross;
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int top = warp / Shape::kWarpsAcross * Shape::kWarpRows;
        const int left = warp % Shape::kWarpsAcross * Shape::kWarpCols;
        float* slab = reinterpret_cast<float*>(ring) + warp * 16 * kSlabStride;
        const int col = lane % kAcross * kVector;
#pragma unroll
        for (int i = 0; i < kTilesDown; ++i) {
#pragma unroll
            for (int j = 0; j < kTilesAcross; ++j) {
                float* target = slab + lane / 4 * kSlabStride + j * 8 + lane % 4 * 2;
                target[0] = sums[i][j][0];
                target[1] = sums[i][j][1];
                target[8 * kSlabStride] = sums[i][j][2];
                target[8 * kSlabStride + 1] = sums[i][j][3];
            }
            __syncwarp();
#pragma unroll 1
            for (int row = lane / kAcross; row < 16; row += kDown) {
                float values[kVector];
#pragma unroll
                for (int v = 0; v < kVector; ++v) values[v] = slab[row * kSlabStride + col + v];
                epilogue.apply(top + i * 16 + row, left + col, values);
            }
            __syncwarp();
        }
        epilogue.template finish<kDown>(warp / Shape::kWarpsAcross, left + col);
    }
};

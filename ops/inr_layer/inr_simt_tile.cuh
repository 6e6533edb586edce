// One tile of a product of float or double matrices, on the ordinary arithmetic units.
//
// The same interface as TensorTile. Operands lie in shared memory as [k][m] and [k][p], two buffers
// of each; every thread sums kDown x kAcross entries in registers, in groups of kVector columns
// kThreadsAcross * kVector apart, so that neighbouring threads read neighbouring banks.
#pragma once

#include "inr_operand.cuh"

template <int kRows_, int kCols_, int kVector_, int kBlocksPerSM_>
struct SimtShape {
    static constexpr int kRows = kRows_, kCols = kCols_, kDepth = 16, kVector = kVector_;
    static constexpr int kThreads = 256, kBlocksPerSM = kBlocksPerSM_;
    static constexpr int kThreadsDown = 16, kThreadsAcross = 16;
    static constexpr int kGroups = kThreadsDown;   // threads that share a column of D, when summing
};

typedef SimtShape<128, 128, 4, 1> SimtLarge;
typedef SimtShape<64, 64, 4, 2> SimtSmall;

template <typename T, typename Shape, bool kAlongA, bool kAlongB, bool kGradA, bool kGradB>
struct SimtTile {
    typedef accumulator_t<T> A;
    static constexpr int kVector = Shape::kVector;
    static constexpr int kDown = Shape::kRows / Shape::kThreadsDown;
    static constexpr int kAcross = Shape::kCols / Shape::kThreadsAcross;
    static constexpr int kPad = 16 / int(sizeof(T));
    static constexpr int kStrideA = Shape::kRows + kPad, kStrideB = Shape::kCols + kPad;
    static constexpr int kSizeA = Shape::kDepth * kStrideA, kSizeB = Shape::kDepth * kStrideB;
    static constexpr int kRowsA = kAlongA ? Shape::kRows : Shape::kDepth;
    static constexpr int kColsA = kAlongA ? Shape::kDepth : Shape::kRows;
    static constexpr int kRowsB = kAlongB ? Shape::kCols : Shape::kDepth;
    static constexpr int kColsB = kAlongB ? Shape::kDepth : Shape::kCols;
    typedef TileMover<T, kRowsA, kColsA, kStrideA, Shape::kThreads> MoverA;
    typedef TileMover<T, kRowsB, kColsB, kStrideB, Shape::kThreads> MoverB;

    static constexpr size_t shared_bytes() { return 2 * (kSizeA + kSizeB) * sizeof(T); }

    A sums[kDown][kAcross];
    T* buffers;
    TileRegisters<T, MoverA> registers_a;
    TileRegisters<T, MoverB> registers_b;
    RowSums<T, MoverA> row_sums;

    __device__ explicit SimtTile(unsigned char* shared) : buffers(reinterpret_cast<T*>(shared)) {
#pragma unroll
        for (int i = 0; i < kDown; ++i) {
#pragma unroll
            for (int j = 0; j < kAcross; ++j) sums[i][j] = 0;
        }
    }

    template <typename Product>
    __device__ __forceinline__ void run(const Product& product) {
        Walk<T, Shape::kDepth, Product> walk(product);
        const int steps = walk.steps();
        if (steps > 0) {
            read(walk);
            store(walk, product.gradient, 0);
            walk.advance();
        }
        __syncthreads();
        for (int step = 0; step < steps; ++step) {
            const bool more = step + 1 < steps;
            if (more) read(walk);
            multiply(step & 1);
            if (more) {
                store(walk, product.gradient, (step + 1) & 1);
                walk.advance();
            }
            __syncthreads();
        }
    }

    __device__ __forceinline__ T* slot_a(int slot) const { return buffers + slot * kSizeA; }
    __device__ __forceinline__ T* slot_b(int slot) const {
        return buffers + 2 * kSizeA + slot * kSizeB;
    }

    template <typename Steps>
    __device__ __forceinline__ void read(const Steps& walk) {
        registers_a.read(walk.a, kAlongA ? 0 : walk.position, kAlongA ? walk.position : 0);
        registers_b.read(walk.b, kAlongB ? 0 : walk.position, kAlongB ? walk.position : 0);
    }

    template <typename Steps>
    __device__ __forceinline__ void store(
        const Steps& walk, const ActivationGradient<T>& gradient, int slot
    ) {
        if constexpr (kGradA) registers_a.finish(walk.a, gradient);
        if constexpr (kGradA && kAlongA) registers_a.add_to(row_sums.sums);
        if constexpr (kGradB) registers_b.finish(walk.b, gradient);
        if constexpr (kAlongA) {
            registers_a.template store_transposed<kStrideA>(slot_a(slot));
        } else {
            registers_a.template store<kStrideA>(slot_a(slot));
        }
        if constexpr (kAlongB) {
            registers_b.template store_transposed<kStrideB>(slot_b(slot));
        } else {
            registers_b.template store<kStrideB>(slot_b(slot));
        }
    }

    static __device__ __forceinline__ int first_row() {
        return int(threadIdx.x) / Shape::kThreadsAcross * kDown;
    }
    static __device__ __forceinline__ int first_col(int group) {
        constexpr int kApart = Shape::kThreadsAcross * kVector;
        return int(threadIdx.x) % Shape::kThreadsAcross * kVector + group * kApart;
    }

    __device__ __forceinline__ void multiply(int slot) {
        const T* a = slot_a(slot) + first_row();
        const T* b = slot_b(slot);
#pragma unroll 4
        for (int k = 0; k < Shape::kDepth; ++k) {
            T left[kDown], right[kAcross];
#pragma unroll
            for (int i = 0; i < kDown; ++i) left[i] = a[k * kStrideA + i];
#pragma unroll
            for (int j = 0; j < kAcross; ++j) {
                right[j] = b[k * kStrideB + first_col(j / kVector) + j % kVector];
            }
#pragma unroll
            for (int i = 0; i < kDown; ++i) {
#pragma unroll
                for (int j = 0; j < kAcross; ++j) sums[i][j] += left[i] * right[j];
            }
        }
    }

    template <typename Epilogue>
    __device__ __forceinline__ void drain(Epilogue& epilogue) {
#pragma unroll
        for (int group = 0; group < kAcross / kVector; ++group) {
#pragma unroll
            for (int i = 0; i < kDown; ++i) {
                A values[kVector];
#pragma unroll
                for (int v = 0; v < kVector; ++v) values[v] = sums[i][group * kVector + v];
                epilogue.apply(first_row() + i, first_col(group), values);
            }
            epilogue.template finish<1>(
                int(threadIdx.x) / Shape::kThreadsAcross, first_col(group)
            );
        }
    }
};

// Gradients of fmm. V = weight * g(M), M = scale * a b; dW, dV, dM are the gradients of W, V, M.
//
//   dV = dW / (norm + eps) - V * <dW, V> / (norm (norm + eps)^2)      (demod; else dV = dW)
//   dM = dV * weight * g'(M)
//   grad_weight = sum over n of dV * g;   grad_a = scale * dM b^T;   grad_b = scale * a^T dM
//
// rows_backward     a warp owns 2 rows and goes through the images of its split: the two sums of
//                   each row (kept for the other kernel), grad_a, grad_weight (in shared memory)
// columns_backward  a lane owns a few columns of one image and goes through a chunk of rows:
//                   grad_b, no sum across lanes
// sum_partials      adds the shares of splits and chunks, in their order
//
// M, g and V are computed again where they are needed; no [N, O, I] is written.
#include <algorithm>

#include "fmm_device.cuh"

namespace fmm {

constexpr int kBackwardRows = 2;

// The factors of dV = dW * inverse - V * along.
template <typename Acc>
struct Norm {
    Acc inverse, along;
};

template <typename Acc>
__device__ __forceinline__ Norm<Acc> norm_factors(Acc square, Acc dot) {
    const Acc norm = sqrt(square), inverse = 1 / (norm + Acc(1e-8));
    return {inverse, norm > 0 ? dot * inverse * inverse / norm : Acc(0)};
}

// This split's grad_weight of a warp's rows.
template <typename In, typename Acc>
__device__ __forceinline__ void write_weight(const FmmParams& p, int64_t split, int64_t row,
                                             int64_t padded, const Acc* total) {
    constexpr int kColumns = 16 / sizeof(Acc);
    for (int64_t q = 0; q < kBackwardRows && row + q < p.o; ++q) {
        const int64_t to = (row + q) * p.i;
        for (int64_t at = threadIdx.x % kWarp * kColumns; at < p.i; at += kWarp * kColumns) {
            for (int64_t column = at; column < at + kColumns && column < p.i; ++column) {
                const Acc x = total[q * padded + column];
                if (p.splits > 1)
                    static_cast<Acc*>(p.partial_weight)[split * p.o * p.i + to + column] = x;
                else
                    static_cast<In*>(p.grad_weight)[to + column] = from_float<In>(x);
            }
        }
    }
}

template <typename In, typename Out, int kRank>
__global__ void rows_backward(FmmParams p, Aligned aligned) {
    using Acc = accumulator_t<In>;
    constexpr int kRows = kBackwardRows, kColumns = 16 / sizeof(Acc);
    __shared__ Acc shared_a[kWarps][kMaxRank * kRows];
    DYNAMIC_SHARED(unsigned char, memory);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int warps = blockDim.x / kWarp;
    const int64_t padded = (p.i + kWarp * kColumns - 1) / (kWarp * kColumns) * kWarp * kColumns;
    Acc* const total = reinterpret_cast<Acc*>(memory) + warp * kRows * padded;
    const int64_t row = (int64_t(blockIdx.x) * warps + warp) * kRows, split = blockIdx.y;
    const int64_t per_split = (p.n + p.splits - 1) / p.splits;
    const int64_t end = (split + 1) * per_split, last = end < p.n ? end : p.n;
    const In* const weight = static_cast<const In*>(p.weight);
    Acc* const a = shared_a[warp];

    // Each lane touches its own columns of `total` only.
    for (int64_t at = lane * kColumns; at < kRows * padded; at += kWarp * kColumns)
        for (int j = 0; j < kColumns; ++j) total[at + j] = 0;
    for (int64_t n = split * per_split; n < last; ++n) {
        stage_a<kRows, In>(p, n, row, a);
        const Out* const grad = static_cast<const Out*>(p.grad_out) + n * p.grad_image_stride;
        Acc square[kRows] = {}, dot[kRows] = {}, grad_a[kRows][kRank] = {};
        Norm<Acc> norm[kRows];
        for (int q = 0; q < kRows; ++q) norm[q] = {1, 0};
        for (int sweep = p.activation == FMM_DEMOD ? 0 : 1; sweep < 2; ++sweep) {
            for (int64_t begin = 0; begin < p.i; begin += kWarp * kColumns) {
                const int64_t column = begin + lane * kColumns;
                Acc g[kRows][kColumns];
                modulate<kRows, kColumns, In>(p, n, column, aligned.b, a, g);
#pragma unroll
                for (int q = 0; q < kRows; ++q) {
                    const int64_t valid = row + q < p.o ? p.i - column : 0;
                    Acc w[kColumns], dw[kColumns];
                    read(weight + (row + q) * p.weight_stride + column, valid, aligned.weight, w);
                    read(grad + (row + q) * p.grad_row_stride + column, valid, aligned.grad_out,
                         dw);
#pragma unroll
                    for (int j = 0; j < kColumns; ++j) {
                        const Acc v = w[j] * g[q][j];
                        if (sweep == 0) {
                            square[q] += v * v;
                            dot[q] += v * dw[j];
                        } else {
                            const Acc dv = dw[j] * norm[q].inverse - v * norm[q].along;
                            total[q * padded + column + j] += dv * g[q][j];
                            g[q][j] = dv * w[j] * slope(g[q][j], p.activation);
                        }
                    }
                }
                if (sweep == 0 || !p.grad_a) continue;
                const In* b = static_cast<const In*>(p.b) + n * p.b_image_stride + column;
#pragma unroll
                for (int k = 0; k < kRank; ++k) {
                    Acc right[kColumns];
                    read(b + k * p.b_row_stride, k < p.r ? p.i - column : 0, aligned.b, right);
#pragma unroll
                    for (int q = 0; q < kRows; ++q)
#pragma unroll
                        for (int j = 0; j < kColumns; ++j) grad_a[q][k] += g[q][j] * right[j];
                }
            }
            if (sweep == 1) break;
#pragma unroll
            for (int q = 0; q < kRows; ++q) {
                norm[q] = norm_factors(warp_sum(square[q]), warp_sum(dot[q]));
                if (lane == 0 && row + q < p.o) {
                    Acc* const to = static_cast<Acc*>(p.statistics) + (n * p.o + row + q) * 2;
                    to[0] = norm[q].inverse;
                    to[1] = norm[q].along;
                }
            }
        }
        if (p.grad_a) {
#pragma unroll
            for (int q = 0; q < kRows; ++q)
#pragma unroll
                for (int k = 0; k < kRank; ++k) {
                    const Acc sum = Acc(p.scale) * warp_sum(grad_a[q][k]);
                    if (lane == k && k < p.r && row + q < p.o)
                        static_cast<In*>(p.grad_a)[(n * p.o + row + q) * p.r + k] =
                            from_float<In>(sum);
                }
        }
        __syncwarp();  // the factors of this image have been used
    }
    if (p.grad_weight) write_weight<In>(p, split, row, padded, total);
}

// Warps of a block share the rows of a chunk; their shares are added in shared memory, in order.
template <typename In, typename Out, int kRank, int kColumns>
__global__ void __launch_bounds__(kWarps* kWarp) columns_backward(FmmParams p, Aligned aligned) {
    using Acc = accumulator_t<In>;
    DYNAMIC_SHARED(unsigned char, memory);
    Acc* const shared = reinterpret_cast<Acc*>(memory);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int64_t tiles = (p.i + kWarp * kColumns - 1) / (kWarp * kColumns);
    const int64_t n = blockIdx.x / tiles;
    const int64_t column = (blockIdx.x % tiles * kWarp + lane) * kColumns;
    const int64_t begin = blockIdx.y * p.chunk;
    const int64_t rows = p.chunk < p.o - begin ? p.chunk : p.o - begin;

    const In* const a = static_cast<const In*>(p.a) + n * p.a_image_stride;
    for (int at = threadIdx.x; at < rows * kRank; at += kWarps * kWarp) {
        const In* const from = a + (begin + at / kRank) * p.a_row_stride + at % kRank;
        shared[at] = at % kRank < p.r ? Acc(p.scale) * Acc(to_float(*from)) : Acc(0);
    }
    const In* const b = static_cast<const In*>(p.b) + n * p.b_image_stride + column;
    Acc right[kRank][kColumns], sum[kRank][kColumns] = {};
#pragma unroll
    for (int k = 0; k < kRank; ++k)
        read(b + k * p.b_row_stride, k < p.r ? p.i - column : 0, aligned.b, right[k]);
    __syncthreads();

    for (int64_t q = warp; q < rows; q += kWarps) {
        const int64_t row = begin + q;
        const Acc* const left = shared + q * kRank;
        Norm<Acc> norm = {1, 0};
        if (p.activation == FMM_DEMOD) {
            const Acc* const from = static_cast<const Acc*>(p.statistics) + (n * p.o + row) * 2;
            norm = {from[0], from[1]};
        }
        Acc w[kColumns], dw[kColumns], m[kColumns] = {};
        read(static_cast<const In*>(p.weight) + row * p.weight_stride + column, p.i - column,
             aligned.weight, w);
        read(static_cast<const Out*>(p.grad_out) + n * p.grad_image_stride +
                 row * p.grad_row_stride + column,
             p.i - column, aligned.grad_out, dw);
#pragma unroll
        for (int k = 0; k < kRank; ++k)
#pragma unroll
            for (int j = 0; j < kColumns; ++j) m[j] += left[k] * right[k][j];
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
            const Acc g = activate(m[j], p.activation);
            const Acc dv = dw[j] * norm.inverse - w[j] * g * norm.along;
            m[j] = dv * w[j] * slope(g, p.activation);
        }
#pragma unroll
        for (int k = 0; k < kRank; ++k)
#pragma unroll
            for (int j = 0; j < kColumns; ++j) sum[k][j] += left[k] * m[j];
    }

    Acc* const to = static_cast<Acc*>(p.partial_b) + (blockIdx.y * p.n + n) * p.r * p.i;
    for (int turn = 0; turn < kWarps; ++turn) {
        __syncthreads();  // factors, later the share of the turn before, have been used
        if (warp != turn) continue;
#pragma unroll
        for (int k = 0; k < kRank; ++k)
#pragma unroll
            for (int j = 0; j < kColumns; ++j) {
                Acc* const cell = shared + (k * kColumns + j) * kWarp + lane;
                if (turn > 0) sum[k][j] += *cell;
                if (turn + 1 < kWarps)
                    *cell = sum[k][j];
                else if (k < p.r && column + j < p.i)
                    to[k * p.i + column + j] = sum[k][j];
            }
    }
}

template <typename Acc, typename T>
__global__ void sum_partials(const Acc* partials, T* out, int64_t size, int64_t count) {
    const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= size) return;
    Acc sum = 0;
    for (int64_t k = 0; k < count; ++k) sum += partials[k * size + at];
    out[at] = from_float<T>(sum);
}

template <typename T>
const char* launch_sum(const FmmParams& p, void* partials, void* out, int64_t size,
                       int64_t count) {
    using Acc = accumulator_t<T>;
    const dim3 grid{unsigned(ceil_divide(size, 256))};
    return launch(sum_partials<Acc, T>, grid, dim3{256}, 0, p.stream,
                  static_cast<const Acc*>(partials), static_cast<T*>(out), size, count);
}

template <typename In, typename Out, int kRank>
const char* launch_rows(const FmmParams& p, Aligned aligned) {
    using Acc = accumulator_t<In>;
    const int64_t step = kWarp * 16 / sizeof(Acc);
    const int64_t bytes = kBackwardRows * ceil_divide(p.i, step) * step * sizeof(Acc);
    const int64_t limit = 44 * 1024;
    if (bytes > limit) return "fmm: too many columns for the CUDA backward kernel";
    const int64_t warps = std::min<int64_t>(limit / bytes, kWarps);
    const dim3 grid{unsigned(ceil_divide(p.o, warps * kBackwardRows)), unsigned(p.splits)};
    return launch(rows_backward<In, Out, kRank>, grid, dim3{unsigned(warps * kWarp)},
                  warps * bytes, p.stream, p, aligned);
}

template <typename In, typename Out, int kRank, int kColumns>
const char* backward_of_rank(const FmmParams& p) {
    using Acc = accumulator_t<In>;
    const Aligned aligned = find_aligned<In, Out>(p);
    const bool rows = p.activation == FMM_DEMOD || p.grad_a || p.grad_weight;
    if (rows)
        if (const char* error = launch_rows<In, Out, kRank>(p, aligned)) return error;
    if (p.grad_weight && p.splits > 1)
        if (const char* error =
                launch_sum<In>(p, p.partial_weight, p.grad_weight, p.o * p.i, p.splits))
            return error;
    if (!p.grad_b) return nullptr;
    const int64_t chunks = ceil_divide(p.o, p.chunk);
    const dim3 grid{unsigned(p.n * ceil_divide(p.i, kWarp * kColumns)), unsigned(chunks)};
    const int64_t cells = kRank * std::max<int64_t>(p.chunk, kColumns * kWarp);
    if (const char* error =
            launch(columns_backward<In, Out, kRank, kColumns>, grid, dim3{kWarps * kWarp},
                   cells * sizeof(Acc), p.stream, p, aligned))
        return error;
    return launch_sum<In>(p, p.partial_b, p.grad_b, p.n * p.r * p.i, chunks);
}

template <typename In, typename Out>
const char* backward(const FmmParams& p) {
    // 10 is the rank of the presets. Fewer columns where the factors would not fit in registers.
    constexpr int kDouble = sizeof(In) == 8 ? 2 : 1;
    return p.r <= 10 ? backward_of_rank<In, Out, 10, 4 / kDouble>(p)
                     : backward_of_rank<In, Out, 32, 2 / kDouble>(p);
}

}  // namespace fmm

const char* fmm_backward(const FmmParams* p) {
    using fmm::backward;
    if (p->r > fmm::kMaxRank) return "fmm: the CUDA kernels take ranks up to 32";
    if (p->dtype == INR_FLOAT64 && p->out_dtype == INR_FLOAT64)
        return backward<double, double>(*p);
    if (p->dtype == INR_FLOAT16 && p->out_dtype == INR_FLOAT16)
        return backward<half_t, half_t>(*p);
    if (p->dtype == INR_BFLOAT16 && p->out_dtype == INR_BFLOAT16)
        return backward<bfloat16_t, bfloat16_t>(*p);
    if (p->dtype == INR_FLOAT32) {
        if (p->out_dtype == INR_FLOAT32) return backward<float, float>(*p);
        if (p->out_dtype == INR_FLOAT16) return backward<float, half_t>(*p);
        if (p->out_dtype == INR_BFLOAT16) return backward<float, bfloat16_t>(*p);
    }
    return "fmm: this pair of dtypes is not compiled";
}

// W = weight * g(scale * a b), rows normalised for demod: every W is written once, nothing else is.
//
// rows_forward         any dtype; multiplies in float (double) on the ordinary cores, layout of
//                      fmm_device.cuh with 4 rows per warp.
// tensor_core_forward  half and bfloat16 results; the product comes from mma.m16n8k16.
//
// Both compute a row twice when it must be normalised: the product is cheap, registers are not.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "fmm_device.cuh"

namespace fmm {

constexpr int kForwardRows = 4;

template <typename In, typename Out>
__global__ void rows_forward(FmmParams p, Aligned aligned) {
    using Acc = accumulator_t<In>;
    constexpr int kColumns = 16 / sizeof(Out);
    __shared__ Acc shared[kWarps][kMaxRank * kForwardRows];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int64_t blocks = (p.o + kWarps * kForwardRows - 1) / (kWarps * kForwardRows);
    const int64_t n = blockIdx.x / blocks;
    const int64_t row = (blockIdx.x % blocks * kWarps + warp) * kForwardRows;
    stage_a<kForwardRows, In>(p, n, row, shared[warp]);
    const In* const weight = static_cast<const In*>(p.weight);
    Out* const out = static_cast<Out*>(p.out) + n * p.o * p.i;

    Acc factor[kForwardRows], square[kForwardRows] = {};
    for (int q = 0; q < kForwardRows; ++q) factor[q] = 1;
    for (int sweep = p.activation == FMM_DEMOD ? 0 : 1; sweep < 2; ++sweep) {
        for (int64_t begin = 0; begin < p.i; begin += kWarp * kColumns) {
            const int64_t column = begin + lane * kColumns;
            Acc g[kForwardRows][kColumns];
            modulate<kForwardRows, kColumns, In>(p, n, column, aligned.b, shared[warp], g);
#pragma unroll
            for (int q = 0; q < kForwardRows; ++q) {
                const int64_t valid = row + q < p.o ? p.i - column : 0;
                Acc w[kColumns];
                read(weight + (row + q) * p.weight_stride + column, valid, aligned.weight, w);
#pragma unroll
                for (int j = 0; j < kColumns; ++j) {
                    w[j] *= g[q][j];
                    square[q] += w[j] * w[j];
                    w[j] *= factor[q];
                }
                if (sweep == 1) write(out + (row + q) * p.i + column, valid, aligned.out, w);
            }
        }
        if (sweep == 0) {
#pragma unroll
            for (int q = 0; q < kForwardRows; ++q)
                factor[q] = 1 / (sqrt(warp_sum(square[q])) + Acc(1e-8));
        }
    }
}

// The tensor core kernel. A warp owns 16 rows; a span is 32 columns, four mma tiles of 8 whose
// columns are dealt so that the four lanes of a row hold 8 neighbouring ones each, 16 bytes of W:
//
//   tile j, column 2 t + e of the tile   <->   column 8 t + 2 j + e of the span     (e = 0, 1)
//
// lane = 4 s + t holds rows s and s + 8. Factors of half types multiply as they are; float ones as
// sums of two bfloat16 parts, x = x0 + x1 with an error of 2^-17 |x|: a b = a0 b0 + a0 b1 + a1 b0.
constexpr int kSpan = 32;
constexpr int kTileRows = 16;
constexpr int kSharedBytes = 32 * 1024;

template <typename In>
struct Parts {
    static constexpr int count = std::is_same<In, float>::value ? 2 : 1;
    using type = typename std::conditional<count == 2, bfloat16_t, In>::type;
};

// Part `part` of two values that are neighbours along the rank, as one register of a fragment.
template <typename In>
__device__ __forceinline__ uint32_t pack(float x, float y, int part) {
    using Part = typename Parts<In>::type;
    Part low = from_float<Part>(x), high = from_float<Part>(y);
    if (part == 1) {
        low = from_float<Part>(x - to_float(low));
        high = from_float<Part>(y - to_float(high));
    }
    uint16_t bits[2];
    memcpy(bits, &low, sizeof low);
    memcpy(bits + 1, &high, sizeof high);
    return bits[0] | uint32_t(bits[1]) << 16;
}

// Fragments of 16 rows of a[n]; rows and ranks beyond the last are zero.
template <typename In, int kSteps>
__device__ __forceinline__ void load_a(const FmmParams& p, int64_t n, int64_t row,
                                       uint32_t (&fragment)[kSteps][Parts<In>::count][4]) {
    const In* const a = static_cast<const In*>(p.a) + n * p.a_image_stride;
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
        for (int reg = 0; reg < 4; ++reg) {
            const int64_t q = row + lane / 4 + reg % 2 * 8;
            const int k = step * 16 + lane % 4 * 2 + reg / 2 * 8;
            const In* const from = a + q * p.a_row_stride + k;
            const float x = q < p.o && k < p.r ? float(to_float(from[0])) : 0.f;
            const float y = q < p.o && k + 1 < p.r ? float(to_float(from[1])) : 0.f;
#pragma unroll
            for (int part = 0; part < Parts<In>::count; ++part)
                fragment[step][part][reg] = pack<In>(x, y, part);
        }
}

// Fragments of `spans` spans of b[n] from column `first` on into shared memory,
// [span][step][part][tile][lane][2].
template <typename In, int kSteps>
__device__ __forceinline__ void stage_b(const FmmParams& p, int64_t n, int64_t first, int spans,
                                        uint32_t* shared) {
    constexpr int kParts = Parts<In>::count;
    const In* const b = static_cast<const In*>(p.b) + n * p.b_image_stride;
    for (int at = threadIdx.x; at < spans * kSteps * 8 * kSpan; at += blockDim.x) {
        // Neighbouring threads read neighbouring columns.
        const int within = at % kSpan, pair = at / kSpan % (kSteps * 8);
        const int span = at / (kSpan * kSteps * 8), k = 2 * pair;
        const int64_t column = first + span * kSpan + within;
        const In* const from = b + k * p.b_row_stride + column;
        const bool inside = column < p.i;
        const float x = inside && k < p.r ? float(to_float(from[0])) : 0.f;
        const float y = inside && k + 1 < p.r ? float(to_float(from[p.b_row_stride])) : 0.f;
        const int tile = within % 8 / 2, s = within / 8 * 2 + within % 2;
        const int step = pair / 8, reg = pair % 8 / 4, lane = 4 * s + pair % 4;
#pragma unroll
        for (int part = 0; part < kParts; ++part)
            shared[((((span * kSteps + step) * kParts + part) * 4 + tile) * kWarp + lane) * 2 +
                   reg] = pack<In>(x, y, part);
    }
}

// M / scale of rows s and s + 8 at 8 neighbouring columns.
template <typename In, int kSteps>
__device__ __forceinline__ void multiply(const uint32_t (&a)[kSteps][Parts<In>::count][4],
                                         const uint32_t* shared, float (&m)[2][8]) {
    using Part = typename Parts<In>::type;
    constexpr int kParts = Parts<In>::count;
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int tile = 0; tile < 4; ++tile) {
        float d[4] = {};
#pragma unroll
        for (int step = 0; step < kSteps; ++step)
#pragma unroll
            for (int part = kParts - 1; part >= 0; --part) {
                const uint32_t* const from =
                    shared + (((step * kParts + part) * 4 + tile) * kWarp + lane) * 2;
                const Vector<uint32_t, 2> pair = load_vector<uint32_t, 2>(from);
                const uint32_t b[2] = {pair.values[0], pair.values[1]};
                if (part == 0 && kParts == 2) mma_16x8x16<Part>(d, a[step][kParts - 1], b);
                mma_16x8x16<Part>(d, a[step][0], b);
            }
        m[0][2 * tile] = d[0];
        m[0][2 * tile + 1] = d[1];
        m[1][2 * tile] = d[2];
        m[1][2 * tile + 1] = d[3];
    }
}

template <typename In, typename Out, int kSteps>
__global__ void __launch_bounds__(kWarps* kWarp)
    tensor_core_forward(FmmParams p, Aligned aligned, int chunk) {
    DYNAMIC_SHARED(unsigned char, memory);
    uint32_t* const shared = reinterpret_cast<uint32_t*>(memory);
    constexpr int kSpanWords = kSteps * Parts<In>::count * 4 * kWarp * 2;
    const int lane = threadIdx.x % kWarp;
    const int64_t blocks = (p.o + kWarps * kTileRows - 1) / (kWarps * kTileRows);
    const int64_t n = blockIdx.x / blocks;
    const int64_t row = (blockIdx.x % blocks * kWarps + threadIdx.x / kWarp) * kTileRows;
    const int spans = int((p.i + kSpan - 1) / kSpan);
    uint32_t a[kSteps][Parts<In>::count][4];
    load_a<In, kSteps>(p, n, row, a);

    float factor[2] = {1, 1}, square[2] = {0, 0};
    const float scale = float(p.scale);
    const int first = p.activation == FMM_DEMOD ? 0 : 1;
    for (int sweep = first; sweep < 2; ++sweep) {
        for (int begin = 0; begin < spans; begin += chunk) {
            const int count = chunk < spans - begin ? chunk : spans - begin;
            if (sweep == first || spans > chunk) {
                __syncthreads();  // the fragments before these have been used
                stage_b<In, kSteps>(p, n, int64_t(begin) * kSpan, count, shared);
                __syncthreads();
            }
            for (int span = 0; span < count; ++span) {
                float m[2][8], v[8];
                multiply<In, kSteps>(a, shared + span * kSpanWords, m);
                const int64_t column = int64_t(begin + span) * kSpan + lane % 4 * 8;
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const int64_t q = row + lane / 4 + 8 * h, valid = q < p.o ? p.i - column : 0;
                    read(static_cast<const In*>(p.weight) + q * p.weight_stride + column, valid,
                         aligned.weight, v);
#pragma unroll
                    for (int j = 0; j < 8; ++j) {
                        v[j] *= activate(scale * m[h][j], p.activation);
                        square[h] += v[j] * v[j];
                        v[j] *= factor[h];
                    }
                    if (sweep == 1)
                        write(static_cast<Out*>(p.out) + (n * p.o + q) * p.i + column, valid,
                              aligned.out, v);
                }
            }
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            square[h] += __shfl_xor_sync(kAllLanes, square[h], 1);
            square[h] += __shfl_xor_sync(kAllLanes, square[h], 2);
            factor[h] = 1 / (sqrt(square[h]) + 1e-8f);
        }
    }
}

template <typename In, typename Out, int kSteps>
const char* launch_tensor_cores(const FmmParams& p) {
    const int span_bytes = kSteps * Parts<In>::count * 4 * kWarp * 8;
    const int64_t chunk = std::min<int64_t>(ceil_divide(p.i, kSpan), kSharedBytes / span_bytes);
    const dim3 grid{unsigned(p.n * ceil_divide(p.o, kWarps * kTileRows))};
    return launch(tensor_core_forward<In, Out, kSteps>, grid, dim3{kWarps * kWarp},
                  chunk * span_bytes, p.stream, p, find_aligned<In, Out>(p), int(chunk));
}

template <typename In, typename Out>
const char* forward(const FmmParams& p) {
    if constexpr (sizeof(Out) == 2) {
        if (p.tensor_cores || std::is_same<In, half_t>::value)
            return p.r <= 16 ? launch_tensor_cores<In, Out, 1>(p)
                             : launch_tensor_cores<In, Out, 2>(p);
    }
    const dim3 grid{unsigned(p.n * ceil_divide(p.o, kWarps * kForwardRows))};
    return launch(rows_forward<In, Out>, grid, dim3{kWarps * kWarp}, 0, p.stream, p,
                  find_aligned<In, Out>(p));
}

}  // namespace fmm

const char* fmm_forward(const FmmParams* p) {
    using fmm::forward;
    if (p->r > fmm::kMaxRank) return "fmm: the CUDA kernels take ranks up to 32";
    if (p->dtype == INR_FLOAT64 && p->out_dtype == INR_FLOAT64) return forward<double, double>(*p);
    if (p->dtype == INR_FLOAT16 && p->out_dtype == INR_FLOAT16) return forward<half_t, half_t>(*p);
    if (p->dtype == INR_BFLOAT16 && p->out_dtype == INR_BFLOAT16)
        return forward<bfloat16_t, bfloat16_t>(*p);
    if (p->dtype == INR_FLOAT32) {
        if (p->out_dtype == INR_FLOAT32) return forward<float, float>(*p);
        if (p->out_dtype == INR_FLOAT16) return forward<float, half_t>(*p);
        if (p->out_dtype == INR_BFLOAT16) return forward<float, bfloat16_t>(*p);
    }
    return "fmm: this pair of dtypes is not compiled";
}

// FIR resampling of images: a tiled kernel for up to 4 x 4 taps at factors 1 and 2, and one for the
// rest.
//
// Coordinates along one axis, the other is alike:
//   output pixel     o                          0 .. out - 1
//   first tap reads  j = o * down - pad         position in the zero-inserted image
//   tap t reads      j + t = i * up             input pixel i, where up divides j + t
// so the taps that meet a pixel are t = first, first + up, ... with first = -j mod up.
#include "../_native/device.h"
#include "upfirdn2d.h"

namespace {

constexpr int MAX_TAPS = 24;
constexpr int THREADS = 256;
constexpr int TAPS = 4;    // of the tiled kernel, in either axis; shorter filters end with zeros
constexpr int TILE_W = 32;  // output pixels of a tile; a warp writes one row of it
constexpr int TILE_H = 32;
constexpr int ROWS = THREADS / TILE_W;

__host__ __device__ __forceinline__ int floor_div(int a, int b) {
    int q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

// Tap t along one axis: f is stored in the order of a convolution.
__device__ __forceinline__ int stored(int t, int taps, bool flip) { return flip ? t : taps - 1 - t; }

// Any filter, any factors. Threads follow the result's memory: along x, or along c if that is the
// fastest dimension (channels_last).
template <typename T>
__global__ void dense_kernel(Upfirdn2dParams p, bool channels_last) {
    using A = accumulator_t<T>;
    __shared__ A taps[MAX_TAPS * MAX_TAPS];
    const float* f = static_cast<const float*>(p.f);
    int fw = int(p.fw), fh = int(p.fh);
    for (int i = threadIdx.x; i < fw * fh; i += THREADS) {
        int row = stored(i / fw, fh, p.flip), column = stored(i % fw, fw, p.flip);
        taps[i] = A(f[row * fw + column]) * A(p.gain);
    }
    __syncthreads();

    const T* x = static_cast<const T*>(p.x);
    T* y = static_cast<T*>(p.y);
    int64_t size = p.n * p.c * p.out_h * p.out_w, stride = int64_t(gridDim.x) * THREADS;
    for (int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x; i < size; i += stride) {
        int64_t rest = i, n, c;
        int ox, oy;
        if (channels_last) {
            c = rest % p.c, rest /= p.c;
            ox = int(rest % p.out_w), rest /= p.out_w;
            oy = int(rest % p.out_h), n = rest / p.out_h;
        } else {
            ox = int(rest % p.out_w), rest /= p.out_w;
            oy = int(rest % p.out_h), rest /= p.out_h;
            c = rest % p.c, n = rest / p.c;
        }
        int up_x = int(p.up_x), up_y = int(p.up_y);
        int jx = ox * int(p.down_x) - int(p.pad_x), jy = oy * int(p.down_y) - int(p.pad_y);
        // The input pixel of the first tap that meets one, and that tap.
        int ix = -floor_div(-jx, up_x), iy = -floor_div(-jy, up_y);
        int first_x = ix * up_x - jx, first_y = iy * up_y - jy;
        const T* plane = x + n * p.x_stride_n + c * p.x_stride_c;
        A sum = 0;
        for (int ty = first_y, at_y = iy; ty < fh; ty += up_y, at_y++) {
            if (at_y < 0 || at_y >= p.in_h) continue;
            const T* row = plane + at_y * p.x_stride_h;
            for (int tx = first_x, at_x = ix; tx < fw; tx += up_x, at_x++) {
                if (at_x >= 0 && at_x < p.in_w)
                    sum += taps[ty * fw + tx] * A(to_float(row[at_x * p.x_stride_w]));
            }
        }
        y[n * p.y_stride_n + c * p.y_stride_c + oy * p.y_stride_h + ox * p.y_stride_w] =
            from_float<T>(sum);
    }
}

// At most 4 x 4 taps; (UP, DOWN) = (1, 1), (2, 1) or (1, 2) along both axes; contiguous planes.
// A block copies the input of TILE_W x TILE_H result pixels into shared memory, then every thread
// computes TILE_H / ROWS of them below each other.
template <typename T, int UP, int DOWN>
__global__ void tiled_kernel(Upfirdn2dParams p, int tiles_x, int tiles_y) {
    using A = accumulator_t<T>;
    constexpr int REACH = TAPS - 1;
    constexpr int IN_W = ((TILE_W - 1) * DOWN + REACH) / UP + 1 + (UP > 1);
    constexpr int IN_H = ((TILE_H - 1) * DOWN + REACH) / UP + 1 + (UP > 1);
    __shared__ A input[IN_H][IN_W + 1];
    __shared__ A taps[TAPS][TAPS];

    const float* f = static_cast<const float*>(p.f);
    int fw = int(p.fw), fh = int(p.fh);
    if (threadIdx.x < TAPS * TAPS) {
        int ty = threadIdx.x / TAPS, tx = threadIdx.x % TAPS;
        A tap = 0;
        if (ty < fh && tx < fw) tap = A(f[stored(ty, fh, p.flip) * fw + stored(tx, fw, p.flip)]);
        taps[ty][tx] = tap * A(p.gain);
    }

    int64_t planes = p.n * p.c, tile_count = planes * tiles_x * tiles_y;
    for (int64_t tile = blockIdx.x; tile < tile_count; tile += gridDim.x) {
        int64_t plane = tile / (tiles_x * tiles_y);
        int within = int(tile - plane * (tiles_x * tiles_y));
        int tile_x = within % tiles_x * TILE_W, tile_y = within / tiles_x * TILE_H;
        int64_t n = plane / p.c, c = plane - n * p.c;
        const T* x = static_cast<const T*>(p.x) + n * p.x_stride_n + c * p.x_stride_c;
        T* y = static_cast<T*>(p.y) + n * p.y_stride_n + c * p.y_stride_c;
        // First input pixel that any tap of the tile may meet.
        int left = -floor_div(-(tile_x * DOWN - int(p.pad_x)), UP);
        int top = -floor_div(-(tile_y * DOWN - int(p.pad_y)), UP);

        __syncthreads();  // the tile before has been read, the taps are written
        for (int i = threadIdx.x; i < IN_H * IN_W; i += THREADS) {
            int row = i / IN_W, column = i % IN_W;
            int iy = top + row, ix = left + column;
            bool inside = iy >= 0 && iy < p.in_h && ix >= 0 && ix < p.in_w;
            input[row][column] = inside ? A(to_float(x[iy * p.x_stride_h + ix])) : A(0);
        }
        __syncthreads();

        int ox = tile_x + threadIdx.x % TILE_W;
        if (ox >= p.out_w) continue;
        int jx = ox * DOWN - int(p.pad_x);
        int ix = -floor_div(-jx, UP), first_x = ix * UP - jx;
        for (int k = 0; k < TILE_H / ROWS; k++) {
            int oy = tile_y + threadIdx.x / TILE_W + k * ROWS;
            if (oy >= p.out_h) break;
            int jy = oy * DOWN - int(p.pad_y);
            int iy = -floor_div(-jy, UP), first_y = iy * UP - jy;
            A sum = 0;
#pragma unroll
            for (int a = 0; a < TAPS / UP; a++) {
#pragma unroll
                for (int b = 0; b < TAPS / UP; b++)
                    sum += taps[first_y + a * UP][first_x + b * UP] *
                           input[iy - top + a][ix - left + b];
            }
            y[oy * p.y_stride_h + ox] = from_float<T>(sum);
        }
    }
}

template <typename T, int UP, int DOWN>
const char* run_tiled(const Upfirdn2dParams& p) {
    int tiles_x = int((p.out_w + TILE_W - 1) / TILE_W);
    int tiles_y = int((p.out_h + TILE_H - 1) / TILE_H);
    int64_t tiles = p.n * p.c * tiles_x * tiles_y;
    dim3 grid(unsigned(tiles < 1 << 20 ? tiles : 1 << 20));
    return launch(tiled_kernel<T, UP, DOWN>, grid, dim3(THREADS), 0, p.stream, p, tiles_x, tiles_y);
}

template <typename T>
const char* run(const Upfirdn2dParams& p) {
    int64_t size = p.n * p.c * p.out_h * p.out_w;
    if (size == 0) return nullptr;
    bool rows = p.x_stride_w == 1 && p.y_stride_w == 1 && p.out_w >= 8;
    bool square = p.up_x == p.up_y && p.down_x == p.down_y;
    if (rows && square && p.fw <= TAPS && p.fh <= TAPS && p.fw * p.fh > 1) {
        if (p.up_x == 1 && p.down_x == 1) return run_tiled<T, 1, 1>(p);
        if (p.up_x == 2 && p.down_x == 1) return run_tiled<T, 2, 1>(p);
        if (p.up_x == 1 && p.down_x == 2) return run_tiled<T, 1, 2>(p);
    }
    int64_t blocks = (size + THREADS - 1) / THREADS;
    dim3 grid(unsigned(blocks < 1 << 20 ? blocks : 1 << 20));
    bool channels_last = p.y_stride_c == 1 && p.c > 1;
    return launch(dense_kernel<T>, grid, dim3(THREADS), 0, p.stream, p, channels_last);
}

}  // namespace

INR_EXPORT const char* upfirdn2d_dense(const Upfirdn2dParams* p) {
    if (p->fw < 1 || p->fh < 1 || p->fw > MAX_TAPS || p->fh > MAX_TAPS)
        return "upfirdn2d: the filter needs 1 to 24 taps along each axis";
    if (p->up_x < 1 || p->up_y < 1 || p->down_x < 1 || p->down_y < 1)
        return "upfirdn2d: factors must be positive";
    switch (p->dtype) {
        case INR_FLOAT32: return run<float>(*p);
        case INR_FLOAT64: return run<double>(*p);
        case INR_FLOAT16: return run<half_t>(*p);
        case INR_BFLOAT16: return run<bfloat16_t>(*p);
    }
    return "upfirdn2d: unsupported dtype";
}

// Zero-insertion, FIR filter, decimation: one linear map, whose transpose is of the same kind.
#pragma once
#include "../_native/abi.h"

// With u[i * up] = x[i], else 0, and k = f reversed along both axes (or f itself, if flip):
//     y[oy, ox] = gain * sum_ty,tx k[ty, tx] * u[oy * down_y + ty - pad_y, ox * down_x + tx - pad_x]
// Whatever lies beyond the input is zero.
struct Upfirdn2dParams {
    const void* x;     // [n, c, in_h, in_w], any strides
    const void* f;     // [fh, fw] float64 on the CPU, float32 on CUDA; contiguous
    void* y;           // [n, c, out_h, out_w], any strides
    void* stream;      // CUDA stream
    int64_t dtype;     // of x and y
    int64_t n;         // images
    int64_t c;         // channels
    int64_t in_h;      // pixels
    int64_t in_w;      // pixels
    int64_t out_h;     // pixels
    int64_t out_w;     // pixels
    int64_t x_stride_n;  // elements
    int64_t x_stride_c;  // elements
    int64_t x_stride_h;  // elements
    int64_t x_stride_w;  // elements
    int64_t y_stride_n;  // elements
    int64_t y_stride_c;  // elements
    int64_t y_stride_h;  // elements
    int64_t y_stride_w;  // elements
    int64_t fh;        // taps
    int64_t fw;        // taps
    int64_t up_x;      // factor
    int64_t up_y;      // factor
    int64_t down_x;    // factor
    int64_t down_y;    // factor
    int64_t pad_x;     // zeros before the up-sampled image; negative crops
    int64_t pad_y;     // the same along y
    int64_t flip;      // 1 = correlation with f, 0 = convolution
    double gain;       // factor of the result
};

// A filter with any taps, up to 24 x 24.
INR_EXPORT const char* upfirdn2d_dense(const Upfirdn2dParams* p);

// A separable one: f holds the fh vertical taps, then the fw horizontal ones. Dense planes
// (strides of h and w as in [h, w]) only. CPU.
INR_EXPORT const char* upfirdn2d_separable(const Upfirdn2dParams* p);

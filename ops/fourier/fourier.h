// Sine and cosine features of a product grid of points, forward and backward.
// Tensors are dense in the order written; "acc" is float64 if dtype is, else float32.
#pragma once

#include "../_native/abi.h"

// angle = row[0] u[x] + row[1] v[y] + phase. Forward: out = [sin; cos]. Backward: with g the
// gradient of the angle, its sums over y (cols) and over x (rows).
struct FourierParams {
    const void* u;               // [width]
    const void* v;               // [height]
    const void* rows;            // [N, k, 2], radians per unit of u and v
    const void* phase;           // [N, k], radians; or null
    void* out;                   // forward: [N, 2 k, height, width], the sines, then the cosines
    const void* grad;            // backward: [N, 2 k, height, width]
    void* col_sums;              // backward: acc [N, k, width]
    void* row_sums;              // backward: acc [N, k, height]
    void* grad_rows;             // row gradients: [N, k, 2], or null
    void* grad_phase;            // row gradients: [N, k], or null
    int64_t n;                   // images N
    int64_t num_rows;            // k
    int64_t height;              // points of v
    int64_t width;               // points of u
    int64_t dtype;               // dtype code
    int64_t threads;             // threads to use, at least 1 (CPU)
    void* stream;                // CUDA stream
};

INR_EXPORT const char* fourier_forward(const FourierParams* p);
INR_EXPORT const char* fourier_backward(const FourierParams* p);

// Gradients of rows and phase at once (CPU).
INR_EXPORT const char* fourier_row_gradients(const FourierParams* p);

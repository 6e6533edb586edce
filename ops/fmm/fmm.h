#pragma once
#include "../_native/abi.h"

// Factorised multiplicative modulation. For each image n, with M = scale * a[n] b[n]:
//   V = weight * g(M);  W[n] = V, or V / (|row of V| + 1e-8) for FMM_DEMOD.
// See README.md for the gradients. Strides are in elements. The last axis of weight, a, b and
// grad_out is contiguous; what Python allocates (out, gradients, scratch) is contiguous.

// The numbers of the activations: the order of FMM_ACTIVATIONS in reference.py.
enum FmmActivation : int64_t {
    FMM_DEMOD = 0,         // g = 1 + m, rows normalised
    FMM_TANH = 1,          // g = 1 + tanh(m)
    FMM_HALF_SIGMOID = 2,  // g = 1/2 + sigmoid(m)
    FMM_NONE = 3,          // g = 1 + m
    FMM_SIGMOID = 4,       // g = 2 sigmoid(m)
    FMM_IDENTITY = 5,      // g = m
};

struct FmmParams {
    const void* weight;       // [O, I], dtype
    const void* a;            // [N, O, r], dtype
    const void* b;            // [N, r, I], dtype
    void* out;                // [N, O, I], out_dtype; forward only
    const void* grad_out;     // [N, O, I], out_dtype; backward only, as all below
    void* grad_weight;        // [O, I], dtype; null = not wanted
    void* grad_a;             // [N, O, r], dtype; null = not wanted
    void* grad_b;             // [N, r, I], dtype; null = not wanted
    void* partial_b;          // [ceil(O / chunk), N, r, I], float (double for double): scratch
    void* partial_weight;     // [splits, O, I], the same: scratch; null if splits = 1
    void* statistics;         // [N, O, 2], the same: scratch of the CUDA kernels
    void* stream;             // CUDA stream; null on the CPU
    int64_t dtype;            // of weight, a, b and their gradients
    int64_t out_dtype;        // of out and grad_out
    int64_t n;                // images
    int64_t o;                // rows of the weight
    int64_t i;                // columns of the weight
    int64_t r;                // rank
    int64_t activation;       // an FmmActivation
    int64_t weight_stride;    // between rows of weight
    int64_t a_image_stride;   // between images of a
    int64_t a_row_stride;     // between rows of a
    int64_t b_image_stride;   // between images of b
    int64_t b_row_stride;     // between rows of b
    int64_t grad_image_stride;    // between images of grad_out
    int64_t grad_row_stride;      // between rows of grad_out
    int64_t grad_a_image_stride;  // between images of grad_a; CPU only
    int64_t grad_b_image_stride;  // between images of grad_b; CPU only
    int64_t chunk;            // rows whose share of grad_b is summed in one go
    int64_t splits;           // parts of the batch whose grad_weight is summed in one go, 1 to n
    int64_t tensor_cores;     // 1 = the device multiplies bfloat16 matrices; CUDA only
    int64_t threads;          // CPU only
    double scale;             // 1 / sqrt(r) or 1
};

INR_EXPORT const char* fmm_forward(const FmmParams* p);
INR_EXPORT const char* fmm_backward(const FmmParams* p);

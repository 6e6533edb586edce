// y = clamp(gain * act(x + b), -clamp, clamp) and its derivatives, one pass each.
#pragma once
#include "../_native/abi.h"

// Tensors are dense, all in the same memory order. Element i has bias number (i / step) % channels.
// With p = x + b and inside = |gain * act(p)| < clamp:
//   forward      out = clamp(gain * act(p))
//   gradient     out = dy * gain * act'(p) * inside
//   curvature    out = ddx * dy * gain * act''(p) * inside
struct BiasActParams {
    const void* x;      // [size], input; or the result of the forward pass, if from_result
    const void* b;      // [channels], dtype of x; null = no bias
    const void* dy;     // [size], gradient of the result (gradient, curvature)
    const void* ddx;    // [size], factor of the curvature
    void* out;          // [size]
    void* db;           // [channels], sum of out over each bias number (CPU); null = not wanted
    void* stream;       // CUDA stream
    int64_t dtype;      // of every tensor
    int64_t size;       // elements
    int64_t channels;   // length of b; 1 without
    int64_t step;       // elements between successive bias numbers
    int64_t act;        // cuda_idx in activation_funcs: 1 linear, ..., 9 swish
    int64_t from_result;  // 1 = x holds the result; linear, relu, lrelu with gain > 0, alpha >= 0
    double alpha;       // shape parameter (slope of lrelu)
    double gain;        // factor after the activation
    double clamp;       // largest absolute value of the result; negative = no limit
};

INR_EXPORT const char* bias_act_forward(const BiasActParams* p);
INR_EXPORT const char* bias_act_gradient(const BiasActParams* p);
INR_EXPORT const char* bias_act_curvature(const BiasActParams* p);

// A convolutional layer: filter, convolution, bias, activation; and its gradients.
#pragma once
#include "../_native/abi.h"

// How products are made; kernels.py has the same numbers.
enum ConvLayerAlgorithm : int64_t {
    CONV_LAYER_BY_SIZE = 0,
    CONV_LAYER_DIRECT = 1,
    CONV_LAYER_WINOGRAD = 2,  // 3 x 3 kernels, stride 1, no filter
};

// z = conv(mid, weight_gain * weight, stride) + bias,  y = clamp(gain * act(z)),
// act(z) = z for z > 0, else slope * z. `mid` is x with zeros around it, filtered if there are taps:
// mid[i] = sum_t taps[last - t] * x[i * fir_step + t - pad] along each axis. Everything contiguous.
struct ConvLayerParams {
    const void* x;        // [n, ci, h, w] float32, as all tensors but the taps
    const void* weight;   // [co, ci, kernel, kernel]
    const void* bias;     // [co]; null = none
    const void* taps;     // [fir_h + fir_w] float64, vertical ones first; null = no filter
    void* y;              // [n, co, out_h, out_w]; forward
    const void* result;   // [n, co, out_h, out_w], y of the forward pass; backward
    const void* grad_y;   // [n, co, out_h, out_w]; backward
    void* grad_x;         // [n, ci, h, w]; null = not wanted
    void* grad_weight;    // [co, ci, kernel, kernel]; null = not wanted
    void* grad_bias;      // [co]; null = not wanted
    int64_t n;            // images
    int64_t ci;           // channels of x
    int64_t h;            // pixels of x
    int64_t w;            // pixels of x
    int64_t co;           // channels of y
    int64_t out_h;        // (mid_h - kernel) / stride + 1
    int64_t out_w;        // (mid_w - kernel) / stride + 1
    int64_t mid_h;        // pixels that the convolution reads
    int64_t mid_w;        // pixels that the convolution reads
    int64_t pad_y;        // zeros above x, at least 0
    int64_t pad_x;        // zeros left of x, at least 0
    int64_t fir_h;        // vertical taps; 0 = no filter
    int64_t fir_w;        // horizontal taps; 0 = no filter
    int64_t fir_step;     // distance between the filtered pixels that are kept
    int64_t kernel;       // height and width of the kernel
    int64_t stride;       // of the convolution
    int64_t algorithm;    // one of ConvLayerAlgorithm
    int64_t threads;      // at most so many
    double weight_gain;   // factor of the weight
    double slope;         // of the activation below 0; 1 = linear
    double gain;          // factor after the activation, positive
    double clamp;         // largest absolute value of y; negative = no limit
};

INR_EXPORT const char* conv_layer_forward(const ConvLayerParams* p);
INR_EXPORT const char* conv_layer_backward(const ConvLayerParams* p);

#pragma once
#include "../_native/abi.h"

// The weights of a block of 1x1 layers from w, on CPUs: what fmm.h composes, and to-RGB.
//   styles = affine_gain * w A^T + a bias, of layer k the factors a [O, r] and b [r, I]
//   W_k as fmm_forward;  to-RGB [C, O_K] = rgb_gain * rgb * its styles [O_K]
// A further affine map of the first w may go with them.
// All tensors are contiguous but ws; all float32 or all float64. Gradients that are null are not
// computed.
struct InrWeightsParams {
    const void* ws;             // [N, K + 1, D], the last one of to-RGB; D a multiple of 32
    const void* weight0;        // [O_1, I_1]
    const void* weight1;
    const void* weight2;
    const void* weight3;
    const void* affine0;        // [(O_1 + I_1) r, D]
    const void* affine1;
    const void* affine2;
    const void* affine3;
    const void* affine_bias0;   // [(O_1 + I_1) r]
    const void* affine_bias1;
    const void* affine_bias2;
    const void* affine_bias3;
    const void* rgb;            // [C, O_K]
    const void* rgb_affine;     // [O_K, D]
    const void* rgb_affine_bias;  // [O_K]
    const void* predict;        // [R, D]; null = none
    const void* predict_bias;   // [R]
    void* styles;               // [N, S]: of layers 1 to K, of to-RGB, predicted; forward out,
                                // backward in
    void* out0;                 // forward: [N, O_1, I_1]
    void* out1;
    void* out2;
    void* out3;
    void* out_rgb;              // forward: [N, C, O_K]
    void* out_predict;          // forward: [N, R]
    const void* grad_out0;      // backward, as out0; so are all below
    const void* grad_out1;
    const void* grad_out2;
    const void* grad_out3;
    const void* grad_out_rgb;
    const void* grad_out_predict;
    void* grad_styles;          // scratch, as styles
    void* grad_ws;              // [N, K + 1, D], contiguous
    void* grad_weight0;
    void* grad_weight1;
    void* grad_weight2;
    void* grad_weight3;
    void* grad_affine0;
    void* grad_affine1;
    void* grad_affine2;
    void* grad_affine3;
    void* grad_affine_bias0;
    void* grad_affine_bias1;
    void* grad_affine_bias2;
    void* grad_affine_bias3;
    void* grad_rgb;
    void* grad_rgb_affine;
    void* grad_rgb_affine_bias;
    void* grad_predict;
    void* grad_predict_bias;
    int64_t o0;                 // O_1
    int64_t o1;
    int64_t o2;
    int64_t o3;
    int64_t i0;                 // I_1
    int64_t i1;
    int64_t i2;
    int64_t i3;
    int64_t layers;             // K, 1 to 4
    int64_t dtype;              // INR_FLOAT32 or INR_FLOAT64
    int64_t n;                  // N
    int64_t d;                  // D
    int64_t r;                  // rank
    int64_t colours;            // C
    int64_t predicted;          // R
    int64_t activation;         // an FmmActivation
    int64_t ws_image_stride;    // elements between images of ws
    int64_t ws_layer_stride;    // elements between layers of ws
    int64_t threads;
    double affine_gain;         // 1 / sqrt(D)
    double scale;               // as FmmParams
    double rgb_gain;            // 1 / sqrt(O_K)
};

INR_EXPORT const char* inr_weights_forward(const InrWeightsParams* p);
INR_EXPORT const char* inr_weights_backward(const InrWeightsParams* p);

#pragma once
#include "../_native/abi.h"

// A chain of layers as in inr_tiles.h with what its gradient needs, on CPUs: the forward also keeps
// all activations, the backward reads them and takes all gradients of first order in one call.
// One image after the other per thread. Tensors are contiguous, all float32 or all float64.
// Gradients that are null are not computed.
struct InrChainParams {
    const void* x;              // [N, I, h, w] below (taps > 0) or [N, I, H, W]; null = no features
    const void* cols;           // [E1, W] coordinate features by column; null = none
    const void* rows;           // [E2, H] coordinate features by row; null = none
    const void* shared;         // [E, H, W] coordinate features of the whole batch; null = none
    const void* own;            // [N, F, H, W] coordinate features per image; null = none
    const void* weight0;        // [N, O_1, I + E1 + E2 + E + F], columns in this order
    const void* weight1;        // [N, O_2, O_1]
    const void* weight2;        // [N, O_3, O_2]
    const void* weight3;        // [N, O_4, O_3]
    const void* bias0;          // [O_1] or [N, O_1]
    const void* bias1;          // [O_2] or [N, O_2]
    const void* bias2;          // [O_3] or [N, O_3]
    const void* bias3;          // [O_4] or [N, O_4]
    const void* rgb;            // [N, C, O_K]
    const void* rgb_bias;       // [C]
    const void* img;            // [N, C, h, w] below or [N, C, H, W]; null = none
    const void* row_index;      // int64 [H, T]: rows of the lattice below; null without taps
    const void* col_index;      // int64 [W, T]: columns of the lattice below; null without taps
    const void* row_weight;     // [H, T]; read if T = 2
    const void* col_weight;     // [W, T]; read if T = 2
    void* saved;                // [N, saved_size]: written forward, read backward
    void* features;             // forward: [N, O_K, H, W]; null = not wanted
    void* image;                // forward: [N, C, H, W]
    const void* grad_features;  // backward: [N, O_K, H, W]; null = 0
    const void* grad_image;     // backward: [N, C, H, W]; null = 0
    void* grad_x;               // backward, as x
    void* grad_own;             // backward, as own
    void* grad_img;             // backward, as img
    void* grad_weight0;         // backward, as weight0
    void* grad_weight1;         // backward, as weight1
    void* grad_weight2;         // backward, as weight2
    void* grad_weight3;         // backward, as weight3
    void* grad_rgb;             // backward, as rgb
    void* grad_bias0;           // backward, as bias0
    void* grad_bias1;           // backward, as bias1
    void* grad_bias2;           // backward, as bias2
    void* grad_bias3;           // backward, as bias3
    void* grad_rgb_bias;        // backward, as rgb_bias
    int64_t bias_stride0;       // elements from one image's bias to the next one's: 0 or O_1
    int64_t bias_stride1;       // 0 or O_2
    int64_t bias_stride2;       // 0 or O_3
    int64_t bias_stride3;       // 0 or O_4
    int64_t out0;               // O_1
    int64_t out1;               // O_2
    int64_t out2;               // O_3
    int64_t out3;               // O_4
    int64_t layers;             // K, 1 to 4
    int64_t dtype;              // INR_FLOAT32 or INR_FLOAT64
    int64_t batch;              // N
    int64_t in_channels;        // I
    int64_t col_channels;       // E1
    int64_t row_channels;       // E2
    int64_t shared_channels;    // E
    int64_t own_channels;       // F
    int64_t colours;            // C
    int64_t height;             // H
    int64_t width;              // W
    int64_t low_height;         // h
    int64_t low_width;          // w
    int64_t taps;               // T: 0 = x and img are on the output grid, 1 = nearest, 2 = bilinear
    int64_t saved_size;         // elements that inr_chain_saved_size asks for
    int64_t threads;            // threads to use, at least 1
    int64_t tile_bytes;         // size of a tile's buffers; 0 = the built-in one
    void* size_out;             // inr_chain_saved_size: int64, the answer
    double slope;               // of the activation below 0
    double gain;                // factor after the activation, > 0
    double clamp;               // limit of |x_k| and of |V x_K + c|; negative = none
};

INR_EXPORT const char* inr_chain_saved_size(const InrChainParams* p);
INR_EXPORT const char* inr_chain_forward(const InrChainParams* p);
INR_EXPORT const char* inr_chain_backward(const InrChainParams* p);

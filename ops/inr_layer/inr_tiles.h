#pragma once
#include "../_native/abi.h"

// One to four 1x1 layers of a continuous image, one after the other on tiles of pixels that stay in
// the cache, and to-RGB, on CPUs:
//   x_1 = act(W_1 [up(x); e] + b_1), x_k = act(W_k x_{k-1} + b_k),
//   image = clamp(V x_K + c) + up(img)
// with act(v) = clamp(leaky(v) gain), leaky(v) = v for v > 0 and slope v else.
// All tensors are contiguous. "dtype" is that of weights, biases, x, features and coordinate
// features; sums are float32, or float64 for float64, which is also the type of all other tensors.
struct InrTilesParams {
    const void* x;            // [N, I, h, w] below (taps > 0) or [N, I, H, W]; null = no features
    const void* shared;       // [E, H, W] coordinate features of the whole batch; null = none
    const void* own;          // [N, F, H, W] coordinate features per image; null = none
    const void* cols;         // [E1, W] coordinate features by column; null = none
    const void* rows;         // [E2, H] coordinate features by row; null = none
    const void* weight0;      // [N, O_1, I + E1 + E2 + E + F], columns in this order
    const void* weight1;      // [N, O_2, O_1]
    const void* weight2;      // [N, O_3, O_2]
    const void* weight3;      // [N, O_4, O_3]
    const void* bias0;        // [O_1] or [N, O_1]; null = 0
    const void* bias1;        // [O_2] or [N, O_2]; null = 0
    const void* bias2;        // [O_3] or [N, O_3]; null = 0
    const void* bias3;        // [O_4] or [N, O_4]; null = 0
    const void* rgb;          // [N, C, O_K]; null = no image
    const void* rgb_bias;     // [C], type of the sums
    const void* img;          // [N, C, h, w] below or [N, C, H, W], type of the sums; null = none
    const void* row_index;    // int64 [H, T]: rows of the lattice below; null without taps
    const void* col_index;    // int64 [W, T]: columns of the lattice below; null without taps
    const void* row_weight;   // [H, T], type of the sums; read if T = 2
    const void* col_weight;   // [W, T], type of the sums; read if T = 2
    void* features;           // [N, O_K, H, W]; null = not wanted
    void* image;              // [N, C, H, W], type of the sums; null = not wanted
    int64_t bias_stride0;     // elements from one image's bias to the next one's: 0 or O_1
    int64_t bias_stride1;     // 0 or O_2
    int64_t bias_stride2;     // 0 or O_3
    int64_t bias_stride3;     // 0 or O_4
    int64_t out0;             // O_1
    int64_t out1;             // O_2
    int64_t out2;             // O_3
    int64_t out3;             // O_4
    int64_t layers;           // K, 1 to 4
    int64_t dtype;            // INR_FLOAT32, INR_FLOAT64 or INR_BFLOAT16
    int64_t batch;            // N
    int64_t in_channels;      // I
    int64_t col_channels;     // E1
    int64_t row_channels;     // E2
    int64_t shared_channels;  // E
    int64_t own_channels;     // F
    int64_t colours;          // C
    int64_t height;           // H
    int64_t width;            // W
    int64_t low_height;       // h
    int64_t low_width;        // w
    int64_t taps;             // T: 0 = x and img are on the output grid, 1 = nearest, 2 = bilinear
    int64_t threads;          // threads to use, at least 1
    int64_t tile_bytes;       // size of a tile's buffers; 0 = the built-in one
    double slope;             // of the activation below 0
    double gain;              // factor after the activation
    double clamp;             // limit of |x_k| and of |V x_K + c|; negative = none
};

INR_EXPORT const char* inr_tiles_forward(const InrTilesParams* p);

// First order of one layer's activation, g = dL/dy act'(v) from dL/dy and y, and its sums: over the
// image, over columns and rows, and over what reads a value of the lattice below. What is null is
// not computed.
struct InrTilesBackwardParams {
    const void* grad;        // dL/dy [N, O, H, W]
    const void* y;           // [N, O, H, W]
    const void* row_index;   // int64 [H, T]
    const void* col_index;   // int64 [W, T]
    const void* row_weight;  // [H, T], type of the sums; read if T = 2
    const void* col_weight;  // [W, T], type of the sums; read if T = 2
    void* inner;             // g [N, O, H, W], or null
    void* context;           // sums over taps [N, O, h, w], or null
    void* total;             // sums over the image [N, O], type of the sums, or null
    void* cols;              // sums over rows [N, O, W], type of the sums, or null
    void* rows;              // sums over columns [N, O, H], type of the sums, or null
    int64_t dtype;           // INR_FLOAT32, INR_FLOAT64 or INR_BFLOAT16
    int64_t planes;          // N O
    int64_t height;          // H
    int64_t width;           // W
    int64_t low_height;      // h
    int64_t low_width;       // w
    int64_t taps;            // T: 0 = no lattice below, 1 = nearest, 2 = bilinear
    int64_t threads;         // threads to use, at least 1
    double slope;            // of the activation below 0
    double gain;             // factor after the activation, > 0
    double clamp;            // limit of |y|; negative = none
};

INR_EXPORT const char* inr_tiles_backward(const InrTilesBackwardParams* p);

// A lattice read at the points of a finer grid, y = A_rows x A_cols^T per plane.
struct InrTilesUpsampleParams {
    const void* x;           // [planes, h, w]
    const void* row_index;   // int64 [H, T]
    const void* col_index;   // int64 [W, T]
    const void* row_weight;  // [H, T], type of x; read if T = 2
    const void* col_weight;  // [W, T], type of x; read if T = 2
    void* y;                 // [planes, H, W]
    int64_t dtype;           // INR_FLOAT32 or INR_FLOAT64
    int64_t planes;
    int64_t height;      // H
    int64_t width;       // W
    int64_t low_height;  // h
    int64_t low_width;   // w
    int64_t taps;        // T: 1 = nearest, 2 = bilinear
    int64_t threads;     // threads to use, at least 1
};

INR_EXPORT const char* inr_tiles_upsample(const InrTilesUpsampleParams* p);

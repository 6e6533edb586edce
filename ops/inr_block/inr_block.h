// A whole block of a continuous image for inference (CUDA; see README.md beside this file).
// Tensors are dense in the order written but for the strides named, which are in elements. Points
// are a grid of height x width, P = height * width, R the lattice below, low_height x low_width.
#pragma once

#include "../_native/abi.h"

// x_1 = act(W_0 [x; shared; own] + up(context) + cols[x] + rows[y] + b), x_k = act(W x_{k-1} + b),
// image = clamp(rgb x_K + rgb_bias) + up(img); act(v) = clamp(gain * (v > 0 ? v : slope * v)).
// Weights begin at multiples of 16 bytes, so do their rows; columns beyond the last are zero.
struct InrBlockParams {
    const void* weight0;         // [N, O, depth0 or more]
    const void* weight1;         // [N, O, O or more], or null if num_layers = 1
    const void* weight2;         // the same of the third layer
    const void* weight3;         // the same of the fourth layer
    int64_t weight_batch0;       // elements from image to image
    int64_t weight_batch1;       // the same of weight1
    int64_t weight_batch2;       // the same of weight2
    int64_t weight_batch3;       // the same of weight3
    int64_t weight_row0;         // elements from row to row, a multiple of 8, >= depth0
    int64_t weight_row1;         // the same of weight1, >= O
    int64_t weight_row2;         // the same of weight2
    int64_t weight_row3;         // the same of weight3
    const void* bias0;           // [O] or [N, O]
    const void* bias1;           // the same of the second layer
    const void* bias2;           // the same of the third layer
    const void* bias3;           // the same of the fourth layer
    int64_t bias_batch0;         // elements from image to image; 0 = the batch shares it
    int64_t bias_batch1;         // the same of bias1
    int64_t bias_batch2;         // the same of bias2
    int64_t bias_batch3;         // the same of bias3
    const void* x;               // [N, x_channels, P], features on the grid itself, or null
    const void* shared;          // [shared_channels, P], coordinate features, or null
    const void* own;             // [N, own_channels, P], coordinate features per image, or null
    int64_t x_channels;          // channels
    int64_t shared_channels;     // channels
    int64_t own_channels;        // channels
    const void* context;         // [N, O, R] or null
    const void* cols;            // [N, O, width] or null
    const void* rows;            // [N, O, height] or null
    const void* row_index;       // int64 [height, num_taps], entries along R's height
    const void* col_index;       // int64 [width, num_taps], entries along R's width
    const void* row_weight;      // float [height, num_taps]; not read if num_taps = 1
    const void* col_weight;      // float [width, num_taps]; not read if num_taps = 1
    int64_t num_taps;            // 2 (bilinear), 1 (nearest) per axis; 0 = img is on the grid
    const void* rgb;             // [N, C, O or more]
    int64_t rgb_batch;           // elements from image to image
    int64_t rgb_row;             // elements from row to row, a multiple of 8
    const void* rgb_bias;        // float [C]
    const void* img;             // float [N, C, R], or [N, C, P] if num_taps = 0, or null
    void* features;              // [N, O, P], or null if not wanted
    void* image;                 // float [N, C, P]
    int64_t n;                   // images N
    int64_t channels;            // O, at most the rows of the tile
    int64_t rgb_channels;        // C, 1 to 8
    int64_t num_layers;          // 1 to 4
    int64_t height;              // rows of points
    int64_t width;               // points of a row
    int64_t low_height;          // of R
    int64_t low_width;           // of R
    int64_t tile;                // position in the table of inr_block.cu and native.py
    int64_t stages;              // weight tiles in shared memory; 2, 3, or all of them
    int64_t shared_bytes;        // shared memory of a thread block as native.py counts it
    int64_t num_blocks;          // thread blocks
    int64_t dtype;               // float16 or bfloat16, of all tensors without another type noted
    double gain;                 // after the activation
    double slope;                // of negative values; 1 = linear, 0 = relu
    double clamp;                // limit; negative = none
    void* stream;                // CUDA stream
};

INR_EXPORT const char* inr_block_forward(const InrBlockParams* p);

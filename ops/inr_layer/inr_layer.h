// Fused 1x1 layer of a continuous image, forward and backward (CUDA; see README.md beside this).
// Tensors are dense in the order written, strides are in elements. Points are rows of a grid of
// height x width, P = height * width. "dtype" is the code of all tensors without a type of their
// own; "acc" is float64 if dtype is, else float32.
#pragma once

#include "../_native/abi.h"

// out = clamp(gain * act(sum_s W_s x_s + up(context) + cols[x] + rows[y] + bias)).
struct InrForwardParams {
    const void* weight;          // [N, O, ...], images weight_batch apart, rows weight_row apart
    int64_t weight_batch;        // elements
    int64_t weight_row;          // elements
    const void* x0;              // [N or 1, depth0, P]; null if depth0 = 0
    const void* x1;              // [N or 1, depth1, P]
    const void* x2;              // [N or 1, depth2, P]
    int64_t depth0;              // channels of x0
    int64_t depth1;              // channels of x1
    int64_t depth2;              // channels of x2
    int64_t batch0;              // elements from image to image of x0; 0 = the batch shares it
    int64_t batch1;              // the same of x1
    int64_t batch2;              // the same of x2
    int64_t column0;             // first column of the weight that belongs to x0
    int64_t column1;             // the same of x1
    int64_t column2;             // the same of x2
    const void* context;         // [N, O, low_height, low_width] or null
    const void* row_index;       // int64 [height, num_taps], entries of context along its height
    const void* col_index;       // int64 [width, num_taps], the same along its width
    const void* row_weight;      // acc [height, num_taps]; not read if num_taps = 1
    const void* col_weight;      // acc [width, num_taps]
    const void* cols;            // acc [N, O, width] or null
    const void* rows;            // acc [N, O, height] or null
    const void* bias;            // [O] or [N, O], or null
    int64_t bias_batch;          // elements from image to image of bias; 0 = the batch shares it
    void* out;                   // [N, O, P]; null = not wanted, where rgb is given
    const void* rgb;             // [N, rgb_channels, O] or null
    void* rgb_out;               // acc [ceil(O / rows of a tile), N, rgb_channels, P], to be summed
    int64_t rgb_channels;        // 1 to 4
    int64_t n;                   // images N
    int64_t out_channels;        // O
    int64_t height;              // rows of points
    int64_t width;               // points of a row
    int64_t low_height;          // of context
    int64_t low_width;           // of context
    int64_t num_taps;            // 1 (nearest) or 2 (bilinear) per axis
    int64_t tile;                // entries of out per block: 64 x 64 or, if 128, 128 x 128
    int64_t dtype;               // dtype code
    double gain;                 // > 0, after the activation
    double slope;                // act(v) = v > 0 ? v : slope v; 1 = linear, 0 = relu
    double clamp;                // limit of |out|; negative = none
    void* stream;                // CUDA stream
};

// out = sum over o (and over images, if sum_images) of W[o, column + k] grad[o, p] act'.
struct InrInputGradParams {
    const void* weight;          // [N, O, ...] as in InrForwardParams
    int64_t weight_batch;        // elements
    int64_t weight_row;          // elements
    int64_t column;              // first column of the weight
    const void* grad;            // [N, O, P], gradient of the layer's output (or of its sum)
    const void* saved;           // [N, O, P], output of the layer; null = grad is used as it is
    void* out;                   // [N or 1, depth, P]
    int64_t sum_images;          // 1 = one result for all images
    int64_t n;                   // images N
    int64_t out_channels;        // O
    int64_t depth;               // number of columns
    int64_t points;              // P
    int64_t tile;                // entries of out per block: 64 x 64 or, if 128, 128 x 128
    int64_t dtype;               // dtype code
    double gain;                 // of the layer
    double slope;                // of the layer
    double clamp;                // of the layer
    void* stream;                // CUDA stream
};

// out[o, column + k] = sum over p of grad[o, p] act' x[k, p], per image.
struct InrWeightGradParams {
    const void* grad;            // [N, O, P]
    const void* saved;           // [N, O, P] or null
    const void* x;               // [N or 1, depth, P]
    int64_t x_batch;             // elements from image to image of x; 0 = the batch shares it
    void* out;                   // [N, O, ...], images out_batch apart, rows out_row apart
    int64_t out_batch;           // elements
    int64_t out_row;             // elements
    int64_t column;              // first column that is written
    void* partial;               // acc [splits, N, O, depth], or null if splits = 1
    int64_t splits;              // parts of the points that are summed apart, then together
    void* totals;                // acc [splits, N, O], sums of grad act' over each part; or null;
                                 // written only if there is a saved output
    int64_t n;                   // images N
    int64_t out_channels;        // O
    int64_t depth;               // channels of x
    int64_t points;              // P
    int64_t tile;                // entries of out per block: 64 x 64 or, if 128, 128 x 128
    int64_t dtype;               // dtype code
    double gain;                 // of the layer
    double slope;                // of the layer
    double clamp;                // of the layer
    void* stream;                // CUDA stream
};

// out[i, j] = sum over the points (y, x) that read entry (i, j) of the weight of that tap, times
// grad[y, x] act': the transpose of the upsampling, gathered.
struct InrContextGradParams {
    const void* grad;            // [N, O, height, width]
    const void* saved;           // [N, O, height, width]
    const void* row_index;       // int64 [height, num_taps]
    const void* col_index;       // int64 [width, num_taps]
    const void* row_weight;      // acc [height, num_taps]; not read if num_taps = 1
    const void* col_weight;      // acc [width, num_taps]
    void* row_range;             // int64 [low_height, 2], scratch: first and last point per entry
    void* col_range;             // int64 [low_width, 2], scratch
    void* out;                   // [N, O, low_height, low_width]
    int64_t planes;              // N * O
    int64_t height;              // rows of points
    int64_t width;               // points of a row
    int64_t low_height;          // of out
    int64_t low_width;           // of out
    int64_t num_taps;            // 1 or 2
    int64_t dtype;               // dtype code
    double gain;                 // of the layer
    double slope;                // of the layer
    double clamp;                // of the layer
    void* stream;                // CUDA stream
};

// Sums of grad act' over the rows, the columns and all points of each plane.
struct InrSumsParams {
    const void* grad;            // [planes, height, width]
    const void* saved;           // [planes, height, width]
    void* cols;                  // [planes, width], sums over y; or null
    void* rows;                  // [planes, height], sums over x; or null
    void* total;                 // [planes]; or null
    int64_t planes;              // N * O
    int64_t height;              // rows of points
    int64_t width;               // points of a row
    int64_t dtype;               // dtype code
    double gain;                 // of the layer
    double slope;                // of the layer
    double clamp;                // of the layer
    void* stream;                // CUDA stream
};

INR_EXPORT const char* inr_layer_forward(const InrForwardParams* p);
INR_EXPORT const char* inr_layer_input_grad(const InrInputGradParams* p);
INR_EXPORT const char* inr_layer_weight_grad(const InrWeightGradParams* p);
INR_EXPORT const char* inr_layer_context_grad(const InrContextGradParams* p);
INR_EXPORT const char* inr_layer_sums(const InrSumsParams* p);

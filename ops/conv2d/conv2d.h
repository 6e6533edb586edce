// The transforms of Winograd's convolution F(4 x 4, 3 x 3); the products between them are matrix
// products (see winograd.py for the algorithm).
#pragma once
#include "../_native/abi.h"

// A tile is 4 x 4 result pixels; P = n * tiles_y * tiles_x of them, image by image, row by row.
// Coefficient k = 6 * row + column of the 6 x 6 is a matrix [P, channels] of its own.
struct WinogradParams {
    const void* image;          // [n, c, h, w] float32, contiguous planes
    void* result;               // [n, c, h, w] float32, contiguous planes (conv2d_from_coefficients)
    const void* source;         // [36, P, c] float32 (conv2d_from_coefficients)
    void* coefficients;         // [36, P, c] float32 (the others)
    int64_t n;                  // images
    int64_t c;                  // channels
    int64_t h;                  // pixels
    int64_t w;                  // pixels
    int64_t image_stride;       // elements between images, of image or result
    int64_t tiles_y;            // tiles along y
    int64_t tiles_x;            // tiles along x
    int64_t pad_y;              // zeros above the image (conv2d_input_coefficients)
    int64_t pad_x;              // zeros left of it
    int64_t coefficient_stride;  // elements between the matrices of successive coefficients
};

// Coefficients of the 6 x 6 input pixels that every tile reads: B^T d B.
INR_EXPORT const char* conv2d_input_coefficients(const WinogradParams* p);

// Result pixels from coefficients: A^T m A; what lies beyond the image is dropped.
INR_EXPORT const char* conv2d_from_coefficients(const WinogradParams* p);

// The transpose of that: A y A^T.
INR_EXPORT const char* conv2d_result_coefficients(const WinogradParams* p);

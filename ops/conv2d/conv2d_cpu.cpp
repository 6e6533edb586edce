// Transforms of Winograd's convolution on the CPU. Channels are the vector lanes: blocks of 16 of
// them are transposed to [y][x][16] with zeros around, then every tile is a handful of additions.
#include <vector>

#include "../_native/winograd.h"
#include "conv2d.h"

namespace {

using namespace inr;

constexpr int64_t BLOCK = 16;

// Where one tile's block of channels lies in the coefficients.
struct Place {
    float* at;
    int64_t stride;    // between coefficients
    int64_t channels;  // of this block, at most BLOCK

    void put(int64_t k, int64_t half, Eight x) const {
        float* to = at + k * stride + half;
        if (half + kEight <= channels) {
            store8(to, x);
        } else if (half < channels) {
            std::memcpy(to, &x, sizeof(float) * size_t(channels - half));
        }
    }

    Eight get(int64_t k, int64_t half) const {
        const float* from = at + k * stride + half;
        if (half + kEight <= channels) return load8(from);
        Eight x = {};
        if (half < channels) std::memcpy(&x, from, sizeof(float) * size_t(channels - half));
        return x;
    }
};

// B^T d B of the 6 x 6 pixels at `d`.
void transform_input(const float* d, int64_t pitch, const Place& place) {
    for (int64_t half = 0; half < place.channels; half += kEight) {
        along_both<6, 6>(
            from_samples,
            [=](int i, int j) { return load8(d + (i * pitch + j) * BLOCK + half); },
            [=](int i, int j, Eight m) { place.put(6 * i + j, half, m); });
    }
}

// A y A^T of the 4 x 4 pixels at `y`.
void transform_result(const float* y, int64_t pitch, const Place& place) {
    for (int64_t half = 0; half < place.channels; half += kEight) {
        along_both<4, 6>(
            from_results,
            [=](int i, int j) { return load8(y + (i * pitch + j) * BLOCK + half); },
            [=](int i, int j, Eight m) { place.put(6 * i + j, half, m); });
    }
}

// A^T m A into the 4 x 4 pixels at `y`.
void transform_back(const Place& place, float* y, int64_t pitch) {
    for (int64_t half = 0; half < place.channels; half += kEight) {
        along_both<6, 4>(
            to_results, [=](int i, int j) { return place.get(6 * i + j, half); },
            [=](int i, int j, Eight value) { store8(y + (i * pitch + j) * BLOCK + half, value); });
    }
}

// Calls f(image, first channel, channels of the block, coefficients of its first tile, buffer) for
// every image and block of channels; the buffers hold `size` zeros at first.
template <typename F>
void for_each_block(const WinogradParams& p, float* coefficients, int64_t size, F f) {
    int64_t blocks = (p.c + BLOCK - 1) / BLOCK, tiles = p.tiles_y * p.tiles_x;
#pragma omp parallel if (p.n * blocks > 1)
    {
        std::vector<float> buffer(size, 0.0f);
#pragma omp for
        for (int64_t i = 0; i < p.n * blocks; i++) {
            int64_t image = i / blocks, c = i % blocks * BLOCK;
            Place place = {coefficients + image * tiles * p.c + c, p.coefficient_stride,
                           std::min(BLOCK, p.c - c)};
            f(image * p.image_stride + c * p.h * p.w, place, buffer.data());
        }
    }
}

template <typename F>
void for_each_tile(const WinogradParams& p, Place place, F f) {
    for (int64_t y = 0; y < p.tiles_y; y++) {
        for (int64_t x = 0; x < p.tiles_x; x++) {
            f(4 * y, 4 * x, place);
            place.at += p.c;
        }
    }
}

}  // namespace

INR_EXPORT const char* conv2d_input_coefficients(const WinogradParams* p) {
    const float* image = static_cast<const float*>(p->image);
    int64_t pitch = 4 * p->tiles_x + 2, lines = 4 * p->tiles_y + 2;
    if (p->pad_x < 0 || p->pad_y < 0 || p->pad_x + p->w > pitch || p->pad_y + p->h > lines)
        return "conv2d: the tiles do not cover the padded image";
    for_each_block(*p, static_cast<float*>(p->coefficients), lines * pitch * BLOCK,
                   [=](int64_t at, const Place& block, float* buffer) {
                       float* inside = buffer + (p->pad_y * pitch + p->pad_x) * BLOCK;
                       interleave(image + at, block.channels, p->h, p->w, inside, pitch * BLOCK, BLOCK);
                       for_each_tile(*p, block, [=](int64_t y, int64_t x, const Place& place) {
                           transform_input(buffer + (y * pitch + x) * BLOCK, pitch, place);
                       });
                   });
    return nullptr;
}

INR_EXPORT const char* conv2d_result_coefficients(const WinogradParams* p) {
    const float* image = static_cast<const float*>(p->image);
    int64_t pitch = 4 * p->tiles_x, lines = 4 * p->tiles_y;
    if (p->w > pitch || p->h > lines) return "conv2d: the tiles do not cover the image";
    for_each_block(*p, static_cast<float*>(p->coefficients), lines * pitch * BLOCK,
                   [=](int64_t at, const Place& block, float* buffer) {
                       interleave(image + at, block.channels, p->h, p->w, buffer, pitch * BLOCK, BLOCK);
                       for_each_tile(*p, block, [=](int64_t y, int64_t x, const Place& place) {
                           transform_result(buffer + (y * pitch + x) * BLOCK, pitch, place);
                       });
                   });
    return nullptr;
}

INR_EXPORT const char* conv2d_from_coefficients(const WinogradParams* p) {
    float* result = static_cast<float*>(p->result);
    // Never written through: Place serves reading and writing.
    float* source = const_cast<float*>(static_cast<const float*>(p->source));
    int64_t pitch = 4 * p->tiles_x, lines = 4 * p->tiles_y;
    if (p->w > pitch || p->h > lines) return "conv2d: the tiles do not cover the image";
    for_each_block(*p, source, lines * pitch * BLOCK,
                   [=](int64_t at, const Place& block, float* buffer) {
                       for_each_tile(*p, block, [=](int64_t y, int64_t x, const Place& place) {
                           transform_back(place, buffer + (y * pitch + x) * BLOCK, pitch);
                       });
                       separate(buffer, pitch * BLOCK, BLOCK, block.channels, p->h, p->w, result + at);
                   });
    return nullptr;
}

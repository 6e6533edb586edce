// Transforms of Winograd's convolution on the CPU. Channels are the vector lanes: blocks of 16 of
// them are transposed to [y][x][16] with zeros around, then every tile is a handful of additions.
#include <vector>

#include "../_native/planes.h"
#include "conv2d.h"

namespace {

using namespace inr;

constexpr int64_t LANES = kEight, BLOCK = 16;
typedef Eight Lanes;

// The five finite points 0, +-P, +-Q that polynomials are evaluated at; chosen for accuracy.
constexpr float P = 0.70710678118654752f, Q = 1.41421356237309505f;
constexpr float PP = 0.5f, QQ = 2.0f, PPP = P / 2, QQQ = 2 * Q;

// B^T: 6 samples to 6 coefficients.
inline void from_samples(const Lanes (&d)[6], Lanes (&m)[6]) {
    Lanes even = d[4] - QQ * d[2], odd = P * (d[3] - QQ * d[1]);
    Lanes even2 = d[4] - PP * d[2], odd2 = Q * (d[3] - PP * d[1]);
    m[0] = (PP * QQ) * d[0] - (PP + QQ) * d[2] + d[4];
    m[1] = even + odd;
    m[2] = even - odd;
    m[3] = even2 + odd2;
    m[4] = even2 - odd2;
    m[5] = (PP * QQ) * d[1] - (PP + QQ) * d[3] + d[5];
}

// A^T: 6 coefficients to 4 results.
inline void to_results(const Lanes (&m)[6], Lanes (&y)[4]) {
    Lanes sum = m[1] + m[2], difference = m[1] - m[2];
    Lanes sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    y[0] = m[0] + sum + sum2;
    y[1] = P * difference + Q * difference2;
    y[2] = PP * sum + QQ * sum2;
    y[3] = PPP * difference + QQQ * difference2 + m[5];
}

// A: the transpose of that.
inline void from_results(const Lanes (&y)[4], Lanes (&m)[6]) {
    Lanes even = y[0] + PP * y[2], odd = P * y[1] + PPP * y[3];
    Lanes even2 = y[0] + QQ * y[2], odd2 = Q * y[1] + QQQ * y[3];
    m[0] = y[0];
    m[1] = even + odd;
    m[2] = even - odd;
    m[3] = even2 + odd2;
    m[4] = even2 - odd2;
    m[5] = y[3];
}

// Where one tile's block of channels lies in the coefficients.
struct Place {
    float* at;
    int64_t stride;    // between coefficients
    int64_t channels;  // of this block, at most BLOCK

    void put(int64_t k, int64_t half, Lanes x) const {
        float* to = at + k * stride + half;
        if (half + LANES <= channels) {
            store8(to, x);
        } else if (half < channels) {
            std::memcpy(to, &x, sizeof(float) * size_t(channels - half));
        }
    }

    Lanes get(int64_t k, int64_t half) const {
        const float* from = at + k * stride + half;
        if (half + LANES <= channels) return load8(from);
        Lanes x = {};
        if (half < channels) std::memcpy(&x, from, sizeof(float) * size_t(channels - half));
        return x;
    }
};

// B^T d B of the 6 x 6 pixels at `d`.
void transform_input(const float* d, int64_t pitch, const Place& place) {
    for (int64_t half = 0; half < place.channels; half += LANES) {
        Lanes rows[6][6];
        for (int j = 0; j < 6; j++) {
            Lanes column[6], m[6];
            for (int i = 0; i < 6; i++) column[i] = load8(d + (i * pitch + j) * BLOCK + half);
            from_samples(column, m);
            for (int i = 0; i < 6; i++) rows[i][j] = m[i];
        }
        for (int i = 0; i < 6; i++) {
            Lanes m[6];
            from_samples(rows[i], m);
            for (int j = 0; j < 6; j++) place.put(6 * i + j, half, m[j]);
        }
    }
}

// A y A^T of the 4 x 4 pixels at `y`.
void transform_result(const float* y, int64_t pitch, const Place& place) {
    for (int64_t half = 0; half < place.channels; half += LANES) {
        Lanes rows[6][4];
        for (int j = 0; j < 4; j++) {
            Lanes column[4], m[6];
            for (int i = 0; i < 4; i++) column[i] = load8(y + (i * pitch + j) * BLOCK + half);
            from_results(column, m);
            for (int i = 0; i < 6; i++) rows[i][j] = m[i];
        }
        for (int i = 0; i < 6; i++) {
            Lanes m[6];
            from_results(rows[i], m);
            for (int j = 0; j < 6; j++) place.put(6 * i + j, half, m[j]);
        }
    }
}

// A^T m A into the 4 x 4 pixels at `y`.
void transform_back(const Place& place, float* y, int64_t pitch) {
    for (int64_t half = 0; half < place.channels; half += LANES) {
        Lanes rows[4][6];
        for (int j = 0; j < 6; j++) {
            Lanes column[6], m[4];
            for (int i = 0; i < 6; i++) column[i] = place.get(6 * i + j, half);
            to_results(column, m);
            for (int i = 0; i < 4; i++) rows[i][j] = m[i];
        }
        for (int i = 0; i < 4; i++) {
            Lanes m[4];
            to_results(rows[i], m);
            for (int j = 0; j < 4; j++) store8(y + (i * pitch + j) * BLOCK + half, m[j]);
        }
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

// Products of a few pixels with a panel of channels, in registers. All buffers hold pixels of
// channels rounded up to eight ("pitch"); see planes.h.
#pragma once

#include <vector>

#include "../_native/planes.h"

namespace inr {

// Pixels and vectors of a tile of sums: 6 x 2 of them, two weights and one pixel fill 16 registers.
constexpr int kPixels = 6, kVectors = 2;
constexpr int64_t kPanel = kVectors * kEight;

inline int64_t pitch_of(int64_t channels) { return (channels + kEight - 1) / kEight * kEight; }

// What happens to sums before they are stored.
struct Finish {
    float slope = 1, gain = 1, clamp = -1;

    Eight operator()(Eight z) const {
        z = (z > 0.0f ? z : z * slope) * gain;
        if (clamp >= 0) {
            // In this order what is not a number stays so.
            z = z > clamp ? Eight{} + clamp : z;
            z = z < -clamp ? Eight{} - clamp : z;
        }
        return z;
    }
};

// Weights of one panel of results: [taps][inputs][width], width = 8 or 16.
struct Panel {
    const float* weights;
    int64_t first, width;
};

// Where pixels lie: those read and those written.
struct Pixels {
    const float* from[kPixels];
    float* to[kPixels];
};

// to[i][panel] = finish(start + sum over taps and inputs of from[i][offset of the tap + input] * w).
template <int P, int V>
void multiply_tile(const Pixels& pixels, const std::vector<int64_t>& offsets, int64_t inputs,
                   const Panel& panel, const float* start, const Finish* finish) {
    Eight sums[P][V];
    for (int i = 0; i < P; i++)
        for (int v = 0; v < V; v++)
            sums[i][v] = start ? load8(start + panel.first + v * kEight) : Eight{};
    const float* w = panel.weights;
    for (int64_t offset : offsets) {
        const float* from[P];
        for (int i = 0; i < P; i++) from[i] = pixels.from[i] + offset;
        for (int64_t c = 0; c < inputs; c++, w += V * kEight) {
            Eight weights[V];
            for (int v = 0; v < V; v++) weights[v] = load8(w + v * kEight);
            for (int i = 0; i < P; i++)
                for (int v = 0; v < V; v++) sums[i][v] += from[i][c] * weights[v];
        }
    }
    for (int i = 0; i < P; i++)
        for (int v = 0; v < V; v++)
            store8(pixels.to[i] + panel.first + v * kEight,
                   finish ? (*finish)(sums[i][v]) : sums[i][v]);
}

template <int V>
void multiply_pixels(int count, const Pixels& pixels, const std::vector<int64_t>& offsets,
                     int64_t inputs, const Panel& panel, const float* start,
                     const Finish* finish) {
    switch (count) {
        case 1: return multiply_tile<1, V>(pixels, offsets, inputs, panel, start, finish);
        case 2: return multiply_tile<2, V>(pixels, offsets, inputs, panel, start, finish);
        case 3: return multiply_tile<3, V>(pixels, offsets, inputs, panel, start, finish);
        case 4: return multiply_tile<4, V>(pixels, offsets, inputs, panel, start, finish);
        case 5: return multiply_tile<5, V>(pixels, offsets, inputs, panel, start, finish);
        default: return multiply_tile<6, V>(pixels, offsets, inputs, panel, start, finish);
    }
}

// A grid of pixels in a buffer: pixel (y, x) at data + y * row + x * pixel.
template <typename T>
struct Grid {
    T* data;
    int64_t row, pixel;

    T* at(int64_t y, int64_t x) const { return data + y * row + x * pixel; }
};

// Computes h x w pixels; offsets of the taps are relative to the pixel read.
inline void multiply_grid(const Grid<const float>& from, const Grid<float>& to, int64_t h,
                          int64_t w, const std::vector<int64_t>& offsets, int64_t inputs,
                          const std::vector<Panel>& panels, const float* start,
                          const Finish* finish) {
    const int64_t pixels = h * w, tiles = (pixels + kPixels - 1) / kPixels;
    for (int64_t tile = 0; tile < tiles; tile++) {
        // Tiles of equal size, whatever the remainder.
        const int64_t begin = pixels * tile / tiles, end = pixels * (tile + 1) / tiles;
        Pixels place = {};
        for (int64_t i = begin; i < end; i++) {
            place.from[i - begin] = from.at(i / w, i % w);
            place.to[i - begin] = to.at(i / w, i % w);
        }
        const int count = static_cast<int>(end - begin);
        for (const Panel& panel : panels) {
            if (panel.width == kPanel)
                multiply_pixels<2>(count, place, offsets, inputs, panel, start, finish);
            else
                multiply_pixels<1>(count, place, offsets, inputs, panel, start, finish);
        }
    }
}

// sums[c][panel] += sum over h x w pixels of from(pixel)[c] * grad(pixel)[panel], c < C.
template <int C, int V>
void correlate_tile(const Grid<const float>& from, const Grid<const float>& grad, int64_t h,
                    int64_t w, float* sums) {
    Eight total[C][V];
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) total[c][v] = load8(sums + (c * V + v) * kEight);
    for (int64_t y = 0; y < h; y++) {
        const float* a = from.at(y, 0);
        const float* b = grad.at(y, 0);
        for (int64_t x = 0; x < w; x++, a += from.pixel, b += grad.pixel) {
            Eight right[V];
            for (int v = 0; v < V; v++) right[v] = load8(b + v * kEight);
            for (int c = 0; c < C; c++)
                for (int v = 0; v < V; v++) total[c][v] += a[c] * right[v];
        }
    }
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) store8(sums + (c * V + v) * kEight, total[c][v]);
}

template <int V>
void correlate_channels(int64_t count, const Grid<const float>& from,
                        const Grid<const float>& grad, int64_t h, int64_t w, float* sums) {
    switch (count) {
        case 1: return correlate_tile<1, V>(from, grad, h, w, sums);
        case 2: return correlate_tile<2, V>(from, grad, h, w, sums);
        case 3: return correlate_tile<3, V>(from, grad, h, w, sums);
        case 4: return correlate_tile<4, V>(from, grad, h, w, sums);
        case 5: return correlate_tile<5, V>(from, grad, h, w, sums);
        default: return correlate_tile<6, V>(from, grad, h, w, sums);
    }
}

// One axis of a filter as a sparse matrix: result i is the sum of weight * source.
struct Axis {
    struct Term {
        int64_t source;
        float weight;
    };
    std::vector<Term> terms;
    std::vector<int64_t> begin;  // of every result's terms, and the end of the last one's

    // `count` results from `size` samples: taps[last - t] meets sample i * step + t - pad.
    Axis(int64_t count, int64_t size, const double* taps, int64_t num_taps, int64_t step,
         int64_t pad) {
        for (int64_t i = 0; i < count; i++) {
            begin.push_back(static_cast<int64_t>(terms.size()));
            for (int64_t t = 0; t < num_taps; t++) {
                const int64_t source = i * step + t - pad;
                const float weight = static_cast<float>(taps[num_taps - 1 - t]);
                if (source >= 0 && source < size) terms.push_back({source, weight});
            }
        }
        begin.push_back(static_cast<int64_t>(terms.size()));
    }

    // The transpose of a matrix that reads `size` samples.
    Axis(const Axis& other, int64_t size) {
        for (int64_t source = 0; source < size; source++) {
            begin.push_back(static_cast<int64_t>(terms.size()));
            for (size_t i = 0; i + 1 < other.begin.size(); i++)
                for (int64_t t = other.begin[i]; t < other.begin[i + 1]; t++)
                    if (other.terms[t].source == source)
                        terms.push_back({static_cast<int64_t>(i), other.terms[t].weight});
        }
        begin.push_back(static_cast<int64_t>(terms.size()));
    }

    // to[i * step] = sum of weight * from[source * step], for `width` floats, a multiple of eight.
    void apply(const float* from, float* to, int64_t step, int64_t width) const {
        for (size_t i = 0; i + 1 < begin.size(); i++, to += step) {
            const Term* first = terms.data() + begin[i];
            const int64_t count = begin[i + 1] - begin[i];
            switch (count) {
                case 1: add<1, false>(first, from, to, step, width); break;
                case 2: add<2, false>(first, from, to, step, width); break;
                case 3: add<3, false>(first, from, to, step, width); break;
                case 4: add<4, false>(first, from, to, step, width); break;
                default: add_all(first, count, from, to, step, width);
            }
        }
    }

private:
    template <int N, bool More>
    static void add(const Term* term, const float* from, float* to, int64_t step, int64_t width) {
        const float* source[N];
        for (int n = 0; n < N; n++) source[n] = from + term[n].source * step;
        for (int64_t x = 0; x < width; x += kEight) {
            Eight sum = More ? load8(to + x) : Eight{};
            for (int n = 0; n < N; n++) sum += term[n].weight * load8(source[n] + x);
            store8(to + x, sum);
        }
    }

    static void add_all(const Term* term, int64_t count, const float* from, float* to,
                        int64_t step, int64_t width) {
        std::fill(to, to + width, 0.0f);
        for (; count >= 4; count -= 4, term += 4) add<4, true>(term, from, to, step, width);
        for (; count > 0; count--, term++) add<1, true>(term, from, to, step, width);
    }
};

}  // namespace inr

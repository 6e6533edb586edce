// 3 x 3 layers on the CPU with a quarter of the products. A job takes a few images, so that matrix
// products have rows enough, and all its coefficients stay in a core's cache.
#include "../_native/winograd.h"
#include "conv_layer_image.h"

namespace {

using namespace inr;

constexpr int64_t kCoefficients = 36;
// Tiles of a job that are enough for fast products.
constexpr int64_t kRows = 24;

int64_t tiles_of(int64_t pixels) { return (pixels + 3) / 4; }

// Coefficients of a job's tiles: 36 matrices [rows, pitch], apart by a bit more than their size,
// as multiples of a cache's size would fall onto one place of it.
struct Matrices {
    float* data;
    int64_t rows, pitch, stride;

    Matrices(float* memory, int64_t rows_, int64_t pitch_)
        : data(memory), rows(rows_), pitch(pitch_), stride(rows_ * pitch_ + 16) {}

    int64_t size() const { return kCoefficients * stride; }
    float* at(int64_t k, int64_t row) const { return data + k * stride + row * pitch; }
};

// Weights as panels of results for every coefficient: G w G^T.
struct Coefficients {
    std::vector<float> storage;
    std::vector<std::vector<Panel>> panels;

    Coefficients(const Weights& weights, int64_t inputs) : panels(kCoefficients) {
        int64_t size = 0;
        for (const Panel& panel : weights.panels) size += kCoefficients * inputs * panel.width;
        storage.resize(static_cast<size_t>(size));
        float* to = storage.data();
        for (const Panel& panel : weights.panels) {
            const int64_t width = panel.width;
            for (int64_t at = 0; at < inputs * width; at += kEight) {
                along_both<3, 6>(
                    from_taps,
                    [&](int i, int j) {
                        return load8(panel.weights + (3 * i + j) * inputs * width + at);
                    },
                    [&](int i, int j, Eight m) { store8(to + (6 * i + j) * inputs * width + at, m); });
            }
            for (int64_t k = 0; k < kCoefficients; k++, to += inputs * width)
                panels[k].push_back({to, panel.first, width});
        }
    }
};

class Winograd : Layer {
public:
    explicit Winograd(const ConvLayerParams& p)
        : Layer(p, std::max(p.mid_h, 4 * tiles_of(p.out_h) + 2),
                std::max(p.mid_w, 4 * tiles_of(p.out_w) + 2),
                gradient_side(p.mid_h, p.out_h, p.h, p.pad_y),
                gradient_side(p.mid_w, p.out_w, p.w, p.pad_x)) {}

    void forward() const;
    void backward() const;

private:
    // Rows (columns) of the gradient of the results that tiles of it, and of x, read.
    static int64_t gradient_side(int64_t mid, int64_t out, int64_t side, int64_t pad) {
        return std::max({mid + 2, 2 + 4 * tiles_of(out), pad + 4 * tiles_of(side) + 2});
    }

    int64_t out_tiles() const { return tiles_of(p.out_h) * tiles_of(p.out_w); }
    int64_t x_tiles() const { return tiles_of(p.h) * tiles_of(p.w); }

    // Images of a job; jobs are as many for every thread.
    int64_t job_images() const {
        const int64_t share = (p.n + threads() - 1) / threads();
        const int64_t wanted = std::max<int64_t>(1, kRows / std::min(out_tiles(), x_tiles()));
        const int64_t parts = (share + wanted - 1) / wanted;
        return (share + parts - 1) / parts;
    }

    void multiply(const Matrices& from, const Matrices& to, const Coefficients& weights,
                  int64_t channels) const;
    void add_weight_gradient(const Matrices& left, const Matrices& right, float* sums) const;
    void write_weight_gradient(const float* sums) const;
};

// Tiles of size x size pixels, 4 apart, to coefficients: f is `from_samples` or `from_results`.
template <int Size, typename F>
void to_coefficients(F f, const Grid<const float>& pixels, int64_t tiles_y, int64_t tiles_x,
                     const Matrices& to, int64_t row) {
    for (int64_t tile = 0; tile < tiles_y * tiles_x; tile++) {
        const float* corner = pixels.at(tile / tiles_x * 4, tile % tiles_x * 4);
        float* target = to.at(0, row + tile);
        for (int64_t c = 0; c < to.pitch; c += kEight) {
            along_both<Size, 6>(
                f,
                [=, &pixels](int i, int j) {
                    return load8(corner + i * pixels.row + j * pixels.pixel + c);
                },
                [=, &to](int i, int j, Eight m) { store8(target + (6 * i + j) * to.stride + c, m); });
        }
    }
}

// Coefficients to tiles of 4 x 4 pixels; every vector goes through finish(value, channel).
template <typename Finish>
void from_coefficients(const Matrices& from, int64_t row, const Grid<float>& pixels,
                       int64_t tiles_y, int64_t tiles_x, Finish finish) {
    for (int64_t tile = 0; tile < tiles_y * tiles_x; tile++) {
        const float* source = from.at(0, row + tile);
        float* corner = pixels.at(tile / tiles_x * 4, tile % tiles_x * 4);
        for (int64_t c = 0; c < from.pitch; c += kEight) {
            along_both<6, 4>(
                to_results,
                [=, &from](int i, int j) { return load8(source + (6 * i + j) * from.stride + c); },
                [=, &pixels](int i, int j, Eight y) {
                    store8(corner + i * pixels.row + j * pixels.pixel + c, finish(y, c));
                });
        }
    }
}

void Winograd::multiply(const Matrices& from, const Matrices& to, const Coefficients& weights,
                        int64_t channels) const {
    const std::vector<int64_t> offsets = {0};
    for (int64_t k = 0; k < kCoefficients; k++) {
        const Grid<const float> rows = {from.at(k, 0), 0, from.pitch};
        const Grid<float> results = {to.at(k, 0), 0, to.pitch};
        multiply_grid(rows, results, 1, from.rows, offsets, channels, weights.panels[k], nullptr,
                      nullptr);
    }
}

void Winograd::forward() const {
    const Weights weights(p.co, p.ci, taps,
                          [&](int64_t o, int64_t i, int64_t t) { return weight(o, i, t); });
    const Coefficients points(weights, p.ci);
    const std::vector<float> start = bias();
    const int64_t images = job_images(), tiles_y = tiles_of(p.out_h), tiles_x = tiles_of(p.out_w);
    const int64_t most = images * out_tiles(), out_size = 16 * out_tiles() * outputs;
    const int64_t memory = mid_size() + out_size + Matrices(nullptr, most, inputs).size() +
                           Matrices(nullptr, most, outputs).size();
    const int64_t jobs = (p.n + images - 1) / images;
    for_each_job(jobs, threads(), memory, mid_size(), [&](int64_t job, int, float* mid) {
        const int64_t first = job * images, count = std::min(images, p.n - first);
        float* out = mid + mid_size();
        const Matrices source(out + out_size, count * out_tiles(), inputs);
        const Matrices product(source.data + source.size(), source.rows, outputs);
        const Grid<const float> from = {mid, mid_cols * inputs, inputs};
        const Grid<float> to = {out, 4 * tiles_x * outputs, outputs};
        for (int64_t i = 0; i < count; i++) {
            read(first + i, mid, nullptr);
            to_coefficients<6>(from_samples, from, tiles_y, tiles_x, source, i * out_tiles());
        }
        multiply(source, product, points, p.ci);
        for (int64_t i = 0; i < count; i++) {
            from_coefficients(product, i * out_tiles(), to, tiles_y, tiles_x,
                              [&](Eight z, int64_t c) { return finish(z + load8(&start[c])); });
            separate(out, to.row, outputs, p.co, p.out_h, p.out_w,
                     static_cast<float*>(p.y) + (first + i) * planes_size());
        }
    });
}

void Winograd::add_weight_gradient(const Matrices& left, const Matrices& right,
                                   float* sums) const {
    const int64_t blocks = (p.ci + kPixels - 1) / kPixels;
    for (int64_t first = 0; first < outputs; first += kPanel) {
        const int64_t width = std::min(outputs - first, kPanel);
        for (int64_t k = 0; k < kCoefficients; k++) {
            const Grid<const float> grad = {right.at(k, 0) + first, 0, right.pitch};
            for (int64_t block = 0; block < blocks; block++) {
                const int64_t c = p.ci * block / blocks, end = p.ci * (block + 1) / blocks;
                const Grid<const float> from = {left.at(k, 0) + c, 0, left.pitch};
                if (width == kPanel)
                    correlate_channels<2>(end - c, from, grad, 1, left.rows, sums);
                else
                    correlate_channels<1>(end - c, from, grad, 1, left.rows, sums);
                sums += (end - c) * width;
            }
        }
    }
}

void Winograd::backward() const {
    // A correlation with the kernel turned by 180 degrees.
    const Weights turned(p.grad_x ? p.ci : 0, p.co, taps, [&](int64_t i, int64_t o, int64_t t) {
        return weight(o, i, taps - 1 - t);
    });
    const Coefficients points(turned, p.co);
    const int64_t images = job_images(), out_y = tiles_of(p.out_h), out_x = tiles_of(p.out_w);
    const int64_t x_y = tiles_of(p.h), x_x = tiles_of(p.w);
    const int64_t most = images * std::max(out_tiles(), x_tiles()), x_size = 16 * x_tiles() * inputs;
    Sums sums(threads(), p.grad_weight ? kCoefficients * outputs * p.ci : 0, outputs);
    const int64_t memory = grad_size() + mid_size() + planes_size() + x_size +
                           2 * Matrices(nullptr, most, inputs).size() +
                           2 * Matrices(nullptr, most, outputs).size();
    const int64_t jobs = (p.n + images - 1) / images, zeros = grad_size() + mid_size();
    for_each_job(jobs, threads(), memory, zeros, [&](int64_t job, int thread, float* grad) {
        const int64_t first = job * images, count = std::min(images, p.n - first);
        float* mid = grad + grad_size();
        float* planes = mid + mid_size();
        float* pixels = planes + planes_size();
        const Matrices x(pixels + x_size, count * out_tiles(), inputs);
        const Matrices y(x.data + x.size(), count * out_tiles(), outputs);
        const Matrices source(y.data + y.size(), count * x_tiles(), outputs);
        const Matrices product(source.data + source.size(), source.rows, inputs);
        const Grid<const float> from = {mid, mid_cols * inputs, inputs};
        const int64_t row = grad_cols * outputs;
        const Grid<const float> inside = {grad + reach * row + reach * outputs, row, outputs};
        const Grid<const float> around = {grad + p.pad_y * row + p.pad_x * outputs, row, outputs};
        for (int64_t i = 0; i < count; i++) {
            read_gradient(first + i, planes, grad, sums.bias(thread));
            if (p.grad_x)
                to_coefficients<6>(from_samples, around, x_y, x_x, source, i * x_tiles());
            if (!p.grad_weight) continue;
            to_coefficients<4>(from_results, inside, out_y, out_x, y, i * out_tiles());
            read(first + i, mid, nullptr);
            to_coefficients<6>(from_samples, from, out_y, out_x, x, i * out_tiles());
        }
        if (p.grad_weight) add_weight_gradient(x, y, sums.weight(thread));
        if (!p.grad_x) return;
        multiply(source, product, points, p.co);
        const Grid<float> to = {pixels, 4 * x_x * inputs, inputs};
        for (int64_t i = 0; i < count; i++) {
            from_coefficients(product, i * x_tiles(), to, x_y, x_x,
                              [](Eight value, int64_t) { return value; });
            separate(pixels, to.row, inputs, p.ci, p.h, p.w,
                     static_cast<float*>(p.grad_x) + (first + i) * p.ci * p.h * p.w);
        }
    });
    sums.reduce();
    if (p.grad_bias) std::copy_n(sums.bias(0), p.co, static_cast<float*>(p.grad_bias));
    if (p.grad_weight) write_weight_gradient(sums.weight(0));
}

void Winograd::write_weight_gradient(const float* sums) const {
    for (int64_t first = 0; first < outputs; first += kPanel) {
        const int64_t width = std::min(outputs - first, kPanel), step = p.ci * width;
        for (int64_t i = 0; i < p.ci; i++) {
            for (int64_t lane = 0; lane < width; lane += kEight) {
                along_both<6, 3>(
                    to_taps,
                    [=](int y, int x) { return load8(sums + (6 * y + x) * step + i * width + lane); },
                    [=](int y, int x, Eight taps_of) {
                        for (int64_t o = 0; o < kEight && first + lane + o < p.co; o++)
                            put_weight_gradient(first + lane + o, i, 3 * y + x, taps_of[o]);
                    });
            }
        }
        sums += kCoefficients * step;
    }
}

}  // namespace

void inr::winograd_forward(const ConvLayerParams& p) { Winograd(p).forward(); }

void inr::winograd_backward(const ConvLayerParams& p) { Winograd(p).backward(); }

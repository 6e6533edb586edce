// mapping_layers_forward and mapping_layers_backward: see mapping_layers.h. Batches are small: what
// counts is that every weight is read once.

#include <cmath>
#include <new>

#include "../_native/cpu.h"
#include "../_native/products.h"
#include "mapping_layers.h"

namespace {

using namespace inr;

constexpr double kEpsilon = 1e-8;
// Rows or columns of a weight that one task goes through.
constexpr int64_t kTaskRows = 48;
constexpr int64_t kTaskColumns = 64;
// Multiplications that take less than waking another thread.
constexpr int64_t kFewProducts = 1 << 16;

template <typename S>
struct Mapping {
    using L = Lanes<S>;

    const MappingLayersParams& p;
    const int64_t* const widths;
    const int64_t inputs;  // features of x_0
    int64_t stride;        // elements of `saved` per image

    explicit Mapping(const MappingLayersParams& params)
        : p(params),
          widths(static_cast<const int64_t*>(p.widths)),
          inputs(p.z_size + p.embed_size),
          stride(0) {
        for (int64_t k = 0; k <= p.layers; ++k) {
            stride += widths[k];
        }
    }

    S* saved() const { return static_cast<S*>(p.saved); }
    S* scale(int64_t n, int64_t part) const { return static_cast<S*>(p.scales) + 2 * n + part; }

    // The k-th address of a list.
    static S* address(const void* list, int64_t k) {
        return reinterpret_cast<S*>(static_cast<const int64_t*>(list)[k]);
    }

    S weight_gain(int64_t k) const { return S(p.lr_multiplier / std::sqrt(double(widths[k]))); }
    S embed_gain() const { return S(1 / std::sqrt(double(p.c_size))); }

    int64_t threads(int64_t products) const { return products > kFewProducts ? p.threads : 1; }

    void forward() const {
        const S* const z = static_cast<const S*>(p.z);
        for (int64_t n = 0; z != nullptr && n < p.n; ++n) {
            std::copy_n(z + n * p.z_size, p.z_size, saved() + n * stride);
            normalize(saved() + n * stride, p.z_size, scale(n, 0));
        }
        if (p.c != nullptr) {
            S* const to = saved() + p.z_size;
            const S* const weight = static_cast<const S*>(p.embed);
            const S* const bias = static_cast<const S*>(p.embed_bias);
            dense(static_cast<const S*>(p.c), p.c_size, p.c_size, weight, embed_gain(), bias, S(1),
                  p.embed_size, false, to);
            for (int64_t n = 0; n < p.n; ++n) {
                normalize(to + n * stride, p.embed_size, scale(n, 1));
            }
        }
        S* from = saved();
        for (int64_t k = 0; k < p.layers; ++k) {
            S* const to = from + widths[k];
            dense(from, stride, widths[k], address(p.weights, k), weight_gain(k),
                  address(p.biases, k), S(p.lr_multiplier), widths[k + 1], true, to);
            from = to;
        }
        for (int64_t n = 0; n < p.n; ++n) {
            const int64_t last = widths[p.layers];
            std::copy_n(from + n * stride, last, static_cast<S*>(p.out) + n * last);
        }
    }

    static void normalize(S* v, int64_t size, S* scale) {
        S sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < size; ++i) {
            sum += v[i] * v[i];
        }
        *scale = S(1) / std::sqrt(sum / S(size) + S(kEpsilon));
        for (int64_t i = 0; i < size; ++i) {
            v[i] *= *scale;
        }
    }

    // to [N, outs] = gain x W^T + bias_gain bias, activated; rows of x and of `to` lie apart.
    void dense(
        const S* x, int64_t apart, int64_t depth, const S* weight, S gain, const S* bias,
        S bias_gain, int64_t outs, bool activates, S* to) const {
        // Images as lanes: the rows of the weight are read as they are.
        const int64_t panels = divide_up(p.n, L::kWidth), chunks = divide_up(outs, kTaskRows);
        std::vector<S> turned(panels * depth * L::kWidth);
        for (int64_t n = 0; n < p.n; ++n) {
            S* const lane = turned.data() + n / L::kWidth * depth * L::kWidth + n % L::kWidth;
            for (int64_t i = 0; i < depth; ++i) {
                lane[i * L::kWidth] = x[n * apart + i];
            }
        }
        const S above = activates ? S(p.act_gain) : S(1);
        const S below = activates ? S(p.act_gain * p.slope) : S(1);
        parallel_for(panels * chunks, threads(p.n * depth * outs), [&](int64_t job, int64_t) {
            const int64_t panel = job / chunks, first = job % chunks * kTaskRows;
            const int64_t rows = std::min(kTaskRows, outs - first);
            S sums[kTaskRows * L::kWidth];
            const S* const lanes = turned.data() + panel * depth * L::kWidth;
            const Product<S> product = {
                rows, depth, weight + first * depth, depth, 1, lanes, L::kWidth, gain};
            product.write(0, L::kWidth, sums, L::kWidth);
            const int64_t images = std::min<int64_t>(L::kWidth, p.n - panel * L::kWidth);
            for (int64_t n = 0; n < images; ++n) {
                S* const row = to + (panel * L::kWidth + n) * stride + first;
                for (int64_t o = 0; o < rows; ++o) {
                    const S v = sums[o * L::kWidth + n] + bias_gain * bias[first + o];
                    row[o] = v * (v > 0 ? above : below);
                }
            }
        });
    }

    void backward() const {
        const int64_t last = widths[p.layers];
        const S* const given = static_cast<const S*>(p.grad);
        std::vector<S> grad(given, given + p.n * last), below;
        const S* x = saved() + stride - last;
        for (int64_t k = p.layers - 1; k >= 0; --k) {
            differentiate(x, widths[k + 1], grad.data());
            x -= widths[k];
            const bool passes_on = k > 0 || p.grad_z || p.grad_embed || p.grad_embed_bias;
            below.resize(passes_on ? p.n * widths[k] : 0);
            layer_back(k, x, grad.data(), passes_on ? below.data() : nullptr);
            std::swap(grad, below);
        }
        if (p.grad_z != nullptr) {
            S* const to = static_cast<S*>(p.grad_z);
            for (int64_t n = 0; n < p.n; ++n) {
                norm_back(saved() + n * stride, grad.data() + n * inputs, p.z_size, *scale(n, 0),
                          to + n * p.z_size);
            }
        }
        if (p.grad_embed != nullptr || p.grad_embed_bias != nullptr) {
            embed_back(grad.data());
        }
    }

    // g *= act'(v), which y tells.
    void differentiate(const S* y, int64_t width, S* g) const {
        const S above = S(p.act_gain), below = S(p.act_gain * p.slope);
        for (int64_t n = 0; n < p.n; ++n, y += stride, g += width) {
            for (int64_t o = 0; o < width; ++o) {
                g[o] *= y[o] > 0 ? above : below;
            }
        }
    }

    // Gradients of one layer's weight, bias and inputs (null = not wanted).
    void layer_back(int64_t k, const S* x, const S* g, S* of_x) const {
        const int64_t depth = widths[k], outs = widths[k + 1];
        S* const of_weight = address(p.grad_weights, k);
        S* const of_bias = address(p.grad_biases, k);
        if (of_bias != nullptr) {
            sum_images(g, outs, S(p.lr_multiplier), of_bias);
        }
        const S gain = weight_gain(k);
        const Product<S> back = {p.n, outs, g, outs, 1, address(p.weights, k), depth, gain};
        const int64_t chunks = of_weight == nullptr ? 0 : divide_up(outs, kTaskRows);
        const int64_t parts = of_x == nullptr ? 0 : divide_up(depth, kTaskColumns);
        parallel_for(chunks + parts, threads(p.n * depth * outs), [&](int64_t job, int64_t) {
            if (job < chunks) {
                const int64_t first = job * kTaskRows, rows = std::min(kTaskRows, outs - first);
                const Product<S> outer = {rows, p.n, g + first, 1, outs, x, stride, gain};
                outer.write(0, depth, of_weight + first * depth, depth);
                return;
            }
            const int64_t first = (job - chunks) * kTaskColumns;
            back.write(first, std::min(first + kTaskColumns, depth), of_x, depth);
        });
    }

    void embed_back(const S* grad) const {
        const int64_t size = p.embed_size;
        std::vector<S> of_embedding(p.n * size);
        for (int64_t n = 0; n < p.n; ++n) {
            norm_back(saved() + n * stride + p.z_size, grad + n * inputs + p.z_size, size,
                      *scale(n, 1), of_embedding.data() + n * size);
        }
        if (p.grad_embed_bias != nullptr) {
            sum_images(of_embedding.data(), size, S(1), static_cast<S*>(p.grad_embed_bias));
        }
        if (p.grad_embed != nullptr) {
            const S* const c = static_cast<const S*>(p.c);
            const Product<S> outer = {
                size, p.n, of_embedding.data(), 1, size, c, p.c_size, embed_gain()};
            outer.write(0, p.c_size, static_cast<S*>(p.grad_embed), p.c_size);
        }
    }

    // Gradient of v where y = scale v is normalised: scale (g - y mean(g y)).
    static void norm_back(const S* y, const S* g, int64_t size, S scale, S* to) {
        S sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < size; ++i) {
            sum += y[i] * g[i];
        }
        const S mean = sum / S(size);
        for (int64_t i = 0; i < size; ++i) {
            to[i] = scale * (g[i] - y[i] * mean);
        }
    }

    // to [width] = gain * the sum of g [N, width] over images.
    void sum_images(const S* g, int64_t width, S gain, S* to) const {
        std::fill_n(to, width, S(0));
        for (int64_t n = 0; n < p.n; ++n, g += width) {
            for (int64_t o = 0; o < width; ++o) {
                to[o] += gain * g[o];
            }
        }
    }
};

const char* kTypes = "mapping_layers takes float32 and float64";

}  // namespace

const char* mapping_layers_forward(const MappingLayersParams* p) try {
    switch (p->dtype) {
        case INR_FLOAT32:
            Mapping<float>(*p).forward();
            return nullptr;
        case INR_FLOAT64:
            Mapping<double>(*p).forward();
            return nullptr;
    }
    return kTypes;
} catch (const std::bad_alloc&) {
    return "out of memory";
}

const char* mapping_layers_backward(const MappingLayersParams* p) try {
    switch (p->dtype) {
        case INR_FLOAT32:
            Mapping<float>(*p).backward();
            return nullptr;
        case INR_FLOAT64:
            Mapping<double>(*p).backward();
            return nullptr;
    }
    return kTypes;
} catch (const std::bad_alloc&) {
    return "out of memory";
}

// A convolutional layer on the CPU, for layers whose images fit a core's cache: every thread takes
// one image through filter, convolution and activation, or back, without leaving its cache.
#include <utility>

#include "conv_layer_image.h"

namespace {

using namespace inr;

// Pixels that one tile of a weight's gradient sums up before it goes back to memory.
constexpr int64_t kSummedPixels = 64;

// Pixels of `mid` that are `stride` apart, and the taps that reach them.
struct Phase {
    int64_t y, x;           // the first one
    int64_t rows, columns;  // how many
    int64_t from;           // where the first one reads
    std::vector<int64_t> offsets;
    Weights weights;
};

// Every tap a product of its own.
class Direct : Layer {
public:
    explicit Direct(const ConvLayerParams& p)
        : Layer(p, p.mid_h, p.mid_w, (p.kernel - 1) / p.stride + (p.mid_h - 1) / p.stride + 1,
                (p.kernel - 1) / p.stride + (p.mid_w - 1) / p.stride + 1) {}

    void forward() const;
    void backward() const;

private:
    std::vector<Phase> phases() const;
    std::vector<int64_t> tap_offsets() const;
    void write_input_gradient(int64_t image, const float* grad, const std::vector<Phase>& phases,
                              float* mid, float* scratch) const;
    void add_weight_gradient(const float* mid, const float* grad, float* sums) const;
    void write_weight_gradient(const float* sums) const;
};

std::vector<Phase> Direct::phases() const {
    std::vector<Phase> found;
        // Without a filter the gradient of zeros around x is not needed.
    const int64_t top = p.fir_h ? 0 : p.pad_y, bottom = p.fir_h ? p.mid_h : p.pad_y + p.h;
    const int64_t left = p.fir_h ? 0 : p.pad_x, right = p.fir_h ? p.mid_w : p.pad_x + p.w;
    for (int64_t y = top; y < std::min(top + p.stride, bottom); y++) {
        for (int64_t x = left; x < std::min(left + p.stride, right); x++) {
            std::vector<int64_t> offsets, places;
            for (int64_t ty = y % p.stride; ty < p.kernel; ty += p.stride) {
                for (int64_t tx = x % p.stride; tx < p.kernel; tx += p.stride) {
                    const int64_t back_y = reach - ty / p.stride, back_x = reach - tx / p.stride;
                    offsets.push_back((back_y * grad_cols + back_x) * outputs);
                    places.push_back(ty * p.kernel + tx);
                }
            }
            const int64_t count = static_cast<int64_t>(places.size());
            Weights turned(p.ci, p.co, count, [&](int64_t i, int64_t o, int64_t t) {
                return weight(o, i, places[t]);
            });
            const int64_t rows = (bottom - y + p.stride - 1) / p.stride;
            const int64_t columns = (right - x + p.stride - 1) / p.stride;
            const int64_t from = (y / p.stride * grad_cols + x / p.stride) * outputs;
            found.push_back({y, x, rows, columns, from, std::move(offsets), std::move(turned)});
        }
    }
    return found;
}

std::vector<int64_t> Direct::tap_offsets() const {
    std::vector<int64_t> offsets;
    for (int64_t y = 0; y < p.kernel; y++)
        for (int64_t x = 0; x < p.kernel; x++) offsets.push_back((y * p.mid_w + x) * inputs);
    return offsets;
}

void Direct::forward() const {
    const Weights weights(p.co, p.ci, taps,
                          [&](int64_t o, int64_t i, int64_t t) { return weight(o, i, t); });
    const std::vector<int64_t> offsets = tap_offsets();
    const std::vector<float> start = bias();
    const int64_t pixels = p.out_h * p.out_w, scratch = raw_size() + lines_size();
    const int64_t memory = mid_size() + scratch + pixels * outputs;
    for_each_job(p.n, threads(), memory, mid_size(), [&](int64_t image, int, float* mid) {
        float* out = mid + mid_size() + scratch;
        read(image, mid, mid + mid_size());
        const Grid<const float> from = {mid, p.stride * p.mid_w * inputs, p.stride * inputs};
        const Grid<float> to = {out, p.out_w * outputs, outputs};
        multiply_grid(from, to, p.out_h, p.out_w, offsets, p.ci, weights.panels, start.data(),
                      &finish);
        separate(out, p.out_w * outputs, outputs, p.co, p.out_h, p.out_w,
                 static_cast<float*>(p.y) + image * p.co * pixels);
    });
}

void Direct::write_input_gradient(int64_t image, const float* grad,
                                 const std::vector<Phase>& phases, float* mid,
                                 float* scratch) const {
    for (const Phase& phase : phases) {
        const Grid<const float> from = {grad + phase.from, grad_cols * outputs, outputs};
        const Grid<float> to = {mid + (phase.y * p.mid_w + phase.x) * inputs,
                                p.stride * p.mid_w * inputs, p.stride * inputs};
        multiply_grid(from, to, phase.rows, phase.columns, phase.offsets, p.co,
                      phase.weights.panels, nullptr, nullptr);
    }
    float* grad_x = static_cast<float*>(p.grad_x) + image * p.ci * p.h * p.w;
    if (!p.fir_h) {
        const float* inside = mid + (p.pad_y * p.mid_w + p.pad_x) * inputs;
        return separate(inside, p.mid_w * inputs, inputs, p.ci, p.h, p.w, grad_x);
    }
    float* lines = scratch + raw_size();
    const Axis back_x(horizontal, p.w), back_y(vertical, p.h);
    for (int64_t y = 0; y < p.mid_h; y++)
        back_x.apply(mid + y * p.mid_w * inputs, lines + y * p.w * inputs, inputs, inputs);
    back_y.apply(lines, scratch, p.w * inputs, p.w * inputs);
    separate(scratch, p.w * inputs, inputs, p.ci, p.h, p.w, grad_x);
}

void Direct::add_weight_gradient(const float* mid, const float* grad, float* sums) const {
    const int64_t step = std::max<int64_t>(1, (kSummedPixels + p.out_w - 1) / p.out_w);
    const int64_t blocks = (p.ci + kPixels - 1) / kPixels;
    for (int64_t top = 0; top < p.out_h; top += step) {
        const int64_t rows = std::min(step, p.out_h - top);
        float* to = sums;
        for (int64_t first = 0; first < outputs; first += kPanel) {
            const int64_t width = std::min(outputs - first, kPanel);
            const Grid<const float> right = {
                grad + ((reach + top) * grad_cols + reach) * outputs + first, grad_cols * outputs,
                outputs};
            for (int64_t offset : tap_offsets()) {
                for (int64_t block = 0; block < blocks; block++) {
                    const int64_t c = p.ci * block / blocks, end = p.ci * (block + 1) / blocks;
                    const Grid<const float> left = {
                        mid + top * p.stride * p.mid_w * inputs + offset + c,
                        p.stride * p.mid_w * inputs, p.stride * inputs};
                    if (width == kPanel)
                        correlate_channels<2>(end - c, left, right, rows, p.out_w, to);
                    else
                        correlate_channels<1>(end - c, left, right, rows, p.out_w, to);
                    to += (end - c) * width;
                }
            }
        }
    }
}

void Direct::backward() const {
    const std::vector<Phase> turned = p.grad_x ? phases() : std::vector<Phase>();
    const int64_t num_sums = p.grad_weight ? outputs * p.ci * taps : 0;
    Sums sums(threads(), num_sums, outputs);
    const int64_t scratch_size = raw_size() + lines_size();
    const int64_t memory = grad_size() + mid_size() + scratch_size + planes_size();
    const int64_t zeros = grad_size() + mid_size();
    for_each_job(p.n, threads(), memory, zeros, [&](int64_t image, int thread, float* grad) {
        float* mid = grad + grad_size();
        float* scratch = mid + mid_size();
        read_gradient(image, scratch + scratch_size, grad, sums.bias(thread));
        if (p.grad_weight) {
            // Zeros around x; what an image before left there are gradients.
            if (!p.fir_h && p.grad_x) std::fill(mid, mid + mid_size(), 0.0f);
            read(image, mid, scratch);
            add_weight_gradient(mid, grad, sums.weight(thread));
        }
        if (p.grad_x) write_input_gradient(image, grad, turned, mid, scratch);
    });
    sums.reduce();
    if (p.grad_bias) std::copy_n(sums.bias(0), p.co, static_cast<float*>(p.grad_bias));
    if (p.grad_weight) write_weight_gradient(sums.weight(0));
}

void Direct::write_weight_gradient(const float* sums) const {
    for (int64_t first = 0; first < outputs; first += kPanel) {
        const int64_t end = std::min(outputs, first + kPanel);
        for (int64_t t = 0; t < taps; t++)
            for (int64_t i = 0; i < p.ci; i++)
                for (int64_t o = first; o < end; o++, sums++)
                    if (o < p.co) put_weight_gradient(o, i, t, *sums);
    }
}

const char* problem(const ConvLayerParams& p) {
    const bool filtered = p.fir_h > 0 && p.fir_w > 0;
    if (filtered != (p.taps != nullptr) || (p.fir_h > 0) != (p.fir_w > 0))
        return "conv_layer: a filter needs taps along both axes";
    if (p.pad_y < 0 || p.pad_x < 0 || p.stride < 1 || p.fir_step < 1)
        return "conv_layer: negative padding or a step below 1";
    if (!filtered && (p.pad_y + p.h > p.mid_h || p.pad_x + p.w > p.mid_w))
        return "conv_layer: x does not fit its padded size";
    if (p.out_h != (p.mid_h - p.kernel) / p.stride + 1 || p.mid_h < p.kernel ||
        p.out_w != (p.mid_w - p.kernel) / p.stride + 1 || p.mid_w < p.kernel)
        return "conv_layer: sizes of y and of what the convolution reads disagree";
    if (p.algorithm == CONV_LAYER_WINOGRAD && (p.kernel != 3 || p.stride != 1 || filtered))
        return "conv_layer: Winograd's algorithm is for 3 x 3 kernels, stride 1 and no filter";
    return nullptr;
}

// Whether fewer products outweigh the steps around them.
bool uses_winograd(const ConvLayerParams& p) {
    if (p.algorithm != CONV_LAYER_BY_SIZE) return p.algorithm == CONV_LAYER_WINOGRAD;
    const int64_t tiles = (p.out_h + 3) / 4 * ((p.out_w + 3) / 4);
    return p.kernel == 3 && p.stride == 1 && !p.fir_h && std::min(p.ci, p.co) >= 16 &&
           16 * tiles <= 1.5 * p.out_h * p.out_w;
}

}  // namespace

INR_EXPORT const char* conv_layer_forward(const ConvLayerParams* p) {
    if (const char* text = problem(*p)) return text;
    if (uses_winograd(*p))
        winograd_forward(*p);
    else
        Direct(*p).forward();
    return nullptr;
}

INR_EXPORT const char* conv_layer_backward(const ConvLayerParams* p) {
    if (const char* text = problem(*p)) return text;
    if (uses_winograd(*p))
        winograd_backward(*p);
    else
        Direct(*p).backward();
    return nullptr;
}

// A convolutional layer on the CPU, for layers whose images fit a core's cache: every thread takes
// one image through filter, convolution and activation, or back, without leaving its cache.
#include <utility>

#include "conv_layer.h"
#include "conv_layer_tiles.h"

namespace {

using namespace inr;

// Pixels that one tile of a weight's gradient sums up before it goes back to memory.
constexpr int64_t kSummedPixels = 64;

// Weights as panels of results: [taps][inputs][width] each.
struct Weights {
    std::vector<float> storage;
    std::vector<Panel> panels;

    // value(result, input, tap); what is beyond the results is zero.
    template <typename F>
    Weights(int64_t results, int64_t inputs, int64_t taps, F value) {
        const int64_t pitch = pitch_of(results);
        storage.resize(static_cast<size_t>(std::max<int64_t>(pitch * inputs * taps, 1)));
        float* to = storage.data();
        for (int64_t first = 0; first < pitch; first += kPanel) {
            const int64_t width = std::min(pitch - first, kPanel);
            panels.push_back({to, first, width});
            for (int64_t t = 0; t < taps; t++)
                for (int64_t i = 0; i < inputs; i++)
                    for (int64_t o = first; o < first + width; o++)
                        *to++ = o < results ? value(o, i, t) : 0.0f;
        }
    }
};

// Pixels of `mid` that are `stride` apart, and the taps that reach them.
struct Phase {
    int64_t y, x;           // the first one
    int64_t rows, columns;  // how many
    int64_t from;           // where the first one reads
    std::vector<int64_t> offsets;
    Weights weights;
};

// Memory of one thread, kept between calls.
float* workspace(int64_t size) {
    thread_local std::vector<float> memory;
    if (memory.size() < static_cast<size_t>(size)) memory.resize(static_cast<size_t>(size));
    return memory.data();
}

class Layer {
public:
    explicit Layer(const ConvLayerParams& params)
        : p(params),
          inputs(pitch_of(p.ci)),
          outputs(pitch_of(p.co)),
          taps(p.kernel * p.kernel),
          // Zeros around the gradient of the results, as far as a kernel reaches.
          reach((p.kernel - 1) / p.stride),
          grad_h(reach + (p.mid_h - 1) / p.stride + 1),
          grad_w(reach + (p.mid_w - 1) / p.stride + 1),
          vertical(p.mid_h, p.h, static_cast<const double*>(p.taps), p.fir_h, p.fir_step, p.pad_y),
          horizontal(p.mid_w, p.w, static_cast<const double*>(p.taps) + p.fir_h, p.fir_w,
                     p.fir_step, p.pad_x),
          finish{static_cast<float>(p.slope), static_cast<float>(p.gain),
                 static_cast<float>(p.clamp)} {}

    void forward() const;
    void backward() const;

private:
    const float* weight() const { return static_cast<const float*>(p.weight); }
    int64_t mid_size() const { return p.mid_h * p.mid_w * inputs; }
    int64_t lines_size() const { return p.fir_h ? p.mid_h * p.w * inputs : 0; }
    int64_t raw_size() const { return p.fir_h ? p.h * p.w * inputs : 0; }
    Weights forward_weights() const;
    std::vector<Phase> phases() const;
    std::vector<int64_t> tap_offsets() const;

    // x of one image as pixels, filtered, with zeros around; scratch: raw and lines.
    void read(int64_t image, float* mid, float* scratch) const;
    // The gradient of z of one image as pixels, with zeros around; adds it up in `bias`.
    void read_gradient(int64_t image, float* planes, float* grad, float* bias) const;
    void write_input_gradient(int64_t image, const float* grad, const std::vector<Phase>& phases,
                              float* mid, float* scratch) const;
    void add_weight_gradient(const float* mid, const float* grad, float* sums) const;

    template <typename F>
    void for_each_image(int64_t memory, F f) const;

    const ConvLayerParams& p;
    int64_t inputs, outputs, taps, reach, grad_h, grad_w;
    Axis vertical, horizontal;
    Finish finish;
};

// Calls f(image, thread, memory), the memory zero at a thread's first image.
template <typename F>
void Layer::for_each_image(int64_t memory, F f) const {
#ifdef _OPENMP
    const int threads = static_cast<int>(std::min(p.threads, p.n));
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const int thread = omp_get_thread_num();
        float* mine = workspace(memory);
        std::fill(mine, mine + memory, 0.0f);
#pragma omp for schedule(static)
        for (int64_t image = 0; image < p.n; image++) f(image, thread, mine);
    }
#else
    float* mine = workspace(memory);
    std::fill(mine, mine + memory, 0.0f);
    for (int64_t image = 0; image < p.n; image++) f(image, 0, mine);
#endif
}

Weights Layer::forward_weights() const {
    const float gain = static_cast<float>(p.weight_gain);
    return Weights(p.co, p.ci, taps, [&](int64_t o, int64_t i, int64_t t) {
        return gain * weight()[(o * p.ci + i) * taps + t];
    });
}

std::vector<Phase> Layer::phases() const {
    std::vector<Phase> found;
    const float gain = static_cast<float>(p.weight_gain);
    // Without a filter the gradient of zeros around x is not needed.
    const int64_t top = p.fir_h ? 0 : p.pad_y, bottom = p.fir_h ? p.mid_h : p.pad_y + p.h;
    const int64_t left = p.fir_h ? 0 : p.pad_x, right = p.fir_h ? p.mid_w : p.pad_x + p.w;
    for (int64_t y = top; y < std::min(top + p.stride, bottom); y++) {
        for (int64_t x = left; x < std::min(left + p.stride, right); x++) {
            std::vector<int64_t> offsets, places;
            for (int64_t ty = y % p.stride; ty < p.kernel; ty += p.stride) {
                for (int64_t tx = x % p.stride; tx < p.kernel; tx += p.stride) {
                    const int64_t back_y = reach - ty / p.stride, back_x = reach - tx / p.stride;
                    offsets.push_back((back_y * grad_w + back_x) * outputs);
                    places.push_back(ty * p.kernel + tx);
                }
            }
            const int64_t count = static_cast<int64_t>(places.size());
            Weights turned(p.ci, p.co, count, [&](int64_t i, int64_t o, int64_t t) {
                return gain * weight()[(o * p.ci + i) * taps + places[t]];
            });
            const int64_t rows = (bottom - y + p.stride - 1) / p.stride;
            const int64_t columns = (right - x + p.stride - 1) / p.stride;
            const int64_t from = (y / p.stride * grad_w + x / p.stride) * outputs;
            found.push_back({y, x, rows, columns, from, std::move(offsets), std::move(turned)});
        }
    }
    return found;
}

std::vector<int64_t> Layer::tap_offsets() const {
    std::vector<int64_t> offsets;
    for (int64_t y = 0; y < p.kernel; y++)
        for (int64_t x = 0; x < p.kernel; x++) offsets.push_back((y * p.mid_w + x) * inputs);
    return offsets;
}

void Layer::read(int64_t image, float* mid, float* scratch) const {
    const float* x = static_cast<const float*>(p.x) + image * p.ci * p.h * p.w;
    if (!p.fir_h) {
        float* inside = mid + (p.pad_y * p.mid_w + p.pad_x) * inputs;
        return interleave(x, p.ci, p.h, p.w, inside, p.mid_w * inputs, inputs);
    }
    float* lines = scratch + raw_size();
    interleave(x, p.ci, p.h, p.w, scratch, p.w * inputs, inputs);
    vertical.apply(scratch, lines, p.w * inputs, p.w * inputs);
    for (int64_t y = 0; y < p.mid_h; y++)
        horizontal.apply(lines + y * p.w * inputs, mid + y * p.mid_w * inputs, inputs, inputs);
}

void Layer::forward() const {
    const Weights weights = forward_weights();
    const std::vector<int64_t> offsets = tap_offsets();
    std::vector<float> bias(static_cast<size_t>(outputs), 0.0f);
    if (p.bias) std::copy_n(static_cast<const float*>(p.bias), p.co, bias.begin());
    const int64_t pixels = p.out_h * p.out_w;
    const int64_t memory = mid_size() + raw_size() + lines_size() + pixels * outputs;
    for_each_image(memory, [&](int64_t image, int, float* mid) {
        float* out = mid + mid_size() + raw_size() + lines_size();
        read(image, mid, mid + mid_size());
        const Grid<const float> from = {mid, p.stride * p.mid_w * inputs, p.stride * inputs};
        const Grid<float> to = {out, p.out_w * outputs, outputs};
        multiply_grid(from, to, p.out_h, p.out_w, offsets, p.ci, weights.panels, bias.data(),
                      &finish);
        separate(out, p.out_w * outputs, outputs, p.co, p.out_h, p.out_w,
                 static_cast<float*>(p.y) + image * p.co * pixels);
    });
}

void Layer::read_gradient(int64_t image, float* planes, float* grad, float* bias) const {
    const int64_t pixels = p.out_h * p.out_w, start = image * p.co * pixels;
    const float* y = static_cast<const float*>(p.result) + start;
    const float* dy = static_cast<const float*>(p.grad_y) + start;
    const float above = finish.gain, below = finish.gain * finish.slope;
    for (int64_t c = 0; c < p.co; c++) {
        const int64_t first = c * pixels;
        Eight sum = {};
        int64_t i = first;
        for (; i + kEight <= first + pixels; i += kEight) {
            const Eight result = load8(y + i);
            Eight dz = load8(dy + i) * (result > 0.0f ? Eight{} + above : Eight{} + below);
            if (finish.clamp >= 0)
                dz = result < finish.clamp && result > -finish.clamp ? dz : Eight{};
            sum += dz;
            store8(planes + i, dz);
        }
        float rest = 0;
        for (; i < first + pixels; i++) {
            const bool inside = finish.clamp < 0 || (y[i] < finish.clamp && y[i] > -finish.clamp);
            planes[i] = inside ? dy[i] * (y[i] > 0 ? above : below) : 0.0f;
            rest += planes[i];
        }
        for (int64_t lane = 0; lane < kEight; lane++) rest += sum[lane];
        bias[c] += rest;
    }
    float* inside = grad + (reach * grad_w + reach) * outputs;
    interleave(planes, p.co, p.out_h, p.out_w, inside, grad_w * outputs, outputs);
}

void Layer::write_input_gradient(int64_t image, const float* grad,
                                 const std::vector<Phase>& phases, float* mid,
                                 float* scratch) const {
    for (const Phase& phase : phases) {
        const Grid<const float> from = {grad + phase.from, grad_w * outputs, outputs};
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

void Layer::add_weight_gradient(const float* mid, const float* grad, float* sums) const {
    const int64_t step = std::max<int64_t>(1, (kSummedPixels + p.out_w - 1) / p.out_w);
    const int64_t blocks = (p.ci + kPixels - 1) / kPixels;
    for (int64_t top = 0; top < p.out_h; top += step) {
        const int64_t rows = std::min(step, p.out_h - top);
        float* to = sums;
        for (int64_t first = 0; first < outputs; first += kPanel) {
            const int64_t width = std::min(outputs - first, kPanel);
            const Grid<const float> right = {
                grad + ((reach + top) * grad_w + reach) * outputs + first, grad_w * outputs,
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

void Layer::backward() const {
    const std::vector<Phase> turned = p.grad_x ? phases() : std::vector<Phase>();
    const int64_t num_sums = p.grad_weight ? outputs * p.ci * taps : 0;
    const int64_t grad_size = grad_h * grad_w * outputs, planes = p.co * p.out_h * p.out_w;
    const int64_t threads = std::max<int64_t>(1, std::min(p.threads, p.n));
    // One after the other, so that sums do not depend on which thread ends first.
    std::vector<float> sums(static_cast<size_t>(threads * (num_sums + outputs)), 0.0f);
    const int64_t memory = grad_size + mid_size() + raw_size() + lines_size() + planes;
    for_each_image(memory, [&](int64_t image, int thread, float* grad) {
        float* mine = sums.data() + thread * (num_sums + outputs);
        float* mid = grad + grad_size;
        float* scratch = mid + mid_size();
        read_gradient(image, scratch + raw_size() + lines_size(), grad, mine + num_sums);
        if (p.grad_weight) {
            // Zeros around x; what an image before left there are gradients.
            if (!p.fir_h && p.grad_x) std::fill(mid, mid + mid_size(), 0.0f);
            read(image, mid, scratch);
            add_weight_gradient(mid, grad, mine);
        }
        if (p.grad_x) write_input_gradient(image, grad, turned, mid, scratch);
    });
    for (int64_t thread = 1; thread < threads; thread++)
        for (int64_t i = 0; i < num_sums + outputs; i++)
            sums[i] += sums[thread * (num_sums + outputs) + i];
    if (p.grad_bias) std::copy_n(&sums[num_sums], p.co, static_cast<float*>(p.grad_bias));
    if (!p.grad_weight) return;
    const float* from = sums.data();
    float* to = static_cast<float*>(p.grad_weight);
    for (int64_t first = 0; first < outputs; first += kPanel) {
        const int64_t end = std::min(outputs, first + kPanel);
        for (int64_t t = 0; t < taps; t++)
            for (int64_t i = 0; i < p.ci; i++)
                for (int64_t o = first; o < end; o++, from++)
                    if (o < p.co)
                        to[(o * p.ci + i) * taps + t] = static_cast<float>(p.weight_gain) * *from;
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
    return nullptr;
}

}  // namespace

INR_EXPORT const char* conv_layer_forward(const ConvLayerParams* p) {
    if (const char* text = problem(*p)) return text;
    Layer(*p).forward();
    return nullptr;
}

INR_EXPORT const char* conv_layer_backward(const ConvLayerParams* p) {
    if (const char* text = problem(*p)) return text;
    Layer(*p).backward();
    return nullptr;
}

// What both algorithms of a convolutional layer share: sizes, weights, an image in and out, threads.
#pragma once

#include "conv_layer.h"
#include "conv_layer_tiles.h"

namespace inr {

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

// What threads add up, each for itself, so that sums do not depend on which one ends first.
class Sums {
public:
    Sums(int64_t threads, int64_t weights, int64_t biases)
        : threads_(threads), weights_(weights), size_(weights + biases) {
        values_.resize(static_cast<size_t>(threads_ * size_), 0.0f);
    }

    float* weight(int64_t thread) { return values_.data() + thread * size_; }
    float* bias(int64_t thread) { return weight(thread) + weights_; }

    // Adds up all threads' in those of the first one.
    void reduce() {
        for (int64_t thread = 1; thread < threads_; thread++)
            for (int64_t i = 0; i < size_; i++) values_[i] += values_[thread * size_ + i];
    }

private:
    int64_t threads_, weights_, size_;
    std::vector<float> values_;
};

// One layer. Buffers of pixels have channels rounded up to eight.
class Layer {
protected:
    // rows x columns: pixels of the buffer with zeros around x; those of the gradient of the
    // results get as many zeros as a kernel reaches. Both may be larger than that.
    Layer(const ConvLayerParams& params, int64_t rows, int64_t columns, int64_t gradient_rows,
          int64_t gradient_columns)
        : p(params),
          inputs(pitch_of(p.ci)),
          outputs(pitch_of(p.co)),
          taps(p.kernel * p.kernel),
          reach((p.kernel - 1) / p.stride),
          mid_rows(rows),
          mid_cols(columns),
          grad_rows(gradient_rows),
          grad_cols(gradient_columns),
          vertical(p.mid_h, p.h, static_cast<const double*>(p.taps), p.fir_h, p.fir_step, p.pad_y),
          horizontal(p.mid_w, p.w, static_cast<const double*>(p.taps) + p.fir_h, p.fir_w,
                     p.fir_step, p.pad_x),
          finish{static_cast<float>(p.slope), static_cast<float>(p.gain),
                 static_cast<float>(p.clamp)} {}

    int64_t mid_size() const { return mid_rows * mid_cols * inputs; }
    int64_t grad_size() const { return grad_rows * grad_cols * outputs; }
    int64_t planes_size() const { return p.co * p.out_h * p.out_w; }
    int64_t lines_size() const { return p.fir_h ? p.mid_h * p.w * inputs : 0; }
    int64_t raw_size() const { return p.fir_h ? p.h * p.w * inputs : 0; }
    int64_t threads() const { return std::max<int64_t>(1, std::min(p.threads, p.n)); }

    // Weight of one result, input and tap, with its gain.
    float weight(int64_t o, int64_t i, int64_t t) const {
        const float* values = static_cast<const float*>(p.weight);
        return static_cast<float>(p.weight_gain) * values[(o * p.ci + i) * taps + t];
    }

    // Bias with zeros up to a multiple of eight.
    std::vector<float> bias() const {
        std::vector<float> values(static_cast<size_t>(outputs), 0.0f);
        if (p.bias) std::copy_n(static_cast<const float*>(p.bias), p.co, values.begin());
        return values;
    }

    void put_weight_gradient(int64_t o, int64_t i, int64_t t, float sum) const {
        float* values = static_cast<float*>(p.grad_weight);
        values[(o * p.ci + i) * taps + t] = static_cast<float>(p.weight_gain) * sum;
    }

    // x of one image as pixels, filtered, with zeros around; scratch: raw and lines.
    void read(int64_t image, float* mid, float* scratch) const;

    // The gradient of z of one image as pixels, with zeros around; adds it up in `bias`.
    void read_gradient(int64_t image, float* planes, float* grad, float* bias) const;

    const ConvLayerParams& p;
    int64_t inputs, outputs, taps;
    int64_t reach;  // zeros above and left of the gradient of the results
    int64_t mid_rows, mid_cols, grad_rows, grad_cols;
    Axis vertical, horizontal;
    Finish finish;
};

// Calls f(job, thread, memory) for every job; the first `zeros` numbers of the memory are zero at
// a thread's first one. Which thread takes which job does not change from call to call.
template <typename F>
void for_each_job(int64_t jobs, int64_t threads, int64_t memory, int64_t zeros, F f) {
#ifdef _OPENMP
#pragma omp parallel num_threads(static_cast<int>(threads)) if (threads > 1)
    {
        const int thread = omp_get_thread_num();
        float* mine = scratch<float>(memory);
        std::fill(mine, mine + zeros, 0.0f);
#pragma omp for schedule(static)
        for (int64_t job = 0; job < jobs; job++) f(job, thread, mine);
    }
#else
    static_cast<void>(threads);
    float* mine = scratch<float>(memory);
    std::fill(mine, mine + zeros, 0.0f);
    for (int64_t job = 0; job < jobs; job++) f(job, 0, mine);
#endif
}

// Winograd's algorithm, for 3 x 3 kernels with stride 1 and no filter.
void winograd_forward(const ConvLayerParams& p);
void winograd_backward(const ConvLayerParams& p);

inline void Layer::read(int64_t image, float* mid, float* scratch) const {
    const float* x = static_cast<const float*>(p.x) + image * p.ci * p.h * p.w;
    if (!p.fir_h) {
        float* inside = mid + (p.pad_y * mid_cols + p.pad_x) * inputs;
        return interleave(x, p.ci, p.h, p.w, inside, mid_cols * inputs, inputs);
    }
    float* lines = scratch + raw_size();
    interleave(x, p.ci, p.h, p.w, scratch, p.w * inputs, inputs);
    vertical.apply(scratch, lines, p.w * inputs, p.w * inputs);
    for (int64_t y = 0; y < p.mid_h; y++)
        horizontal.apply(lines + y * p.w * inputs, mid + y * mid_cols * inputs, inputs, inputs);
}

inline void Layer::read_gradient(int64_t image, float* planes, float* grad, float* bias) const {
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
    float* inside = grad + (reach * grad_cols + reach) * outputs;
    interleave(planes, p.co, p.out_h, p.out_w, inside, grad_cols * outputs, outputs);
}

}  // namespace inr

// inr_chain_backward: see inr_chain.h. Per image, tiles of pixels go back through to-RGB and all
// layers; gradients of weights are summed over tiles in memory of the thread.

#include <memory>
#include <new>

#include "inr_chain_gradients.h"

namespace {

using namespace inr;

template <typename S>
struct Backward : ChainSizes<S> {
    using Base = ChainSizes<S>;
    using L = Lanes<S>;
    using Base::p;
    using Base::outs;
    using Base::depths;
    using Base::low_panels;

    const ChainTaps<S> taps;
    const std::vector<S> shared;  // by pixels, one tile after the other
    S* weight_grads[kMaxChain];
    int64_t num_sums;                // of biases
    std::unique_ptr<S[]> bias_sums;  // [N, num_sums]

    // A thread's parts.
    struct Parts {
        S* transposed[kMaxChain];  // packed W_k^T of layers 2 to K
        // Gradients of weights, of the first layer's columns on the grid: rows as add_outer's.
        S* of_weights[kMaxChain];
        S* x_transposed;
        S* own_transposed;
        S* rgb;  // packed, where clamping has to be known
        S* rgb_bias;
        S* rgb_transposed;
        S* of_rgb;
        S* of_x_weight;  // columns of x below
        S* sums;         // of biases
        S* zeros;
        S* grad;
        S* next;
        S* inputs;
        S* turned;  // a factor of add_outer
        S* colours;
        S* clipped;
        S* band;      // gradient of the first layer's sums for some rows, [O_1, rows W]
        S* cols;      // summed over rows [O_1, W]
        S* rows;      // summed over columns [O_1, H]
        S* lines;     // passed on to rows of the lattice below [O_1, h, W]
        S* context;   // and to its columns [O_1, h w]
        S* low;       // the same in panels
        S* low_x;     // x below in panels
        S* low_grad;  // its gradient
    };

    explicit Backward(const InrChainParams& params)
        : Base(params), taps(params), shared(shared_by_pixels(*this)) {
        void* const all[] = {p.grad_weight0, p.grad_weight1, p.grad_weight2, p.grad_weight3};
        num_sums = p.colours;
        for (int64_t k = 0; k < p.layers; ++k) {
            weight_grads[k] = static_cast<S*>(all[k]);
            num_sums += outs[k];
        }
        bias_sums.reset(new S[p.batch * num_sums]);
    }

    int64_t last() const { return outs[p.layers - 1]; }
    bool clamps() const { return p.clamp >= 0; }

    // All parts in their order; `take` is called with every size.
    template <typename F>
    Parts cut(F take) const {
        Parts parts = {};
        for (int64_t k = 0; k < p.layers; ++k) {
            parts.transposed[k] = take(k > 0 ? padded_rows(depths[k]) * outs[k] : 0);
            parts.of_weights[k] = take(padded_rows(outs[k]) * outer_stride<S>(depths[k]));
        }
        const int64_t first = outs[0], tile = this->tile_panels;
        const int64_t below = this->has_context ? turned_size<S>(low_panels(), p.in_channels) : 0;
        parts.x_transposed = take(padded_rows(p.in_channels) * first);
        parts.own_transposed = take(padded_rows(p.own_channels) * first);
        parts.rgb = take(clamps() ? padded_rows(p.colours) * last() : 0);
        parts.rgb_bias = take(padded_rows(p.colours));
        parts.rgb_transposed = take(padded_rows(last()) * p.colours);
        parts.of_rgb = take(p.colours * outer_stride<S>(last()));
        parts.sums = take(num_sums);
        parts.zeros = take(padded_rows(std::max(this->widest, p.in_channels)));
        parts.grad = take(tile * panel_stride<S>(this->widest));
        parts.next = take(tile * panel_stride<S>(this->widest));
        parts.inputs = take(shared.empty() ? tile * panel_stride<S>(depths[0]) : 0);
        parts.turned = take(std::max(turned_size<S>(tile, this->widest), below));
        parts.colours = take(tile * panel_stride<S>(p.colours));
        parts.clipped = take(clamps() ? tile * panel_stride<S>(p.colours) : 0);
        parts.band = take(this->band_size());
        parts.cols = take(first * p.width);
        parts.rows = take(first * p.height);
        if (this->has_context) {
            parts.of_x_weight = take(padded_rows(first) * outer_stride<S>(p.in_channels));
            parts.lines = take(first * p.low_height * p.width);
            parts.context = take(first * this->low_pixels);
            parts.low = take(low_panels() * panel_stride<S>(first));
            parts.low_x = take(low_panels() * panel_stride<S>(p.in_channels));
            parts.low_grad = take(low_panels() * panel_stride<S>(p.in_channels));
        } else {
            parts.lines = take(p.low_height * p.width);
        }
        return parts;
    }

    void run() const {
        for_each_image<S>(
            p.batch, p.threads, [this](auto take) { return cut(take); },
            [this](int64_t n, const Parts& parts) { image(n, parts); });
        void* const grads[] = {p.grad_bias0, p.grad_bias1, p.grad_bias2, p.grad_bias3};
        const S* sums = bias_sums.get();
        for (int64_t k = 0; k < p.layers; sums += outs[k++]) {
            write_bias(sums, num_sums, p.batch, outs[k], this->bias_strides[k] > 0, grads[k]);
        }
        write_bias(sums, num_sums, p.batch, p.colours, false, p.grad_rgb_bias);
    }

    void image(int64_t n, const Parts& parts) const {
        if (p.grad_img != nullptr) {
            image_below(n, parts.lines);
        }
        prepare(n, parts);
        const int64_t step = this->tile_panels * L::kWidth;
        for (int64_t first = 0; first < this->pixels; first += step) {
            tile(n, parts, first, std::min(step, this->pixels - first));
        }
        if (this->has_context) {
            context(n, parts);
        }
        write(n, parts);
    }

    void prepare(int64_t n, const Parts& parts) const {
        for (int64_t k = 1; k < p.layers; ++k) {
            pack_transposed(this->weight(n, k), depths[k], outs[k], depths[k], parts.transposed[k]);
        }
        const S* weight = this->weight(n, 0);
        const int64_t own = this->columns - p.own_channels;
        pack_transposed(weight, this->columns, outs[0], p.in_channels, parts.x_transposed);
        pack_transposed(weight + own, this->columns, outs[0], p.own_channels, parts.own_transposed);
        const S* rgb = static_cast<const S*>(p.rgb) + n * p.colours * last();
        pack_transposed(rgb, last(), p.colours, last(), parts.rgb_transposed);
        if (clamps()) {
            pack_weight(rgb, last(), p.colours, last(), parts.rgb);
        }
        for (int64_t i = 0; i < padded_rows(p.colours); ++i) {
            parts.rgb_bias[i] = i < p.colours ? static_cast<const S*>(p.rgb_bias)[i] : S(0);
        }
        if (p.grad_image == nullptr) {
            std::fill_n(parts.of_rgb, p.colours * outer_stride<S>(last()), S(0));
        }
        std::fill_n(parts.sums, num_sums, S(0));
        std::fill_n(parts.zeros, padded_rows(std::max(this->widest, p.in_channels)), S(0));
        std::fill_n(parts.cols, outs[0] * p.width, S(0));
        std::fill_n(parts.rows, outs[0] * p.height, S(0));
        if (this->has_context) {
            std::fill_n(parts.lines, outs[0] * p.low_height * p.width, S(0));
        }
    }

    void tile(int64_t n, const Parts& parts, int64_t first, int64_t count) const {
        const int64_t panel = first / L::kWidth, panels = panels_of<S>(count);
        S* grad = parts.grad;
        S* next = parts.next;
        S* sums = parts.sums + num_sums - p.colours;
        int64_t stride = panel_stride<S>(last());
        const S* y = this->saved(n, p.layers - 1) + panel * stride;
        from_outputs(n, parts, first, count, y, grad, sums);
        for (int64_t k = p.layers - 1;; --k) {
            sums -= outs[k];
            differentiate<S>(outs[k], panels, stride, y, this->act, grad, sums);
            if (k == 0) {
                break;
            }
            const int64_t below = panel_stride<S>(depths[k]);
            y = this->saved(n, k - 1) + panel * below;
            if (weight_grads[k] != nullptr) {
                by_pixels(y, below, depths[k], panels, parts.turned);
                add_outer(outs[k], depths[k], panels, grad, stride, parts.turned, first > 0,
                          parts.of_weights[k]);
            }
            multiply_tile<S, Start::kBias, Finish::kSum>(
                depths[k], outs[k], panels, parts.transposed[k], parts.zeros, grad, stride, next,
                below, this->act);
            std::swap(grad, next);
            stride = below;
        }
        first_layer(n, parts, first, count, grad, next);
    }

    // grad = dL/dy of the last layer, from features and colours.
    void from_outputs(
        int64_t n, const Parts& parts, int64_t first, int64_t count, const S* y, S* grad,
        S* sums) const {
        const int64_t panels = panels_of<S>(count), stride = panel_stride<S>(last());
        const int64_t narrow = panel_stride<S>(p.colours);
        if (p.grad_features != nullptr) {
            const S* from = static_cast<const S*>(p.grad_features);
            from += n * last() * this->pixels + first;
            to_panels(from, this->pixels, last(), count, stride, grad);
            // Lines that fill up the last rows of weights.
            for (int64_t j = 0; j < panels; ++j) {
                S* const padding = grad + j * stride + last() * L::kWidth;
                std::fill_n(padding, (padded_rows(last()) - last()) * L::kWidth, S(0));
            }
        } else {
            std::fill_n(grad, panels * stride, S(0));
        }
        if (p.grad_image == nullptr) {
            return;
        }
        const S* from = static_cast<const S*>(p.grad_image) + n * p.colours * this->pixels + first;
        to_panels(from, this->pixels, p.colours, count, narrow, parts.colours);
        Activation<S> none = {S(1), S(1), this->act.limit};
        if (clamps()) {
            multiply_tile<S, Start::kBias, Finish::kActivate>(
                p.colours, last(), panels, parts.rgb, parts.rgb_bias, y, stride, parts.clipped,
                narrow, none);
        } else {
            none.limit = std::numeric_limits<S>::infinity();
        }
        const S* const clipped = clamps() ? parts.clipped : parts.colours;
        differentiate<S>(p.colours, panels, narrow, clipped, none, parts.colours, sums);
        if (p.grad_rgb != nullptr) {
            add_dots(p.colours, last(), panels, parts.colours, narrow, y, stride, first > 0,
                     parts.of_rgb);
        }
        multiply_tile<S, Start::kSum, Finish::kSum>(
            last(), p.colours, panels, parts.rgb_transposed, parts.zeros, parts.colours, narrow,
            grad, stride, this->act);
    }

    void first_layer(
        int64_t n, const Parts& parts, int64_t first, int64_t count, const S* grad, S* next) const {
        const int64_t panels = panels_of<S>(count), stride = panel_stride<S>(outs[0]);
        const int64_t in = panel_stride<S>(depths[0]);
        if (weight_grads[0] != nullptr && depths[0] > 0) {
            const S* turned = shared.data() + turned_size<S>(first / L::kWidth, depths[0]);
            if (shared.empty()) {
                this->inputs(n, first, count, parts.inputs);
                by_pixels(parts.inputs, in, depths[0], panels, parts.turned);
                turned = parts.turned;
            }
            add_outer(outs[0], depths[0], panels, grad, stride, turned, first > 0,
                      parts.of_weights[0]);
        }
        if (p.grad_own != nullptr) {
            S* const to = static_cast<S*>(p.grad_own) + n * p.own_channels * this->pixels + first;
            back(parts, parts.own_transposed, p.own_channels, count, grad, next, to);
        }
        if (p.grad_x != nullptr && !this->has_context) {
            S* const to = static_cast<S*>(p.grad_x) + n * p.in_channels * this->pixels + first;
            back(parts, parts.x_transposed, p.in_channels, count, grad, next, to);
        }
        if (this->starts_from_sums()) {
            sum_planes(parts, first, count, grad);
        }
    }

    // Gradients of inputs on the grid.
    void back(
        const Parts& parts, const S* weight, int64_t channels, int64_t count, const S* grad,
        S* next, S* to) const {
        const int64_t stride = panel_stride<S>(channels);
        multiply_tile<S, Start::kBias, Finish::kSum>(
            channels, outs[0], panels_of<S>(count), weight, parts.zeros, grad,
            panel_stride<S>(outs[0]), next, stride, this->act);
        to_planes(next, stride, channels, count, this->pixels, to);
    }

    // Adds the first layer's gradient to its sums over rows, over columns, and over taps of rows.
    void sum_planes(const Parts& parts, int64_t first, int64_t count, const S* grad) const {
        if (this->rows_are_panels()) {
            sum_panels(parts, first, count, grad);
            return;
        }
        const int64_t top = first / p.width, bottom = (first + count - 1) / p.width + 1;
        const int64_t size = (bottom - top) * p.width, shift = first - top * p.width;
        to_planes(grad, panel_stride<S>(outs[0]), outs[0], count, size, parts.band + shift);
        for (int64_t o = 0; o < outs[0]; ++o) {
            S* const band = parts.band + o * size;
            std::fill_n(band, shift, S(0));
            std::fill_n(band + shift + count, size - shift - count, S(0));
            for (int64_t y = top; y < bottom; ++y) {
                const S* const row = band + (y - top) * p.width;
                parts.rows[o * p.height + y] += add_row(row, p.width, parts.cols + o * p.width);
                if (this->has_context) {
                    taps.spread(y, 0, p.width, row, parts.lines + o * p.low_height * p.width);
                }
            }
        }
    }

    void sum_panels(const Parts& parts, int64_t first, int64_t count, const S* grad) const {
        const int64_t stride = panel_stride<S>(outs[0]);
        for (int64_t o = 0; o < outs[0]; ++o) {
            const S* panel = grad + o * L::kWidth;
            this->for_panels(first, count, [&](int64_t y, int64_t x) {
                S* const col = parts.cols + o * p.width + x;
                parts.rows[o * p.height + y] += add_row(panel, L::kWidth, col);
                if (this->has_context) {
                    taps.spread(y, x, L::kWidth, panel, parts.lines + o * p.low_height * p.width);
                }
                panel += stride;
            });
        }
    }

    void context(int64_t n, const Parts& parts) const {
        for (int64_t i = 0; i < outs[0] * p.low_height; ++i) {
            taps.back.apply(parts.lines + i * p.width, parts.context + i * p.low_width);
        }
        const int64_t stride = panel_stride<S>(outs[0]), in = panel_stride<S>(p.in_channels);
        const int64_t count = this->low_pixels;
        to_panels(parts.context, count, outs[0], count, stride, parts.low);
        if (weight_grads[0] != nullptr) {
            const S* x = static_cast<const S*>(p.x) + n * p.in_channels * count;
            to_panels(x, count, p.in_channels, count, in, parts.low_x);
            by_pixels(parts.low_x, in, p.in_channels, low_panels(), parts.turned);
            add_outer(outs[0], p.in_channels, low_panels(), parts.low, stride, parts.turned, false,
                      parts.of_x_weight);
        }
        if (p.grad_x != nullptr) {
            multiply_tile<S, Start::kBias, Finish::kSum>(
                p.in_channels, outs[0], low_panels(), parts.x_transposed, parts.zeros, parts.low,
                stride, parts.low_grad, in, this->act);
            S* const to = static_cast<S*>(p.grad_x) + n * p.in_channels * count;
            to_planes(parts.low_grad, in, p.in_channels, count, count, to);
        }
    }

    void image_below(int64_t n, S* lines) const {
        for (int64_t c = n * p.colours; c < (n + 1) * p.colours; ++c) {
            const S* const grad = static_cast<const S*>(p.grad_image) + c * this->pixels;
            if (p.taps == 0) {
                S* const to = static_cast<S*>(p.grad_img) + c * this->pixels;
                std::copy(grad, grad + this->pixels, to);
                continue;
            }
            std::fill_n(lines, p.low_height * p.width, S(0));
            for (int64_t y = 0; y < p.height; ++y) {
                taps.spread(y, 0, p.width, grad + y * p.width, lines);
            }
            S* const to = static_cast<S*>(p.grad_img) + c * this->low_pixels;
            for (int64_t r = 0; r < p.low_height; ++r) {
                taps.back.apply(lines + r * p.width, to + r * p.low_width);
            }
        }
    }

    // Gradients of weights and biases.
    void write(int64_t n, const Parts& parts) const {
        if (weight_grads[0] != nullptr) {
            for (int64_t o = 0; o < outs[0]; ++o) {
                write_row(parts, o, weight_grads[0] + (n * outs[0] + o) * this->columns);
            }
        }
        for (int64_t k = 1; k < p.layers; ++k) {
            keep(parts.of_weights[k], outs[k], depths[k], weight_grads[k], n);
        }
        keep(parts.of_rgb, p.colours, last(), p.grad_rgb, n);
        std::copy_n(parts.sums, num_sums, bias_sums.get() + n * num_sums);
    }

    void write_row(const Parts& parts, int64_t o, S* to) const {
        const S* const grid = parts.of_weights[0] + o * outer_stride<S>(depths[0]);
        const S* const below = this->has_context ? parts.of_x_weight : parts.of_weights[0];
        const int64_t shift = o * outer_stride<S>(this->has_context ? p.in_channels : depths[0]);
        std::copy_n(below + shift, p.in_channels, to);
        to += this->tables;
        const S* const col = parts.cols + o * p.width;
        dot_rows(col, p.cols, p.col_channels, p.width, to);
        const S* const row = parts.rows + o * p.height;
        dot_rows(row, p.rows, p.row_channels, p.height, to + p.col_channels);
        to += p.col_channels + p.row_channels;
        std::copy_n(grid + this->grid_x, depths[0] - this->grid_x, to);
    }
};

}  // namespace

const char* inr_chain_backward(const InrChainParams* p) try {
    switch (p->dtype) {
        case INR_FLOAT32:
            Backward<float>(*p).run();
            return nullptr;
        case INR_FLOAT64:
            Backward<double>(*p).run();
            return nullptr;
    }
    return "inr_chain takes float32 and float64";
} catch (const std::bad_alloc&) {
    return "out of memory";
}

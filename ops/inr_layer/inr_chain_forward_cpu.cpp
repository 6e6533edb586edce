// inr_chain_forward: see inr_chain.h. Per image: weights are packed; W_x x is taken on the lattice
// below; tiles of pixels go through all layers and to-RGB, and stay in `saved` as they are.

#include <new>

#include "inr_chain_parts.h"

namespace {

using namespace inr;

template <typename S>
struct Forward : ChainSizes<S> {
    using Base = ChainSizes<S>;
    using L = Lanes<S>;
    using Base::p;
    using Base::outs;
    using Base::depths;
    using Base::low_panels;

    const ChainTaps<S> taps;
    const std::vector<S> shared;
    // A thread's parts.
    struct Parts {
        S* weights[kMaxChain];
        S* biases[kMaxChain];
        S* rgb;
        S* rgb_bias;
        S* zeros;
        S* x_weight;
        S* low;      // x below in panels
        S* product;  // W_x x in panels
        S* context;  // W_x x in planes [O_1, h w]
        S* cols;     // W_c cols [O_1, W]
        S* rows;     // W_r rows [O_1, H]
        S* lines;    // [h, W] of one channel
        S* band;     // sums of the first layer for some rows, [O_1, rows W]
        S* inputs;
        S* colours;
    };

    explicit Forward(const InrChainParams& params)
        : Base(params), taps(params), shared(this->shared_inputs()) {}

    // All parts in their order; `take` is called with every size.
    template <typename F>
    Parts cut(F take) const {
        Parts parts = {};
        for (int64_t k = 0; k < p.layers; ++k) {
            parts.weights[k] = take(padded_rows(outs[k]) * depths[k]);
            parts.biases[k] = take(padded_rows(outs[k]));
        }
        const int64_t colours = padded_rows(p.colours), rows = padded_rows(outs[0]);
        parts.rgb = take(colours * outs[p.layers - 1]);
        parts.rgb_bias = take(colours);
        parts.zeros = take(rows);
        if (this->has_context) {
            parts.x_weight = take(rows * p.in_channels);
            parts.low = take(low_panels() * panel_stride<S>(p.in_channels));
            parts.product = take(low_panels() * panel_stride<S>(outs[0]));
            parts.context = take(outs[0] * this->low_pixels);
        }
        parts.lines = take(p.low_height * p.width);
        parts.cols = take(outs[0] * p.width);
        parts.rows = take(outs[0] * p.height);
        parts.band = take(this->band_size());
        parts.inputs = take(shared.empty() ? this->tile_panels * panel_stride<S>(depths[0]) : 0);
        parts.colours = take(this->tile_panels * panel_stride<S>(p.colours));
        return parts;
    }

    void run() const {
        for_each_image<S>(
            p.batch, p.threads, [this](auto take) { return cut(take); },
            [this](int64_t n, const Parts& parts) { image(n, parts); });
    }

    void image(int64_t n, const Parts& parts) const {
        pack(n, parts);
        if (this->has_context) {
            context(n, parts);
        }
        table_terms(n, parts);
        const int64_t step = this->tile_panels * L::kWidth;
        for (int64_t first = 0; first < this->pixels; first += step) {
            tile(n, parts, first, std::min(step, this->pixels - first));
        }
        if (p.img != nullptr) {
            add_image(n, parts.lines);
        }
    }

    void pack(int64_t n, const Parts& parts) const {
        for (int64_t k = 0; k < p.layers; ++k) {
            const S* weight = this->weight(n, k);
            const int64_t stride = this->weight_stride(k);
            const int64_t head = k > 0 ? depths[k] : this->grid_x;
            pack_weight(
                weight, stride, outs[k], head, this->tail, depths[k] - head, parts.weights[k]);
            const S* bias = this->biases[k] + n * this->bias_strides[k];
            for (int64_t i = 0; i < padded_rows(outs[k]); ++i) {
                parts.biases[k][i] = i < outs[k] ? bias[i] : S(0);
            }
        }
        const int64_t depth = outs[p.layers - 1];
        const S* rgb = static_cast<const S*>(p.rgb) + n * p.colours * depth;
        pack_weight(rgb, depth, p.colours, depth, parts.rgb);
        for (int64_t i = 0; i < padded_rows(p.colours); ++i) {
            parts.rgb_bias[i] = i < p.colours ? static_cast<const S*>(p.rgb_bias)[i] : S(0);
        }
        std::fill_n(parts.zeros, padded_rows(outs[0]), S(0));
    }

    void context(int64_t n, const Parts& parts) const {
        pack_weight(
            this->weight(n, 0), this->columns, outs[0], p.in_channels, parts.x_weight);
        const S* x = static_cast<const S*>(p.x) + n * p.in_channels * this->low_pixels;
        const int64_t in = panel_stride<S>(p.in_channels), out = panel_stride<S>(outs[0]);
        to_panels(x, this->low_pixels, p.in_channels, this->low_pixels, in, parts.low);
        multiply_tile<S, Start::kBias, Finish::kSum>(
            outs[0], p.in_channels, low_panels(), parts.x_weight, parts.zeros, parts.low, in,
            parts.product, out, this->act);
        to_planes(parts.product, out, outs[0], this->low_pixels, this->low_pixels, parts.context);
    }

    // What features of one axis add, and the bias by rows.
    void table_terms(int64_t n, const Parts& parts) const {
        const AxisTables<S> axes = {
            static_cast<const S*>(p.cols), p.col_channels, p.width,
            static_cast<const S*>(p.rows), p.row_channels, p.height};
        const S* const weight = this->weight(n, 0) + this->tables;
        axes.terms(weight, this->columns, outs[0], parts.biases[0], parts.cols, parts.rows);
    }

    // All layers and to-RGB for some pixels of one image.
    void tile(int64_t n, const Parts& parts, int64_t first, int64_t count) const {
        const int64_t panel = first / L::kWidth, panels = panels_of<S>(count);
        const int64_t in_stride = panel_stride<S>(depths[0]);
        const S* in = shared.data() + panel * in_stride;
        if (shared.empty()) {
            this->inputs(n, first, count, parts.inputs);
            in = parts.inputs;
        }
        S* out = nullptr;
        for (int64_t k = 0; k < p.layers; ++k) {
            const int64_t stride = panel_stride<S>(outs[k]);
            const int64_t below = k > 0 ? panel_stride<S>(depths[k]) : in_stride;
            out = this->saved(n, k) + panel * stride;
            if (k == 0 && this->starts_from_sums()) {
                start(parts, first, count, out);
                multiply_tile<S, Start::kSum, Finish::kActivate>(
                    outs[k], depths[k], panels, parts.weights[k], parts.biases[k], in, below, out,
                    stride, this->act);
            } else {
                multiply_tile<S, Start::kBias, Finish::kActivate>(
                    outs[k], depths[k], panels, parts.weights[k], parts.biases[k], in, below, out,
                    stride, this->act);
            }
            in = out;
        }
        const int64_t last = outs[p.layers - 1], stride = panel_stride<S>(p.colours);
        const Activation<S> none = {S(1), S(1), this->act.limit};
        multiply_tile<S, Start::kBias, Finish::kActivate>(
            p.colours, last, panels, parts.rgb, parts.rgb_bias, out, panel_stride<S>(last),
            parts.colours, stride, none);
        S* const image = static_cast<S*>(p.image) + n * p.colours * this->pixels + first;
        to_planes(parts.colours, stride, p.colours, count, this->pixels, image);
        if (p.features != nullptr) {
            S* const to = static_cast<S*>(p.features) + n * last * this->pixels + first;
            to_planes(out, panel_stride<S>(last), last, count, this->pixels, to);
        }
    }

    // Bias, tables and the context below: what the first layer's sums start from.
    void start(const Parts& parts, int64_t first, int64_t count, S* out) const {
        if (this->rows_are_panels()) {
            start_panels(parts, first, count, out);
        } else {
            start_planes(parts, first, count, out);
        }
        const int64_t stride = panel_stride<S>(outs[0]);
        for (int64_t j = 0; j < panels_of<S>(count); ++j) {
            const int64_t padding = padded_rows(outs[0]) - outs[0];
            std::fill_n(out + j * stride + outs[0] * L::kWidth, padding * L::kWidth, S(0));
        }
    }

    void start_panels(const Parts& parts, int64_t first, int64_t count, S* out) const {
        const int64_t stride = panel_stride<S>(outs[0]);
        const int64_t top = first / p.width, bottom = (first + count - 1) / p.width + 1;
        for (int64_t o = 0; o < outs[0]; ++o) {
            if (this->has_context) {
                read_below(parts.context + o * this->low_pixels, top, bottom, parts.lines);
            }
            const S* const row = parts.rows + o * p.height;
            S* panel = out + o * L::kWidth;
            this->for_panels(first, count, [&](int64_t y, int64_t x) {
                const S* const col = parts.cols + o * p.width + x;
                lanes_t<S> left = load<S>(col) + row[y], right = load<S>(col + L::kCount) + row[y];
                for (int64_t t = 0; this->has_context && t < p.taps; ++t) {
                    const S* const line = parts.lines + taps.row(y, t) * p.width + x;
                    left += taps.row_share(y, t) * load<S>(line);
                    right += taps.row_share(y, t) * load<S>(line + L::kCount);
                }
                store<S>(panel, left);
                store<S>(panel + L::kCount, right);
                panel += stride;
            });
        }
    }

    void start_planes(const Parts& parts, int64_t first, int64_t count, S* out) const {
        const int64_t top = first / p.width, bottom = (first + count - 1) / p.width + 1;
        const int64_t size = (bottom - top) * p.width;
        for (int64_t o = 0; o < outs[0]; ++o) {
            S* const band = parts.band + o * size;
            const S* const col = parts.cols + o * p.width;
            const S* const row = parts.rows + o * p.height;
            for (int64_t y = top; y < bottom; ++y) {
                write_sums(col, row[y], p.width, band + (y - top) * p.width);
            }
            if (this->has_context) {
                const S* const low = parts.context + o * this->low_pixels;
                add_below(low, parts.lines, top, bottom, band);
            }
        }
        const int64_t stride = panel_stride<S>(outs[0]);
        to_panels(parts.band + first - top * p.width, size, outs[0], count, stride, out);
    }

    // lines [h, W] = those rows of the lattice below that some rows of the grid read.
    void read_below(const S* low, int64_t top, int64_t bottom, S* lines) const {
        int64_t lowest = p.low_height, highest = -1;
        for (int64_t i = top * p.taps; i < bottom * p.taps; ++i) {
            lowest = std::min(lowest, taps.row_index[i]);
            highest = std::max(highest, taps.row_index[i]);
        }
        for (int64_t r = lowest; r <= highest; ++r) {
            taps.across.apply(low + r * p.low_width, lines + r * p.width);
        }
    }

    // out [bottom - top, W] += the lattice below at these rows.
    void add_below(const S* low, S* lines, int64_t top, int64_t bottom, S* out) const {
        read_below(low, top, bottom, lines);
        for (int64_t y = top; y < bottom; ++y, out += p.width) {
            for (int64_t t = 0; t < p.taps; ++t) {
                add_scaled(lines + taps.row(y, t) * p.width, taps.row_share(y, t), p.width, out);
            }
        }
    }

    void add_image(int64_t n, S* lines) const {
        for (int64_t c = n * p.colours; c < (n + 1) * p.colours; ++c) {
            S* const out = static_cast<S*>(p.image) + c * this->pixels;
            const S* const img = static_cast<const S*>(p.img);
            if (p.taps > 0) {
                add_below(img + c * this->low_pixels, lines, 0, p.height, out);
                continue;
            }
            add_scaled(img + c * this->pixels, S(1), this->pixels, out);
        }
    }
};

const char* kTypes = "inr_chain takes float32 and float64";

}  // namespace

const char* inr_chain_forward(const InrChainParams* p) try {
    switch (p->dtype) {
        case INR_FLOAT32:
            Forward<float>(*p).run();
            return nullptr;
        case INR_FLOAT64:
            Forward<double>(*p).run();
            return nullptr;
    }
    return kTypes;
} catch (const std::bad_alloc&) {
    return "out of memory";
}

const char* inr_chain_saved_size(const InrChainParams* p) {
    int64_t* const size = static_cast<int64_t*>(p->size_out);
    switch (p->dtype) {
        case INR_FLOAT32:
            *size = ChainSizes<float>(*p).saved_size;
            return nullptr;
        case INR_FLOAT64:
            *size = ChainSizes<double>(*p).saved_size;
            return nullptr;
    }
    return kTypes;
}

// inr_weights_forward: see inr_weights.h. First the styles of all layers, then their weights.
#include <new>

#include "../_native/transpose.h"
#include "inr_weights_parts.h"

namespace {

// sums [kTall][kVectors of images] = the products of rows with w in lanes of images.
template <typename S, int kTall, int kVectors>
__attribute__((noinline)) void multiply_rows(
    int64_t depth, const S* const (&rows)[kTall], const S* w, S* sums) {
    using L = Lanes<S>;
    lanes_t<S> sum[kTall][kVectors] = {};
    for (int64_t k = 0; k < depth; ++k, w += L::kWidth) {
        lanes_t<S> values[kVectors];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) values[v] = in_register(load<S>(w + v * L::kCount));
#pragma GCC unroll 12
        for (int q = 0; q < kTall; ++q) {
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) sum[q][v] += rows[q][k] * values[v];
        }
    }
    for (int q = 0; q < kTall; ++q)
        for (int v = 0; v < kVectors; ++v)
            store<S>(sums + q * L::kWidth + v * L::kCount, sum[q][v]);
}

template <typename S>
struct Forward : Block<S> {
    using L = Lanes<S>;
    using Block<S>::p;

    const int64_t panels;  // of kWidth images
    std::vector<S> ws;     // [K + 1, panels, D, kWidth]

    explicit Forward(const InrWeightsParams& params)
        : Block<S>(params), panels(divide_up(p.n, L::kWidth)),
          ws((p.layers + 1) * panels * p.d * L::kWidth) {
        for (int64_t k = 0; k <= p.layers; ++k)
            for (int64_t n = 0; n < p.n; ++n) {
                const S* const from = this->w(n, k);
                S* const to = ws.data() + lanes_of(k, n / L::kWidth) + n % L::kWidth;
                for (int64_t i = 0; i < p.d; ++i) to[i * L::kWidth] = from[i];
            }
    }

    int64_t lanes_of(int64_t k, int64_t panel) const {
        return (k * panels + panel) * p.d * L::kWidth;
    }

    void run() const {
        std::vector<int64_t> counts;
        for (int64_t k = 0; k < this->num_affines; ++k)
            counts.push_back(divide_up(this->affines[k].size, kStyleRows));
        for_all_jobs(counts, p.threads, [&](int64_t k, int64_t job) {
            style_rows(k, job * kStyleRows);
        });
        counts.clear();
        for (int64_t k = 0; k < p.layers; ++k)
            counts.push_back(p.n * divide_up(this->layers[k].o, kTaskRows));
        counts.push_back(p.n);
        for_all_jobs(counts, p.threads, [&](int64_t k, int64_t job) {
            if (k == p.layers) return to_rgb(job);
            const FmmParams& layer = this->layers[k];
            const int64_t chunks = divide_up(layer.o, kTaskRows), begin = job % chunks * kTaskRows;
            const int64_t end = std::min(begin + kTaskRows, layer.o);
            forward_chunk<S, S, S>(layer, job / chunks, begin, end);
        });
        if (p.predict != nullptr)
            for (int64_t n = 0; n < p.n; ++n) {
                const int64_t at = n * this->num_styles + this->affines[this->predicting()].at;
                S* const to = static_cast<S*>(p.out_predict) + n * p.predicted;
                std::copy_n(this->styles() + at, p.predicted, to);
            }
    }

    // kStyleRows styles of all images, from row `first` of an affine layer on.
    void style_rows(int64_t k, int64_t first) const {
        const Affine<S>& affine = this->affines[k];
        const int64_t valid = std::min(kStyleRows, affine.size - first);
        S* const sums = scratch<S>(kStyleRows * L::kWidth);
        for (int64_t panel = 0; panel < panels; ++panel) {
            const S* const w = ws.data() + lanes_of(affine.source, panel);
            const int64_t images = std::min<int64_t>(p.n - panel * L::kWidth, L::kWidth);
            if (images > L::kCount) multiply_all<6, 2>(affine, first, valid, w, sums);
            else multiply_all<12, 1>(affine, first, valid, w, sums);
            for (int64_t part = 0; part < images; part += L::kCount)
                write(affine, first, valid, panel * L::kWidth + part, sums + part);
        }
    }

    template <int kTall, int kVectors>
    void multiply_all(
        const Affine<S>& affine, int64_t first, int64_t valid, const S* w, S* sums) const {
        static_assert(kStyleRows % kTall == 0, "the last tile would leave the buffer");
        for (int64_t at = 0; at < valid; at += kTall) {
            const S* rows[kTall];
            for (int64_t q = 0; q < kTall; ++q)
                rows[q] = affine.weight + (first + std::min(at + q, valid - 1)) * p.d;
            multiply_rows<S, kTall, kVectors>(p.d, rows, w, sums + at * L::kWidth);
        }
    }

    // Sums [rows][lanes of images] to styles [image][rows].
    void write(
        const Affine<S>& affine, int64_t first, int64_t valid, int64_t n, const S* sums) const {
        const S gain = S(p.affine_gain);
        for (int64_t at = 0; at < valid; at += L::kCount) {
            lanes_t<S> square[L::kCount];
            for (int64_t i = 0; i < L::kCount; ++i)
                square[i] = load<S>(sums + std::min(at + i, valid - 1) * L::kWidth) * gain;
            transpose<S>(square);
            const lanes_t<S> bias = load_some<S>(affine.bias + first + at, valid - at);
            S* to = this->styles() + n * this->num_styles + affine.at + first + at;
            for (int64_t i = 0; i < L::kCount && n + i < p.n; ++i, to += this->num_styles)
                store_some<S>(to, square[i] + bias, valid - at);
        }
    }

    void to_rgb(int64_t n) const {
        const int64_t channels = this->channels();
        const S* const style = this->styles() + n * this->num_styles + this->affines[p.layers].at;
        for (int64_t c = 0; c < p.colours; ++c) {
            const S* const weight = static_cast<const S*>(p.rgb) + c * channels;
            S* const to = static_cast<S*>(p.out_rgb) + (n * p.colours + c) * channels;
            for (int64_t o = 0; o < channels; ++o) to[o] = weight[o] * (style[o] * S(p.rgb_gain));
        }
    }
};

}  // namespace

const char* inr_weights_forward(const InrWeightsParams* p) try {
    switch (p->dtype) {
        case INR_FLOAT32:
            Forward<float>(*p).run();
            return nullptr;
        case INR_FLOAT64:
            Forward<double>(*p).run();
            return nullptr;
    }
    return "inr_weights takes float32 and float64";
} catch (const std::bad_alloc&) {
    return "out of memory";
}

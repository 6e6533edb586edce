// inr_weights_backward: see inr_weights.h. First the gradients of shared weights and styles, then
// those of the affine layers and of w. Every sum has a fixed order, whatever the number of threads.
#include <memory>
#include <new>

#include "../_native/products.h"
#include "../fmm/fmm_gradients.h"
#include "inr_weights_parts.h"

namespace {

template <typename S>
struct BlockBackward : Block<S> {
    using L = Lanes<S>;
    using Block<S>::p;

    // A gradient of so many bytes is written past the caches.
    static constexpr int64_t kStreamedBytes = 8 << 20;
    // Parts of a layer's rows whose shares of the gradient of w are summed apart.
    static constexpr int64_t kPartRows = 384;

    // Where a layer's partial sums are.
    struct Partial {
        int64_t chunks;
        int64_t of_b;
        int64_t of_weight;
        int64_t parts;
        int64_t of_w;
    };
    Partial partial[kMaxLayers + 2];
    std::unique_ptr<S[]> memory;  // of all partial sums

    explicit BlockBackward(const InrWeightsParams& params) : Block<S>(params) {
        int64_t size = add_of_w(0, 0);
        // The first w has the shares of two affine layers, one after the other.
        if (p.predict != nullptr) size = add_of_w(this->predicting(), size);
        for (int64_t k = 1; k <= p.layers; ++k) size = add_of_w(k, size);
        for (int64_t k = 0; k < p.layers; ++k) {
            Partial& own = partial[k];
            FmmParams& layer = this->layers[k];
            choose_parts(layer);
            own.chunks = divide_up(layer.o, layer.chunk);
            own.of_b = size;
            size += own.chunks > 1 ? own.chunks * p.n * p.r * layer.i : 0;
            own.of_weight = size;
            size += layer.splits > 1 && layer.grad_weight ? layer.splits * layer.o * layer.i : 0;
        }
        memory.reset(new S[size]);
        for (int64_t k = 0; k < p.layers; ++k) {
            this->layers[k].partial_b = memory.get() + partial[k].of_b;
            this->layers[k].partial_weight = memory.get() + partial[k].of_weight;
        }
    }

    // Places a layer's shares of the gradient of w from `at` on; returns their end.
    int64_t add_of_w(int64_t k, int64_t at) {
        partial[k].parts = divide_up(this->affines[k].size, kPartRows);
        partial[k].of_w = at;
        return at + partial[k].parts * p.n * p.d;
    }

    // Chunks of rows where there are many, else parts of the batch: enough tasks for some threads.
    void choose_parts(FmmParams& layer) const {
        constexpr int64_t kTasks = 4;
        const bool is_small = layer.o <= kTaskRows;
        layer.chunk = is_small ? layer.o : kTaskRows;
        layer.splits = is_small ? std::min(p.n, kTasks) : 1;
    }

    void run() {
        if (p.predict != nullptr)
            for (int64_t n = 0; n < p.n; ++n) {
                const int64_t at = n * this->num_styles + this->affines[this->predicting()].at;
                const S* const from = static_cast<const S*>(p.grad_out_predict) + n * p.predicted;
                std::copy_n(from, p.predicted, this->grad_styles() + at);
            }
        std::vector<int64_t> counts;
        for (int64_t k = 0; k < p.layers; ++k)
            counts.push_back(partial[k].chunks * this->layers[k].splits);
        counts.push_back(1);
        for_all_jobs(counts, p.threads, [&](int64_t k, int64_t job) {
            if (k == p.layers) return of_rgb();
            const int64_t chunks = partial[k].chunks;
            backward_task<S, S, S>(this->layers[k], job % chunks, chunks, job / chunks);
        });
        sum_layers();
        counts.clear();
        // The larger tasks first.
        for (int64_t k = 0; k < this->num_affines; ++k)
            counts.push_back(p.grad_ws == nullptr ? 0 : partial[k].parts);
        for (int64_t k = 0; k < this->num_affines; ++k)
            counts.push_back(divide_up(this->affines[k].size, kStyleRows));
        for_all_jobs(counts, p.threads, [&](int64_t which, int64_t job) {
            const int64_t k = which % this->num_affines;
            if (which < this->num_affines) of_w(k, job);
            else of_affine(this->affines[k], job * kStyleRows);
        });
        for (int64_t k = 0; p.grad_ws != nullptr && k <= p.layers; ++k) {
            const bool is_shared = k == 0 && p.predict != nullptr;
            const int64_t parts =
                partial[k].parts + (is_shared ? partial[this->predicting()].parts : 0);
            for (int64_t n = 0; n < p.n; ++n) {
                S* const to = static_cast<S*>(p.grad_ws) + (n * (p.layers + 1) + k) * p.d;
                const S* const from = memory.get() + partial[k].of_w + n * p.d;
                sum_parts(from, parts, p.n * p.d, p.d, to);
            }
        }
    }

    void of_rgb() const {
        const int64_t channels = this->channels(), at = this->affines[p.layers].at;
        const S gain = S(p.rgb_gain);
        S* const of_weight = static_cast<S*>(p.grad_rgb);
        if (of_weight) std::fill_n(of_weight, p.colours * channels, S(0));
        for (int64_t n = 0; n < p.n; ++n) {
            const S* const style = this->styles() + n * this->num_styles + at;
            S* const of_style = this->grad_styles() + n * this->num_styles + at;
            std::fill_n(of_style, channels, S(0));
            for (int64_t c = 0; c < p.colours; ++c) {
                const int64_t row = (n * p.colours + c) * channels;
                const S* const grad = static_cast<const S*>(p.grad_out_rgb) + row;
                const S* const weight = static_cast<const S*>(p.rgb) + c * channels;
                for (int64_t o = 0; o < channels; ++o) of_style[o] += gain * grad[o] * weight[o];
                for (int64_t o = 0; of_weight && o < channels; ++o)
                    of_weight[c * channels + o] += gain * grad[o] * style[o];
            }
        }
    }

    // Gradients of b from all chunks of rows, of weights from all parts of the batch.
    void sum_layers() const {
        std::vector<int64_t> counts;
        for (int64_t k = 0; k < p.layers; ++k)
            counts.push_back(partial[k].chunks > 1 ? p.n : 0);
        for (int64_t k = 0; k < p.layers; ++k) {
            const FmmParams& layer = this->layers[k];
            counts.push_back(layer.splits > 1 && layer.grad_weight ? 1 : 0);
        }
        for_all_jobs(counts, p.threads, [&](int64_t which, int64_t n) {
            const int64_t k = which % p.layers;
            const FmmParams& layer = this->layers[k];
            const int64_t of_b = p.r * layer.i, of_weight = layer.o * layer.i;
            if (which < p.layers)
                sum_parts(memory.get() + partial[k].of_b + n * of_b, partial[k].chunks,
                          p.n * of_b, of_b, static_cast<S*>(layer.grad_b) + n * this->num_styles);
            else
                sum_parts(memory.get() + partial[k].of_weight, layer.splits, of_weight,
                          of_weight, static_cast<S*>(layer.grad_weight));
        });
    }

    // Some rows of an affine layer: sums over images.
    void of_affine(const Affine<S>& affine, int64_t first) const {
        const int64_t end = std::min(first + kStyleRows, affine.size);
        const S* const grad = this->grad_styles() + affine.at;
        for (int64_t j = first; affine.grad_bias && j < end; j += L::kCount) {
            lanes_t<S> sum = {};
            for (int64_t n = 0; n < p.n; ++n)
                sum += load_some<S>(grad + n * this->num_styles + j, end - j);
            store_some<S>(affine.grad_bias + j, sum, end - j);
        }
        if (affine.grad_weight == nullptr) return;
        const bool is_aligned = reinterpret_cast<uintptr_t>(affine.grad_weight) % kVectorBytes == 0;
        const bool streams = affine.size * p.d * int64_t(sizeof(S)) >= kStreamedBytes && is_aligned;
        for (int64_t d = 0; d < p.d; d += L::kWidth) {
            int64_t j = first;
            for (; j + 6 <= end; j += 6) affine_rows<6>(affine, j, d, streams);
            for (; j < end; ++j) affine_rows<1>(affine, j, d, streams);
        }
        if (streams) streamed();
    }

    template <int kCount>
    void affine_rows(const Affine<S>& affine, int64_t j, int64_t d, bool streams) const {
        lanes_t<S> sum[kCount][2];
        sum_products<S, kCount>(p.n, this->grad_styles() + affine.at + j, 1, this->num_styles,
                                this->w(0, affine.source) + d, p.ws_image_stride, sum);
        for (int q = 0; q < kCount; ++q)
            for (int half = 0; half < 2; ++half) {
                S* const to = affine.grad_weight + (j + q) * p.d + d + half * L::kCount;
                const lanes_t<S> value = sum[q][half] * S(p.affine_gain);
                if (streams) stream<S>(to, value);
                else store<S>(to, value);
            }
    }

    // Some rows' share of the gradient of w: few at a time, so that they stay in the cache for all
    // images.
    void of_w(int64_t k, int64_t part) {
        const Affine<S>& affine = this->affines[k];
        const int64_t last = std::min((part + 1) * kPartRows, affine.size);
        S* const to = memory.get() + partial[k].of_w + part * p.n * p.d;
        for (int64_t j = part * kPartRows; j < last; j += kStyleRows)
            for (int64_t d = 0; d < p.d; d += L::kWidth) {
                const int64_t rows = std::min(kStyleRows, last - j);
                const bool adds = j > part * kPartRows;
                int64_t n = 0;
                for (; n + 6 <= p.n; n += 6) w_rows<6>(affine, n, j, rows, d, adds, to);
                for (; n + 2 <= p.n; n += 2) w_rows<2>(affine, n, j, rows, d, adds, to);
                for (; n < p.n; ++n) w_rows<1>(affine, n, j, rows, d, adds, to);
            }
    }

    template <int kCount>
    void w_rows(
        const Affine<S>& affine, int64_t n, int64_t j, int64_t rows, int64_t d, bool adds,
        S* to) const {
        lanes_t<S> sum[kCount][2];
        sum_products<S, kCount>(rows, this->grad_styles() + n * this->num_styles + affine.at + j,
                                this->num_styles, 1, affine.weight + j * p.d + d, p.d, sum);
        for (int q = 0; q < kCount; ++q)
            for (int half = 0; half < 2; ++half) {
                S* const at = to + (n + q) * p.d + d + half * L::kCount;
                const lanes_t<S> share = sum[q][half] * S(p.affine_gain);
                store<S>(at, adds ? load<S>(at) + share : share);
            }
    }
};

}  // namespace

const char* inr_weights_backward(const InrWeightsParams* p) try {
    switch (p->dtype) {
        case INR_FLOAT32:
            BlockBackward<float>(*p).run();
            return nullptr;
        case INR_FLOAT64:
            BlockBackward<double>(*p).run();
            return nullptr;
    }
    return "inr_weights takes float32 and float64";
} catch (const std::bad_alloc&) {
    return "out of memory";
}

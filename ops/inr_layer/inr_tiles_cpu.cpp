// inr_tiles_forward: see inr_tiles.h. A few images at a time, in three phases, each spread over the
// threads: weights are packed; W_x x is taken on the lattice below; tiles of pixels go through all
// layers and to-RGB, in buffers that fit the cache.

#include <algorithm>
#include <limits>
#include <new>

#include "../_native/cpu.h"
#include "inr_lattice.h"
#include "inr_panels.h"
#include "inr_tables.h"
#include "inr_tiles.h"

namespace {

using namespace inr;

constexpr int64_t kMaxLayers = 4;
// Inputs and outputs of a layer for one tile: half of a second-level cache of 512 KiB.
constexpr int64_t kTileBytes = 256 << 10;
// Weights and contexts of the images worked on at a time, unless a single image needs more.
constexpr int64_t kImagesBytes = 32 << 20;

template <typename T>
struct Chain {
    using S = typename SumOf<T>::type;
    using L = Lanes<S>;

    const InrTilesParams& p;
    const void* weights[kMaxLayers];
    const void* biases[kMaxLayers];
    int64_t bias_strides[kMaxLayers];
    int64_t outs[kMaxLayers];
    int64_t depths[kMaxLayers];  // of the product on tiles
    Activation<S> act;
    bool has_context;
    int64_t low_row_panels;  // panels per row of the context
    int64_t tile_panels;
    int64_t low_tile_panels;
    // Where parts of one image are: packed weights and biases by layer, of to-RGB, of the context,
    // what features of one axis add, then the context itself.
    int64_t weight_at[kMaxLayers];
    int64_t bias_at[kMaxLayers];
    int64_t rgb_at;
    int64_t rgb_bias_at;
    int64_t zeros_at;
    int64_t context_weight_at;
    int64_t col_terms_at;
    int64_t row_terms_at;
    int64_t context_at;
    int64_t image_size;
    int64_t tile_size;  // elements of one thread's buffers: inputs and outputs, shared inputs
    int64_t shared_at;  // where the latter are
    LatticeReader<S> reader;        // of the context
    LatticeReader<S> image_reader;  // of the image below

    explicit Chain(const InrTilesParams& params)
        : p(params),
          has_context(p.x != nullptr && p.taps > 0),
          low_row_panels(panels_of(p.low_width)),
          reader(grid_taps(), context_layout(), has_context ? p.width : 0),
          image_reader(grid_taps(), {p.low_width, 0, p.low_height * p.low_width},
                       p.img != nullptr && p.taps > 0 ? p.width : 0) {
        const void* all_weights[] = {p.weight0, p.weight1, p.weight2, p.weight3};
        const void* all_biases[] = {p.bias0, p.bias1, p.bias2, p.bias3};
        const int64_t strides[] = {p.bias_stride0, p.bias_stride1, p.bias_stride2, p.bias_stride3};
        const int64_t all_outs[] = {p.out0, p.out1, p.out2, p.out3};
        for (int64_t k = 0; k < p.layers; ++k) {
            weights[k] = all_weights[k];
            biases[k] = all_biases[k];
            bias_strides[k] = strides[k];
            outs[k] = all_outs[k];
            depths[k] = k > 0 ? all_outs[k - 1] : 0;
        }
        depths[0] = (has_context ? 0 : p.in_channels) + p.shared_channels + p.own_channels;
        const S limit = p.clamp < 0 ? std::numeric_limits<S>::infinity() : S(p.clamp);
        act = {S(p.slope), S(p.gain), limit};
        measure();
    }

    void measure() {
        int64_t widest = depths[0] + 1, size = 0;
        for (int64_t k = 0; k < p.layers; ++k) {
            const int64_t rows = padded_rows(outs[k]);
            widest = std::max(widest, rows);
            weight_at[k] = size;
            size += rows * depths[k];
            bias_at[k] = size;
            size += rows;
        }
        const int64_t colours = p.image == nullptr ? 0 : padded_rows(p.colours);
        rgb_at = size;
        rgb_bias_at = size += colours * outs[p.layers - 1];
        size += colours;
        widest = std::max(widest, colours);
        const int64_t rows = padded_rows(outs[0]);
        zeros_at = size;
        context_weight_at = size += rows;
        size += has_context ? rows * p.in_channels : 0;
        col_terms_at = size;
        row_terms_at = size += starts_from_sums() ? outs[0] * p.width : 0;
        size += starts_from_sums() ? outs[0] * p.height : 0;
        context_at = size = round_up(size, L::kWidth);
        size += has_context ? p.low_height * low_row_panels * L::kWidth * rows : 0;
        image_size = round_up(size, L::kWidth);
        const int64_t bytes = p.tile_bytes > 0 ? p.tile_bytes : kTileBytes;
        const int64_t budget = bytes / int64_t(sizeof(S)) / L::kWidth;
        tile_panels = std::max<int64_t>(1, budget / (2 * widest));
        low_tile_panels = std::max<int64_t>(1, budget / (p.in_channels + rows));
        shared_at = 2 * widest * tile_panels * L::kWidth;
        tile_size = shared_at + (shares_inputs() ? tile_panels * apart(depths[0]) : 0);
        tile_size = std::max(tile_size, (p.in_channels + 1 + rows) * low_tile_panels * L::kWidth);
    }

    void run() {
        const int64_t most = std::max<int64_t>(1, kImagesBytes / int64_t(sizeof(S)) / image_size);
        const int64_t group = std::min(p.batch, most);
        S* const images = scratch<S>(group * image_size + p.threads * tile_size);
        S* const tiles = images + group * image_size;
        for (int64_t first = 0; first < p.batch; first += group) {
            const int64_t count = std::min(group, p.batch - first);
            parallel_for(count * pack_jobs(), p.threads, [&](int64_t job, int64_t) {
                const int64_t n = job / pack_jobs();
                pack(first + n, job % pack_jobs(), images + n * image_size);
            });
            if (has_context) {
                const int64_t all = panels_of(p.low_height * p.low_width);
                const int64_t jobs = round_up(all, low_tile_panels) / low_tile_panels;
                parallel_for(count * jobs, p.threads, [&](int64_t job, int64_t thread) {
                    const int64_t n = job / jobs, panel = job % jobs * low_tile_panels;
                    const int64_t panels = std::min(low_tile_panels, all - panel);
                    S* const buffer = tiles + thread * tile_size;
                    context(first + n, images + n * image_size, panel, panels, buffer);
                });
            }
            const int64_t all = panels_of(pixels());
            const int64_t jobs = round_up(all, tile_panels) / tile_panels;
            std::vector<int64_t> packed(p.threads, -1);  // shared inputs that a thread has
            parallel_for(count * jobs, p.threads, [&](int64_t job, int64_t thread) {
                // Neighbouring jobs are the same tile of all images: they share the features.
                const int64_t n = job % count, panel = job / count * tile_panels;
                const int64_t panels = std::min(tile_panels, all - panel);
                S* const buffer = tiles + thread * tile_size;
                if (shares_inputs() && packed[thread] != panel) {
                    pack_inputs(0, panel, panels, apart(depths[0]), buffer + shared_at);
                    packed[thread] = panel;
                }
                tile(first + n, images + n * image_size, panel, panels, buffer);
            });
        }
    }

    // The layers, to-RGB, the context, tables.
    int64_t pack_jobs() const { return p.layers + 3; }

    // Elements from one packed panel to the next: one line more than a panel, since lines a multiple
    // of 4 KiB apart compete for the same few places of the cache.
    static int64_t apart(int64_t channels) { return (channels + 1) * L::kWidth; }

    int64_t pixels() const { return p.height * p.width; }

    // Whether the batch shares all that the first layer reads on the grid.
    bool shares_inputs() const { return depths[0] > 0 && depths[0] == p.shared_channels; }

    static int64_t panels_of(int64_t pixels) { return round_up(pixels, L::kWidth) / L::kWidth; }

    // Whether the first layer's sums start from more than its bias.
    bool starts_from_sums() const { return has_context || p.col_channels + p.row_channels > 0; }

    // Columns of the first weight, and those before the features on the grid.
    int64_t columns() const { return tables_end() + p.shared_channels + p.own_channels; }
    int64_t tables_end() const { return p.in_channels + p.col_channels + p.row_channels; }

    void pack(int64_t n, int64_t job, S* image) const {
        if (job == p.layers) {
            pack_rgb(n, image);
            return;
        }
        if (job == p.layers + 2) {
            table_terms(n, image);
            return;
        }
        const int64_t k = job < p.layers ? job : 0;
        const int64_t stride = k == 0 ? columns() : depths[k];
        const T* weight = static_cast<const T*>(weights[k]) + n * outs[k] * stride;
        if (job > p.layers) {
            for (int64_t i = 0; i < padded_rows(outs[0]); ++i) {
                image[zeros_at + i] = 0;
            }
            if (has_context) {
                S* const packed = image + context_weight_at;
                pack_weight(weight, stride, outs[0], p.in_channels, packed);
            }
            return;
        }
        // Of the first layer, columns of x on the output grid, then those after the tables.
        const int64_t head = k > 0 ? depths[k] : has_context ? 0 : p.in_channels;
        const int64_t tail = k > 0 ? head : tables_end();
        S* const packed = image + weight_at[k];
        pack_weight(weight, stride, outs[k], head, tail, depths[k] - head, packed);
        for (int64_t i = 0; i < padded_rows(outs[k]); ++i) {
            image[bias_at[k] + i] = bias(n, k, i);
        }
    }

    S bias(int64_t n, int64_t k, int64_t i) const {
        const T* const given = static_cast<const T*>(biases[k]);
        return given == nullptr || i >= outs[k] ? S(0) : to_sum(given[n * bias_strides[k] + i]);
    }

    // What features of one axis add, and the bias by rows.
    void table_terms(int64_t n, S* image) const {
        if (!starts_from_sums()) {
            return;
        }
        const AxisTables<T> axes = {
            static_cast<const T*>(p.cols), p.col_channels, p.width,
            static_cast<const T*>(p.rows), p.row_channels, p.height};
        // Other jobs pack the biases of layers.
        std::vector<S> first(outs[0]);
        for (int64_t i = 0; i < outs[0]; ++i) {
            first[i] = bias(n, 0, i);
        }
        const T* const weight = static_cast<const T*>(weights[0]) + n * outs[0] * columns();
        axes.terms(weight + p.in_channels, columns(), outs[0], first.data(),
                   image + col_terms_at, image + row_terms_at);
    }

    void pack_rgb(int64_t n, S* image) const {
        const int64_t depth = outs[p.layers - 1];
        const T* weight = static_cast<const T*>(p.rgb) + n * p.colours * depth;
        if (p.image == nullptr) {
            return;
        }
        pack_weight(weight, depth, p.colours, depth, image + rgb_at);
        for (int64_t c = 0; c < padded_rows(p.colours); ++c) {
            const S bias = c < p.colours ? static_cast<const S*>(p.rgb_bias)[c] : S(0);
            image[rgb_bias_at + c] = bias;
        }
    }

    // W_x x of some panels of the lattice below, kept row by row: [h][panels of a row][O][kWidth].
    void context(int64_t n, S* image, int64_t panel, int64_t panels, S* buffer) const {
        const int64_t pixels = p.low_height * p.low_width;
        const int64_t stride = apart(p.in_channels);
        const int64_t block = padded_rows(outs[0]) * L::kWidth;
        const T* x = static_cast<const T*>(p.x) + n * p.in_channels * pixels;
        pack_pixels(x, p.in_channels, pixels, panel, panels, stride, buffer);
        const bool in_place = p.low_width % L::kWidth == 0;
        S* const kept = image + context_at;
        S* const out = in_place ? kept + panel * block : buffer + panels * stride;
        multiply_tile<S, Start::kBias, Finish::kSum>(
            outs[0], p.in_channels, panels, image + context_weight_at, image + zeros_at, buffer,
            stride, out, block, act);
        for (int64_t j = 0; !in_place && j < panels; ++j) {
            for_segments(panel + j, L::kWidth, p.low_height, p.low_width, [&](const Segment& at) {
                // To one panel of the row, or the end of one and the start of the next.
                const int64_t head = std::min(at.count, L::kWidth - at.x % L::kWidth);
                S* const row = kept + (at.y * low_row_panels + at.x / L::kWidth) * block;
                for (int64_t i = 0; i < block; i += L::kWidth) {
                    const S* lanes = out + j * block + i + at.lane;
                    std::copy_n(lanes, head, row + i + at.x % L::kWidth);
                    std::copy_n(lanes + head, at.count - head, row + block + i);
                }
            });
        }
    }

    // All layers and to-RGB for some panels of one image.
    void tile(int64_t n, const S* image, int64_t panel, int64_t panels, S* buffer) const {
        S* in = buffer;
        S* out = buffer + shared_at / 2;
        const int64_t stride = apart(depths[0]);
        const S* inputs = buffer + shared_at;
        if (!shares_inputs()) {
            pack_inputs(n, panel, panels, stride, in);
            inputs = in;
        }
        const int64_t out_block = padded_rows(outs[0]) * L::kWidth;
        const S* weight = image + weight_at[0];
        if (starts_from_sums()) {
            start_first(image, panel, panels, out);
            multiply_tile<S, Start::kSum, Finish::kActivate>(
                outs[0], depths[0], panels, weight, image, inputs, stride, out, out_block, act);
        } else {
            multiply_tile<S, Start::kBias, Finish::kActivate>(
                outs[0], depths[0], panels, weight, image + bias_at[0], inputs, stride, out,
                out_block, act);
        }
        for (int64_t k = 1; k < p.layers; ++k) {
            std::swap(in, out);
            multiply_tile<S, Start::kBias, Finish::kActivate>(
                outs[k], depths[k], panels, image + weight_at[k], image + bias_at[k], in,
                padded_rows(outs[k - 1]) * L::kWidth, out,
                padded_rows(outs[k]) * L::kWidth, act);
        }
        const int64_t out_stride = padded_rows(outs[p.layers - 1]) * L::kWidth;
        if (p.image != nullptr) {
            const Activation<S> none = {S(1), S(1), act.limit};
            multiply_tile<S, Start::kBias, Finish::kActivate>(
                p.colours, outs[p.layers - 1], panels, image + rgb_at, image + rgb_bias_at, out,
                out_stride, in, padded_rows(p.colours) * L::kWidth, none);
        }
        if (p.image != nullptr) {
            write_image(n, panel, panels, in);
        }
        if (p.features != nullptr) {
            T* to = static_cast<T*>(p.features) + n * outs[p.layers - 1] * pixels();
            unpack_pixels(out, outs[p.layers - 1], pixels(), panel, panels, out_stride, to);
        }
    }

    void pack_inputs(int64_t n, int64_t panel, int64_t panels, int64_t stride, S* in) const {
        const void* sources[] = {has_context ? nullptr : p.x, p.shared, p.own};
        const int64_t channels[] = {p.in_channels, p.shared_channels, p.own_channels};
        for (int64_t s = 0; s < 3; ++s) {
            if (sources[s] == nullptr) {
                continue;
            }
            const int64_t shift = s == 1 ? 0 : n * channels[s] * pixels();
            const T* from = static_cast<const T*>(sources[s]) + shift;
            pack_pixels(from, channels[s], pixels(), panel, panels, stride, in);
            in += channels[s] * L::kWidth;
        }
    }

    LatticeLayout context_layout() const {
        const int64_t block = padded_rows(p.out0) * L::kWidth;
        return {low_row_panels * block, block, L::kWidth};
    }

    GridTaps<S> grid_taps() const {
        return {p.taps,
                static_cast<const int64_t*>(p.row_index),
                static_cast<const int64_t*>(p.col_index),
                static_cast<const S*>(p.row_weight),
                static_cast<const S*>(p.col_weight)};
    }

    // Bias, tables and the context below: what the first layer's sums start from.
    void start_first(const S* image, int64_t panel, int64_t panels, S* out) const {
        const int64_t rows = padded_rows(outs[0]);
        const int64_t block = rows * L::kWidth;
        for (int64_t j = 0; j < panels; ++j) {
            S* sums = out + j * block;
            const bool is_full = (panel + j + 1) * L::kWidth <= pixels();
            const int64_t filled = is_full ? outs[0] : 0;
            std::fill_n(sums + filled * L::kWidth, (rows - filled) * L::kWidth, S(0));
            for_segments(panel + j, L::kWidth, p.height, p.width, [&](const Segment& segment) {
                S* lanes = sums + segment.lane;
                const S* col = image + col_terms_at + segment.x;
                const S* row = image + row_terms_at + segment.y;
                for (int64_t i = 0; i < outs[0]; ++i, col += p.width, row += p.height) {
                    write_sums(col, *row, segment.count, lanes + i * L::kWidth);
                }
                if (has_context) {
                    reader.add(segment, image + context_at, outs[0], L::kWidth, lanes);
                }
            });
        }
    }

    // Adds the image below.
    void write_image(int64_t n, int64_t panel, int64_t panels, S* colours) const {
        const int64_t stride = padded_rows(p.colours) * L::kWidth;
        const S* below = static_cast<const S*>(p.img);
        for (int64_t j = 0; j < panels; ++j) {
            for_segments(panel + j, L::kWidth, p.height, p.width, [&](const Segment& segment) {
                S* lanes = colours + j * stride + segment.lane;
                const int64_t first = segment.y * p.width + segment.x;
                if (below != nullptr && p.taps > 0) {
                    const int64_t image_below = n * p.colours * p.low_height * p.low_width;
                    image_reader.add(segment, below + image_below, p.colours, L::kWidth, lanes);
                }
                for (int64_t c = 0; c < p.colours; ++c) {
                    const int64_t at = (n * p.colours + c) * pixels() + first;
                    if (segment.count == L::kWidth && (below == nullptr || p.taps > 0)) {
                        S* const to = static_cast<S*>(p.image) + at;
                        std::copy_n(lanes + c * L::kWidth, L::kWidth, to);
                        continue;
                    }
                    for (int64_t lane = 0; lane < segment.count; ++lane) {
                        const S add = below != nullptr && p.taps == 0 ? below[at + lane] : S(0);
                        static_cast<S*>(p.image)[at + lane] = lanes[c * L::kWidth + lane] + add;
                    }
                }
            });
        }
    }
};

}  // namespace

const char* inr_tiles_forward(const InrTilesParams* p) try {
    if (p->layers < 1 || p->layers > kMaxLayers) {
        return "inr_tiles_forward takes 1 to 4 layers";
    }
    switch (p->dtype) {
        case INR_FLOAT32:
            Chain<float>(*p).run();
            return nullptr;
        case INR_FLOAT64:
            Chain<double>(*p).run();
            return nullptr;
        case INR_BFLOAT16:
            Chain<bfloat16>(*p).run();
            return nullptr;
    }
    return "inr_tiles_forward takes float32, float64 and bfloat16";
} catch (const std::bad_alloc&) {
    return "out of memory";
}

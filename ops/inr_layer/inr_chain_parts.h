#pragma once
// What inr_chain_forward and inr_chain_backward share: sizes of an image's parts, and steps between
// planes [channels, H W] and the panels of inr_panels.h.

#include <algorithm>
#include <limits>

#include "../_native/cpu.h"
#include "inr_chain.h"
#include "inr_chain_taps.h"
#include "inr_panels.h"

namespace inr {

constexpr int64_t kMaxChain = 4;
// Inputs and outputs of a layer for one tile: half of a second-level cache, but of wide layers more,
// whose gradients would spend their time on adding tiles up.
constexpr int64_t kChainTileBytes = 256 << 10;
constexpr int64_t kChainTilePanels = 8;

// Parts of a thread's scratch memory, each at a cache line's start.
template <typename S>
class Arena {
public:
    explicit Arena(int64_t count) : next_(scratch<S>(count)) {}

    // Elements that a part of so many takes.
    static int64_t size(int64_t count) { return round_up(count, 64 / int64_t(sizeof(S))); }

    S* take(int64_t count) {
        S* const part = next_;
        next_ += size(count);
        return part;
    }

private:
    S* next_;
};

// Calls image(n, parts) for every image of a batch, over threads. cut(take) makes the parts of a
// thread's memory: take(count) is where the next so many elements are.
template <typename S, typename Cut, typename F>
void for_each_image(int64_t batch, int64_t threads, Cut cut, F image) {
    int64_t size = 0;
    cut([&](int64_t count) {
        size += Arena<S>::size(count);
        return static_cast<S*>(nullptr);
    });
    parallel_for(batch, threads, [&](int64_t n, int64_t) {
        Arena<S> arena(size);
        image(n, cut([&](int64_t count) { return arena.take(count); }));
    });
}

// From one panel of so many channels to the next: one line more than the panel, since lines that
// are a multiple of 4 KiB apart compete for the same few places of the cache.
template <typename S>
int64_t panel_stride(int64_t channels) {
    return (padded_rows(channels) + 1) * Lanes<S>::kWidth;
}

template <typename S>
int64_t panels_of(int64_t pixels) {
    return round_up(pixels, Lanes<S>::kWidth) / Lanes<S>::kWidth;
}

// Copies `pixels` pixels of planes, which are `apart` elements from each other, to panels from the
// first lane on; lanes beyond the last pixel become 0.
template <typename S>
void to_panels(
    const S* planes, int64_t apart, int64_t channels, int64_t pixels, int64_t stride, S* panels) {
    constexpr int64_t width = Lanes<S>::kWidth, half = Lanes<S>::kCount;
    for (int64_t k = 0; k < channels; ++k) {
        const S* from = planes + k * apart;
        S* to = panels + k * width;
        int64_t left = pixels;
        for (; left >= width; left -= width, from += width, to += stride) {
            store<S>(to, load<S>(from));
            store<S>(to + half, load<S>(from + half));
        }
        if (left > 0) {
            store<S>(to, load_some<S>(from, left));
            store<S>(to + half, load_some<S>(from + half, left - half));
        }
    }
}

// The way back.
template <typename S>
void to_planes(
    const S* panels, int64_t stride, int64_t channels, int64_t pixels, int64_t apart, S* planes) {
    constexpr int64_t width = Lanes<S>::kWidth, half = Lanes<S>::kCount;
    for (int64_t k = 0; k < channels; ++k) {
        S* to = planes + k * apart;
        const S* from = panels + k * width;
        int64_t left = pixels;
        for (; left >= width; left -= width, from += stride, to += width) {
            store<S>(to, load<S>(from));
            store<S>(to + half, load<S>(from + half));
        }
        if (left > 0) {
            store_some<S>(to, load<S>(from), left);
            store_some<S>(to + half, load<S>(from + half), left - half);
        }
    }
}

// The sizes of a chain.
template <typename S>
struct ChainSizes {
    using L = Lanes<S>;

    const InrChainParams& p;
    const S* weights[kMaxChain];
    const S* biases[kMaxChain];
    int64_t bias_strides[kMaxChain];
    int64_t outs[kMaxChain];
    int64_t depths[kMaxChain];  // of the product on the grid
    int64_t saved_at[kMaxChain];
    int64_t saved_size;
    int64_t pixels;
    int64_t low_pixels;
    int64_t columns;      // of weight0
    int64_t tables;       // columns of weight0 before those of the tables' features
    int64_t tail;         // columns of weight0 before those of shared and own features
    int64_t grid_x;       // channels of x that are on the grid
    int64_t widest;       // rows of a panel, at most
    int64_t tile_panels;
    bool has_context;
    Activation<S> act;

    explicit ChainSizes(const InrChainParams& params) : p(params) {
        const void* all_weights[] = {p.weight0, p.weight1, p.weight2, p.weight3};
        const void* all_biases[] = {p.bias0, p.bias1, p.bias2, p.bias3};
        const int64_t strides[] = {p.bias_stride0, p.bias_stride1, p.bias_stride2, p.bias_stride3};
        const int64_t all_outs[] = {p.out0, p.out1, p.out2, p.out3};
        pixels = p.height * p.width;
        low_pixels = p.low_height * p.low_width;
        has_context = p.x != nullptr && p.taps > 0;
        grid_x = has_context ? 0 : p.in_channels;
        tables = p.in_channels;
        tail = tables + p.col_channels + p.row_channels;
        columns = tail + p.shared_channels + p.own_channels;
        depths[0] = grid_x + p.shared_channels + p.own_channels;
        widest = std::max(depths[0], p.colours);
        saved_size = 0;
        for (int64_t k = 0; k < p.layers; ++k) {
            weights[k] = static_cast<const S*>(all_weights[k]);
            biases[k] = static_cast<const S*>(all_biases[k]);
            bias_strides[k] = strides[k];
            outs[k] = all_outs[k];
            depths[k] = k > 0 ? outs[k - 1] : depths[0];
            saved_at[k] = saved_size;
            saved_size += panels_of<S>(pixels) * panel_stride<S>(outs[k]);
            widest = std::max(widest, outs[k]);
        }
        const int64_t bytes = p.tile_bytes > 0 ? p.tile_bytes : kChainTileBytes;
        const int64_t fitting = bytes / int64_t(sizeof(S)) / (2 * panel_stride<S>(widest));
        const int64_t least = p.tile_bytes > 0 ? 1 : kChainTilePanels;
        tile_panels = std::min(std::max(least, fitting), panels_of<S>(pixels));
        const S limit = p.clamp < 0 ? std::numeric_limits<S>::infinity() : S(p.clamp);
        act = {S(p.slope), S(p.gain), limit};
    }

    const S* weight(int64_t n, int64_t k) const {
        return weights[k] + n * outs[k] * weight_stride(k);
    }

    int64_t weight_stride(int64_t k) const { return k == 0 ? columns : depths[k]; }

    S* saved(int64_t n, int64_t k) const {
        return static_cast<S*>(p.saved) + n * p.saved_size + saved_at[k];
    }

    int64_t low_panels() const { return panels_of<S>(low_pixels); }

    // Whether each panel is a part of one row.
    bool rows_are_panels() const { return p.width % L::kWidth == 0; }

    // Then calls f(y, x) for the panels of some pixels.
    template <typename F>
    void for_panels(int64_t first, int64_t count, F f) const {
        int64_t y = first / p.width, x = first % p.width;
        for (int64_t at = 0; at < count; at += L::kWidth) {
            f(y, x);
            x += L::kWidth;
            if (x == p.width) {
                x = 0;
                ++y;
            }
        }
    }

    // Whether the first layer's sums start from more than its bias.
    bool starts_from_sums() const { return has_context || p.col_channels + p.row_channels > 0; }

    // Elements of the first layer's sums by planes, of all rows that a tile has parts of.
    int64_t band_size() const {
        if (!starts_from_sums() || rows_are_panels()) {
            return 0;
        }
        const int64_t rows = (tile_panels * L::kWidth + p.width - 2) / p.width + 1;
        return outs[0] * std::min(p.height, rows) * p.width;
    }

    // Whether the batch shares what the first layer reads on the grid.
    bool shares_inputs() const { return p.shared_channels > 0 && p.shared_channels == depths[0]; }

    // The features of all tiles, if the batch shares them.
    std::vector<S> shared_inputs() const {
        std::vector<S> panels;
        if (shares_inputs()) {
            panels.resize(panels_of<S>(pixels) * panel_stride<S>(depths[0]));
            inputs(0, 0, pixels, panels.data());
        }
        return panels;
    }

    // Features of one tile of the grid: x, shared, own.
    void inputs(int64_t n, int64_t first, int64_t count, S* panels) const {
        const void* sources[] = {has_context ? nullptr : p.x, p.shared, p.own};
        const int64_t channels[] = {p.in_channels, p.shared_channels, p.own_channels};
        for (int64_t s = 0; s < 3; ++s) {
            if (sources[s] == nullptr) {
                continue;
            }
            const S* from = static_cast<const S*>(sources[s]) + first;
            from += s == 1 ? 0 : n * channels[s] * pixels;
            to_panels(from, pixels, channels[s], count, panel_stride<S>(depths[0]), panels);
            panels += channels[s] * L::kWidth;
        }
    }
};

}  // namespace inr

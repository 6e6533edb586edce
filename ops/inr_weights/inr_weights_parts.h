#pragma once
// What both directions of inr_weights share: a block's layers as calls of fmm.

#include <vector>

#include "../fmm/fmm_rows.h"
#include "inr_weights.h"

namespace {

constexpr int64_t kMaxLayers = 4;
// Rows of an affine layer that one task goes through: several register tiles of either kind.
constexpr int64_t kStyleRows = 48;
// Rows of a modulated weight that a task goes through: reading b is little of its work.
constexpr int64_t kTaskRows = 66;

// One affine layer: that of an FMM layer, the one of to-RGB, or what is predicted.
template <typename S>
struct Affine {
    const S* weight;  // [size, D]
    const S* bias;    // [size]
    S* grad_weight;   // null = not wanted
    S* grad_bias;     // null = not wanted
    int64_t size;
    int64_t at;       // where its styles are in a row
    int64_t source;   // which w it reads
};

template <typename S>
struct Block {
    const InrWeightsParams& p;
    FmmParams layers[kMaxLayers];
    Affine<S> affines[kMaxLayers + 2];  // of layers, of to-RGB, predicted
    int64_t num_affines;
    int64_t num_styles;

    explicit Block(const InrWeightsParams& params)
        : p(params), layers(), num_affines(0), num_styles(0) {
        const void* const weights[] = {p.weight0, p.weight1, p.weight2, p.weight3};
        const void* const matrices[] = {p.affine0, p.affine1, p.affine2, p.affine3};
        const void* const biases[] = {
            p.affine_bias0, p.affine_bias1, p.affine_bias2, p.affine_bias3};
        void* const outs[] = {p.out0, p.out1, p.out2, p.out3};
        const void* const grads[] = {p.grad_out0, p.grad_out1, p.grad_out2, p.grad_out3};
        void* const of_weights[] = {
            p.grad_weight0, p.grad_weight1, p.grad_weight2, p.grad_weight3};
        void* const of_matrices[] = {
            p.grad_affine0, p.grad_affine1, p.grad_affine2, p.grad_affine3};
        void* const of_biases[] = {p.grad_affine_bias0, p.grad_affine_bias1, p.grad_affine_bias2,
                                   p.grad_affine_bias3};
        const int64_t rows[] = {p.o0, p.o1, p.o2, p.o3};
        const int64_t columns[] = {p.i0, p.i1, p.i2, p.i3};
        for (int64_t k = 0; k < p.layers; ++k) {
            FmmParams& layer = layers[k] = FmmParams{};
            layer.weight = weights[k];
            layer.out = outs[k];
            layer.grad_out = grads[k];
            layer.grad_weight = of_weights[k];
            layer.n = p.n;
            layer.o = rows[k];
            layer.i = layer.weight_stride = layer.grad_row_stride = columns[k];
            layer.r = layer.a_row_stride = p.r;
            layer.b_row_stride = columns[k];
            layer.grad_image_stride = rows[k] * columns[k];
            layer.activation = p.activation;
            layer.scale = p.scale;
            add_affine(k, matrices[k], biases[k], of_matrices[k], of_biases[k],
                       (rows[k] + columns[k]) * p.r);
        }
        add_affine(p.layers, p.rgb_affine, p.rgb_affine_bias, p.grad_rgb_affine,
                   p.grad_rgb_affine_bias, rows[p.layers - 1]);
        if (p.predict != nullptr) {
            add_affine(0, p.predict, p.predict_bias, p.grad_predict, p.grad_predict_bias,
                       p.predicted);
        }
        for (int64_t k = 0; k < p.layers; ++k) {
            FmmParams& layer = layers[k];
            const int64_t at = affines[k].at, of_b = at + layer.o * layer.r;
            layer.a = styles() + at;
            layer.b = styles() + of_b;
            layer.a_image_stride = layer.b_image_stride = num_styles;
            layer.grad_a_image_stride = layer.grad_b_image_stride = num_styles;
            if (p.grad_styles != nullptr) {
                layer.grad_a = grad_styles() + at;
                layer.grad_b = grad_styles() + of_b;
            }
        }
    }

    // The affine layer that predicts, or num_affines.
    int64_t predicting() const { return p.layers + 1; }

    // Channels of the last layer.
    int64_t channels() const { return affines[p.layers].size; }

    S* styles() const { return static_cast<S*>(p.styles); }
    S* grad_styles() const { return static_cast<S*>(p.grad_styles); }

    const S* w(int64_t n, int64_t k) const {
        return static_cast<const S*>(p.ws) + n * p.ws_image_stride + k * p.ws_layer_stride;
    }

private:
    void add_affine(
        int64_t source, const void* weight, const void* bias, void* of_weight, void* of_bias,
        int64_t size) {
        affines[num_affines++] = {
            static_cast<const S*>(weight), static_cast<const S*>(bias), static_cast<S*>(of_weight),
            static_cast<S*>(of_bias), size, num_styles, source};
        num_styles += size;
    }
};

// Calls f(which, index) for all jobs of several kinds, counts[which] of each, over threads.
template <typename F>
void for_all_jobs(const std::vector<int64_t>& counts, int64_t threads, F f) {
    int64_t total = 0;
    for (const int64_t count : counts) total += count;
    parallel_for(total, threads, [&](int64_t job, int64_t) {
        int64_t which = 0;
        for (; job >= counts[which]; ++which) job -= counts[which];
        f(which, job);
    });
}

}  // namespace

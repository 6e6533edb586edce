#pragma once
#include "../_native/abi.h"

// The mapping network of StyleGAN2 on CPUs: latents and labels to w.
//   x_0 = [norm(z); norm(W_e c / sqrt(C) + b_e)],  norm(v) = v / sqrt(mean(v^2) + 1e-8)
//   x_k = act_gain * leaky(lr (W_k x_{k-1} / sqrt(I_k) + b_k)),  leaky(v) = v > 0 ? v : slope v
// All tensors are contiguous, all float32 or all float64. Gradients that are null are not computed.
struct MappingLayersParams {
    const void* z;              // [N, Z]; null = none
    const void* c;              // [N, C]; null = none
    const void* embed;          // W_e [E, C]
    const void* embed_bias;     // b_e [E]
    const void* weights;        // int64 [K]: addresses of W_k [O_k, I_k]
    const void* biases;         // int64 [K]: addresses of b_k [O_k]
    const void* widths;         // int64 [K + 1]: Z + E, O_1, .., O_K
    void* saved;                // [N, Z + E + O_1 + .. + O_K]: x_0 .. x_K; out, backward in
    void* scales;               // [N, 2]: 1 / sqrt of z and of the embedding; out, backward in
    void* out;                  // forward: x_K [N, O_K]
    const void* grad;           // backward: of x_K
    void* grad_z;               // backward, as z
    void* grad_embed;           // backward, as embed
    void* grad_embed_bias;      // backward, as embed_bias
    const void* grad_weights;   // backward: int64 [K]: addresses, 0 = not wanted
    const void* grad_biases;    // backward: int64 [K]: addresses, 0 = not wanted
    int64_t layers;             // K, may be 0
    int64_t dtype;              // INR_FLOAT32 or INR_FLOAT64
    int64_t n;                  // N
    int64_t z_size;             // Z
    int64_t c_size;             // C
    int64_t embed_size;         // E
    int64_t threads;
    double lr_multiplier;       // lr
    double slope;
    double act_gain;
};

INR_EXPORT const char* mapping_layers_forward(const MappingLayersParams* p);
INR_EXPORT const char* mapping_layers_backward(const MappingLayersParams* p);

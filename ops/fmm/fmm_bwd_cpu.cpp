// fmm_backward on the CPU.
#include "fmm_gradients.h"

namespace {

template <typename Acc, typename In, typename Out>
void backward(const FmmParams& p) {
    const int64_t chunks = (p.o + p.chunk - 1) / p.chunk;
    parallel_for(chunks * p.splits, p.threads, [&](int64_t task, int64_t) {
        backward_task<Acc, In, Out>(p, task % chunks, chunks, task / chunks);
    });
    const int64_t of_b = p.r * p.i;
    parallel_for(p.grad_b && chunks > 1 ? p.n : 0, p.threads, [&](int64_t n, int64_t) {
        sum_parts(static_cast<const Acc*>(p.partial_b) + n * of_b, chunks, p.n * of_b, of_b,
                  static_cast<In*>(p.grad_b) + n * p.grad_b_image_stride);
    });
    parallel_for(p.grad_weight && p.splits > 1 ? p.o : 0, p.threads, [&](int64_t row, int64_t) {
        sum_parts(static_cast<const Acc*>(p.partial_weight) + row * p.i, p.splits,
                  p.o * p.i, p.i, static_cast<In*>(p.grad_weight) + row * p.i);
    });
}

}  // namespace

const char* fmm_backward(const FmmParams* p) {
    return run(*p, backward<float, float, float>, backward<double, double, double>,
               backward<float, bfloat16, bfloat16>, backward<float, float, bfloat16>);
}

// FMM on the CPU: the modulated rows live in the L1 cache between product, norm and store.
// Every sum has a fixed order that does not depend on the number of threads.
#include "fmm_rows.h"

namespace {

template <typename Acc, typename In, typename Out>
void forward(const FmmParams& p) {
    const int64_t chunks = (p.o + p.chunk - 1) / p.chunk;
    parallel_for(p.n * chunks, p.threads, [&](int64_t task, int64_t) {
        const int64_t begin = task % chunks * p.chunk;
        forward_chunk<Acc, In, Out>(p, task / chunks, begin, std::min(begin + p.chunk, p.o));
    });
}

}  // namespace

const char* fmm_forward(const FmmParams* p) {
    return run(*p, forward<float, float, float>, forward<double, double, double>,
               forward<float, bfloat16, bfloat16>, forward<float, float, bfloat16>);
}

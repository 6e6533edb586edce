// FMM on the CPU: the modulated rows live in the L1 cache between product, norm and store.
// Every sum has a fixed order that does not depend on the number of threads.
#include "fmm_rows.h"

namespace {

template <typename Acc, typename In, typename Out>
void forward_chunk(const FmmParams& p, int64_t n, int64_t begin, int64_t end) {
    constexpr int kCount = Lanes<Acc>::kCount;
    Chunk<Acc, In> chunk(p, scratch<Acc>(Chunk<Acc, In>::size(p)));
    chunk.read_b(n);
    for (int64_t row = begin; row < end; row += kRows) {
        const int64_t rows = std::min<int64_t>(kRows, end - row);
        chunk.read_a(n, row, rows);
        chunk.template modulate<false>(row, rows);
        Acc factors[kRows];
        for (int q = 0; q < kRows; ++q)
            factors[q] = p.activation == FMM_DEMOD ? 1 / (chunk.norm(q) + Acc(kEpsilon)) : 1;
        for (int64_t q = 0; q < rows; ++q) {
            const Acc factor = factors[q];
            Out* const out = static_cast<Out*>(p.out) + (n * p.o + row + q) * p.i;
            const Acc* const v = chunk.v + q * chunk.stride;
            int64_t i = 0;
            for (; i + kCount <= p.i; i += kCount) store<Acc>(out + i, load<Acc>(v + i) * factor);
            store_some<Acc>(out + i, load<Acc>(v + i) * factor, p.i - i);
        }
    }
}

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

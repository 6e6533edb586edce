// What the C++ kernels for CPU tensors share: work spread over threads, and memory that is kept.
#pragma once

#include <cstdint>
#include <vector>

#include "abi.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace inr {

inline int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Calls f(job, thread) for every job, threads counted from 0: OpenMP, whose threads PyTorch shares,
// or one after the other. Threads take `grain` jobs at a time.
template <typename F>
void parallel_for(int64_t jobs, int64_t threads, F f, int64_t grain = 1) {
#ifdef _OPENMP
    const bool several = threads > 1 && jobs > grain;
#pragma omp parallel for schedule(dynamic, grain) num_threads(static_cast<int>(threads)) if (several)
    for (int64_t job = 0; job < jobs; ++job) {
        f(job, static_cast<int64_t>(omp_get_thread_num()));
    }
#else
    static_cast<void>(threads);
    static_cast<void>(grain);
    for (int64_t job = 0; job < jobs; ++job) {
        f(job, int64_t(0));
    }
#endif
}

// Scratch memory of the calling thread at a cache line's start, grown when needed and kept: steady
// work touches no new pages. It is lost with the thread's next call.
template <typename S>
S* scratch(int64_t count) {
    thread_local std::vector<S> memory;
    constexpr int64_t kLine = 64 / sizeof(S);
    if (static_cast<int64_t>(memory.size()) < count + kLine) {
        memory = std::vector<S>();
        memory.resize(count + kLine);
    }
    const uintptr_t start = reinterpret_cast<uintptr_t>(memory.data());
    return reinterpret_cast<S*>((start + 63) / 64 * 64);
}

}  // namespace inr

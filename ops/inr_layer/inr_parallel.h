#pragma once
// Work spread over threads, for CPUs: OpenMP, whose threads PyTorch shares, or one after the other.

#include "../_native/cpu.h"

namespace inr {

// Calls f(job, thread) for every job, threads counted from 0.
template <typename F>
void parallel_for(int64_t jobs, int64_t threads, F f) {
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1) num_threads(static_cast<int>(threads))
    for (int64_t job = 0; job < jobs; ++job) {
        f(job, static_cast<int64_t>(omp_get_thread_num()));
    }
#else
    static_cast<void>(threads);
    for (int64_t job = 0; job < jobs; ++job) {
        f(job, int64_t(0));
    }
#endif
}

}  // namespace inr

// CUDA kernels on the CPU, for tests: every thread is a fiber, one block runs after another.
//
// A fiber runs until it waits at a barrier (of its block, or of its warp: shuffles and tensor core
// products are barriers too) and goes on when all others have arrived. Between barriers fibers run
// in a chosen order; a result that depends on it shows a barrier that is missing. Asynchronous
// copies happen when they are waited for, not before. Dynamic shared memory starts as NaN. What
// waits for ever is an error, not a hang.
#pragma once

#include <math.h>
#include <string.h>

#include <algorithm>
#include <stdexcept>

#include "emulation_machine.h"
#include "emulation_numbers.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __shared__ static
#define __align__(n) alignas(n)

using std::max;
using std::min;

namespace emulation {

template <typename V>
V shuffle(V value, int from) {
    static_assert(sizeof(V) <= sizeof(uint64_t), "shuffles move at most 8 bytes");
    Lane* lanes = warp_lanes();
    memcpy(&lanes[lane()].value, &value, sizeof(V));
    wait(kAtWarp);
    V result = value;
    if (from >= 0 && from < kWarp) memcpy(&result, &lanes[from].value, sizeof(V));
    wait(kAtWarp);
    return result;
}

}  // namespace emulation

#define threadIdx (emulation::block().current->index)
#define blockIdx (emulation::block().index)
#define blockDim (emulation::block().size)
#define gridDim (emulation::block().grid)

inline void __syncthreads() { emulation::wait(emulation::kAtBlock); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulation::wait(emulation::kAtWarp); }

template <typename V>
V __shfl_sync(unsigned, V value, int from) { return emulation::shuffle(value, from); }
template <typename V>
V __shfl_xor_sync(unsigned, V value, int mask) {
    return emulation::shuffle(value, emulation::lane() ^ mask);
}
template <typename V>
V __shfl_down_sync(unsigned, V value, int apart) {
    return emulation::shuffle(value, emulation::lane() + apart);
}
template <typename V>
V __shfl_up_sync(unsigned, V value, int apart) {
    return emulation::shuffle(value, emulation::lane() - apart);
}

template <typename V>
V __ldg(const V* from) { return *from; }
template <typename V>
V atomicAdd(V* to, V value) {
    const V before = *to;
    *to = before + value;
    return before;
}

// Fragments as PTX describes them for mma.m16n8k16: lane 4 g + t holds of A the rows g and g + 8
// at k = 2 t, 2 t + 1 and 8 more, of B the column g, of D the columns 2 t and 2 t + 1.
template <typename T>
void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emulation::Lane* lanes = emulation::warp_lanes();
    const int lane = emulation::lane();
    memcpy(lanes[lane].a, a, sizeof(a));
    memcpy(lanes[lane].b, b, sizeof(b));
    emulation::wait(emulation::kAtWarp);
    auto entry = [](uint32_t pair, int k) {
        return to_float(T{uint16_t(k % 2 ? pair >> 16 : pair & 0xffff)});
    };
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
        float sum = d[i];
        for (int k = 0; k < 16; ++k) {
            const emulation::Lane& left = lanes[row % 8 * 4 + k % 8 / 2];
            const emulation::Lane& right = lanes[col * 4 + k % 8 / 2];
            sum += entry(left.a[row / 8 + k / 8 * 2], k) * entry(right.b[k / 8], k);
        }
        d[i] = sum;
    }
    emulation::wait(emulation::kAtWarp);
}

namespace emulation {

inline void load_matrices(uint32_t (&r)[4], const void* row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16) throw std::runtime_error("ldmatrix: misaligned row");
    Lane* lanes = warp_lanes();
    lanes[lane()].row = row;
    wait(kAtWarp);
    const int group = lane() / 4, pair = lane() % 4 * 2;
    for (int i = 0; i < 4; ++i) {
        uint32_t both[2];
        for (int j = 0; j < 2; ++j) {
            const int y = transposed ? pair + j : group, x = transposed ? group : pair + j;
            both[j] = static_cast<const uint16_t*>(lanes[i * 8 + y].row)[x];
        }
        r[i] = both[0] | both[1] << 16;
    }
    wait(kAtWarp);
}

}  // namespace emulation

inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared) {
    emulation::load_matrices(r, shared, false);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared) {
    emulation::load_matrices(r, shared, true);
}

inline void copy_async16(void* shared, const void* global, bool valid) {
    emulation::block().current->open.push_back({shared, global, valid});
}
inline void copy_async_commit() {
    emulation::Fiber& f = *emulation::block().current;
    f.groups.push_back(std::move(f.open));
    f.open.clear();
}
template <int N>
void copy_async_wait() {
    auto& groups = emulation::block().current->groups;
    while (groups.size() > N) {
        for (const emulation::Copy& copy : groups.front()) {
            if (copy.valid) memcpy(copy.to, copy.from, 16);
            else memset(copy.to, 0, 16);
        }
        groups.erase(groups.begin());
    }
}

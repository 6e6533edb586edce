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
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

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

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulation {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 128 * 1024;

enum Waiting { kRuns, kAtBlock, kAtWarp, kExited };

struct Copy {
    void* to;
    const void* from;
    bool valid;
};

struct Fiber {
    ucontext_t context;
    dim3 index;
    int number = 0;
    Waiting waiting = kRuns;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
};

struct Lane {
    uint64_t value;
    uint32_t a[4], b[2];
    const void* row;
};

// The block that runs, and its machine.
struct Block {
    dim3 grid, size, index;
    std::vector<Fiber> fibers;
    std::vector<Lane> lanes;
    std::unique_ptr<unsigned char[]> stacks;
    size_t num_stacks = 0;
    std::vector<uint64_t> shared;
    ucontext_t scheduler;
    Fiber* current = nullptr;
    std::function<void()> body;
    std::string error;
};

inline Block& block() {
    static thread_local Block the_block;
    return the_block;
}

// 0 ascending, 1 descending, else the seed of a random order.
inline int64_t& order() {
    static int64_t the_order = 0;
    return the_order;
}

inline void enter() {
    Block& b = block();
    try {
        b.body();
    } catch (const std::exception& caught) {
        b.error = caught.what();   // must not leave the fiber's stack
    }
    b.current->waiting = kExited;
    swapcontext(&b.current->context, &b.scheduler);
}

inline void wait(Waiting where) {
    Block& b = block();
    b.current->waiting = where;
    swapcontext(&b.current->context, &b.scheduler);
}

// Lets a group of fibers go on if all of them wait at the same place; exited ones do not count.
inline bool release(Fiber* first, Fiber* last, Waiting where) {
    bool any = false;
    for (Fiber* f = first; f != last; ++f) {
        if (f->waiting == kExited) continue;
        if (f->waiting != where) return false;
        any = true;
    }
    for (Fiber* f = first; any && f != last; ++f) {
        if (f->waiting == where) f->waiting = kRuns;
    }
    return any;
}

// Runs the fibers of one warp until all of them wait for the block or have exited.
inline bool run_warp(Fiber* first, Fiber* last, std::mt19937& random) {
    Block& b = block();
    const int count = static_cast<int>(last - first);
    int turn[kWarp];
    for (int i = 0; i < count; ++i) turn[i] = order() == 1 ? count - 1 - i : i;
    bool moved = false;
    do {
        if (order() > 1) std::shuffle(turn, turn + count, random);
        for (int i = 0; i < count; ++i) {
            Fiber& f = first[turn[i]];
            if (f.waiting != kRuns) continue;
            b.current = &f;
            swapcontext(&b.scheduler, &f.context);
            moved = true;
        }
    } while (release(first, last, kAtWarp));
    return moved;
}

// One warp after the other goes as far as barriers of the block let it: warps in lockstep would
// hide that one of those is missing.
inline void run_block() {
    Block& b = block();
    const int count = static_cast<int>(b.fibers.size());
    const int warps = (count + kWarp - 1) / kWarp;
    std::vector<int> turn(warps);
    for (int i = 0; i < warps; ++i) turn[i] = order() == 1 ? warps - 1 - i : i;
    std::mt19937 random(static_cast<unsigned>(order()));
    Fiber* fibers = b.fibers.data();
    for (;;) {
        if (order() > 1) std::shuffle(turn.begin(), turn.end(), random);
        bool moved = false, exited = true;
        for (int w : turn) {
            Fiber* first = fibers + w * kWarp;
            moved |= run_warp(first, fibers + std::min((w + 1) * kWarp, count), random);
        }
        for (int i = 0; i < count; ++i) exited &= fibers[i].waiting == kExited;
        if (exited) return;
        if (!release(fibers, fibers + count, kAtBlock) && !moved) {
            throw std::runtime_error("threads wait for each other at different barriers");
        }
    }
}

inline void start_fibers() {
    Block& b = block();
    const size_t count = size_t(b.size.x) * b.size.y * b.size.z;
    if (count > 1024) throw std::runtime_error("more than 1024 threads in a block");
    if (count > b.num_stacks) {
        b.stacks.reset(new unsigned char[count * kStackBytes]);
        b.num_stacks = count;
    }
    b.fibers.assign(count, Fiber());
    b.lanes.assign(count, Lane());
    for (size_t i = 0; i < count; ++i) {
        Fiber& f = b.fibers[i];
        f.number = static_cast<int>(i);
        f.index = dim3(i % b.size.x, i / b.size.x % b.size.y, i / b.size.x / b.size.y);
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = b.stacks.get() + i * kStackBytes;
        f.context.uc_stack.ss_size = kStackBytes;
        f.context.uc_link = nullptr;
        makecontext(&f.context, enter, 0);
    }
}

inline Lane* warp_lanes() {
    Block& b = block();
    return &b.lanes[b.current->number / kWarp * kWarp];
}

inline int lane() { return block().current->number % kWarp; }

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

inline float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline uint32_t to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
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

// IEEE binary16 and bfloat16 with the rounding of the hardware: to nearest, ties to even.
struct half_t {
    uint16_t bits;
};
struct bfloat16_t {
    uint16_t bits;
};

inline float to_float(bfloat16_t x) { return emulation::from_bits(uint32_t(x.bits) << 16); }

inline float to_float(half_t x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 31;
    const uint32_t fraction = x.bits & 1023;
    if (exponent == 31) return emulation::from_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) {
        const float small = float(fraction) * 0x1p-24f;
        return sign ? -small : small;
    }
    return emulation::from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

template <typename T>
struct Rounding {
    template <typename A>
    static T from(A x) { return static_cast<T>(x); }
};

template <>
struct Rounding<bfloat16_t> {
    static bfloat16_t from(float x) {
        const uint32_t bits = emulation::to_bits(x);
        if (x != x) return {0x7fc0};
        return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
    }
};

template <>
struct Rounding<half_t> {
    static half_t from(float x) {
        const uint16_t sign = emulation::to_bits(x) >> 16 & 0x8000;
        const float size = fabsf(x);
        if (x != x) return {0x7e00};
        if (size >= 65520) return {uint16_t(sign | 0x7c00)};
        if (size < 0x1p-14f) return {uint16_t(sign | uint16_t(nearbyintf(size * 0x1p24f)))};
        const uint32_t bits = emulation::to_bits(size);
        const uint32_t rounded = (bits + 0xfff + (bits >> 13 & 1)) >> 13;
        return {uint16_t(sign | (rounded - (112 << 10)))};
    }
};

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

#define DYNAMIC_SHARED(type, name) \
    type* name = reinterpret_cast<type*>(emulation::block().shared.data())

template <typename... Params, typename... Args>
const char* launch(
    void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void*, Args&&... args
) {
    static thread_local std::string error;
    emulation::Block& b = emulation::block();
    b.grid = grid;
    b.size = block;
    b.body = [&] { kernel(Params(args)...); };
    b.error.clear();
    try {
        for (unsigned i = 0; i < grid.x * grid.y * grid.z; ++i) {
            b.index = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
            b.shared.assign(shared_bytes / 8 + 3, ~uint64_t(0));
            emulation::start_fibers();
            emulation::run_block();
            if (!b.error.empty()) throw std::runtime_error(b.error);
        }
    } catch (const std::exception& caught) {
        error = caught.what();
        return error.c_str();
    }
    return nullptr;
}

INR_EXPORT inline __attribute__((used)) const char* emulation_set_order(int64_t order) {
    emulation::order() = order;
    return nullptr;
}

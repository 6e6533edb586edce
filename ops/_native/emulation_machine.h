// The machine of emulation.h: a block of threads as fibers, warps, barriers, and launches.
#pragma once

#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "abi.h"

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

}  // namespace emulation

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

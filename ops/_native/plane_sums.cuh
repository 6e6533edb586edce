// Sums over the rows, the columns and all entries of a plane, by one block, in a fixed order.
#pragma once

#include "device.h"

constexpr int kPlaneThreads = 256;

template <typename A>
__device__ __forceinline__ A warp_sum(A value) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, apart);
    }
    return value;
}

// The plane has `height` rows of `width` entries; values(y, x, result) fills the entries (y, x) to
// (y, x + kLength - 1), zeros beyond the width. cols [width], rows [height] and total [1] receive
// the sums; null = not wanted. The warps of the block share the rows, their lanes the columns.
template <int kLength, typename A, typename Values>
__device__ __forceinline__ void plane_sums(
    const Values& values, int height, int width, A* cols, A* rows, A* total
) {
    constexpr int kWarps = kPlaneThreads / 32, kCols = 32 * kLength;
    __shared__ A column_sums[kWarps][kCols];
    __shared__ A totals[kWarps];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    A whole = 0;
    for (int left = 0; left < width; left += kCols) {
        A columns[kLength] = {};
        for (int y = warp; y < height; y += kWarps) {
            A entries[kLength];
            values(y, left + lane * kLength, entries);
            A line = 0;
#pragma unroll
            for (int i = 0; i < kLength; ++i) {
                columns[i] += entries[i];
                line += entries[i];
            }
            whole += line;
            if (rows == nullptr) continue;
            line = warp_sum(line);
            // The same lane comes to the same row again if there are more columns.
            if (lane == 0) rows[y] = left == 0 ? line : rows[y] + line;
        }
        if (cols == nullptr) continue;
#pragma unroll
        for (int i = 0; i < kLength; ++i) column_sums[warp][lane * kLength + i] = columns[i];
        __syncthreads();
        for (int i = threadIdx.x; i < kCols && left + i < width; i += kPlaneThreads) {
            A sum = 0;
            for (int w = 0; w < kWarps; ++w) sum += column_sums[w][i];
            cols[left + i] = sum;
        }
        __syncthreads();
    }
    if (total == nullptr) return;
    whole = warp_sum(whole);
    if (lane == 0) totals[warp] = whole;
    __syncthreads();
    if (threadIdx.x == 0) {
        A sum = 0;
        for (int w = 0; w < kWarps; ++w) sum += totals[w];
        *total = sum;
    }
}

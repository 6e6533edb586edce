// inr_tiles_upsample: see inr_tiles.h. The arithmetic is that of inr_tiles_forward, to the last bit.

#include <new>
#include <vector>

#include "../_native/cpu.h"
#include "inr_tiles.h"

namespace {

using namespace inr;

template <typename S>
void upsample(const InrTilesUpsampleParams& p) {
    const int64_t* row_index = static_cast<const int64_t*>(p.row_index);
    const int64_t* col_index = static_cast<const int64_t*>(p.col_index);
    const S* row_weight = static_cast<const S*>(p.row_weight);
    const S* col_weight = static_cast<const S*>(p.col_weight);
    std::vector<S> lines(p.threads * p.low_width);
    parallel_for(p.planes, p.threads, [&](int64_t plane, int64_t thread) {
        const S* lattice = static_cast<const S*>(p.x) + plane * p.low_height * p.low_width;
        S* const line = lines.data() + thread * p.low_width;
        for (int64_t y = 0; y < p.height; ++y) {
            S* out = static_cast<S*>(p.y) + (plane * p.height + y) * p.width;
            const S* top = lattice + row_index[y * p.taps] * p.low_width;
            if (p.taps == 1) {
                for (int64_t x = 0; x < p.width; ++x) {
                    out[x] = top[col_index[x]];
                }
                continue;
            }
            const S* bottom = lattice + row_index[y * 2 + 1] * p.low_width;
            const S upper = row_weight[y * 2], lower = row_weight[y * 2 + 1];
            for (int64_t c = 0; c < p.low_width; ++c) {
                line[c] = upper * top[c] + lower * bottom[c];
            }
            for (int64_t x = 0; x < p.width; ++x) {
                const S near = line[col_index[x * 2]], far = line[col_index[x * 2 + 1]];
                out[x] = col_weight[x * 2] * near + col_weight[x * 2 + 1] * far;
            }
        }
    });
}

}  // namespace

const char* inr_tiles_upsample(const InrTilesUpsampleParams* p) try {
    if (p->dtype == INR_FLOAT32) {
        upsample<float>(*p);
        return nullptr;
    }
    if (p->dtype == INR_FLOAT64) {
        upsample<double>(*p);
        return nullptr;
    }
    return "inr_tiles_upsample takes float32 and float64";
} catch (const std::bad_alloc&) {
    return "out of memory";
}

// By the addition theorems sin(a + b) = sin b cos a + cos b sin a, cos(a + b) = cos b cos a - sin b
// sin a, so that sines are needed for the H + W entries of two tables only. Angles are rounded as
// PyTorch does, to float32 (float64 for doubles); from there on, float64 keeps them exact while
// multiples of pi/2 are taken off. Planes are then products of the tables.

#include <algorithm>
#include <cmath>

#include "../_native/cpu.h"
#include "../_native/lanes.h"
#include "fourier.h"

namespace {

using namespace inr;

// Beyond this, the nearest multiple of pi/2 would not be exact.
constexpr double kLargest = 5e5;

using doubles = lanes_t<double>;
constexpr int kDoubles = Lanes<double>::kCount;

// sin and cos of |r| <= pi/4 up to an ulp: the Taylor series.
inline void small_angle(doubles r, doubles& sine, doubles& cosine) {
    const doubles square = r * r;
    doubles odd = doubles{} + 1.0 / 355687428096000, even = doubles{} + 1.0 / 20922789888000;
    odd = odd * square - 1.0 / 1307674368000;
    even = even * square - 1.0 / 87178291200;
    odd = odd * square + 1.0 / 6227020800;
    even = even * square + 1.0 / 479001600;
    odd = odd * square - 1.0 / 39916800;
    even = even * square - 1.0 / 3628800;
    odd = odd * square + 1.0 / 362880;
    even = even * square + 1.0 / 40320;
    odd = odd * square - 1.0 / 5040;
    even = even * square - 1.0 / 720;
    odd = odd * square + 1.0 / 120;
    even = even * square + 1.0 / 24;
    odd = odd * square - 1.0 / 6;
    even = even * square - 0.5;
    sine = r + r * square * odd;
    cosine = 1.0 + square * even;
}

// sin and cos of `count` angles; arrays have room for whole vectors, and for `room` results, of which
// the rest are 0.
template <typename S>
void sines(const double* angles, int64_t count, int64_t room, S* sine, S* cosine) {
    typedef int64_t integers __attribute__((vector_size(kVectorBytes)));
    constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
    for (int64_t i = 0; i < count; i += kDoubles) {
        const doubles x = load<double>(angles + i);
        const doubles shifted = x * 0.63661977236758134 + kShift;
        const doubles turns = shifted - kShift;
        // pi/2 in two parts, the first with so few digits that its multiples are exact.
        doubles r = x - turns * 1.57079632673412561417e+00;
        r -= turns * 6.07710050630396597660e-11;
        r -= turns * 2.02226624879595063154e-21;
        doubles s, c;
        small_angle(r, s, c);
        const integers quarter = (integers)shifted;
        const integers swapped = (quarter & 1) != 0;
        const doubles first = swapped ? c : s;
        const doubles second = swapped ? s : c;
        const doubles sin_x = (quarter & 2) != 0 ? -first : first;
        const doubles cos_x = ((quarter + 1) & 2) != 0 ? -second : second;
        for (int lane = 0; lane < kDoubles; ++lane) {
            sine[i + lane] = static_cast<S>(sin_x[lane]);
            cosine[i + lane] = static_cast<S>(cos_x[lane]);
        }
    }
    for (int64_t i = 0; i < count; ++i) {
        if (!(std::abs(angles[i]) < kLargest)) {
            sine[i] = static_cast<S>(std::sin(angles[i]));
            cosine[i] = static_cast<S>(std::cos(angles[i]));
        }
    }
    std::fill(sine + count, sine + room, S(0));
    std::fill(cosine + count, cosine + room, S(0));
}

// One row of frequencies: sines and cosines along both axes.
template <typename T>
struct Wave {
    using S = typename SumOf<T>::type;
    using L = Lanes<S>;

    const FourierParams& p;
    int64_t width;   // of the tables, whole vectors
    double* angles;
    S* sin_u;  // [width], with the phase
    S* cos_u;
    S* sin_v;  // [height]
    S* cos_v;
    S* sums;  // [2, width]

    static int64_t whole(int64_t count) {
        return (count + 2 * L::kCount - 1) / L::kCount * L::kCount;
    }

    explicit Wave(const FourierParams& params) : p(params), width(whole(params.width)) {
        const int64_t most = std::max(width, whole(p.height));
        angles = scratch<double>(most + 4 * width + 2 * whole(p.height));
        // Behind the angles, S may be smaller than double.
        sin_u = reinterpret_cast<S*>(angles + most);
        cos_u = sin_u + width;
        sums = cos_u + width;
        sin_v = sums + 2 * width;
        cos_v = sin_v + whole(p.height);
    }

    void read(int64_t row) {
        const T* frequencies = static_cast<const T*>(p.rows) + 2 * row;
        const T* phases = static_cast<const T*>(p.phase);
        const S phase = phases == nullptr ? S(0) : S(to_sum(phases[row]));
        fill(static_cast<const T*>(p.u), p.width, to_sum(frequencies[0]), phase);
        sines(angles, p.width, width, sin_u, cos_u);
        fill(static_cast<const T*>(p.v), p.height, to_sum(frequencies[1]), 0);
        sines(angles, p.height, whole(p.height), sin_v, cos_v);
    }

    void fill(const T* points, int64_t count, S frequency, S phase) {
        for (int64_t i = 0; i < count; ++i) {
            angles[i] = frequency * to_sum(points[i]) + phase;
        }
        std::fill(angles + count, angles + count + kDoubles, 0.0);
    }

    // Both planes of a row: where its sines are, and by how much the cosines come later.
    int64_t plane(int64_t row) const {
        return (row / p.num_rows * p.num_rows + row) * p.height * p.width;
    }

    void write(int64_t row) const {
        const int64_t points = p.height * p.width;
        T* const sine = static_cast<T*>(p.out) + plane(row);
        T* const cosine = sine + p.num_rows * points;
        for (int64_t y = 0; y < p.height; ++y) {
            const int64_t start = y * p.width;
            for (int64_t x = 0; x < p.width; x += L::kCount) {
                const lanes_t<S> s = load<S>(sin_u + x), c = load<S>(cos_u + x);
                // What is written beyond a row is overwritten by the next one.
                const int64_t left = points - start - x;
                store_some<S>(sine + start + x, s * cos_v[y] + c * sin_v[y], left);
                store_some<S>(cosine + start + x, c * cos_v[y] - s * sin_v[y], left);
            }
        }
    }

    // Values of a row from x on, 0 beyond its end; `left` values are in the tensor.
    lanes_t<S> load_row(const T* from, int64_t x, int64_t left) const {
        typedef decltype(lanes_t<S>{} < lanes_t<S>{}) mask;
        const lanes_t<S> values = load_some<S>(from, left);
        if (x + L::kCount <= p.width) {
            return values;
        }
        mask inside = {};
        for (int lane = 0; lane < L::kCount; ++lane) {
            inside[lane] = x + lane < p.width ? -1 : 0;
        }
        return inside ? values : lanes_t<S>{};
    }

    // The gradient g of the angles, of all points: sums over y into cols, over x into rows.
    void sum(int64_t row, S* cols, S* rows) const {
        const int64_t points = p.height * p.width;
        const T* const sine = static_cast<const T*>(p.grad) + plane(row);
        const T* const cosine = sine + p.num_rows * points;
        std::fill(sums, sums + 2 * width, S(0));
        for (int64_t y = 0; y < p.height; ++y) {
            const int64_t start = y * p.width;
            lanes_t<S> along = {}, across = {};
            for (int64_t x = 0; x < p.width; x += L::kCount) {
                const lanes_t<S> a = load_row(sine + start + x, x, points - start - x);
                const lanes_t<S> b = load_row(cosine + start + x, x, points - start - x);
                const lanes_t<S> s = load<S>(sin_u + x), c = load<S>(cos_u + x);
                along += a * c - b * s;
                across += a * s + b * c;
                S* const first = sums + x;
                S* const second = first + width;
                store<S>(first, load<S>(first) + (a * cos_v[y] - b * sin_v[y]));
                store<S>(second, load<S>(second) + (b * cos_v[y] + a * sin_v[y]));
            }
            rows[y] = cos_v[y] * inr::sum<S>(along) - sin_v[y] * inr::sum<S>(across);
        }
        for (int64_t x = 0; x < p.width; ++x) {
            cols[x] = cos_u[x] * sums[x] - sin_u[x] * sums[width + x];
        }
    }

    void write_gradients(int64_t row, S* cols, S* rows) const {
        S horizontal = 0, vertical = 0, total = 0;
        for (int64_t x = 0; x < p.width; ++x) {
            horizontal += cols[x] * to_sum(static_cast<const T*>(p.u)[x]);
            total += cols[x];
        }
        for (int64_t y = 0; y < p.height; ++y) {
            vertical += rows[y] * to_sum(static_cast<const T*>(p.v)[y]);
        }
        if (p.grad_rows != nullptr) {
            from_sum(horizontal, static_cast<T*>(p.grad_rows)[2 * row]);
            from_sum(vertical, static_cast<T*>(p.grad_rows)[2 * row + 1]);
        }
        if (p.grad_phase != nullptr) {
            from_sum(total, static_cast<T*>(p.grad_phase)[row]);
        }
    }
};

enum class Job { kForward, kSums, kGradients };

template <typename T, Job kJob>
void run(const FourierParams& p) {
    using S = typename Wave<T>::S;
    const int64_t jobs = p.n * p.num_rows;
    const int64_t grain = std::max<int64_t>(1, std::min<int64_t>(16, jobs / p.threads));
    parallel_for(jobs, p.threads, [&](int64_t row, int64_t) {
        Wave<T> wave(p);
        wave.read(row);
        if (kJob == Job::kForward) {
            wave.write(row);
        } else if (kJob == Job::kSums) {
            wave.sum(row, static_cast<S*>(p.col_sums) + row * p.width,
                     static_cast<S*>(p.row_sums) + row * p.height);
        } else {
            std::vector<S> memory(p.width + p.height);
            wave.sum(row, memory.data(), memory.data() + p.width);
            wave.write_gradients(row, memory.data(), memory.data() + p.width);
        }
    }, grain);
}

template <Job kJob>
const char* choose(const FourierParams& p) try {
    switch (p.dtype) {
        case INR_FLOAT32: run<float, kJob>(p); return nullptr;
        case INR_FLOAT64: run<double, kJob>(p); return nullptr;
        case INR_BFLOAT16: run<bfloat16, kJob>(p); return nullptr;
    }
    return "fourier takes float32, float64 and bfloat16";
} catch (const std::bad_alloc&) {
    return "out of memory";
}

}  // namespace

const char* fourier_forward(const FourierParams* p) { return choose<Job::kForward>(*p); }

const char* fourier_backward(const FourierParams* p) { return choose<Job::kSums>(*p); }

const char* fourier_row_gradients(const FourierParams* p) { return choose<Job::kGradients>(*p); }

// Separable FIR resampling on the CPU, a strip of a plane at a time, in buffers that stay in the
// cache. Factors > 1 split rows into phases (every up-th or down-th pixel), so that every pass is a
// sum of shifted contiguous memory, which the compiler vectorises. All buffers have rows of `pitch`
// elements, so that a pass runs over all rows of a strip at once, and over what lies between them:
//
//   split   input rows with zeros around, one buffer per phase q = column % down_x
//   wide    filtered along x, one buffer per phase r = result column % up_x
//   tall    filtered along y, too, one buffer per phase of rows and columns
//   result  phases interleaved
//
// With decimation along y that comes first, so that the passes along x see half of the rows only.
//
// Four taps without up-sampling, what a discriminator has, go row by row instead: the vertical sum
// of four input rows, a line with zeros at its ends, then the horizontal sums of that line.
#include <algorithm>
#include <vector>

#include "../_native/lanes.h"
#include "upfirdn2d.h"

namespace {

constexpr int64_t PARALLEL_SIZE = 1 << 14;  // pixels below which threads cost more than they save
constexpr int64_t STRIP_SIZE = 6144;        // elements of a buffer, about
constexpr int64_t SHORT_STRIP_SIZE = 1024;  // the same for four taps

int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }

template <typename T>
struct Term {
    T tap;
    const T* row;
};

// to[i] = sum of tap * row[i] over the terms.
template <typename T>
void combine(T* __restrict__ to, int64_t count, const std::vector<Term<T>>& terms) {
    size_t done = 0;
    for (; done + 4 <= terms.size(); done += 4) {
        const Term<T>* term = terms.data() + done;
        const T a = term[0].tap, b = term[1].tap, c = term[2].tap, d = term[3].tap;
        const T* __restrict__ p = term[0].row;
        const T* __restrict__ q = term[1].row;
        const T* __restrict__ r = term[2].row;
        const T* __restrict__ s = term[3].row;
        if (done == 0) {
            for (int64_t i = 0; i < count; i++)
                to[i] = (a * p[i] + b * q[i]) + (c * r[i] + d * s[i]);
        } else {
            for (int64_t i = 0; i < count; i++)
                to[i] += (a * p[i] + b * q[i]) + (c * r[i] + d * s[i]);
        }
    }
    if (done == 0 && terms.size() >= 2) {
        const T a = terms[0].tap, b = terms[1].tap;
        const T* __restrict__ p = terms[0].row;
        const T* __restrict__ q = terms[1].row;
        for (int64_t i = 0; i < count; i++) to[i] = a * p[i] + b * q[i];
        done = 2;
    } else if (done == 0) {
        std::fill(to, to + count, T(0));
    }
    for (; done < terms.size(); done++) {
        const T a = terms[done].tap;
        const T* __restrict__ p = terms[done].row;
        for (int64_t i = 0; i < count; i++) to[i] += a * p[i];
    }
}

// One axis: up or down is 1; the taps in the order of a correlation.
template <typename T>
struct Axis {
    int64_t up, down, pad, in, out;
    std::vector<T> taps;

    Axis(int64_t up, int64_t down, int64_t pad, int64_t in, int64_t out, const double* f,
         int64_t count, bool flip, double gain)
        : up(up), down(down), pad(pad), in(in), out(out), taps(count) {
        for (int64_t t = 0; t < count; t++) taps[t] = T(f[flip ? t : count - 1 - t] * gain);
    }

    int64_t count() const { return int64_t(taps.size()); }
    // Input pixels of the first and the last tap of result pixel o that meet one.
    int64_t first(int64_t o) const { return ceil_div(o * down - pad, up); }
    int64_t last(int64_t o) const { return floor_div(o * down - pad + count() - 1, up); }
};

template <typename T>
class PlaneFilter {
  public:
    PlaneFilter(const Axis<T>& x, const Axis<T>& y) : x(x), y(y), left(x.first(0)) {
        columns = ceil_div(x.out, x.up);
        // The last group of phases may read beyond what the last result pixel reads.
        pitch = ceil_div(x.last(columns * x.up - 1) - left + 1, x.down) + 1;
        pitch = std::max(pitch, columns);
        strip = std::max<int64_t>(STRIP_SIZE / pitch, 1) * y.up;
        strip = std::min(strip, ceil_div(y.out, y.up) * y.up);
        int64_t rows = y.down > 1 ? strip : y.last(strip + y.up - 1) - y.first(0) + 2;
        split_size = rows * pitch + x.count();  // shifted reads go past the last row
        wide_size = rows * pitch;
        tall_size = ceil_div(strip, y.up) * pitch;
        split.assign(x.down * split_size, T(0));
        wide.assign(x.up * wide_size, T(0));
        tall.assign(x.up * y.up * tall_size, T(0));
        line.assign(x.in, T(0));
    }

    void operator()(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
        for (int64_t begin = 0; begin < y.out; begin += strip) {
            int64_t groups = ceil_div(std::min(strip, y.out - begin), y.up);
            int64_t end = std::min(begin + strip, y.out);
            if (y.down > 1) {
                for (int64_t o = begin; o < end; o++) {
                    decimate(from, from_stride, o);
                    split_row(line.data(), (o - begin) * pitch);
                }
                filter_across(groups);
                merge(wide.data(), wide_size, to, to_stride, begin, end);
                continue;
            }
            int64_t top = y.first(begin);
            int64_t rows = y.last(begin + groups * y.up - 1) - top + 1;
            for (int64_t row = 0; row < rows; row++) {
                bool inside = top + row >= 0 && top + row < y.in;
                split_row(inside ? from + (top + row) * from_stride : nullptr, row * pitch);
            }
            filter_across(rows);
            filter_along(begin, groups, top);
            merge(tall.data(), tall_size, to, to_stride, begin, end);
        }
    }

  private:
    // Result row o of the vertical pass alone.
    void decimate(const T* from, int64_t stride, int64_t o) {
        int64_t i = o * y.down - y.pad;
        terms.clear();
        for (int64_t t = 0; t < y.count(); t++)
            if (i + t >= 0 && i + t < y.in) terms.push_back({y.taps[t], from + (i + t) * stride});
        combine(line.data(), x.in, terms);
    }

    // Column m of phase q is pixel left + m * down + q of the row; null = a row of zeros. The zeros
    // around never change.
    void split_row(const T* from, int64_t at) {
        for (int64_t q = 0; q < x.down; q++) {
            T* __restrict__ phase = split.data() + q * split_size + at;
            int64_t m = std::max<int64_t>(ceil_div(-left - q, x.down), 0);
            int64_t stop = std::min(ceil_div(x.in - left - q, x.down), pitch);
            const T* __restrict__ source = from + left + q;
            if (!from) {
                std::fill(phase, phase + pitch, T(0));
            } else if (x.down == 1) {
                for (; m < stop; m++) phase[m] = source[m];
            } else if (x.down == 2) {
                for (; m < stop; m++) phase[m] = source[2 * m];
            } else {
                for (; m < stop; m++) phase[m] = source[m * x.down];
            }
        }
    }

    void filter_across(int64_t rows) {
        for (int64_t r = 0; r < x.up; r++) {
            terms.clear();
            int64_t i = ceil_div(r - x.pad, x.up), t = i * x.up + x.pad - r;
            for (i -= left; t < x.count(); t += x.up, i++)
                terms.push_back({x.taps[t], split.data() + i % x.down * split_size + i / x.down});
            combine(wide.data() + r * wide_size, rows * pitch, terms);
        }
    }

    void filter_along(int64_t begin, int64_t groups, int64_t top) {
        for (int64_t s = 0; s < x.up * y.up; s++) {
            const T* source = wide.data() + s / y.up * wide_size;
            int64_t j = begin + s % y.up - y.pad, i = ceil_div(j, y.up), t = i * y.up - j;
            terms.clear();
            for (i -= top; t < y.count(); t += y.up, i++)
                terms.push_back({y.taps[t], source + i * pitch});
            combine(tall.data() + s * tall_size, groups * pitch, terms);
        }
    }

    // `size` is the distance of two phases.
    void merge(const T* from, int64_t size, T* to, int64_t stride, int64_t begin, int64_t end) {
        int64_t next = y.up * size;
        for (int64_t o = begin; o < end; o++) {
            T* __restrict__ row = to + o * stride;
            const T* __restrict__ source =
                from + (o - begin) % y.up * size + (o - begin) / y.up * pitch;
            if (x.up == 1) {
                for (int64_t m = 0; m < x.out; m++) row[m] = source[m];
            } else if (x.up == 2) {
                for (int64_t m = 0; m < x.out / 2; m++) {
                    row[2 * m] = source[m];
                    row[2 * m + 1] = source[next + m];
                }
                if (x.out % 2) row[x.out - 1] = source[x.out / 2];
            } else {
                for (int64_t k = 0; k < x.out; k++) row[k] = source[k % x.up * next + k / x.up];
            }
        }
    }

    const Axis<T>&x, &y;
    int64_t left;     // input column of the first element of the split rows
    int64_t columns;  // of one phase of the result
    int64_t pitch, strip, split_size, wide_size, tall_size;
    std::vector<T> split, wide, tall, line;
    std::vector<Term<T>> terms;
};

// to[i] = sum of tap[t] * p_t[i], in vectors of so many bytes; the last one may overlap the one
// before, so that nothing beyond `count` is touched. Returns false if not even one fits.
template <int BYTES, typename T>
inline bool sum_four(T* to, const T* tap, const T* p, const T* q, const T* r, const T* s,
                     int64_t count) {
    constexpr int64_t LANES = BYTES / sizeof(T);
    if (count < LANES) return false;
    const T a = tap[0], b = tap[1], c = tap[2], d = tap[3];
    auto at = [=](int64_t i) {
        inr::store<T, BYTES>(
            to + i, (a * inr::load<T, BYTES>(p + i) + b * inr::load<T, BYTES>(q + i)) +
                        (c * inr::load<T, BYTES>(r + i) + d * inr::load<T, BYTES>(s + i)));
    };
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) at(i);
    if (i < count) at(count - LANES);
    return true;
}

template <typename T>
inline void sum_four(T* to, const T* tap, const T* p, const T* q, const T* r, const T* s,
                     int64_t count) {
    if (sum_four<inr::kVectorBytes>(to, tap, p, q, r, s, count)) return;
    if (sum_four<16>(to, tap, p, q, r, s, count)) return;
    sum_four<sizeof(T)>(to, tap, p, q, r, s, count);
}

// The same for four taps along both axes, no up-sampling, and decimation by 1 or 2 along x.
template <typename T>
class ShortFilter {
  public:
    static bool takes(const Axis<T>& x, const Axis<T>& y) {
        return x.count() == 4 && y.count() == 4 && x.up == 1 && y.up == 1 && x.down <= 2;
    }

    ShortFilter(const Axis<T>& x, const Axis<T>& y) : x(x), y(y) {
        pitch = (x.out - 1) * x.down + 4;
        begin = std::min(std::max<int64_t>(x.pad, 0), pitch);
        end = std::max(std::min(x.pad + x.in, pitch), begin);
        // Several lines before their horizontal sums: a line just written cannot be read at once.
        strip = std::min(std::max<int64_t>(SHORT_STRIP_SIZE / pitch, 1), y.out);
        zeros.assign(x.in, T(0));
        lines.assign(strip * pitch, T(0));
        if (x.down == 2) phases.resize(strip * pitch);
    }

    void operator()(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
        for (int64_t first = 0; first < y.out; first += strip) {
            int64_t rows = std::min(strip, y.out - first);
            for (int64_t row = 0; row < rows; row++)
                filter_along(from, from_stride, first + row, lines.data() + row * pitch + begin);
            if (x.down == 2) split(rows * pitch);
            for (int64_t row = 0; row < rows; row++)
                filter_across(row, to + (first + row) * to_stride);
        }
    }

  private:
    // The vertical sums of result row o.
    void filter_along(const T* from, int64_t stride, int64_t o, T* line) {
        int64_t i = o * y.down - y.pad, shift = begin - x.pad;
        const T* none = zeros.data() + shift;
        auto row = [&](int64_t j) { return j >= 0 && j < y.in ? from + j * stride + shift : none; };
        sum_four(line, y.taps.data(), row(i), row(i + 1), row(i + 2), row(i + 3), end - begin);
    }

    // Even elements of all lines, and the odd ones apart from them.
    void split(int64_t count) {
        const T* __restrict__ source = lines.data();
        T* __restrict__ even = phases.data();
        T* __restrict__ odd = even + strip * pitch / 2;
        for (int64_t m = 0; m < count / 2; m++) {
            even[m] = source[2 * m];
            odd[m] = source[2 * m + 1];
        }
    }

    // The horizontal sums of a line of the strip.
    void filter_across(int64_t row, T* to) {
        if (x.down == 2) {
            const T* even = phases.data() + row * pitch / 2;
            const T* odd = even + strip * pitch / 2;
            sum_four(to, x.taps.data(), even, odd, even + 1, odd + 1, x.out);
        } else {
            const T* line = lines.data() + row * pitch;
            sum_four(to, x.taps.data(), line, line + 1, line + 2, line + 3, x.out);
        }
    }

    const Axis<T>&x, &y;
    int64_t pitch;       // elements from line to line; even where x.down is 2
    int64_t begin, end;  // columns of a line that hold input
    int64_t strip;       // lines at a time
    std::vector<T> zeros, lines, phases;
};

template <typename T, typename Filter>
void filter_planes(const Upfirdn2dParams& p, const Axis<T>& x, const Axis<T>& y) {
    int64_t planes = p.n * p.c;
#pragma omp parallel if (planes > 1 && planes * p.out_h * p.out_w >= PARALLEL_SIZE)
    {
        Filter filter(x, y);
#pragma omp for
        for (int64_t plane = 0; plane < planes; plane++) {
            int64_t n = plane / p.c, c = plane % p.c;
            filter(static_cast<const T*>(p.x) + n * p.x_stride_n + c * p.x_stride_c, p.x_stride_h,
                   static_cast<T*>(p.y) + n * p.y_stride_n + c * p.y_stride_c, p.y_stride_h);
        }
    }
}

template <typename T>
void run(const Upfirdn2dParams& p) {
    const double* f = static_cast<const double*>(p.f);
    Axis<T> y(p.up_y, p.down_y, p.pad_y, p.in_h, p.out_h, f, p.fh, p.flip, 1.0);
    Axis<T> x(p.up_x, p.down_x, p.pad_x, p.in_w, p.out_w, f + p.fh, p.fw, p.flip, p.gain);
    if (ShortFilter<T>::takes(x, y)) {
        filter_planes<T, ShortFilter<T>>(p, x, y);
    } else {
        filter_planes<T, PlaneFilter<T>>(p, x, y);
    }
}

}  // namespace

INR_EXPORT const char* upfirdn2d_separable(const Upfirdn2dParams* p) {
    if (p->fw < 1 || p->fh < 1) return "upfirdn2d: the filter is empty";
    if ((p->up_x > 1 && p->down_x > 1) || (p->up_y > 1 && p->down_y > 1))
        return "upfirdn2d: the CPU kernel has no up- and down-sampling along one axis";
    if ((p->in_w > 1 && p->x_stride_w != 1) || (p->out_w > 1 && p->y_stride_w != 1))
        return "upfirdn2d: the CPU kernel needs rows without gaps";
    if (p->n * p->c * p->out_h * p->out_w == 0) return nullptr;
    if (p->dtype != INR_FLOAT32 && p->dtype != INR_FLOAT64) return "upfirdn2d: unsupported dtype";
    if (p->dtype == INR_FLOAT32) run<float>(*p);
    if (p->dtype == INR_FLOAT64) run<double>(*p);
    return nullptr;
}

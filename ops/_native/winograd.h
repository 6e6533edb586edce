// Winograd's convolution F(4 x 4, 3 x 3) of one tile, for CPUs: y = A^T [(G w G^T) * (B^T d B)] A
// with the 6 x 6 pixels d, the 3 x 3 taps w and the 4 x 4 results y (Lavin and Gray 2016,
// arXiv:1509.09308). Eight channels a vector. Coefficient k = 6 * row + column.
#pragma once

#include "planes.h"

namespace inr {

// The five finite points 0, +-P, +-Q that polynomials are evaluated at (the sixth is infinity);
// chosen for accuracy.
constexpr float P = 0.70710678118654752f, Q = 1.41421356237309505f;
constexpr float PP = 0.5f, QQ = 2.0f, PPP = P / 2, QQQ = 2 * Q;

// B^T: 6 samples to 6 coefficients.
inline void from_samples(const Eight (&d)[6], Eight (&m)[6]) {
    Eight even = d[4] - QQ * d[2], odd = P * (d[3] - QQ * d[1]);
    Eight even2 = d[4] - PP * d[2], odd2 = Q * (d[3] - PP * d[1]);
    m[0] = (PP * QQ) * d[0] - (PP + QQ) * d[2] + d[4];
    m[1] = even + odd;
    m[2] = even - odd;
    m[3] = even2 + odd2;
    m[4] = even2 - odd2;
    m[5] = (PP * QQ) * d[1] - (PP + QQ) * d[3] + d[5];
}

// A^T: 6 coefficients to 4 results.
inline void to_results(const Eight (&m)[6], Eight (&y)[4]) {
    Eight sum = m[1] + m[2], difference = m[1] - m[2];
    Eight sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    y[0] = m[0] + sum + sum2;
    y[1] = P * difference + Q * difference2;
    y[2] = PP * sum + QQ * sum2;
    y[3] = PPP * difference + QQQ * difference2 + m[5];
}

// A: the transpose of that.
inline void from_results(const Eight (&y)[4], Eight (&m)[6]) {
    Eight even = y[0] + PP * y[2], odd = P * y[1] + PPP * y[3];
    Eight even2 = y[0] + QQ * y[2], odd2 = Q * y[1] + QQQ * y[3];
    m[0] = y[0];
    m[1] = even + odd;
    m[2] = even - odd;
    m[3] = even2 + odd2;
    m[4] = even2 - odd2;
    m[5] = y[3];
}

// Scales of the points' values: products of a point's distances to the other finite ones.
constexpr float kScale0 = 1 / (PP * QQ), kScaleP = 1 / (2 * PP * (PP - QQ)),
                kScaleQ = 1 / (2 * QQ * (QQ - PP));

// G: 3 taps to 6 coefficients.
inline void from_taps(const Eight (&w)[3], Eight (&m)[6]) {
    Eight even = kScaleP * (w[0] + PP * w[2]), odd = kScaleP * P * w[1];
    Eight even2 = kScaleQ * (w[0] + QQ * w[2]), odd2 = kScaleQ * Q * w[1];
    m[0] = kScale0 * w[0];
    m[1] = even + odd;
    m[2] = even - odd;
    m[3] = even2 + odd2;
    m[4] = even2 - odd2;
    m[5] = w[2];
}

// G^T: the transpose of that.
inline void to_taps(const Eight (&m)[6], Eight (&w)[3]) {
    Eight sum = kScaleP * (m[1] + m[2]), difference = kScaleP * (m[1] - m[2]);
    Eight sum2 = kScaleQ * (m[3] + m[4]), difference2 = kScaleQ * (m[3] - m[4]);
    w[0] = kScale0 * m[0] + sum + sum2;
    w[1] = P * difference + Q * difference2;
    w[2] = PP * sum + QQ * sum2 + m[5];
}

// One of these maps along columns, then along rows: get(i, j) reads, put(i, j, value) writes.
template <int From, int To, typename Map, typename Get, typename Put>
inline void along_both(Map map, Get get, Put put) {
    Eight rows[To][From];
    for (int j = 0; j < From; j++) {
        Eight column[From], mapped[To];
        for (int i = 0; i < From; i++) column[i] = get(i, j);
        map(column, mapped);
        for (int i = 0; i < To; i++) rows[i][j] = mapped[i];
    }
    for (int i = 0; i < To; i++) {
        Eight mapped[To];
        map(rows[i], mapped);
        for (int j = 0; j < To; j++) put(i, j, mapped[j]);
    }
}

}  // namespace inr

// The scale of a run of weights that loses least, found by trying many side by side: each lane of a register is another
// scale, and every weight of the run is divided by all of them at once.
//
// A scale d and the levels that quants stand for make weights of x the values d * level(x / d). What is to be small is
// the sum of w (x - d * level)^2. For given levels the best d is that of least squares, sum(w x level) / sum(w level^2);
// a new d gives new levels. Which levels are the best is a question of where one begins, so the search begins from many
// scales, each of which lets the largest weight reach another level.
//
// Sums are taken in the order of the weights, products are not fused: all instruction sets find the same bits.
#pragma once

#include "levels.h"

namespace dllama {
namespace {

constexpr int kStarts = 16;  // scales that are tried side by side: one register of AVX-512, four of NEON

// Where the largest weight of a run lies to begin with, in levels: the search begins with the scale (that weight) / reach.
template <int N>
struct Reaches {
    float of[N * kStarts];
};

// `first`, which rounding to nearest without a search would take, then reaches spread evenly from `low` times to `high`
// times the lowest level, and over as far of the highest.
template <int N>
constexpr Reaches<N> spread_reaches(float first, float lowest, float highest, float low, float high) {
    Reaches<N> reaches{};
    reaches.of[0] = first;
    const int n = N * kStarts - 1, n_lowest = n - n / 2;
    for (int i = 0; i < n; i++) {
        const int steps = i < n_lowest ? n_lowest - 1 : n - n_lowest - 1, step = i < n_lowest ? i : i - n_lowest;
        reaches.of[i + 1] = (i < n_lowest ? lowest : highest) * (low + (high - low) * float(step) / float(steps));
    }
    return reaches;
}

// What is lost of each weight counts the same: the importance of weight j times v is v.
template <class S>
struct EvenImportance {
    static constexpr bool is_even = true;
    using F = typename S::F;
    static F times(int, F v) { return v; }
    static float times(int, float v) { return v; }
    EvenImportance from(int) const { return {}; }
};

// Or it counts as much as is said for each.
template <class S>
struct Importance {
    static constexpr bool is_even = false;
    using F = typename S::F;
    const float* of;
    F times(int j, F v) const { return S::mul(S::set1(of[j]), v); }
    float times(int j, float v) const { return of[j] * v; }
    Importance from(int j) const { return {of + j}; }
};

// Makes the largest importance 1, so that no square is lost. False when there is none, or all is 0.
inline bool is_important(float* weights, const float* importance, int n) {
    float largest = 0;
    for (int i = 0; importance && i < n; i++) largest = importance[i] > largest ? importance[i] : largest;
    if (!(largest > 0)) return false;
    for (int i = 0; i < n; i++) weights[i] = importance[i] / largest;
    return true;
}

// What stands in the lanes for kStarts things that are tried side by side.
template <class S>
struct Lanes {
    using F = typename S::F;
    static constexpr int N = kStarts / S::W;

    static float at(const F v[N], int i) {
        float values[kStarts];
        for (int j = 0; j < N; j++) S::store(values + j * S::W, v[j]);
        return values[i];
    }

    struct Least {
        int lane;
        float value;
    };
    // The first of the least; infinity where no lane has a number.
    static Least least_of(const F v[N]) {
        float values[kStarts];
        F least = S::set1(__builtin_inff());
        for (int i = 0; i < N; i++) least = S::min(v[i], least), S::store(values + i * S::W, v[i]);
        Least found{0, S::min_of(least)};
        for (int i = kStarts - 1; i >= 0; i--) found.lane = values[i] == found.value ? i : found.lane;
        return found;
    }

    // The lanes of v by their errors, the least first; lanes of the same error take one place, and `filler` the others.
    static void in_order(float out[kStarts], const F v[N], const F error[N], float filler) {
        float values[kStarts], errors[kStarts], places[kStarts];
        F least[N], place[N];
        for (int i = 0; i < N; i++) {
            least[i] = S::min(error[i], S::set1(__builtin_inff()));  // NaN comes last
            place[i] = S::set1(0);
            S::store(errors + i * S::W, least[i]);
        }
        for (int j = 0; j < kStarts; j++)
            UNROLL for (int i = 0; i < N; i++) {
                const F is_after = S::select_less(S::set1(errors[j]), least[i], S::set1(1), S::set1(0));
                place[i] = S::add(place[i], is_after);
            }
        for (int i = 0; i < N; i++) S::store(values + i * S::W, v[i]), S::store(places + i * S::W, place[i]);
        for (int i = 0; i < kStarts; i++) out[i] = filler;
        for (int i = 0; i < kStarts; i++) out[int(places[i])] = values[i];
    }
};

template <class S, class Levels>
struct ScaleSearch {
    using F = typename S::F;
    static constexpr int N = Lanes<S>::N;

    struct Found {
        float scale, error;
    };

    // The best scale, as it is after float16, of n weights x of some importance, and its error; NaN and infinity where x is
    // not finite, or too large. The scale `largest` / reaches[0] is among those that are compared.
    //
    // Where all weights count the same, only the better half of the scales, by what their fit says, is compared as float16:
    // as good as all of them, in less time where a register has fewer lanes than there are scales.
    template <int n_batches, class Weight>
    static Found find(const float* x, Weight importance, int n, float largest, const Reaches<n_batches>& reaches) {
        constexpr int n_compared = Weight::is_even ? kStarts / 2 : kStarts, M = n_compared > S::W ? n_compared / S::W : 1;
        Found best{as_half(largest / reaches.of[0]), __builtin_inff()};
        for (int batch = 0; batch < n_batches; batch++) {
            F d[N], error[N];
            for (int i = 0; i < N; i++)
                d[i] = S::div(S::set1(largest), S::load(reaches.of + batch * kStarts + i * S::W));
            fit(d, error, x, importance, n);
            float scales[kStarts], errors[kStarts];
            for (int i = 0; i < N; i++) d[i] = as_half(d[i]), S::store(scales + i * S::W, d[i]);
            if constexpr (Weight::is_even) Lanes<S>::in_order(scales, d, error, best.scale);
            if (batch == 0) scales[Weight::is_even ? n_compared - 1 : 0] = best.scale;
            for (int i = 0; i < M; i++) d[i] = S::load(scales + i * S::W);
            sum_errors<M>(error, d, x, importance, n);
            for (int i = 0; i < M; i++) S::store(errors + i * S::W, error[i]);
            for (int i = 0; i < n_compared; i++)
                if (errors[i] < best.error) best = {scales[i], errors[i]};
        }
        return best;
    }

    // Nearly the best scale, in one pass where `find` makes two: not rounded, and judged by the levels that it was fitted
    // to. For scales that are stored as whole numbers of something, so that they change again.
    template <int n_batches, class Weight>
    static float find_roughly(const float* x, Weight importance, int n, float largest, const Reaches<n_batches>& reaches) {
        float best = largest / reaches.of[0], best_error = 0;
        for (int batch = 0; batch < n_batches; batch++) {
            F d[N], error[N];
            for (int i = 0; i < N; i++)
                d[i] = S::div(S::set1(largest), S::load(reaches.of + batch * kStarts + i * S::W));
            fit(d, error, x, importance, n);
            const auto least = Lanes<S>::least_of(error);
            if (least.value < best_error) best = Lanes<S>::at(d, least.lane), best_error = least.value;
        }
        return best;
    }

    // Each scale becomes that of least squares for the levels that it gives. error: less than nothing by how much the
    // squares of what is left are less than those of x.
    template <class Weight>
    static INLINE void fit(F d[N], F error[N], const float* x, Weight importance, int n) {
        F inverse[N], products[N], squares[N];
        UNROLL for (int i = 0; i < N; i++) {
            inverse[i] = S::div(S::set1(1), d[i]);
            products[i] = squares[i] = S::set1(0);
        }
        for (int j = 0; j < n; j++) {
            const F xj = S::set1(x[j]), weighted = importance.times(j, xj);
            UNROLL for (int i = 0; i < N; i++) {
                const F level = Levels::nearest(S::mul(xj, inverse[i]));
                products[i] = S::add(products[i], S::mul(weighted, level));
                squares[i] = S::add(squares[i], importance.times(j, S::mul(level, level)));
            }
        }
        UNROLL for (int i = 0; i < N; i++) {
            d[i] = S::div(products[i], squares[i]);
            error[i] = S::sub(S::set1(0), S::mul(products[i], d[i]));
        }
    }

    template <int M, class Weight>
    static INLINE void sum_errors(F error[M], const F d[M], const float* x, Weight importance, int n) {
        F inverse[M];
        UNROLL for (int i = 0; i < M; i++) {
            inverse[i] = S::div(S::set1(1), d[i]);
            error[i] = S::set1(0);
        }
        for (int j = 0; j < n; j++) {
            const F xj = S::set1(x[j]);
            UNROLL for (int i = 0; i < M; i++) {
                const F lost = S::sub(xj, S::mul(d[i], Levels::nearest(S::mul(xj, inverse[i]))));
                error[i] = S::add(error[i], importance.times(j, S::mul(lost, lost)));
            }
        }
    }

    static F as_half(F v) {
        uint16_t halves[S::W];
        S::store_half(halves, v);
        return S::load_half(halves);
    }
    static float as_half(float v) {
        float values[S::W];
        S::store(values, as_half(S::set1(v)));
        return values[0];
    }
};

}  // namespace
}  // namespace dllama

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

#include "row_kernels.h"

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

// Whole numbers from `low` to `high`.
template <class S, int low, int high>
struct WholeLevels {
    using F = typename S::F;
    // Halves to even; NaN becomes `high`.
    static F nearest(F v) {
        const F limited = S::max(S::min(v, S::set1(high)), S::set1(low)), shift = S::set1(0x1.8p23f);
        return S::sub(S::add(limited, shift), shift);
    }
};

constexpr int kTableLevels = 16;
// The levels of IQ4_NL, and of IQ4_XS, in 127ths: close together in the middle, where most weights are.
constexpr float kIq4Levels[kTableLevels] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

template <class S>
struct Iq4Levels {
    using F = typename S::F;
    // Halves to the lower one; NaN becomes the lowest.
    static F nearest(F v) { return of_nearest(v, kIq4Levels); }
    // Which of the levels that is.
    static F index(F v) {
        constexpr float indices[kTableLevels] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        return of_nearest(v, indices);
    }

private:
    static constexpr float middle(int i) { return (kIq4Levels[i] + kIq4Levels[i + 1]) / 2; }

    static F of_nearest(F v, const float* table) {
        if constexpr (S::kPicks) {  // halving what is left four times
            constexpr float second[8] = {middle(3), middle(11)}, third[8] = {middle(1), middle(5), middle(9), middle(13)};
            constexpr float fourth[8] = {middle(0), middle(2),  middle(4),  middle(6),
                                         middle(8), middle(10), middle(12), middle(14)};
            auto i = S::twice_plus_less(S::round_to_int(S::set1(0)), S::set1(middle(7)), v);
            i = S::twice_plus_less(i, S::pick8(second, i), v);
            i = S::twice_plus_less(i, S::pick8(third, i), v);
            i = S::twice_plus_less(i, S::pick8(fourth, i), v);
            return S::pick16(table, i);
        } else {
            F found = S::set1(table[0]);
            UNROLL_ALL for (int i = 1; i < kTableLevels; i++)
                found = S::select_less(S::set1(middle(i - 1)), v, S::set1(table[i]), found);
            return found;
        }
    }
};

template <class S, class Levels>
struct ScaleSearch {
    using F = typename S::F;
    static constexpr int N = kStarts / S::W;

    struct Found {
        float scale, error;
    };

    // The best scale, as it is after float16, of n weights x with their importance w, and its error; NaN and infinity
    // where x is not finite, or too large. The scale `largest` / reaches[0] is among those that are compared.
    template <int n_batches>
    static Found find(const float* x, const float* w, int n, float largest, const Reaches<n_batches>& reaches) {
        Found best{as_half(largest / reaches.of[0]), __builtin_inff()};
        for (int batch = 0; batch < n_batches; batch++) {
            F d[N], error[N];
            for (int i = 0; i < N; i++)
                d[i] = S::div(S::set1(largest), S::load(reaches.of + batch * kStarts + i * S::W));
            const float first = best.scale;
            F gained[N];
            fit(d, gained, x, w, n);
            float scales[kStarts], errors[kStarts];
            for (int i = 0; i < N; i++) S::store(scales + i * S::W, as_half(d[i]));
            if (batch == 0) scales[0] = first;
            for (int i = 0; i < N; i++) d[i] = S::load(scales + i * S::W);
            sum_errors(error, d, x, w, n);
            for (int i = 0; i < N; i++) S::store(errors + i * S::W, error[i]);
            for (int i = 0; i < kStarts; i++)
                if (errors[i] < best.error) best = {scales[i], errors[i]};
        }
        return best;
    }

    // Nearly the best scale, in one pass where `find` makes two: not rounded, and judged by the levels that it was fitted
    // to. For scales that are stored as whole numbers of something, so that they change again.
    template <int n_batches>
    static float find_roughly(const float* x, const float* w, int n, float largest, const Reaches<n_batches>& reaches) {
        float best = largest / reaches.of[0], most = 0;
        for (int batch = 0; batch < n_batches; batch++) {
            F d[N], gained[N];
            for (int i = 0; i < N; i++)
                d[i] = S::div(S::set1(largest), S::load(reaches.of + batch * kStarts + i * S::W));
            fit(d, gained, x, w, n);
            float scales[kStarts], gains[kStarts];
            for (int i = 0; i < N; i++) S::store(scales + i * S::W, d[i]), S::store(gains + i * S::W, gained[i]);
            for (int i = 0; i < kStarts; i++)
                if (gains[i] > most) most = gains[i], best = scales[i];
        }
        return best;
    }

    // Each scale becomes that of least squares for the levels that it gives; gained: by how much the squares of what is
    // left are less than those of x.
    static void fit(F d[N], F gained[N], const float* x, const float* w, int n) {
        F inverse[N], products[N], squares[N];
        for (int i = 0; i < N; i++) {
            inverse[i] = S::div(S::set1(1), d[i]);
            products[i] = squares[i] = S::set1(0);
        }
        for (int j = 0; j < n; j++) {
            const F xj = S::set1(x[j]), wj = S::set1(w[j]), wx = S::mul(wj, xj);
            for (int i = 0; i < N; i++) {
                const F level = Levels::nearest(S::mul(xj, inverse[i]));
                products[i] = S::add(products[i], S::mul(wx, level));
                squares[i] = S::add(squares[i], S::mul(wj, S::mul(level, level)));
            }
        }
        for (int i = 0; i < N; i++) {
            d[i] = S::div(products[i], squares[i]);
            gained[i] = S::mul(products[i], d[i]);
        }
    }

    static void sum_errors(F error[N], const F d[N], const float* x, const float* w, int n) {
        F inverse[N];
        for (int i = 0; i < N; i++) {
            inverse[i] = S::div(S::set1(1), d[i]);
            error[i] = S::set1(0);
        }
        for (int j = 0; j < n; j++) {
            const F xj = S::set1(x[j]), wj = S::set1(w[j]);
            for (int i = 0; i < N; i++) {
                const F lost = S::sub(xj, S::mul(d[i], Levels::nearest(S::mul(xj, inverse[i]))));
                error[i] = S::add(error[i], S::mul(wj, S::mul(lost, lost)));
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

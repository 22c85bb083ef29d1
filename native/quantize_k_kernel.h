// float32 weights to super-blocks of Q4K and Q6K, 256 weights whose runs of 32 or 16 have small whole numbers for scales,
// in units of a float16. Written once over a vector type S, with the search of scale_search.h.
//
// First each run gets the scale (and for Q4K the minimum) that would be the best for it alone. Then units for these are
// tried side by side; with each unit a run has the choice of a few whole numbers, among them those to which rounding to
// nearest without any search would lead. So no super-block is worse than by that.
#pragma once

#include "scale_search.h"

namespace dllama {
namespace {

constexpr int kSuperBlock = 256;

// Whole numbers of some unit that the lanes consider for a run, and the best so far.
template <class S, int numbers>
struct BestOfRun {
    using F = typename S::F;
    static constexpr int N = kStarts / S::W;
    F error[N], number[numbers][N];

    void begin() {
        for (int i = 0; i < N; i++) error[i] = S::set1(__builtin_inff());
        for (auto& lanes : number)
            for (int i = 0; i < N; i++) lanes[i] = S::set1(0);
    }
    void consider(const F new_error[N], const F (*new_number)[N]) {
        for (int i = 0; i < N; i++) {
            for (int k = 0; k < numbers; k++)
                number[k][i] = S::select_less(new_error[i], error[i], new_number[k][i], number[k][i]);
            error[i] = S::select_less(new_error[i], error[i], new_error[i], error[i]);
        }
    }
};

template <class S>
struct KQuants {
    using F = typename S::F;
    static constexpr int N = kStarts / S::W;

    static float half(uint8_t* out, float value) {
        const float rounded = ScaleSearch<S, WholeLevels<S, 0, 1>>::as_half(value);
        uint16_t halves[S::W];
        S::store_half(halves, S::set1(rounded));
        std::memcpy(out, halves, 2);
        return rounded;
    }

    // The importance of a super-block's weights, the largest becoming 1; ones without importance, or where all is 0.
    static bool weights_of(float weights[kSuperBlock], const float* importance) {
        float largest = 0;
        for (int i = 0; importance && i < kSuperBlock; i++) largest = importance[i] > largest ? importance[i] : largest;
        for (int i = 0; i < kSuperBlock; i++) weights[i] = largest > 0 ? importance[i] / largest : 1;
        return largest > 0;
    }

    static int best_lane(const F error[N], float* least) {
        float errors[kStarts];
        for (int i = 0; i < N; i++) S::store(errors + i * S::W, error[i]);
        int best = 0;
        for (int i = 1; i < kStarts; i++) best = errors[i] < errors[best] || errors[best] != errors[best] ? i : best;
        *least = errors[best];
        return best;
    }

    static float lane(const F v[N], int i) {
        float values[kStarts];
        for (int j = 0; j < N; j++) S::store(values + j * S::W, v[j]);
        return values[i];
    }
};

template <class S>
struct Q6kQuantizer {
    using F = typename S::F;
    using Levels = WholeLevels<S, -32, 31>;
    using Search = ScaleSearch<S, Levels>;
    using K = KQuants<S>;
    static constexpr int N = K::N, kRun = 16, kRuns = kSuperBlock / kRun, kBytes = 210;
    static constexpr Reaches<1> quick = spread_reaches<1>(-32, -32, 31, 0.85f, 1.05f);
    static constexpr Reaches<2> thorough = spread_reaches<2>(-32, -32, 31, 0.6f, 1.1f);

    static bool quantize(uint8_t* out, const float* x, const float* importance) {
        float values[kSuperBlock], weights[kSuperBlock], scales[kRuns], plain[kRuns];
        std::memcpy(values, x, sizeof values);
        const bool is_weighted = K::weights_of(weights, importance);
        for (int run = 0; run < kRuns; run++) {
            const float *v = values + run * kRun, *w = weights + run * kRun;
            const float largest = largest_of(v, kRun);
            plain[run] = largest / -32;
            scales[run] = is_weighted ? Search::find_roughly(v, w, kRun, largest, thorough)
                                      : Search::find_roughly(v, w, kRun, largest, quick);
        }
        const float widest = largest_of(scales, kRuns);
        float units[kStarts] = {largest_of(plain, kRuns) / -128};
        for (int i = 1; i < kStarts; i++) units[i] = widest / (i < 9 ? -128.0f + 4 * float(i - 1) : 127.0f - 4 * float(i - 9));
        F unit[N], total[N];
        for (int i = 0; i < N; i++) {
            unit[i] = Search::as_half(S::load(units + i * S::W));
            total[i] = S::set1(0);
        }
        BestOfRun<S, 1> best[kRuns];
        for (int run = 0; run < kRuns; run++) {
            best[run].begin();
            consider(best[run], unit, scales[run], 0, values, weights, run);
            consider(best[run], unit, plain[run], 0, values, weights, run);
            if (is_weighted) {
                consider(best[run], unit, scales[run], 1, values, weights, run);
                consider(best[run], unit, scales[run], -1, values, weights, run);
            }
            for (int i = 0; i < N; i++) total[i] = S::add(total[i], best[run].error[i]);
        }
        float error;
        const int lane = K::best_lane(total, &error);
        const float d = K::half(out + 208, K::lane(unit, lane));
        write(out, values, best, lane, d);
        return __builtin_isfinite(error) && __builtin_isfinite(d);
    }

private:
    static float largest_of(const float* values, int n) {
        float largest = values[0];
        for (int i = 1; i < n; i++) largest = __builtin_fabsf(values[i]) > __builtin_fabsf(largest) ? values[i] : largest;
        return largest;
    }

    static void consider(BestOfRun<S, 1>& best, const F unit[N], float scale, float more, const float* values,
                         const float* weights, int run) {
        F number[1][N], d[N], error[N];
        for (int i = 0; i < N; i++) {
            const F wanted = S::add(S::div(S::set1(scale), unit[i]), S::set1(more));
            number[0][i] = WholeLevels<S, -128, 127>::nearest(wanted);
            d[i] = S::mul(unit[i], number[0][i]);
        }
        Search::sum_errors(error, d, values + run * kRun, weights + run * kRun, kRun);
        best.consider(error, number);
    }

    // 128 low nibbles, 64 bytes of upper pairs of bits, 16 numbers of units, the unit.
    static void write(uint8_t* out, const float* values, const BestOfRun<S, 1>* best, int lane, float d) {
        int8_t quants[kSuperBlock];
        for (int run = 0; run < kRuns; run++) {
            const float number = K::lane(best[run].number[0], lane), scale = d * number;
            out[192 + run] = uint8_t(int8_t(number));
            for (int j = run * kRun; j < (run + 1) * kRun; j++) {
                float level[S::W];
                S::store(level, Levels::nearest(S::mul(S::set1(values[j]), S::div(S::set1(1), S::set1(scale)))));
                quants[j] = int8_t((scale == 0 ? 0 : int(level[0])) + 32);
            }
        }
        for (int part = 0; part < 2; part++, out += 64)
            for (int j = 0; j < 32; j++) {
                const int8_t* q = quants + part * 128 + j;
                out[j] = uint8_t((q[0] & 15) | (q[64] & 15) << 4);
                out[j + 32] = uint8_t((q[32] & 15) | (q[96] & 15) << 4);
                out[128 - part * 32 + j] = uint8_t(q[0] >> 4 | (q[32] >> 4) << 2 | (q[64] >> 4) << 4 | (q[96] >> 4) << 6);
            }
    }
};

template <class S>
struct Q4kQuantizer {
    using F = typename S::F;
    using Levels = WholeLevels<S, 0, 15>;
    using K = KQuants<S>;
    static constexpr int N = K::N, kRun = 32, kRuns = kSuperBlock / kRun, kBytes = 144;

    // Weights of a run are scale * level - minimum.
    struct Line {
        float scale, minimum;
    };

    static bool quantize(uint8_t* out, const float* x, const float* importance) {
        float values[kSuperBlock], weights[kSuperBlock];
        std::memcpy(values, x, sizeof values);
        const bool is_weighted = K::weights_of(weights, importance);
        Line lines[kRuns], plain[kRuns], widest{0, 0}, widest_plain{0, 0};
        for (int run = 0; run < kRuns; run++) {
            plain[run] = plain_line(values + run * kRun);
            lines[run] = find(values + run * kRun, weights + run * kRun, is_weighted ? 3 : 1);
            widest = wider(widest, lines[run]);
            widest_plain = wider(widest_plain, plain[run]);
        }
        F unit[N], unit_of_minimum[N], total[N];
        units_of(unit, unit_of_minimum, widest, widest_plain);
        for (int i = 0; i < N; i++) total[i] = S::set1(0);
        BestOfRun<S, 2> best[kRuns];
        for (int run = 0; run < kRuns; run++) {
            best[run].begin();
            const auto consider_line = [&](const Line& line, float more, float more_of_minimum) {
                consider(best[run], unit, unit_of_minimum, line, more, more_of_minimum, values + run * kRun,
                         weights + run * kRun);
            };
            consider_line(lines[run], 0, 0);
            consider_line(plain[run], 0, 0);
            if (is_weighted) {
                for (int more = -1; more <= 1; more++)
                    for (int more_of_minimum = -1; more_of_minimum <= 1; more_of_minimum++)
                        if (more || more_of_minimum) consider_line(lines[run], float(more), float(more_of_minimum));
            }
            for (int i = 0; i < N; i++) total[i] = S::add(total[i], best[run].error[i]);
        }
        float error;
        const int lane = K::best_lane(total, &error);
        const float d = K::half(out, K::lane(unit, lane)), d_minimum = K::half(out + 2, K::lane(unit_of_minimum, lane));
        write(out, values, best, lane, d, d_minimum);
        return __builtin_isfinite(error) && __builtin_isfinite(d) && __builtin_isfinite(d_minimum);
    }

private:
    static Line wider(const Line& a, const Line& b) {
        return {a.scale > b.scale ? a.scale : b.scale, a.minimum > b.minimum ? a.minimum : b.minimum};
    }

    static void range_of(const float* x, float* least, float* greatest) {
        *least = 0, *greatest = x[0];
        for (int i = 0; i < kRun; i++) {
            *least = x[i] < *least ? x[i] : *least;
            *greatest = x[i] > *greatest ? x[i] : *greatest;
        }
        if (*greatest < *least) *greatest = *least;
    }

    static Line plain_line(const float* x) {
        float least, greatest;
        range_of(x, &least, &greatest);
        return {(greatest - least) / 15, -least};
    }

    // The best line of 16 or more, each of which begins with another part of the range and is fitted by least squares.
    static Line find(const float* x, const float* w, int n_batches) {
        float least, greatest;
        range_of(x, &least, &greatest);
        Line best = plain_line(x);
        float best_error = __builtin_inff();
        const int n = n_batches * kStarts;
        for (int batch = 0; batch < n_batches; batch++) {
            float scales[kStarts], minima[kStarts];
            for (int i = 0; i < kStarts; i++) {  // up to a third of the range is left out, at both ends in turn
                const float part = 1.08f - 0.40f * float(batch * kStarts + i) / float(n);
                const float middle = i % 3 == 0 ? least : i % 3 == 1 ? greatest : (least + greatest) / 2;
                scales[i] = (greatest - least) * part / 15;
                minima[i] = -(middle + (least - middle) * part);
            }
            F scale[N], minimum[N], error[N];
            for (int i = 0; i < N; i++) scale[i] = S::load(scales + i * S::W), minimum[i] = S::load(minima + i * S::W);
            fit(scale, minimum, error, x, w);
            float least_error;
            const int lane = K::best_lane(error, &least_error);
            if (least_error < best_error) {
                best_error = least_error;
                best = {K::lane(scale, lane), K::lane(minimum, lane)};
            }
        }
        return best;
    }

    // Each line becomes that of weighted least squares for the levels that it gives; minima below 0 become 0. error: less
    // than nothing by how much the squares of what is left are less than those of x.
    static void fit(F scale[N], F minimum[N], F error[N], const float* x, const float* w) {
        F inverse[N], products[N], squares[N], levels[N];
        F all = S::set1(0), sum = S::set1(0);
        for (int i = 0; i < N; i++) {
            inverse[i] = S::div(S::set1(1), scale[i]);
            products[i] = squares[i] = levels[i] = S::set1(0);
        }
        for (int j = 0; j < kRun; j++) {
            const F xj = S::set1(x[j]), wj = S::set1(w[j]), wx = S::mul(wj, xj);
            all = S::add(all, wj), sum = S::add(sum, wx);
            for (int i = 0; i < N; i++) {
                const F level = Levels::nearest(S::mul(S::add(xj, minimum[i]), inverse[i]));
                const F weighted = S::mul(wj, level);
                levels[i] = S::add(levels[i], weighted);
                squares[i] = S::add(squares[i], S::mul(weighted, level));
                products[i] = S::add(products[i], S::mul(wx, level));
            }
        }
        for (int i = 0; i < N; i++) {
            const F zero = S::set1(0);
            const F width = S::sub(S::mul(all, squares[i]), S::mul(levels[i], levels[i]));
            const F slope = S::div(S::sub(S::mul(all, products[i]), S::mul(levels[i], sum)), width);
            const F below = S::div(S::sub(S::mul(slope, levels[i]), sum), all);
            const F through_zero = S::div(products[i], squares[i]);
            scale[i] = S::select_less(below, zero, through_zero, slope);
            minimum[i] = S::select_less(below, zero, zero, below);
            // sum(w x (x - line)) = sum(w x^2) - scale * products + minimum * sum, where the line is the best
            error[i] = S::sub(S::mul(minimum[i], sum), S::mul(scale[i], products[i]));
        }
    }

    static void sum_errors(F error[N], const F scale[N], const F minimum[N], const float* x, const float* w) {
        F inverse[N];
        for (int i = 0; i < N; i++) {
            inverse[i] = S::div(S::set1(1), scale[i]);
            error[i] = S::set1(0);
        }
        for (int j = 0; j < kRun; j++) {
            const F xj = S::set1(x[j]), wj = S::set1(w[j]);
            for (int i = 0; i < N; i++) {
                const F above = S::add(xj, minimum[i]);
                const F lost = S::sub(above, S::mul(scale[i], Levels::nearest(S::mul(above, inverse[i]))));
                error[i] = S::add(error[i], S::mul(wj, S::mul(lost, lost)));
            }
        }
    }

    // Units of the scales and of the minima; the first are those of rounding to nearest.
    static void units_of(F unit[N], F unit_of_minimum[N], const Line& widest, const Line& widest_plain) {
        float units[kStarts] = {widest_plain.scale / 63}, of_minima[kStarts] = {widest_plain.minimum / 63};
        for (int i = 1; i < kStarts; i++) {
            units[i] = widest.scale / (63.0f - 2 * float((i - 1) % 5));
            of_minima[i] = widest.minimum / (63.0f - 3 * float((i - 1) / 5));
        }
        for (int i = 0; i < N; i++) {
            unit[i] = ScaleSearch<S, Levels>::as_half(S::load(units + i * S::W));
            unit_of_minimum[i] = ScaleSearch<S, Levels>::as_half(S::load(of_minima + i * S::W));
        }
    }

    static void consider(BestOfRun<S, 2>& best, const F unit[N], const F unit_of_minimum[N], const Line& line, float more,
                         float more_of_minimum, const float* x, const float* w) {
        F number[2][N], scale[N], minimum[N], error[N];
        for (int i = 0; i < N; i++) {
            number[0][i] = number_of(line.scale, unit[i], more);
            number[1][i] = number_of(line.minimum, unit_of_minimum[i], more_of_minimum);
            scale[i] = S::mul(unit[i], number[0][i]);
            minimum[i] = S::mul(unit_of_minimum[i], number[1][i]);
        }
        sum_errors(error, scale, minimum, x, w);
        best.consider(error, number);
    }

    // 0 to 63 of the unit; 0 where the unit is 0.
    static F number_of(float wanted, F unit, float more) {
        const F number = WholeLevels<S, 0, 63>::nearest(S::add(S::div(S::set1(wanted), unit), S::set1(more)));
        return S::select_less(S::set1(0), unit, number, S::set1(0));
    }

    // The units; numbers of 6 bits, those of the upper four runs in two parts; nibbles of runs in pairs.
    static void write(uint8_t* out, const float* values, const BestOfRun<S, 2>* best, int lane, float d, float d_minimum) {
        uint8_t quants[kSuperBlock], scales[kRuns], minima[kRuns];
        for (int run = 0; run < kRuns; run++) {
            const float number = K::lane(best[run].number[0], lane), number_of_minimum = K::lane(best[run].number[1], lane);
            scales[run] = uint8_t(number), minima[run] = uint8_t(number_of_minimum);
            const float scale = d * number, minimum = d_minimum * number_of_minimum;
            for (int j = run * kRun; j < (run + 1) * kRun; j += S::W) {
                float levels[S::W];
                const F above = S::add(S::load(values + j), S::set1(minimum));
                S::store(levels, Levels::nearest(S::mul(above, S::div(S::set1(1), S::set1(scale)))));
                for (int k = 0; k < S::W; k++) quants[j + k] = scale == 0 ? uint8_t(0) : uint8_t(levels[k]);
            }
        }
        for (int run = 0; run < 4; run++) {
            out[4 + run] = uint8_t(scales[run] | (scales[run + 4] >> 4) << 6);
            out[8 + run] = uint8_t(minima[run] | (minima[run + 4] >> 4) << 6);
            out[12 + run] = uint8_t((scales[run + 4] & 15) | (minima[run + 4] & 15) << 4);
            for (int j = 0; j < 32; j++)
                out[16 + run * 32 + j] = uint8_t(quants[run * 64 + j] | quants[run * 64 + 32 + j] << 4);
        }
    }
};

}  // namespace
}  // namespace dllama

// float32 weights to super-blocks of Q4K: 8 runs of 32 weights, each with a scale and a minimum that are whole numbers of 6
// bits, of two units.
#pragma once

#include "super_blocks.h"

namespace dllama {
namespace {

template <class S>
struct Q4kQuantizer {
    using F = typename S::F;
    using Levels = WholeLevels<S, 0, 15>;
    static constexpr int N = Lanes<S>::N, kRun = 32, kRuns = kSuperBlock / kRun, kBytes = 144;

    // Weights of a run are scale * level - minimum.
    struct Line {
        float scale, minimum;
    };

    static bool quantize(uint8_t* out, const float* x, const float* importance) {
        float weights[kSuperBlock];
        return is_important(weights, importance, kSuperBlock) ? search<3>(out, x, Importance<S>{weights})
                                                              : search<1>(out, x, EvenImportance<S>());
    }

private:
    template <int n_batches, class Weight>
    static bool search(uint8_t* out, const float* values, Weight importance) {
        Line lines[kRuns], plain[kRuns], widest{0, 0}, widest_plain{0, 0};
        for (int run = 0; run < kRuns; run++) {
            const Range range = range_of(values + run * kRun);
            plain[run] = range.line();
            lines[run] = find<n_batches>(values + run * kRun, range, importance.from(run * kRun));
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
                         importance.from(run * kRun));
            };
            consider_line(lines[run], 0, 0);
            consider_line(plain[run], 0, 0);
            if constexpr (!Weight::is_even)
                for (int more = -1; more <= 1; more++)
                    for (int more_of_minimum = -1; more_of_minimum <= 1; more_of_minimum++)
                        if (more || more_of_minimum) consider_line(lines[run], float(more), float(more_of_minimum));
            for (int i = 0; i < N; i++) total[i] = S::add(total[i], best[run].error[i]);
        }
        const auto least = Lanes<S>::least_of(total);
        const float d = Lanes<S>::at(unit, least.lane), d_minimum = Lanes<S>::at(unit_of_minimum, least.lane);
        write_half<S>(out, d);
        write_half<S>(out + 2, d_minimum);
        write(out, values, best, least.lane, d, d_minimum);
        return __builtin_isfinite(least.value) && __builtin_isfinite(d) && __builtin_isfinite(d_minimum);
    }

    static Line wider(const Line& a, const Line& b) {
        return {a.scale > b.scale ? a.scale : b.scale, a.minimum > b.minimum ? a.minimum : b.minimum};
    }

    struct Range {
        float least, greatest;  // least: 0 at the most

        Line line() const { return {(greatest - least) / 15, -least}; }  // of rounding to nearest
    };

    static Range range_of(const float* x) {
        F low = S::set1(0), high = S::set1(-__builtin_inff());
        for (int j = 0; j < kRun; j += S::W) {
            const F v = S::load(x + j);
            low = S::min(v, low), high = S::max(v, high);
        }
        return {S::min_of(low) + 0.0f, S::max_of(high) + 0.0f};  // zeros without their signs
    }

    // The best line of 16 or more, each of which begins with another part of the range and is fitted by least squares.
    template <int n_batches, class Weight>
    static Line find(const float* x, Range range, Weight importance) {
        const float least = range.least, greatest = range.greatest;
        Line best = range.line();
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
            fit(scale, minimum, error, x, importance);
            const auto found = Lanes<S>::least_of(error);
            if (found.value < best_error) {
                best_error = found.value;
                best = {Lanes<S>::at(scale, found.lane), Lanes<S>::at(minimum, found.lane)};
            }
        }
        return best;
    }

    // Each line becomes that of weighted least squares for the levels that it gives; minima below 0 become 0. error: less
    // than nothing by how much the squares of what is left are less than those of x.
    template <class Weight>
    static INLINE void fit(F scale[N], F minimum[N], F error[N], const float* x, Weight importance) {
        F inverse[N], products[N], squares[N], levels[N];
        UNROLL for (int i = 0; i < N; i++) {
            inverse[i] = S::div(S::set1(1), scale[i]);
            products[i] = squares[i] = levels[i] = S::set1(0);
        }
        float all_of_weights = 0, sum_of_x = 0;
        for (int j = 0; j < kRun; j++) {
            const float weighted_x = importance.times(j, x[j]);
            all_of_weights += importance.times(j, 1.0f), sum_of_x += weighted_x;
            const F xj = S::set1(x[j]), wx = S::set1(weighted_x);
            UNROLL for (int i = 0; i < N; i++) {
                const F level = Levels::nearest(S::mul(S::add(xj, minimum[i]), inverse[i]));
                const F weighted = importance.times(j, level);
                levels[i] = S::add(levels[i], weighted);
                squares[i] = S::add(squares[i], S::mul(weighted, level));
                products[i] = S::add(products[i], S::mul(wx, level));
            }
        }
        const F all = S::set1(all_of_weights), sum = S::set1(sum_of_x), zero = S::set1(0);
        UNROLL for (int i = 0; i < N; i++) {
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

    template <class Weight>
    static INLINE void sum_errors(F error[N], const F scale[N], const F minimum[N], const float* x, Weight importance) {
        F inverse[N];
        UNROLL for (int i = 0; i < N; i++) {
            inverse[i] = S::div(S::set1(1), scale[i]);
            error[i] = S::set1(0);
        }
        for (int j = 0; j < kRun; j++) {
            const F xj = S::set1(x[j]);
            UNROLL for (int i = 0; i < N; i++) {
                const F above = S::add(xj, minimum[i]);
                const F lost = S::sub(above, S::mul(scale[i], Levels::nearest(S::mul(above, inverse[i]))));
                error[i] = S::add(error[i], importance.times(j, S::mul(lost, lost)));
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

    template <class Weight>
    static void consider(BestOfRun<S, 2>& best, const F unit[N], const F unit_of_minimum[N], const Line& line, float more,
                         float more_of_minimum, const float* x, Weight importance) {
        F number[2][N], scale[N], minimum[N], error[N];
        for (int i = 0; i < N; i++) {
            number[0][i] = number_of(line.scale, unit[i], more);
            number[1][i] = number_of(line.minimum, unit_of_minimum[i], more_of_minimum);
            scale[i] = S::mul(unit[i], number[0][i]);
            minimum[i] = S::mul(unit_of_minimum[i], number[1][i]);
        }
        sum_errors(error, scale, minimum, x, importance);
        best.consider(error, number);
    }

    // 0 to 63 of the unit; 0 where the unit is 0.
    static F number_of(float wanted, F unit, float more) {
        const F number = WholeLevels<S, 0, 63>::nearest(S::add(S::div(S::set1(wanted), unit), S::set1(more)));
        return S::select_less(S::set1(0), unit, number, S::set1(0));
    }

    // The units; numbers of 6 bits, those of the upper four runs in two parts; nibbles of runs in pairs.
    static void write(uint8_t* out, const float* values, const BestOfRun<S, 2>* best, int lane, float d, float d_minimum) {
        int8_t quants[kSuperBlock];
        uint8_t scales[kRuns], minima[kRuns];
        for (int run = 0; run < kRuns; run++) {
            const float number = Lanes<S>::at(best[run].number[0], lane), number_of_minimum = Lanes<S>::at(best[run].number[1], lane);
            scales[run] = uint8_t(number), minima[run] = uint8_t(number_of_minimum);
            const float scale = d * number, minimum = d_minimum * number_of_minimum;
            const float inverse = scale == 0 ? 0 : 1 / scale;
            typename S::I levels[kRun / S::W];
            for (int j = 0; j < kRun; j += S::W) {
                const F above = S::add(S::load(values + run * kRun + j), S::set1(minimum));
                levels[j / S::W] = S::round_to_int(Levels::nearest(S::mul(above, S::set1(inverse))));
            }
            S::store_int8(quants + run * kRun, levels);
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

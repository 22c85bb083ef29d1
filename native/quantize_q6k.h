// float32 weights to super-blocks of Q6K: 16 runs of 16 weights, each with a scale that is a whole number of 8 bits.
#pragma once

#include "super_blocks.h"

namespace dllama {
namespace {

template <class S>
struct Q6kQuantizer {
    using F = typename S::F;
    using Levels = WholeLevels<S, -32, 31>;
    using Search = ScaleSearch<S, Levels>;
    static constexpr int N = Lanes<S>::N, kRun = 16, kRuns = kSuperBlock / kRun, kBytes = 210;
    static constexpr Reaches<1> quick = spread_reaches<1>(-32, -32, 31, 0.85f, 1.05f);
    static constexpr Reaches<2> thorough = spread_reaches<2>(-32, -32, 31, 0.6f, 1.1f);

    static bool quantize(uint8_t* out, const float* x, const float* importance) {
        float weights[kSuperBlock];
        return is_important(weights, importance, kSuperBlock) ? search(out, x, Importance<S>{weights}, thorough)
                                                              : search(out, x, EvenImportance<S>(), quick);
    }

private:
    template <class Weight, int n_batches>
    static bool search(uint8_t* out, const float* values, Weight importance, const Reaches<n_batches>& reaches) {
        float scales[kRuns], plain[kRuns];
        for (int run = 0; run < kRuns; run++) {
            const float* const v = values + run * kRun;
            const float largest = largest_of(v, kRun);
            plain[run] = largest / -32;
            scales[run] = Search::find_roughly(v, importance.from(run * kRun), kRun, largest, reaches);
        }
        F unit[N], total[N];
        units_of(unit, largest_of(scales, kRuns), largest_of(plain, kRuns));
        for (int i = 0; i < N; i++) total[i] = S::set1(0);
        BestOfRun<S, 1> best[kRuns];
        for (int run = 0; run < kRuns; run++) {
            best[run].begin();
            const auto consider_scale = [&](float scale, float more) {
                consider(best[run], unit, scale, more, values + run * kRun, importance.from(run * kRun));
            };
            consider_scale(scales[run], 0);
            consider_scale(plain[run], 0);
            if constexpr (!Weight::is_even) consider_scale(scales[run], 1), consider_scale(scales[run], -1);
            for (int i = 0; i < N; i++) total[i] = S::add(total[i], best[run].error[i]);
        }
        const auto least = Lanes<S>::least_of(total);
        const float d = Lanes<S>::at(unit, least.lane);
        write_half<S>(out + 208, d);
        write(out, values, best, least.lane, d);
        return __builtin_isfinite(least.value) && __builtin_isfinite(d);
    }

    // The first is that of rounding to nearest.
    static void units_of(F unit[N], float widest, float widest_plain) {
        float units[kStarts] = {widest_plain / -128};
        for (int i = 1; i < kStarts; i++) units[i] = widest / (i < 9 ? -128.0f + 4 * float(i - 1) : 127.0f - 4 * float(i - 9));
        for (int i = 0; i < N; i++) unit[i] = Search::as_half(S::load(units + i * S::W));
    }

    static float largest_of(const float* values, int n) {
        float largest = values[0];
        for (int i = 1; i < n; i++) largest = __builtin_fabsf(values[i]) > __builtin_fabsf(largest) ? values[i] : largest;
        return largest;
    }

    template <class Weight>
    static void consider(BestOfRun<S, 1>& best, const F unit[N], float scale, float more, const float* x, Weight importance) {
        F number[1][N], d[N], error[N];
        for (int i = 0; i < N; i++) {
            const F wanted = S::add(S::div(S::set1(scale), unit[i]), S::set1(more));
            number[0][i] = WholeLevels<S, -128, 127>::nearest(wanted);
            d[i] = S::mul(unit[i], number[0][i]);
        }
        Search::template sum_errors<N>(error, d, x, importance, kRun);
        best.consider(error, number);
    }

    // 128 low nibbles, 64 bytes of upper pairs of bits, 16 numbers of units, the unit.
    static void write(uint8_t* out, const float* values, const BestOfRun<S, 1>* best, int lane, float d) {
        int8_t quants[kSuperBlock];
        for (int run = 0; run < kRuns; run += 2) {
            typename S::I levels[2 * kRun / S::W];
            for (int i = 0; i < 2 * kRun / S::W; i++) {
                const int of = run + i * S::W / kRun;
                const float number = Lanes<S>::at(best[of].number[0], lane), scale = d * number;
                out[192 + of] = uint8_t(int8_t(number));
                const F inverse = S::set1(scale == 0 ? 0 : 1 / scale);
                levels[i] = S::round_to_int(Levels::nearest(S::mul(S::load(values + run * kRun + i * S::W), inverse)));
            }
            S::store_int8(quants + run * kRun, levels);
        }
        for (int8_t& quant : quants) quant = int8_t(quant + 32);
        for (int part = 0; part < 2; part++, out += 64)
            for (int j = 0; j < 32; j++) {
                const int8_t* q = quants + part * 128 + j;
                out[j] = uint8_t((q[0] & 15) | (q[64] & 15) << 4);
                out[j + 32] = uint8_t((q[32] & 15) | (q[96] & 15) << 4);
                out[128 - part * 32 + j] = uint8_t(q[0] >> 4 | (q[32] >> 4) << 2 | (q[64] >> 4) << 4 | (q[96] >> 4) << 6);
            }
    }
};

}  // namespace
}  // namespace dllama

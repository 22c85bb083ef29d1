// What is needed of whole rows of logits: the largest of each block, and sums of exponentials.
#pragma once

#include "row_kernels.h"

namespace dllama {
namespace {

template <class S>
struct CandidatesKernel {
    using F = typename S::F;
    static constexpr int W = S::W;

    // out[i] = the largest of x[kLogitBlock * i] and those after it, NaN passed over; -inf where there is none.
    static void block_maxima(float* out, const float* x, int n) {
        for (int i = 0; i < n; i += kLogitBlock) {
            const int end = n - i < kLogitBlock ? n : i + kLogitBlock;
            F largest = S::set1(-INFINITY);
            int j = i;
            for (; j + W <= end; j += W) largest = S::max(S::load(x + j), largest);
            if (j < end) largest = S::max(load_last(x + j, end - j), largest);
            out[i / kLogitBlock] = S::max_of(largest);
        }
    }

    // sums[k] = the sum of 2^((x - largest) * scales[k]), for one or two scales; NaN when some x is NaN. Runs of kSumRun
    // are added in float, run by run in double: the rounding error is that of kSumRun / (2 W) additions.
    static void sum_exp(double* sums, const float* x, int n, float largest, const float* scales, int n_scales) {
        if (n_scales == 1)
            sum_scaled<1>(sums, x, n, largest, scales);
        else
            sum_scaled<2>(sums, x, n, largest, scales);
    }

private:
    static constexpr int kSumRun = 1024;

    template <int K>
    static void sum_scaled(double* totals, const float* x, int n, float largest, const float* scales) {
        const F offset = S::set1(largest);
        F scale[K];
        for (int k = 0; k < K; k++) scale[k] = S::set1(scales[k]), totals[k] = 0;
        for (int begin = 0; begin < n; begin += kSumRun) {
            const int end = n - begin < kSumRun ? n : begin + kSumRun;
            F sums[2][K];
            UNROLL for (int k = 0; k < K; k++) sums[0][k] = sums[1][k] = S::set1(0);
            const auto add = [&](F sum[K], F values) {
                const F below = S::sub(values, offset);
                UNROLL for (int k = 0; k < K; k++) sum[k] = S::add(sum[k], exp2<S>(S::mul(below, scale[k])));
            };
            int i = begin;
            for (; i + 2 * W <= end; i += 2 * W) {
                add(sums[0], S::load(x + i));
                add(sums[1], S::load(x + i + W));
            }
            for (; i < end; i += W) add(sums[0], end - i < W ? load_last(x + i, end - i) : S::load(x + i));
            for (int k = 0; k < K; k++) totals[k] += double(S::sum(S::add(sums[0][k], sums[1][k])));
        }
    }

    // The last n < W, and what neither is a maximum nor weighs anything.
    static F load_last(const float* p, int n) {
        float values[W];
        S::store(values, S::set1(-INFINITY));
        std::memcpy(values, p, size_t(n) * 4);
        return S::load(values);
    }
};

}  // namespace
}  // namespace dllama

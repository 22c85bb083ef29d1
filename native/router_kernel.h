// The arithmetic of a router, which decides on every rank by itself: ranks with different CPUs must choose the same experts.
// So it is float32 additions, multiplications, divisions and square roots only, each rounded by itself and never fused, in
// an order that is written here: sums of products run in 16 lanes, column i in lane i % 16, and the lanes are folded in
// halves. A register of S holds 16 lanes or a part of them, so the values do not depend on S.
#pragma once

#include "row_kernels.h"

namespace dllama {
namespace {

template <class S>
struct RouterKernel {
    using F = typename S::F;
    static constexpr int kLanes = 16, V = kLanes / S::W;
    // Rows and experts whose sums are in registers together; one row takes one more expert than fit two rows.
    static constexpr int kFitting = S::kRegisters / V;
    static constexpr int kRows = kFitting >= 32 ? 4 : kFitting >= 8 ? 2 : 1;
    static constexpr int kExperts = kFitting >= 32 ? 4 : 2;

    static float fold(const F sums[V]) {
        float lanes[kLanes];
        UNROLL for (int v = 0; v < V; v++) S::store(lanes + v * S::W, sums[v]);
        UNROLL for (int i = 0; i < 8; i++) lanes[i] += lanes[i + 8];
        UNROLL for (int i = 0; i < 4; i++) lanes[i] += lanes[i + 4];
        return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
    }

    template <int NT, int NE>
    static void add_products(const float* const x[NT], const float* const w[NE], int at, F sums[NT][NE][V]) {
        UNROLL for (int v = 0; v < V; v++) {
            F of_row[NT];
            UNROLL for (int t = 0; t < NT; t++) of_row[t] = S::load(x[t] + at + v * S::W);
            UNROLL for (int e = 0; e < NE; e++) {
                const F weight = S::load(w[e] + at + v * S::W);
                UNROLL for (int t = 0; t < NT; t++)
                    sums[t][e][v] = S::add(sums[t][e][v], S::mul(of_row[t], weight));
            }
        }
    }

    // out[t * out_stride + e] = the product of rows t of x and e of w.
    template <int NT, int NE>
    static void products(float* out, int out_stride, const float* x, const float* w, int n) {
        F sums[NT][NE][V];
        const float *rows[NT], *experts[NE];
        UNROLL for (int t = 0; t < NT; t++) rows[t] = x + size_t(t) * n;
        UNROLL for (int e = 0; e < NE; e++) experts[e] = w + size_t(e) * n;
        UNROLL for (int t = 0; t < NT; t++)
            UNROLL for (int e = 0; e < NE; e++)
                UNROLL for (int v = 0; v < V; v++) sums[t][e][v] = S::set1(0);
        int i = 0;
        for (; i + kLanes <= n; i += kLanes) add_products<NT, NE>(rows, experts, i, sums);
        if (i < n) {  // zeros add nothing to a sum that began at zero
            float x_end[NT][kLanes] = {}, w_end[NE][kLanes] = {};
            for (int t = 0; t < NT; t++) std::memcpy(x_end[t], rows[t] + i, size_t(n - i) * 4), rows[t] = x_end[t];
            for (int e = 0; e < NE; e++) std::memcpy(w_end[e], experts[e] + i, size_t(n - i) * 4), experts[e] = w_end[e];
            add_products<NT, NE>(rows, experts, 0, sums);
        }
        for (int t = 0; t < NT; t++)
            for (int e = 0; e < NE; e++) out[t * out_stride + e] = fold(sums[t][e]);
    }

    template <int NT>
    static void all_experts(float* out, int out_stride, const float* x, const float* w, int n, int n_experts) {
        int e = 0;
        for (; e + kExperts <= n_experts; e += kExperts)
            products<NT, kExperts>(out + e, out_stride, x, w + size_t(e) * n, n);
        for (; e < n_experts; e++) products<NT, 1>(out + e, out_stride, x, w + size_t(e) * n, n);
    }

    static void logits(float* out, int out_stride, const float* x, const float* w, int n, int n_rows, int n_experts) {
        int t = 0;
        for (; t + kRows <= n_rows; t += kRows)
            all_experts<kRows>(out + size_t(t) * out_stride, out_stride, x + size_t(t) * n, w, n, n_experts);
        for (; t < n_rows; t++)
            all_experts<1>(out + size_t(t) * out_stride, out_stride, x + size_t(t) * n, w, n, n_experts);
    }

    // out = x / sqrt(mean of squares + eps) * weight
    static void norm(float* out, const float* x, const float* weight, float eps, int n) {
        float squares;
        products<1, 1>(&squares, 1, x, x, n);
        const float scale = 1.0f / __builtin_sqrtf(squares / float(n) + eps);
        for (int i = 0; i < n; i++) out[i] = (x[i] * scale) * weight[i];
    }
};

}  // namespace
}  // namespace dllama

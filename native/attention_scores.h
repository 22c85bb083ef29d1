// The scores of queries for the keys of a split: a quad beside some keys, or four quads across the lanes of a vector.
#pragma once

#include <type_traits>

#include "attention_quads.h"
#include "opaque.h"

namespace dllama {
namespace {

template <class S>
struct AttentionScores {
    using F = typename S::F;
    static constexpr int W = S::W;
    static constexpr int Q = kQuad;
    // Half of the registers are sums: 8 of 16, or 16 of 32. Their chains hide the latency of a multiply-add (4 cycles,
    // 2 a cycle), and queries, keys and what is under way fit beside them.
    static constexpr int kKeys = S::kSumRows;  // that a quad is multiplied with at a time

    // scores[j][q] = query q . key j for keys [range) of a split, and after them what the rows next to come give.
    // HD is the head's width, or 0 for any: loops of known length cost nothing.
    template <int HD, class Rows>
    static void score(const Quad& quad, const Rows& rows, Range range, int width, float* scores) {
        const int head_dim = HD ? HD : width;
        for (int j = range.begin; j < range.end; j += kKeys) {
            typename Rows::Row key[kKeys];
            UNROLL for (int k = 0; k < kKeys; k++) key[k] = rows.key(j + k);
            UNROLL for (int k = 0; k < kKeys; k++) rows.template prefetch_after_key<HD>(j + k);
            F acc[kKeys][Q];
            UNROLL for (int k = 0; k < kKeys; k++)
                UNROLL for (int q = 0; q < Q; q++) acc[k][q] = S::set1(0);
            int e = 0;
            UNROLL for (; e + W <= head_dim; e += W) {
                F query[Q];
                UNROLL for (int q = 0; q < Q; q++) {
                    query[q] = S::load(quad.query[q] + e);
                    DLLAMA_OPAQUE(query[q]);  // else GCC loads it anew for each key
                }
                UNROLL for (int k = 0; k < kKeys; k++) {
                    const F value = key[k].load(e);
                    UNROLL for (int q = 0; q < Q; q++) acc[k][q] = S::fma(query[q], value, acc[k][q]);
                }
            }
            if (e < head_dim)
                UNROLL for (int k = 0; k < kKeys; k++) {
                    const F value = key[k].load_some(e, head_dim - e);
                    UNROLL for (int q = 0; q < Q; q++)
                        acc[k][q] = S::fma(load_some<S>(quad.query[q] + e, head_dim - e), value, acc[k][q]);
                }
            S::store_sums(scores + j * Q, acc);
        }
    }

    // Four quads whose queries lie across the lanes of a vector: nothing is summed across lanes then.
    static constexpr bool kAcross = W == 4 * Q;

    // out[e][i] = element e of query i of four quads.
    static void turn_queries(const Quad* quads, int head_dim, float* out) {
        for (int e = 0; e < head_dim; e += W) {
            F rows[W];
            UNROLL_ALL for (int i = 0; i < W; i++) rows[i] = S::load(quads[i / Q].query[i % Q] + e);
            S::store_transposed(out + e * W, W, rows);
        }
    }

    // The scores of NV times four quads, for keys [range) of a block that is near: to[v][i] is where those of quad i go.
    // Sums are those of `score`: each lane of its vectors by itself, then pairs, fours, and quarters (S::store_sums).
    // 2 keys x 2 vectors are 4 chains at a time; with the sums under way they fill the registers.
    template <int HD, int NV>
    static void score_across(const float* turned, const DecodedRows<S>& near, Range range, float* const (*to)[4]) {
        constexpr int NK = 2;
        for (int j = range.begin; j < range.end; j += NK) {
            F quarter[4][NK][NV];
            UNROLL for (int c = 0; c < 4; c++) {
                F pair[2][NK][NV];
                UNROLL for (int p = 0; p < 2; p++) {
                    F lane[2][NK][NV];
                    UNROLL for (int l = 0; l < 2; l++)
                        UNROLL for (int e = 4 * c + 2 * p + l; e < HD; e += W) {
                            F query[NV];
                            UNROLL for (int v = 0; v < NV; v++) {
                                query[v] = S::load(turned + (size_t(v) * HD + e) * W);
                                DLLAMA_OPAQUE(query[v]);
                            }
                            UNROLL for (int k = 0; k < NK; k++) {
                                const F key = S::set1(near.key(j + k).values[e]);
                                UNROLL for (int v = 0; v < NV; v++)
                                    lane[l][k][v] = e < W ? S::mul(query[v], key) : S::fma(query[v], key, lane[l][k][v]);
                            }
                        }
                    UNROLL for (int k = 0; k < NK; k++)
                        UNROLL for (int v = 0; v < NV; v++) pair[p][k][v] = S::add(lane[0][k][v], lane[1][k][v]);
                }
                UNROLL for (int k = 0; k < NK; k++)
                    UNROLL for (int v = 0; v < NV; v++) quarter[c][k][v] = S::add(pair[0][k][v], pair[1][k][v]);
            }
            UNROLL for (int k = 0; k < NK; k++)
                UNROLL for (int v = 0; v < NV; v++) {
                    const F sum = S::add(S::add(quarter[0][k][v], quarter[1][k][v]), S::add(quarter[2][k][v], quarter[3][k][v]));
                    float* const at[4] = {to[v][0] + (j + k) * Q, to[v][1] + (j + k) * Q, to[v][2] + (j + k) * Q,
                                          to[v][3] + (j + k) * Q};
                    S::store_quarters(at, sum);
                }
        }
    }

    // The scores of the first quads of a tile, four of them at a time; returns how many there were.
    template <int HD>
    static int score_fours(const Quad* quads, int n_quads, const float* turned, const DecodedRows<S>& near, Range block,
                           float* scores) {
        int i = 0;
        const auto fours = [&](auto count) {
            constexpr int NV = decltype(count)::value;
            for (; i + 4 * NV <= n_quads; i += 4 * NV) {
                Range own = {0, 0};
                float* to[NV][4];
                for (int n = 0; n < 4 * NV; n++) {
                    own = either(own, both(quads[i + n].all, block));
                    to[n / 4][n % 4] = scores + size_t(i + n) * kQuadScores;
                }
                score_across<HD, NV>(turned + size_t(i) * Q * HD, near, own, to);
            }
        };
        fours(std::integral_constant<int, 2>());
        fours(std::integral_constant<int, 1>());
        return i;
    }
};

}  // namespace
}  // namespace dllama

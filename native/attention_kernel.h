// Attention over a paged KV cache, written once over a vector type S.
//
// A split of positions is computed in three passes: the scores of every key, their softmax, the weighted sum of the
// values. Splits lie on a fixed grid, and a query's own float operations follow the positions in order, so neither
// the other queries of a step nor threads change its result. Parts are merged as in the online softmax of Milakov and
// Gimelshein (2018).
//
// Queries go in fours ("quads", the last one padded with copies): each element of a key or value that is read and
// converted serves four of them. The scores of a quad lie side by side, [position][4], so that the softmax needs no
// sums across lanes.
#pragma once

#include "attention_scores.h"

namespace dllama {
namespace {

template <class S>
struct AttentionKernel {
    using F = typename S::F;
    using Scores = AttentionScores<S>;
    static constexpr int W = S::W;
    static constexpr int Q = kQuad;
    static constexpr float kLog2E = 1.44269504f;
    static constexpr int kStep = W / Q;  // positions whose scores fill a vector
    // Vectors of a value that are summed at a time: half of the registers are sums (see AttentionScores).
    static constexpr int kColumns = S::kRegisters / 8;

    // Scores that are yet to be multiplied with `scale` become cap tanh(score / cap).
    static void cap_scores(const Quad& quad, float scale, float cap, float* scores) {
        const int begin = quad.all.begin / kStep * W, end = (quad.all.end + kStep - 1) / kStep * W;
        const F to_cap = S::set1(cap), to_scale = S::set1(scale / cap);
        for (int i = begin; i < end; i += W)
            S::store(scores + i, S::mul(to_cap, tanh<S>(S::mul(S::load(scores + i), to_scale))));
    }

    // Turns the scores of a quad into softmax weights; sets largest and weight of its four queries. Scores times
    // `factor` are powers of two.
    static void soften(const Quad& quad, float factor, const SoftmaxState& state, int first, float* scores) {
        const int begin = quad.all.begin / kStep * kStep, end = (quad.all.end + kStep - 1) / kStep * kStep;
        for (int q = 0; q < Q; q++) {
            const Range r = quad.range[q].empty() ? Range{end, end} : quad.range[q];
            for (int j = begin; j < r.begin; j++) scores[j * Q + q] = -INFINITY;
            for (int j = r.end; j < end; j++) scores[j * Q + q] = -INFINITY;
        }
        F largest[2] = {S::set1(-INFINITY), S::set1(-INFINITY)};
        int i = begin * Q;
        for (; i + 2 * W <= end * Q; i += 2 * W)
            UNROLL for (int n = 0; n < 2; n++) largest[n] = S::max(largest[n], S::load(scores + i + n * W));
        if (i < end * Q) largest[0] = S::max(largest[0], S::load(scores + i));
        float lanes[W];
        S::store(lanes, S::mul(S::max(largest[0], largest[1]), S::set1(factor)));
        for (int q = 0; q < Q; q++) {
            float top = lanes[q];
            for (int lane = q + Q; lane < W; lane += Q) top = lanes[lane] > top ? lanes[lane] : top;
            state.largest[first + q] = top;
            // Where a query sees nothing, 2^(-inf - 0) and not 2^(-inf + inf).
            for (int lane = q; lane < W; lane += Q) lanes[lane] = top == -INFINITY ? 0.0f : -top;
        }
        const F shift = S::load(lanes);
        F total = S::set1(0);
        for (i = begin * Q; i < end * Q; i += W) {
            const F weight = exp2<S>(S::fma(S::load(scores + i), S::set1(factor), shift));
            S::store(scores + i, weight);
            total = S::add(total, weight);
        }
        S::store(lanes, total);
        for (int q = 0; q < Q; q++) {
            state.weight[first + q] = lanes[q];
            for (int lane = q + Q; lane < W; lane += Q) state.weight[first + q] += lanes[lane];
        }
    }

    // mixed[q] += sum over j in [range) of weights[j][q] * values[j], for NQ queries and V vectors of a row.
    template <int NQ, int V, int HD, bool kPrefetch, class Rows>
    static void mix_columns(const float* weights, const Rows& rows, Range range, float* mixed, int stride, int column) {
        F acc[NQ][V];
        UNROLL for (int q = 0; q < NQ; q++)
            UNROLL for (int v = 0; v < V; v++) acc[q][v] = S::load(mixed + size_t(q) * stride + column + v * W);
        for (int j = range.begin; j < range.end; j++) {
            const auto row = rows.value(j);
            if constexpr (kPrefetch) rows.template prefetch_after_value<HD>(j);
            F value[V];
            UNROLL for (int v = 0; v < V; v++) value[v] = row.load(column + v * W);
            UNROLL for (int q = 0; q < NQ; q++) {
                const F weight = S::set1(weights[j * Q + q]);
                UNROLL for (int v = 0; v < V; v++) acc[q][v] = S::fma(weight, value[v], acc[q][v]);
            }
        }
        UNROLL for (int q = 0; q < NQ; q++)
            UNROLL for (int v = 0; v < V; v++) S::store(mixed + size_t(q) * stride + column + v * W, acc[q][v]);
    }

    template <int NQ, int HD, bool kPrefetch, class Rows>
    static void mix(const float* weights, const Rows& rows, Range range, float* mixed, int stride, int width) {
        if (range.empty()) return;
        const int head_dim = HD ? HD : width;
        int e = 0;
        if (kPrefetch && kColumns * W <= head_dim) {  // with the first columns
            mix_columns<NQ, kColumns, HD, true>(weights, rows, range, mixed, stride, 0);
            e = kColumns * W;
        }
        for (; e + kColumns * W <= head_dim; e += kColumns * W)
            mix_columns<NQ, kColumns, HD, false>(weights, rows, range, mixed, stride, e);
        for (; e + W <= head_dim; e += W) mix_columns<NQ, 1, HD, false>(weights, rows, range, mixed, stride, e);
        if (e < head_dim)
            for (int q = 0; q < NQ; q++) {
                F acc = S::load(mixed + size_t(q) * stride + e);
                for (int j = range.begin; j < range.end; j++)
                    acc = S::fma(S::set1(weights[j * Q + q]), rows.value(j).load_some(e, head_dim - e), acc);
                S::store(mixed + size_t(q) * stride + e, acc);
            }
    }

    // The values of a block for a quad: together where all four see them, else one query after the other, so that a
    // value that a query does not see, and which may not be a number, cannot reach it.
    template <int HD, class Rows>
    static void mix_quad(const Quad& quad, const Rows& rows, Range block, int head_dim, const float* weights,
                         float* mixed, int stride) {
        const Range common = both(quad.common, block);
        if (common.begin == block.begin && common.end == block.end)
            return mix<Q, HD, true>(weights, rows, block, mixed, stride, head_dim);
        const auto alone = [&](int q, int begin, int end) {
            mix<1, 0, false>(weights + q, rows, {begin, end}, mixed + size_t(q) * stride, stride, head_dim);
        };
        for (int q = 0; q < Q; q++) {
            const Range own = both(quad.range[q], block);
            alone(q, own.begin, common.empty() ? own.end : common.begin);
        }
        if (common.empty()) return;
        mix<Q, HD, false>(weights, rows, common, mixed, stride, head_dim);
        for (int q = 0; q < Q; q++) alone(q, common.end, both(quad.range[q], block).end);
    }

    template <class T, int HD, int VD>
    static void attend(const Attention& a, RowTile tile, int kv_head, int split, const SoftmaxState& state,
                       float* scratch) {
        const HeadRange heads = heads_of(a, kv_head);
        const int n_queries = tile.count * (heads.end - heads.begin), n_quads = (n_queries + Q - 1) / Q;
        float* decoded = scratch;
        const size_t decoded_floats = (size_t(kAttentionBlock + kQuad) * a.head_dim + 15) / 16 * 16;
        Quad* quads = reinterpret_cast<Quad*>(decoded + decoded_floats);
        float* scores = decoded + decoded_floats + size_t(n_quads) * kQuadFloats;
        Range all = {0, 0};
        for (int i = 0; i < n_quads; i++) {
            quads[i] = quad_at(a, tile, heads, split, i * Q);
            all = either(all, quads[i].all);
        }
        const CacheRows<S, T> rows(a, tile.first, kv_head, split, all.begin, all.end, scores + size_t(n_quads) * kQuadScores);
        const float scale = 1.0f / __builtin_sqrtf(float(a.head_dim));
        const float factor = a.latent.value_dim ? kLog2E * a.latent.scale
                             : a.soft_cap > 0   ? kLog2E
                                                : kLog2E / __builtin_sqrtf(float(a.head_dim));
        const auto soften_quad = [&](const Quad& quad, int first, float* of_quad) {
            if (a.soft_cap > 0) cap_scores(quad, scale, a.soft_cap, of_quad);
            soften(quad, factor, state, first, of_quad);
        };
        const int value_dim = VD ? VD : a.value_dim(), n_together = a.head_dim > kWide ? kWideBlock : kAttentionBlock;
        const auto scores_of = [&](int i) { return scores + size_t(i) * kQuadScores; };
        const auto mixed_of = [&](int i) { return state.mixed + size_t(i) * Q * state.mixed_stride; };
        std::memset(state.mixed, 0, size_t(n_quads) * Q * state.mixed_stride * sizeof(float));
        if (n_quads == 1) {
            const Quad& quad = quads[0];
            in_blocks(all, n_together, [&](Range block) { Scores::template score<HD>(quad, rows, block, a.head_dim, scores); });
            soften_quad(quad, 0, scores);
            in_blocks(all, n_together, [&](Range block) {
                mix_quad<VD>(quad, rows, block, value_dim, scores, state.mixed, state.mixed_stride);
            });
            return;
        }
        float* turned = scores + size_t(n_quads) * kQuadScores + size_t(2 * kAttentionSplit) * (a.head_dim / kBlock) + 16;
        if constexpr (Scores::kAcross && HD > 0)
            for (int i = 0; i + 4 <= n_quads; i += 4) Scores::turn_queries(quads + i, HD, turned + size_t(i) * Q * HD);
        // What is read for all quads of a tile while it is near.
        const auto for_quads = [&](Range block, int first, auto work) {
            for (int i = first; i < n_quads; i++) {
                const Range own = both(quads[i].all, block);
                if (!own.empty()) work(i, own);
            }
        };
        const auto decode = [&](Range block, int width, auto row_at) {
            for (int j = block.begin; j < block.end; j++)
                decode_row<S>(row_at(j), width, decoded + size_t(j - block.begin) * a.head_dim);
            return DecodedRows<S>{decoded, block.begin, a.head_dim};
        };
        in_blocks(all, n_together, [&](Range block) {
            const auto near = decode(block, HD ? HD : a.head_dim, [&](int j) {
                rows.template prefetch_after_key<HD>(j);
                return rows.key(j);
            });
            int first = 0;
            if constexpr (Scores::kAcross && HD > 0)
                first = Scores::template score_fours<HD>(quads, n_quads, turned, near, block, scores);
            for_quads(block, first, [&](int i, Range own) {
                Scores::template score<HD>(quads[i], near, own, a.head_dim, scores_of(i));
            });
        });
        for (int i = 0; i < n_quads; i++) soften_quad(quads[i], i * Q, scores_of(i));
        in_blocks(all, n_together, [&](Range block) {
            const auto near = decode(block, value_dim, [&](int j) {
                rows.template prefetch_after_value<HD>(j);
                return rows.value(j);
            });
            for_quads(block, 0, [&](int i, Range own) {
                mix_quad<VD>(quads[i], near, own, value_dim, scores_of(i), mixed_of(i), state.mixed_stride);
            });
        });
    }

    // Blocks lie on a grid of their own from the first position that a tile sees.
    template <class Work>
    static void in_blocks(Range all, int n_together, const Work& work) {
        for (int b = all.begin; b < all.end; b += n_together) work(both(all, {b, b + n_together}));
    }

    template <class T>
    static void attend_with(const Attention& a, RowTile tile, int kv_head, int split, const SoftmaxState& state,
                            float* scratch) {
        if (a.latent.value_dim)
            return a.head_dim == 576 && a.latent.value_dim == 512
                       ? attend<T, 576, 512>(a, tile, kv_head, split, state, scratch)
                       : attend<T, 0, 0>(a, tile, kv_head, split, state, scratch);
        switch (a.head_dim) {  // the widths of most models have code of their own
            case 64: return attend<T, 64, 64>(a, tile, kv_head, split, state, scratch);
            case 128: return attend<T, 128, 128>(a, tile, kv_head, split, state, scratch);
            default: return attend<T, 0, 0>(a, tile, kv_head, split, state, scratch);
        }
    }

    static void attend_split(const Attention& a, RowTile tile, int kv_head, int split, const SoftmaxState& state,
                             float* scratch) {
        switch (a.cache_type) {
            case ElementType::f16: return attend_with<uint16_t>(a, tile, kv_head, split, state, scratch);
            case ElementType::q80: return attend_with<Q80Cell>(a, tile, kv_head, split, state, scratch);
            default: return attend_with<float>(a, tile, kv_head, split, state, scratch);
        }
    }

    static bool empty(const SoftmaxState& s, int i) { return s.largest[i] == -INFINITY && s.weight[i] == 0; }

    static void attend_merge(const SoftmaxState& total, const SoftmaxState& part, int queries, int head_dim) {
        for (int first = 0; first < queries; first += W) {
            const F a = S::load(total.largest + first), b = S::load(part.largest + first), now = S::max(a, b);
            float largest[W], keep[W], take[W];
            S::store(largest, now);
            S::store(keep, exp2<S>(S::sub(a, now)));
            S::store(take, exp2<S>(S::sub(b, now)));
            for (int i = first; i < queries && i < first + W; i++) {
                if (empty(part, i)) continue;
                const float of_total = keep[i - first], of_part = take[i - first];  // 0 and 1 where `total` is empty
                total.largest[i] = largest[i - first];
                total.weight[i] = total.weight[i] * of_total + part.weight[i] * of_part;
                float* to = total.mixed + size_t(i) * total.mixed_stride;
                const float* from = part.mixed + size_t(i) * part.mixed_stride;
                for (int e = 0; e < head_dim; e++) to[e] = to[e] * of_total + from[e] * of_part;
            }
        }
    }

    // What the sum of values of query i, which is of query head `head`, is multiplied with. A sink is a logit more in the
    // softmax, with a value of zero.
    static float share_of(const Attention& a, int head, const SoftmaxState& total, int i) {
        if (!a.sinks) return 1.0f / total.weight[i];
        return 1.0f / (total.weight[i] + std::exp2(a.sinks[head] * kLog2E - total.largest[i]));
    }

    static void attend_finish(const Attention& a, RowTile tile, int kv_head, const SoftmaxState& total) {
        const HeadRange heads = heads_of(a, kv_head);
        const int value_dim = a.value_dim();
        int i = 0;
        for (int r = tile.first; r < tile.first + tile.count; r++, i += heads.end - heads.begin) {
            if (a.out.f32)
                for (int h = 0; h < heads.end - heads.begin; h++) {
                    float* out = a.out_at(r, heads.begin + h).f32;
                    const float* mixed = total.mixed + size_t(i + h) * total.mixed_stride;
                    const float share = share_of(a, heads.begin + h, total, i + h);
                    for (int e = 0; e < value_dim; e++) out[e] = mixed[e] * share;
                }
            else if (a.latent.value_dim)
                for (int h = 0; h < heads.end - heads.begin; h++)
                    finish_row(a.out_at(r, heads.begin + h), a, {heads.begin + h, heads.begin + h + 1}, total, i + h);
            else
                finish_row(a.out_at(r, heads.begin), a, heads, total, i);
        }
    }

    // Queries first to first + n_heads - 1 of a tile, which are neighbours in a row of the output, as Q80.
    static void finish_row(const RowOut& out, const Attention& a, HeadRange heads, const SoftmaxState& total, int first) {
        alignas(64) float values[W * kBlock];
        int done = 0, ready = 0;  // blocks
        for (int h = 0; h < heads.end - heads.begin; h++) {
            const float* mixed = total.mixed + size_t(first + h) * total.mixed_stride;
            const F share = S::set1(share_of(a, heads.begin + h, total, first + h));
            for (int e = 0; e < a.value_dim(); e += kBlock) {
                for (int c = 0; c < kBlock; c += W)
                    S::store(values + ready * kBlock + c, S::mul(S::load(mixed + e + c), share));
                if (++ready < W) continue;
                RowKernels<S>::quantize_some(out, done, ready, values);
                done += ready, ready = 0;
            }
        }
        if (ready) RowKernels<S>::quantize_some(out, done, ready, values);
    }
};

}  // namespace
}  // namespace dllama

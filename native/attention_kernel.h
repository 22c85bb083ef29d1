// Attention over a paged KV cache, written once over a vector type S.
//
// A query walks the positions it sees in blocks of kAttentionBlock on a fixed grid, with the online softmax of
// Milakov and Gimelshein (2018). Which other queries share the walk changes nothing in the order of its own
// float operations, so the result of a row does not depend on its company.
#pragma once

#include "row_kernels.h"

namespace dllama {
namespace {

template <class S>
struct AttentionKernel {
    using F = typename S::F;
    static constexpr int W = S::W;
    static constexpr int B = kAttentionBlock;

    // The positions [begin, end) that a row sees.
    struct Range {
        int begin, end;
    };
    static Range seen(const Attention& a, int row) {
        const int end = a.positions[row] + 1;
        return {a.window > 0 && end > a.window ? end - a.window : 0, end};
    }
    static Range cut(Range r, int begin, int end) {
        return {r.begin > begin ? r.begin : begin, r.end < end ? r.end : end};
    }

    static F load(const float* p) { return S::load(p); }
    static F load(const uint16_t* p) { return S::load_half(p); }
    template <class T>
    static F load_tail(const T* p, int n) {
        T values[W] = {};
        std::memcpy(values, p, size_t(n) * sizeof(T));
        return load(values);
    }

    // scores[i][j] = queries[i] . keys[j] for NQ queries and n keys; n is rounded up to fours.
    template <int NQ, class T>
    static void dots(const float* const* queries, const T* const* keys, int n, int head_dim, float* scores) {
        for (int j = 0; j < n; j += 4) {
            F acc[NQ][4];
            for (int q = 0; q < NQ; q++)
                for (int k = 0; k < 4; k++) acc[q][k] = S::set1(0);
            int e = 0;
            for (; e + W <= head_dim; e += W) {
                F query[NQ];
                for (int q = 0; q < NQ; q++) query[q] = S::load(queries[q] + e);
                for (int k = 0; k < 4; k++) {
                    const F key = load(keys[j + k] + e);
                    for (int q = 0; q < NQ; q++) acc[q][k] = S::fma(query[q], key, acc[q][k]);
                }
            }
            if (e < head_dim)
                for (int k = 0; k < 4; k++) {
                    const F key = load_tail(keys[j + k] + e, head_dim - e);
                    for (int q = 0; q < NQ; q++)
                        acc[q][k] = S::fma(load_some<S>(queries[q] + e, head_dim - e), key, acc[q][k]);
                }
            for (int q = 0; q < NQ; q++)
                S::store_sums4(scores + q * B + j, acc[q][0], acc[q][1], acc[q][2], acc[q][3]);
        }
    }

    // mixed[i] += sum over j in [begin, end) of weights[i][j] * values[j], for NQ queries.
    // V vectors of a row at a time: NQ * V accumulators, and a value is loaded once for all queries.
    template <int NQ, int V, class T>
    static void mix_columns(const float* weights, const T* const* values, Range range, float* mixed, int stride,
                            int column) {
        F acc[NQ][V];
        for (int q = 0; q < NQ; q++)
            for (int v = 0; v < V; v++) acc[q][v] = S::load(mixed + size_t(q) * stride + column + v * W);
        for (int j = range.begin; j < range.end; j++) {
            F value[V];
            for (int v = 0; v < V; v++) value[v] = load(values[j] + column + v * W);
            for (int q = 0; q < NQ; q++) {
                const F weight = S::set1(weights[q * B + j]);
                for (int v = 0; v < V; v++) acc[q][v] = S::fma(weight, value[v], acc[q][v]);
            }
        }
        for (int q = 0; q < NQ; q++)
            for (int v = 0; v < V; v++) S::store(mixed + size_t(q) * stride + column + v * W, acc[q][v]);
    }

    template <int NQ, class T>
    static void mix(const float* weights, const T* const* values, Range range, float* mixed, int stride,
                    int head_dim) {
        constexpr int V = 8 / NQ;
        int e = 0;
        for (; e + V * W <= head_dim; e += V * W)
            mix_columns<NQ, V>(weights, values, range, mixed, stride, e);
        for (; e + W <= head_dim; e += W) mix_columns<NQ, 1>(weights, values, range, mixed, stride, e);
        if (e < head_dim)
            for (int q = 0; q < NQ; q++) {
                F acc = S::load(mixed + size_t(q) * stride + e);
                for (int j = range.begin; j < range.end; j++)
                    acc = S::fma(S::set1(weights[q * B + j]), load_tail(values[j] + e, head_dim - e), acc);
                S::store(mixed + size_t(q) * stride + e, acc);
            }
    }

    // e^x of one number, the same bits as in a vector.
    static float exp_one(float x) {
        float values[W];
        S::store(values, exp<S>(S::set1(x)));
        return values[0];
    }

    static void scale(float* v, float factor, int head_dim) {
        for (int e = 0; e < head_dim; e++) v[e] *= factor;
    }

    // Turns the scores of query i at [range) of a block into softmax weights, updating its state.
    static void soften(float* scores, Range range, float factor, const SoftmaxState& state, int i, int head_dim) {
        for (int j = 0; j < range.begin; j++) scores[j] = -INFINITY;
        for (int j = range.end; j < B; j++) scores[j] = -INFINITY;
        F largest = S::set1(-INFINITY);
        for (int j = 0; j < B; j += W) {
            const F s = S::mul(S::load(scores + j), S::set1(factor));
            S::store(scores + j, s);
            largest = S::max(largest, s);
        }
        const float before = state.largest[i], block_largest = S::max_of(largest);
        const float now = block_largest > before ? block_largest : before;
        F total = S::set1(0);
        for (int j = 0; j < B; j += W) {
            const F weight = exp<S>(S::sub(S::load(scores + j), S::set1(now)));
            S::store(scores + j, weight);
            total = S::add(total, weight);
        }
        const float keep = exp_one(before - now);
        state.largest[i] = now;
        state.weight[i] = state.weight[i] * keep + S::sum(total);
        if (keep != 1.0f) scale(state.mixed + size_t(i) * state.mixed_stride, keep, head_dim);
    }

    // Addresses of the keys or values of positions [range), indexed from block_begin.
    template <class T>
    static void locate(const Attention& a, const void* cache, const int32_t* pages, int kv_head, int block_begin,
                       Range range, const T** out) {
        const size_t page_stride = size_t(a.n_kv_heads) * a.page_size * a.head_dim;
        const T* head = static_cast<const T*>(cache) + size_t(kv_head) * a.page_size * a.head_dim;
        int page = range.begin / a.page_size, slot = range.begin % a.page_size;
        for (int p = range.begin; p < range.end; p++) {
            out[p - block_begin] = head + size_t(pages[page]) * page_stride + size_t(slot) * a.head_dim;
            if (++slot == a.page_size) slot = 0, page++;
        }
    }

    template <class T>
    static void attend_block(const Attention& a, RowTile tile, int kv_head, int block_begin, Range range,
                             const SoftmaxState& state, float* scores) {
        const T *keys[B], *values[B];
        const int32_t* pages = a.page_table + size_t(a.sequence[tile.first]) * a.max_pages;
        locate(a, a.keys, pages, kv_head, block_begin, range, keys);
        locate(a, a.values, pages, kv_head, block_begin, range, values);
        const int first = range.begin - block_begin, last = range.end - block_begin;
        const int begin = first / 4 * 4;  // keys in fours: the ends repeat a key, soften() drops their scores
        for (int j = begin; j < first; j++) keys[j] = keys[first];
        for (int j = last; j < (last + 3) / 4 * 4; j++) keys[j] = keys[last - 1];

        const HeadRange heads = heads_of(a, kv_head);
        const int group = heads.end - heads.begin, n_queries = tile.count * group;
        const size_t row_stride = size_t(a.n_heads + 2 * a.n_kv_heads) * a.head_dim;
        auto query = [&](int i) {
            return a.qkv + (tile.first + i / group) * row_stride + size_t(heads.begin + i % group) * a.head_dim;
        };
        int i = 0;
        for (; i + 2 <= n_queries; i += 2) {
            const float* pair[2] = {query(i), query(i + 1)};
            dots<2>(pair, keys + begin, last - begin, a.head_dim, scores + i * B + begin);
        }
        if (i < n_queries) {
            const float* one[1] = {query(i)};
            dots<1>(one, keys + begin, last - begin, a.head_dim, scores + i * B + begin);
        }

        const float factor = 1.0f / __builtin_sqrtf(float(a.head_dim));
        int run = 0;  // first query of a run of queries that see the same positions of this block
        Range run_range = {0, 0};
        for (int r = 0; r <= tile.count; r++) {
            Range mine = {-1, -1};
            if (r < tile.count) {
                mine = cut(seen(a, tile.first + r), range.begin, range.end);
                mine = {mine.begin - block_begin, mine.end - block_begin};
                for (int q = r * group; q < (r + 1) * group && mine.begin < mine.end; q++)
                    soften(scores + q * B, mine, factor, state, q, a.head_dim);
            }
            if (r == 0) run_range = mine;
            if (mine.begin == run_range.begin && mine.end == run_range.end) continue;
            mix_run(a, run, r * group, run_range, values, state, scores);
            run = r * group, run_range = mine;
        }
    }

    template <class T>
    static void mix_run(const Attention& a, int begin, int end, Range range, const T* const* values,
                        const SoftmaxState& state, const float* scores) {
        const int stride = state.mixed_stride;
        int i = begin;
        for (; i + 4 <= end; i += 4)
            mix<4>(scores + i * B, values, range, state.mixed + size_t(i) * stride, stride, a.head_dim);
        for (; i + 2 <= end; i += 2)
            mix<2>(scores + i * B, values, range, state.mixed + size_t(i) * stride, stride, a.head_dim);
        for (; i < end; i++)
            mix<1>(scores + i * B, values, range, state.mixed + size_t(i) * stride, stride, a.head_dim);
    }

    static void attend_split(const Attention& a, RowTile tile, int kv_head, int split, const SoftmaxState& state,
                             float* scores) {
        const HeadRange heads = heads_of(a, kv_head);
        const int n_queries = tile.count * (heads.end - heads.begin);
        for (int i = 0; i < n_queries; i++) {
            state.largest[i] = -INFINITY;
            state.weight[i] = 0;
            std::memset(state.mixed + size_t(i) * state.mixed_stride, 0, size_t(state.mixed_stride) * 4);
        }
        const Range all = {seen(a, tile.first).begin, seen(a, tile.first + tile.count - 1).end};
        const Range here = cut(all, split * kAttentionSplit, (split + 1) * kAttentionSplit);
        for (int b = here.begin / B * B; b < here.end; b += B) {
            const Range range = cut(here, b, b + B);
            if (a.half)
                attend_block<uint16_t>(a, tile, kv_head, b, range, state, scores);
            else
                attend_block<float>(a, tile, kv_head, b, range, state, scores);
        }
    }

    static bool empty(const SoftmaxState& s, int i) { return s.largest[i] == -INFINITY && s.weight[i] == 0; }

    static void attend_merge(const SoftmaxState& total, const SoftmaxState& part, int queries, int head_dim) {
        for (int i = 0; i < queries; i++) {
            if (empty(part, i)) continue;
            float* to = total.mixed + size_t(i) * total.mixed_stride;
            const float* from = part.mixed + size_t(i) * part.mixed_stride;
            if (empty(total, i)) {
                total.largest[i] = part.largest[i];
                total.weight[i] = part.weight[i];
                std::memcpy(to, from, size_t(head_dim) * 4);
                continue;
            }
            const float a = total.largest[i], b = part.largest[i], now = b > a ? b : a;
            const float keep = exp_one(a - now), take = exp_one(b - now);
            total.largest[i] = now;
            total.weight[i] = total.weight[i] * keep + part.weight[i] * take;
            for (int e = 0; e < head_dim; e++) to[e] = to[e] * keep + from[e] * take;
        }
    }

    static void attend_finish(const Attention& a, RowTile tile, int kv_head, const SoftmaxState& total) {
        const HeadRange heads = heads_of(a, kv_head);
        int i = 0;
        for (int r = tile.first; r < tile.first + tile.count; r++)
            for (int h = heads.begin; h < heads.end; h++, i++) {
                float* out = a.out + (size_t(r) * a.n_heads + h) * a.head_dim;
                const float* mixed = total.mixed + size_t(i) * total.mixed_stride;
                const float share = 1.0f / total.weight[i];
                for (int e = 0; e < a.head_dim; e++) out[e] = mixed[e] * share;
            }
    }
};

}  // namespace
}  // namespace dllama

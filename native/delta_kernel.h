// Gated delta nets (Yang et al. 2024, arXiv:2412.06464), written once over a vector type S.
//
// The state of a head is [DK, DV], and its columns do not depend on each other. So a few columns go through all rows of
// a run while they lie in the first-level cache (two vectors of 128 rows are 16 KiB with AVX-512): prefill costs the
// arithmetic of the recurrence, which is less than that of the chunked form, and every element is added in the same
// order whatever rows share a step. The product with a row's key is taken in the pass that writes the state of the row
// before.
#pragma once

#include "delta.h"
#include "row_kernels.h"

namespace dllama {
namespace {

template <class S>
struct DeltaKernel {
    using F = typename S::F;
    static constexpr int W = S::W;
    static constexpr int kColumns = W == 4 ? 4 : 2;  // vectors of a state's row: a cache line of 64 bytes at least
    static constexpr float kEps = 1e-6f;             // of the norm of queries and keys

    // A vector, or the first n < W elements of one.
    static INLINE F load_part(const float* p, int n) { return n < W ? load_some<S>(p, n) : S::load(p); }
    static INLINE void store_part(float* p, F v, int n) { n < W ? store_some<S>(p, v, n) : S::store(p, v); }
    static int smaller(int a, int b) { return a < b ? a : b; }

    static void causal_conv(const CausalConv& c, const StateRun& run, int first, int n_channels) {
        const int n_before = c.width - 1;
        const auto state = [&](int i) { return c.state + size_t(run.page(i)) * n_before * c.n_channels; };
        // The inputs before the run: what is written for its own page may lie in the same place.
        alignas(64) float before[(kMostConvWidth - 1) * kConvChannels];
        if (run.position > 0)
            for (int j = 0; j < n_before; j++)
                std::memcpy(before + j * n_channels, state(-1) + size_t(j) * c.n_channels + first, size_t(n_channels) * 4);
        else
            std::memset(before, 0, size_t(n_before) * n_channels * 4);
        // The input `back` rows before row i, from channel `first` on.
        const auto input = [&](int i, int back) -> const float* {
            return i >= back ? c.x + (run.first + i - back) * c.x_stride + first : before + (n_before + i - back) * n_channels;
        };
        for (int i = 0; i < run.count; i++) {
            float* const out = c.out + size_t(run.first + i) * c.n_channels + first;
            const float* inputs[kMostConvWidth];
            for (int j = 0; j < c.width; j++) inputs[j] = input(i, n_before - j);
            const float* const weights = c.weights + first;
            int channel = 0;
            for (; channel + W <= n_channels; channel += W) {
                F sum = S::set1(0);
                for (int j = 0; j < c.width; j++)
                    sum = S::fma(S::load(weights + size_t(j) * c.n_channels + channel), S::load(inputs[j] + channel), sum);
                S::store(out + channel, RowKernels<S>::silu(sum));
            }
            if (const int n = n_channels - channel; n > 0) {
                F sum = S::set1(0);
                for (int j = 0; j < c.width; j++)
                    sum = S::fma(load_some<S>(weights + size_t(j) * c.n_channels + channel, n),
                                 load_some<S>(inputs[j] + channel, n), sum);
                store_some<S>(out + channel, RowKernels<S>::silu(sum), n);
            }
            if (i + 1 < run.count && !run.begins_page(i + 1)) continue;
            for (int j = 0; j < n_before; j++)
                std::memcpy(state(i) + size_t(j) * c.n_channels + first, input(i, n_before - 1 - j), size_t(n_channels) * 4);
        }
    }

    static float softplus(float x) { return x > 20.0f ? x : __builtin_log1pf(__builtin_expf(x)); }

    // out = x / sqrt(sum of squares + eps) * scale
    static void norm(float* out, const float* x, float scale, int n) {
        const float squares = RowKernels<S>::sum_row(x, n, 0.0f, [](F sum, F v) { return S::fma(v, v, sum); });
        const float factor = scale / __builtin_sqrtf(squares + kEps);
        for (int i = 0; i < n; i++) out[i] = x[i] * factor;
    }

    // Rows of a run, their queries and keys normed: [rows, key_stride] and [rows, value_stride].
    struct Block {
        float *queries, *keys, *values, *out;
        size_t key_stride, value_stride;
        float *decay, *strength;  // [rows]
        int n_rows;
    };

    // sum over i of state[i] * key[i], for V vectors of columns
    template <int V>
    static INLINE void predict(const float* state, int row_stride, int n, const float* key, int key_dim, F sums[V]) {
        UNROLL for (int v = 0; v < V; v++) sums[v] = S::set1(0);
        for (int i = 0; i < key_dim; i++) {
            const F k = S::set1(key[i]);
            UNROLL for (int v = 0; v < V; v++)
                sums[v] = S::fma(load_part(state + size_t(i) * row_stride + v * W, n), k, sums[v]);
        }
    }

    // state = decay * state + key (x) change; seen = state * query; next = state * next_key, if there is one.
    template <int V, bool kGoesOn>
    static INLINE void update(float* state, int row_stride, int n, float decay, const float* key, const float* query,
                              const float* next_key, int key_dim, const F change[V], F seen[V], F next[V]) {
        const F kept = S::set1(decay);
        UNROLL for (int v = 0; v < V; v++) seen[v] = next[v] = S::set1(0);
        for (int i = 0; i < key_dim; i++) {
            const F k = S::set1(key[i]), q = S::set1(query[i]);
            UNROLL for (int v = 0; v < V; v++) {
                float* const at = state + size_t(i) * row_stride + v * W;
                const F value = S::fma(k, change[v], S::mul(kept, load_part(at, n)));
                store_part(at, value, n);
                seen[v] = S::fma(value, q, seen[v]);
                if constexpr (kGoesOn) next[v] = S::fma(value, S::set1(next_key[i]), next[v]);
            }
        }
    }

    // V vectors of columns from `column` on, of which the first n elements count where V is 1, through all rows of a block.
    template <int V>
    static INLINE void columns(const Block& b, float* state, int key_dim, int value_dim, int column, int n) {
        F predicted[V], seen[V], change[V], next[V];
        predict<V>(state + column, value_dim, n, b.keys, key_dim, predicted);
        for (int t = 0; t < b.n_rows; t++) {
            const float decay = b.decay[t];
            const float *key = b.keys + t * b.key_stride, *query = b.queries + t * b.key_stride;
            UNROLL for (int v = 0; v < V; v++) {
                const F value = S::load(b.values + t * b.value_stride + column + v * W);
                change[v] = S::mul(S::set1(b.strength[t]), S::sub(value, S::mul(S::set1(decay), predicted[v])));
            }
            if (t + 1 < b.n_rows)
                update<V, true>(state + column, value_dim, n, decay, key, query, key + b.key_stride, key_dim, change, seen, next);
            else
                update<V, false>(state + column, value_dim, n, decay, key, query, key, key_dim, change, seen, next);
            UNROLL for (int v = 0; v < V; v++) {
                S::store(b.out + t * b.value_stride + column + v * W, seen[v]);
                predicted[v] = next[v];
            }
        }
    }

    // Gathers rows [first, first + b.n_rows) of a head.
    static void gather(const DeltaRule& d, int64_t first, int head, const Block& b) {
        const int key_dim = d.key_dim, value_dim = d.value_dim, n_keys = d.n_key_heads * key_dim;
        const int key_head = (head + d.head_offset) / d.group;
        const int64_t width = 2 * n_keys + int64_t(d.n_value_heads) * value_dim;
        const float scale = 1.0f / __builtin_sqrtf(float(key_dim)), rate = -__builtin_expf(d.log_rate[head]);
        for (int t = 0; t < b.n_rows; t++) {
            const float* qkv = d.qkv + (first + t) * width;
            norm(b.queries + t * b.key_stride, qkv + size_t(key_head) * key_dim, scale, key_dim);
            norm(b.keys + t * b.key_stride, qkv + n_keys + size_t(key_head) * key_dim, 1.0f, key_dim);
            std::memcpy(b.values + t * b.value_stride, qkv + 2 * n_keys + size_t(head) * value_dim, size_t(value_dim) * 4);
            const float* gates = d.beta + (first + t) * d.gate_stride + head;
            b.strength[t] = 1.0f / (1.0f + __builtin_expf(-gates[0]));
            b.decay[t] = __builtin_expf(rate * softplus(d.alpha[(first + t) * d.gate_stride + head] + d.dt_bias[head]));
        }
    }

    static void delta_rule(const DeltaRule& d, const StateRun& run, int head, float* scratch) {
        const int key_dim = d.key_dim, value_dim = d.value_dim;
        const size_t state_floats = size_t(key_dim) * value_dim, out_stride = size_t(d.n_value_heads) * value_dim;
        const auto state_of = [&](int i) { return d.state + (size_t(run.page(i)) * d.n_value_heads + head) * state_floats; };
        Block b;
        b.key_stride = whole_lines(key_dim), b.value_stride = whole_lines(value_dim);
        b.queries = scratch, b.keys = b.queries + kDeltaRows * b.key_stride;
        b.values = b.keys + kDeltaRows * b.key_stride, b.out = b.values + kDeltaRows * b.value_stride;
        b.decay = b.out + kDeltaRows * b.value_stride, b.strength = b.decay + kDeltaRows;
        for (int first = 0; first < run.count; first += b.n_rows) {
            b.n_rows = smaller(smaller(kDeltaRows, run.rows_left(first)), run.count - first);
            float* const state = state_of(first);
            if (run.position + first == 0)
                std::memset(state, 0, state_floats * 4);
            else if (run.begins_page(first))
                std::memcpy(state, state_of(first - 1), state_floats * 4);
            gather(d, run.first + first, head, b);
            int c = 0;
            for (; c + kColumns * W <= value_dim; c += kColumns * W) columns<kColumns>(b, state, key_dim, value_dim, c, W);
            for (; c < value_dim; c += W) columns<1>(b, state, key_dim, value_dim, c, smaller(W, value_dim - c));
            for (int t = 0; t < b.n_rows; t++)
                std::memcpy(d.out + (run.first + first + t) * out_stride + size_t(head) * value_dim, b.out + t * b.value_stride,
                            size_t(value_dim) * 4);
        }
    }

    static F sigmoid(F x) { return S::div(S::set1(1), S::add(S::set1(1), exp<S>(S::sub(S::set1(0), x)))); }

    // out = x * sigmoid(gate)
    static void sigmoid_mul(const RowOut& out, const float* x, const float* gate, int n) {
        RowKernels<S>::write_row(
            out, n, [&](int i) { return S::mul(S::load(x + i), sigmoid(S::load(gate + i))); },
            [&](int i, int c) { return S::mul(load_some<S>(x + i, c), sigmoid(load_some<S>(gate + i, c))); });
    }

    // out = x * sigmoid(gate), with one gate for all
    static void sigmoid_scale(const RowOut& out, const float* x, float gate, int n) {
        const F factor = sigmoid(S::set1(gate));
        RowKernels<S>::write_row(
            out, n, [&](int i) { return S::mul(S::load(x + i), factor); },
            [&](int i, int c) { return S::mul(load_some<S>(x + i, c), factor); });
    }

    // The norm of each head of x [n_heads, width], times silu(gate); x is overwritten.
    static void gated_norm(const RowOut& out, float* x, const float* weight, const float* gate, float eps, int n_heads,
                           int width) {
        for (int h = 0; h < n_heads; h++) {
            float* const head = x + size_t(h) * width;
            RowKernels<S>::rms_norm({head, nullptr, nullptr, nullptr}, head, weight, eps, width);
        }
        RowKernels<S>::gated(out, gate, x, Activation::silu, n_heads * width);
    }
};

}  // namespace
}  // namespace dllama

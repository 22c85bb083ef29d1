// Products with F16 and F32 weights, written once over a vector type S. R = rows of a tile.
#pragma once

#include "row_kernels.h"

namespace dllama {
namespace {

template <int N>
struct Rows {
    static constexpr int n = N;
};

// NT activation rows x NG tiles at a time: NT * NG * R / W chains of multiply-adds hide the latency of one.
template <class S, int R, int NT, int NG>
void float_micro(const float* const weights[NG], const float* x, size_t x_stride, int columns, bool first,
                 float* out, size_t out_stride, int rows_left) {
    constexpr int W = S::W, V = R / W;
    typename S::F acc[NT][NG * V];
    for (int t = 0; t < NT; t++)
        for (int v = 0; v < NG * V; v++) acc[t][v] = S::set1(0);
    for (int c = 0; c < columns; c++) {
        typename S::F w[NG * V];
        for (int g = 0; g < NG; g++)
            for (int v = 0; v < V; v++) w[g * V + v] = S::load(weights[g] + size_t(c) * R + v * W);
        for (int t = 0; t < NT; t++) {
            const typename S::F xt = S::set1(x[t * x_stride + c]);
            for (int v = 0; v < NG * V; v++) acc[t][v] = S::fma(w[v], xt, acc[t][v]);
        }
    }
    for (int t = 0; t < NT; t++)
        for (int v = 0; v < NG * V && v * W < rows_left; v++) {
            float* to = out + t * out_stride + v * W;
            const int n = rows_left - v * W;
            if (n >= W)
                S::store(to, first ? acc[t][v] : S::add(S::load(to), acc[t][v]));
            else
                store_some<S>(to, first ? acc[t][v] : S::add(load_some<S>(to, n), acc[t][v]), n);
        }
}

template <class S, int R, int NG, class T>
void float_tiles(const FloatMatmul& m, int tile, int row_begin, int row_end) {
    alignas(64) float decoded[NG][kSumColumns * R];  // F16 weights of one run of columns; 4 KiB a tile of 8
    const int rows_left = m.n_out - tile * R;
    for (int c = 0; c < m.n_in; c += kSumColumns) {
        const int columns = m.n_in - c < kSumColumns ? m.n_in - c : kSumColumns;
        const float* weights[NG];
        for (int g = 0; g < NG; g++) {
            const auto* packed = reinterpret_cast<const T*>(static_cast<const uint8_t*>(m.weights) +
                                                            size_t(tile + g) * m.tile_bytes) + size_t(c) * R;
            if constexpr (sizeof(T) == 4) {
                weights[g] = packed;
            } else {
                for (int i = 0; i < columns * R; i += S::W) S::store(decoded[g] + i, S::load_half(packed + i));
                weights[g] = decoded[g];
            }
        }
        int t = row_begin;
        const float* x = m.x + c;
        auto micro = [&](auto rows) {
            constexpr int NT = decltype(rows)::n;
            for (; t + NT <= row_end; t += NT)
                float_micro<S, R, NT, NG>(weights, x + size_t(t) * m.n_in, size_t(m.n_in), columns, c == 0,
                                          m.out + size_t(t) * m.n_out + size_t(tile) * R, size_t(m.n_out), rows_left);
        };
        micro(Rows<4>{});
        micro(Rows<1>{});
    }
}

template <class S, int R, int NG, class T>
void float_matmul(const FloatMatmul& m, int tile_begin, int tile_end, int row_begin, int row_end) {
    int tile = tile_begin;
    for (; tile + NG <= tile_end; tile += NG) float_tiles<S, R, NG, T>(m, tile, row_begin, row_end);
    for (; tile < tile_end; tile++) float_tiles<S, R, 1, T>(m, tile, row_begin, row_end);
}

}  // namespace
}  // namespace dllama

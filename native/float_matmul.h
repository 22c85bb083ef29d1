// Products with F16 and F32 weights, written once over a vector type S. R = rows of a tile.
#pragma once

#include "row_kernels.h"

namespace dllama {
namespace {

template <class S>
typename S::F load_weight(const float* p) {
    return S::load(p);
}
template <class S>
typename S::F load_weight(const uint16_t* p) {
    return S::load_half(p);
}

// NT activation rows x NG tiles at a time: NT * NG * R / W chains of multiply-adds hide the latency of one.
template <class S, int R, int NT, int NG, class T>
void float_micro(const T* const weights[NG], const float* x, size_t x_stride, int columns, bool first, float* out,
                 size_t out_stride, int rows_left) {
    constexpr int W = S::W, V = R / W;
    typename S::F acc[NT][NG * V];
    UNROLL for (int t = 0; t < NT; t++)
        UNROLL for (int v = 0; v < NG * V; v++) acc[t][v] = S::set1(0);
    for (int c = 0; c < columns; c++) {
        typename S::F w[NG * V];
        UNROLL for (int g = 0; g < NG; g++)
            UNROLL for (int v = 0; v < V; v++) w[g * V + v] = load_weight<S>(weights[g] + size_t(c) * R + v * W);
        UNROLL for (int t = 0; t < NT; t++) {
            const typename S::F xt = S::set1(x[t * x_stride + c]);
            UNROLL for (int v = 0; v < NG * V; v++) acc[t][v] = S::fma(w[v], xt, acc[t][v]);
        }
    }
    UNROLL for (int t = 0; t < NT; t++)
        UNROLL for (int v = 0; v < NG * V; v++) {
            float* to = out + t * out_stride + v * W;
            const int n = rows_left - v * W;
            if (n >= W)
                S::store(to, first ? acc[t][v] : S::add(S::load(to), acc[t][v]));
            else if (n > 0)
                store_some<S>(to, first ? acc[t][v] : S::add(load_some<S>(to, n), acc[t][v]), n);
        }
}

// Rows [row, row_end) in runs of NT, for one run of columns of NG tiles; returns the first row that is left.
template <class S, int R, int NT, int NG, class T>
int float_rows(const FloatMatmul& m, const T* const weights[NG], int tile, int column, int row, int row_end) {
    const int columns = m.n_in - column < kSumColumns ? m.n_in - column : kSumColumns;
    for (; row + NT <= row_end; row += NT)
        float_micro<S, R, NT, NG>(weights, m.x + size_t(row) * m.n_in + column, size_t(m.n_in), columns, column == 0 && !m.adds,
                                  m.out + size_t(row) * m.out_stride + size_t(tile) * R, m.out_stride,
                                  m.n_out - tile * R);
    return row;
}

// Many rows share weights that are decoded once for each run of columns; one to three read them as they are.
constexpr int kFewRows = 3;

template <class T>
const T* tile_columns(const FloatMatmul& m, int tile, int tile_rows, int column) {
    const uint8_t* start = static_cast<const uint8_t*>(m.weights) + size_t(tile) * m.tile_bytes;
    return reinterpret_cast<const T*>(start) + size_t(column) * tile_rows;
}

template <class S, int R, int NG, class T>
void float_few_rows(const FloatMatmul& m, int tile, int row_begin, int row_end) {
    for (int c = 0; c < m.n_in; c += kSumColumns) {
        const T* weights[NG];
        for (int g = 0; g < NG; g++) weights[g] = tile_columns<T>(m, tile + g, R, c);
        float_rows<S, R, 1, NG>(m, weights, tile, c, row_begin, row_end);
    }
}

template <class S, int R, int NG, class T>
void float_many_rows(const FloatMatmul& m, int tile, int row_begin, int row_end) {
    alignas(64) float decoded[NG][kSumColumns * R];  // 4 KiB a tile of 8 rows
    for (int c = 0; c < m.n_in; c += kSumColumns) {
        const float* weights[NG];
        for (int g = 0; g < NG; g++) {
            const T* packed = tile_columns<T>(m, tile + g, R, c);
            if constexpr (sizeof(T) == 4) {
                weights[g] = packed;
            } else {
                const int n = (m.n_in - c < kSumColumns ? m.n_in - c : kSumColumns) * R;
                for (int i = 0; i < n; i += S::W) S::store(decoded[g] + i, S::load_half(packed + i));
                weights[g] = decoded[g];
            }
        }
        const int row = float_rows<S, R, 4, NG>(m, weights, tile, c, row_begin, row_end);
        float_rows<S, R, 1, NG>(m, weights, tile, c, row, row_end);
    }
}

// NG tiles at a time for many rows, twice as many for few.
template <class S, int R, int NG, class T>
void float_matmul(const FloatMatmul& m, int tile_begin, int tile_end, int row_begin, int row_end) {
    int tile = tile_begin;
    if (row_end - row_begin <= kFewRows) {
        for (; tile + 2 * NG <= tile_end; tile += 2 * NG) float_few_rows<S, R, 2 * NG, T>(m, tile, row_begin, row_end);
        for (; tile + NG <= tile_end; tile += NG) float_few_rows<S, R, NG, T>(m, tile, row_begin, row_end);
        for (; tile < tile_end; tile++) float_few_rows<S, R, 1, T>(m, tile, row_begin, row_end);
    } else {
        for (; tile + NG <= tile_end; tile += NG) float_many_rows<S, R, NG, T>(m, tile, row_begin, row_end);
        for (; tile < tile_end; tile++) float_many_rows<S, R, 1, T>(m, tile, row_begin, row_end);
    }
}

}  // namespace
}  // namespace dllama

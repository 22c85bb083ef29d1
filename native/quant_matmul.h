// Products with packed Q40 and Q80 weights, written once over a vector type S and a Block that multiplies integers.
// A tile interleaves R = S::W rows, so that a register of sums is one tile; Block has
//   bytes: of one block of a tile, its R scales included;
//   dot<NT, NG>(units, x, x_sum, dot): dot[t][n] = the exact integer products of the block with 32 columns of NG
//   tiles (units[n]: what follows the scales) and NT activation rows (x[t], the sum of its quants at x_sum[t]).
// The float operations of an output element are the same whatever NT and NG are, so results are too.
//
// Tiles that are multiplied together lie far apart: those of a group are `stride` tiles from each other, and a call walks
// all groups of its tiles, so that NG places are each read on and on. Prefetchers need such long streams: tiles that lie
// beside each other end after a few pages, and each time as many new streams begin (docs/log.md).
#pragma once

#include "row_kernels.h"

namespace dllama {
namespace {

template <class S, class Block, int NT, int NG>
void quant_micro(const QuantMatmul& m, int tile, int stride, int row) {
    constexpr int R = S::W;
    const uint8_t* block[NG];
    const int8_t* x[NT];
    const float* x_scale[NT];
    const int32_t* x_sum[NT];
    typename S::F acc[NT][NG];
    UNROLL for (int n = 0; n < NG; n++) block[n] = m.weights + size_t(tile + n * stride) * m.tile_bytes;
    UNROLL for (int t = 0; t < NT; t++) {
        const size_t i = size_t(row + t) * m.n_blocks;
        x[t] = m.x_quants + i * kBlock, x_scale[t] = m.x_scales + i, x_sum[t] = m.x_sums + i;
        UNROLL for (int n = 0; n < NG; n++) acc[t][n] = S::set1(0);
    }
    for (int b = 0; b < m.n_blocks; b++) {
        const uint8_t* units[NG];
        typename S::F scale[NG];
        typename S::I dot[NT][NG];
        UNROLL for (int n = 0; n < NG; n++) {
            units[n] = block[n] + 2 * R;
            scale[n] = S::load_half(reinterpret_cast<const uint16_t*>(block[n]));
            block[n] += Block::bytes;
        }
        Block::template dot<NT, NG>(units, x, x_sum, dot);
        UNROLL for (int t = 0; t < NT; t++) {
            const typename S::F xs = S::set1(*x_scale[t]);
            UNROLL for (int n = 0; n < NG; n++)
                acc[t][n] = S::fma(S::mul(S::to_float(dot[t][n]), xs), scale[n], acc[t][n]);
            x[t] += kBlock, x_scale[t]++, x_sum[t]++;
        }
    }
    for (int t = 0; t < NT; t++)
        for (int n = 0; n < NG; n++) {
            const int first = (tile + n * stride) * R, rows_left = m.n_out - first;
            float* out = m.out + size_t(row + t) * m.n_out + first;
            if (rows_left >= R)
                S::store(out, m.adds ? S::add(S::load(out), acc[t][n]) : acc[t][n]);
            else if (rows_left > 0)
                store_some<S>(out, m.adds ? S::add(load_some<S>(out, rows_left), acc[t][n]) : acc[t][n], rows_left);
        }
}

// All rows of NG tiles: runs of NT rows, and of two rows, take NM tiles at a time; a last row takes all NG.
template <class S, class Block, int NT, int NM, int NG>
void quant_tiles(const QuantMatmul& m, int tile, int stride, int row_begin, int row_end) {
    static_assert(NG % NM == 0, "a group is a whole number of mat-mat tiles");
    int row = row_begin;
    for (int n = 0; n < NG; n += NM)
        for (row = row_begin; row + NT <= row_end; row += NT)
            quant_micro<S, Block, NT, NM>(m, tile + n * stride, stride, row);
    for (; row + 2 <= row_end; row += 2)
        for (int n = 0; n < NG; n += NM) quant_micro<S, Block, 2, NM>(m, tile + n * stride, stride, row);
    for (; row < row_end; row++) quant_micro<S, Block, 1, NG>(m, tile, stride, row);
}

// NT activation rows x NM tiles where there are rows enough (mat-mat), 1 x NG where not (mat-vec).
template <class S, class Block, int NT, int NM, int NG>
void quant_matmul(const QuantMatmul& m, int tile_begin, int tile_end, int row_begin, int row_end) {
    const int n_groups = (tile_end - tile_begin) / NG;
    for (int i = 0; i < n_groups; i++)
        quant_tiles<S, Block, NT, NM, NG>(m, tile_begin + i, n_groups, row_begin, row_end);
    for (int tile = tile_begin + n_groups * NG; tile < tile_end; tile++)
        quant_tiles<S, Block, NT, 1, 1>(m, tile, 1, row_begin, row_end);
}

}  // namespace
}  // namespace dllama

// Products with packed weights of blocked types, written once over a vector type S and a Block that multiplies integers.
// A tile interleaves R = S::W rows, so that a register of sums is one tile; Block has
//   type: of the weights;
//   dot<NT, NG>(runs, x, x_sum, dot): dot[p][t][n] = the exact integer products of part p of a run of 32 columns (the
//   part that shares scale p: all of it, or its halves) of NG tiles (runs[n]: the quants, as block_layout.h has them)
//   with NT activation rows (x[t], the sum of its quants at x_sum[t]).
// The float operations of an output element are the same whatever NT and NG are, so results are too.
//
// Tiles that are multiplied together lie far apart: those of a group are `stride` tiles from each other, and a call walks
// all groups of its tiles, so that NG places are each read on and on. Prefetchers need such long streams: tiles that lie
// beside each other end after a few pages, and each time as many new streams begin (docs/log.md).
#pragma once

#include "row_kernels.h"
#include "tile_scales.h"

namespace dllama {
namespace {

// Asks for a run of NG tiles that comes later: a block of 256 columns, or eight of 32, further on. Prefetchers fall behind
// where scales of scales are worked out (28 to 33 GB/s of q4k on one core), and a little elsewhere (q40: 35 to 37).
template <class Scales, int NG>
INLINE void ask_ahead(const uint8_t* const block[NG], int run) {
    constexpr int bytes = Scales::tile_block_bytes / Scales::runs, ahead = Scales::runs > 1 ? 1 : 8;
    UNROLL for (int n = 0; n < NG; n++)
        UNROLL for (int i = 0; i < bytes; i += 64)
            __builtin_prefetch(block[n] + ahead * Scales::tile_block_bytes + run * bytes + i);
}

template <class S, class Block, int NT, int NG>
void quant_micro(const QuantMatmul& m, int tile, int stride, int row) {
    using Scales = TileScales<S, Block::type>;
    constexpr int R = S::W, P = Scales::parts;
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
    // The runs of a block that the rows have: all of them but of the first and the last, where rows are cut within.
    const auto add_runs = [&](int first, int n_runs) __attribute__((always_inline)) {
        const HeldScales<Scales, S, NG> scales(block);
        for (int i = 0; i < n_runs; i++) {
            const int run = first + i;
            const uint8_t* quants[NG];
            typename S::I dot[P][NT][NG];
            UNROLL for (int n = 0; n < NG; n++) quants[n] = Scales::run_at(block[n], i);
            if constexpr (NT == 1) ask_ahead<Scales, NG>(block, i);  // with more rows weights are near at most times
            Block::template dot<NT, NG>(quants, x, x_sum, dot);
            UNROLL for (int t = 0; t < NT; t++) {
                const typename S::F xs = S::set1(*x_scale[t]);
                UNROLL for (int n = 0; n < NG; n++)
                    if constexpr (P == 1) {
                        acc[t][n] = S::fma(S::mul(S::to_float(dot[0][t][n]), xs), scales.scale(n, run), acc[t][n]);
                    } else {
                        const typename S::F first = S::mul(S::to_float(dot[0][t][n]), scales.scale(n, 2 * run));
                        const typename S::F both = S::fma(S::to_float(dot[1][t][n]), scales.scale(n, 2 * run + 1), first);
                        acc[t][n] = S::fma(both, xs, acc[t][n]);
                    }
                if constexpr (Scales::has_min) {
                    const typename S::F sum = S::set1(*x_scale[t] * float(*x_sum[t]));
                    UNROLL for (int n = 0; n < NG; n++) acc[t][n] = S::fma(sum, scales.min(n, run), acc[t][n]);
                }
                x[t] += kBlock, x_scale[t]++, x_sum[t]++;
            }
        }
        UNROLL for (int n = 0; n < NG; n++) block[n] += Scales::tile_bytes(n_runs);
    };
    if constexpr (Scales::runs == 1) {
        for (int b = 0; b < m.n_blocks; b++) add_runs(0, 1);
    } else {
        HeldRuns held{m.first_run, 0};
        for (int b = 0; b < m.n_blocks; b += held.n, held.first = 0) {
            held = held_runs(Block::type, held.first, m.n_blocks - b);
            if (held.n == Scales::runs)
                add_runs(0, Scales::runs);
            else
                add_runs(held.first, held.n);
        }
    }
    for (int t = 0; t < NT; t++)
        for (int n = 0; n < NG; n++) {
            const int first = (tile + n * stride) * R, rows_left = m.n_out - first;
            float* out = m.out + size_t(row + t) * m.out_stride + first;
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

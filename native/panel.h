// Blocks of packed weights as a panel, and their products with activation rows, for AVX-512 VNNI.
//
// A panel is what two tiles hold of a run of columns, unpacked once into the first-level cache for all rows of a call.
// What is left of a block of 16 rows and one token are 8 vpdpbusd and two multiply-adds, on the two ports that have
// either: 0.80 of the peak is the limit. The conversion to float costs no instruction of its own: sums begin at the bits
// of the float 1.5 * 2^23, so that a sum s, read as a float, is 1.5 * 2^23 + s, and one multiply-add with the
// activations' scale d gives d * (1.5 * 2^23 + s) - d * 1.5 * 2^23 = d * s, rounded once. It is what quant_micro in
// quant_matmul.h computes, bit for bit: |s| < 2^22, and d, a float16, times 1.5 * 2^23 has a float32 value. Where a run
// has two scales, the sum of the first part is taken back with its scale in place of d: a float16 times a number of 8 bits,
// for which the same holds.
//
// All types look alike once they are unpacked, so there are three kinds of these products only: of P parts in a run of 32
// columns that have scales of their own, 1 or 2, and with minima or without.
#pragma once

#include <immintrin.h>

#include "opaque.h"
#include "row_kernels.h"
#include "simd_avx512.h"
#include "tile_scales.h"
#include "vnni_blocks.h"

namespace dllama {
namespace {

constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: a float's unit is 1 here, 2^22 up and down
constexpr int32_t kMagicBits = 0x4B400000;

// Blocks of a panel: 16 KiB of weights and 2 KiB of scales, a third of a first-level cache of 48 KiB and half of one of
// 32. Sums go to memory and back once for each panel, every 640 cycles.
constexpr int kPanelBlocks = 16;
// 2 tiles x 4 tokens x 2 blocks are 16 chains of vpdpbusd: 5 to 6 cycles of latency, 2 a cycle. With the 8 float sums and
// what is under way they are 30 of 32 registers. 12 chains (6 tokens, or 3 tiles, of one block) reach 4 % less.
constexpr int kPanelTiles = 2;
constexpr int kPanelTokens = 4;
constexpr int kPanelRows = Avx512::W;
constexpr int kQuadsOfBlock = kBlock / 4;

template <int P, bool MIN, int NG>
struct alignas(64) Panel {
    uint8_t weights[kPanelBlocks][kQuadsOfBlock][NG][64];  // 4 columns of 16 rows, unsigned
    float scales[kPanelBlocks * P][NG][kPanelRows];
    float minima[MIN ? kPanelBlocks : 1][NG][kPanelRows];
    float back[P > 1 ? kPanelBlocks : 1][NG][kPanelRows];  // what takes the start of a first part back to zero
};

// Of one tile of a panel.
struct PanelTile {
    uint8_t* weights;
    float *scales, *minima, *back;
};

// How a type's weights become a panel.
struct PanelFormat {
    using Unpack = void (*)(const uint8_t* blocks, int first, int end, PanelTile to);
    Unpack unpack[kPanelTiles];  // into a panel of one tile, of two: its runs from `first` to `end`
    int offset;                        // of the unsigned weights
    int runs, block_bytes, run_bytes;  // runs of 32 columns in a block, its bytes in a tile, and those of a run
};

// Each quad of columns and each vector of scales is NG registers from the one before it.
template <class Block, int NG>
void unpack_tile(const uint8_t* block, int first, int end, PanelTile to) {
    using Scales = TileScales<Avx512, Block::type>;
    constexpr int step = NG * kPanelRows;
    to.weights += first * kQuadsOfBlock * NG * 64;
    HeldRuns held{first, 0};
    for (int left = end - first; left > 0; left -= held.n, held.first = 0) {
        if constexpr (Scales::runs == 1)
            held.n = 1;
        else
            held = held_runs(Block::type, held.first, left);
        if constexpr (Scales::runs == 1) {
            _mm512_store_ps(to.scales, Scales::scale(block));
            if constexpr (Scales::has_min) _mm512_store_ps(to.minima, Scales::min(block));
        } else {
            Scales::read(block, to.scales, to.minima, step);
        }
        if constexpr (Scales::parts == 2)
            for (int run = 0; run < Scales::runs; run++, to.back += step)
                _mm512_store_ps(to.back, _mm512_mul_ps(_mm512_load_ps(to.scales + 2 * run * step), _mm512_set1_ps(-kMagic)));
        to.scales += Scales::runs * Scales::parts * step, to.minima += Scales::runs * step;
        for (int run = 0; run < held.n; run++, to.weights += kQuadsOfBlock * NG * 64)
            for_quads([&](auto g) __attribute__((always_inline)) {
                constexpr int G = decltype(g)::value;
                const uint8_t* quants = Scales::run_at(block, run);
                // parentheses, since some headers have macros under these names
                _mm512_store_si512(to.weights + G * NG * 64, (Block::Weights::template half<G, 0>(quants)));
                _mm512_store_si512(to.weights + (G + 4) * NG * 64, (Block::Weights::template half<G, 1>(quants)));
            });
        block += Scales::tile_bytes(held.n);
    }
}

// Where activation rows stand: the first of them at one block, the next ones n_blocks further on each.
struct PanelRowsAt {
    const int8_t* quants;
    const float* scales;
    const int32_t* sums;
    const int32_t* first_sums;  // of the first halves of blocks, where there are two parts
    size_t n_blocks;

    const int8_t* quants_of(int t) const { return quants + t * n_blocks * kBlock; }
    void skip_blocks(size_t n) { quants += n * kBlock, scales += n, sums += n, first_sums += n; }
    void skip_rows(size_t n) { skip_blocks(n * n_blocks); }
};

// What the blocks of a panel add to products with NT rows, worked out a row at a time.
template <int P, bool MIN, int NT>
struct alignas(64) PanelTerms {
    int32_t start[P][NT][kPanelBlocks];  // where the integer sums begin
    float scale[NT][kPanelBlocks];
    float back[P == 1 ? NT : 1][kPanelBlocks];  // what takes the start of a sum back to zero
    float low[MIN ? NT : 1][kPanelBlocks];  // what minima are multiplied with

    PanelTerms(const PanelRowsAt& x, int32_t offset, __mmask16 blocks) {
        UNROLL for (int t = 0; t < NT; t++) {
            const __m512i sums = _mm512_maskz_loadu_epi32(blocks, x.sums + t * x.n_blocks);
            const __m512 scales = _mm512_maskz_loadu_ps(blocks, x.scales + t * x.n_blocks);
            if constexpr (P == 1) {
                store_start(start[0][t], sums, offset);
            } else {
                const __m512i first = _mm512_maskz_loadu_epi32(blocks, x.first_sums + t * x.n_blocks);
                store_start(start[0][t], first, offset);
                store_start(start[1][t], _mm512_sub_epi32(sums, first), offset);
            }
            _mm512_store_ps(scale[t], scales);
            if constexpr (P == 1) _mm512_store_ps(back[t], _mm512_mul_ps(scales, _mm512_set1_ps(-kMagic)));
            if constexpr (MIN) _mm512_store_ps(low[t], _mm512_mul_ps(scales, _mm512_cvtepi32_ps(sums)));
        }
    }

private:
    static void store_start(int32_t* to, __m512i sums, int32_t offset) {
        const __m512i down = _mm512_mullo_epi32(sums, _mm512_set1_epi32(offset));
        _mm512_store_si512(to, _mm512_sub_epi32(_mm512_set1_epi32(kMagicBits), down));
    }
};

// sums[t][n] += NB blocks of a panel's tile n, which are those from `at` on, times activation row t. A chain is what is
// added up in integers: a block, or one of its two parts. Of the parts only one is taken back to zero by a multiply-add: a
// plain subtraction is done elsewhere than on the two ports, where a CPU has more than these for it (Zen).
template <int P, bool MIN, int NT, int NG, int NB>
inline void panel_blocks(const Panel<P, MIN, NG>& panel, const PanelRowsAt& x, const PanelTerms<P, MIN, NT>& terms, int at,
                         int block, __m512 sums[NT][NG]) {
    constexpr int kChains = NB * P, kQuads = kQuadsOfBlock / P;
    const uint8_t* weights = panel.weights[at][0][0];
    __m512i dot[kChains][NT][NG];
    UNROLL for (int c = 0; c < kChains; c++)
        UNROLL for (int t = 0; t < NT; t++)
            UNROLL for (int n = 0; n < NG; n++) dot[c][t][n] = _mm512_set1_epi32(terms.start[c % P][t][block + c / P]);
    UNROLL for (int q = 0; q < kQuads; q++)
        UNROLL for (int c = 0; c < kChains; c++) {
            __m512i w[NG];
            UNROLL for (int n = 0; n < NG; n++)
                w[n] = _mm512_load_si512(weights + ((c * kQuads + q) * NG + n) * 64);
            UNROLL for (int t = 0; t < NT; t++) {
                int32_t four;
                std::memcpy(&four, x.quants_of(t) + 4 * (c * kQuads + q), 4);
                __m512i xt = _mm512_set1_epi32(four);
                if constexpr (NG > 1) DLLAMA_OPAQUE(xt);  // else GCC loads it anew for each tile
                UNROLL for (int n = 0; n < NG; n++) dot[c][t][n] = _mm512_dpbusd_epi32(dot[c][t][n], w[n], xt);
            }
        }
    UNROLL for (int b = 0; b < NB; b++)
        UNROLL for (int t = 0; t < NT; t++) {
            const __m512 d = _mm512_set1_ps(terms.scale[t][block + b]);
            UNROLL for (int n = 0; n < NG; n++) {
                if constexpr (P == 1) {
                    const __m512 back = _mm512_set1_ps(terms.back[t][block + b]);
                    const __m512 part = _mm512_fmadd_ps(_mm512_castsi512_ps(dot[b][t][n]), d, back);
                    sums[t][n] = _mm512_fmadd_ps(part, _mm512_load_ps(panel.scales[at + b][n]), sums[t][n]);
                } else {
                    const __m512 *first = (const __m512*)panel.scales[2 * (at + b)][n], *second = first + NG;
                    const __m512 back = _mm512_load_ps(panel.back[at + b][n]);
                    const __m512 part = _mm512_fmadd_ps(_mm512_castsi512_ps(dot[2 * b][t][n]), *first, back);
                    const __m512 sum = _mm512_sub_ps(_mm512_castsi512_ps(dot[2 * b + 1][t][n]), _mm512_set1_ps(kMagic));
                    sums[t][n] = _mm512_fmadd_ps(_mm512_fmadd_ps(sum, *second, part), d, sums[t][n]);
                }
                if constexpr (MIN)
                    sums[t][n] = _mm512_fmadd_ps(_mm512_set1_ps(terms.low[t][block + b]),
                                                 _mm512_load_ps(panel.minima[at + b][n]), sums[t][n]);
            }
        }
}

}  // namespace
}  // namespace dllama

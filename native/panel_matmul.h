// Products of many activation rows with packed weights of blocked types, for AVX-512 VNNI.
//
// A panel is what two tiles hold of a run of columns, unpacked once into the first-level cache for all rows of a call.
// What is left of a block of 16 rows and one token are 8 vpdpbusd and two multiply-adds, on the two ports that have
// either: 0.80 of the peak is the limit. The conversion to float costs no instruction of its own: sums begin at the bits
// of the float 1.5 * 2^23, so that a sum s, read as a float, is 1.5 * 2^23 + s, and one multiply-add with the
// activations' scale d gives d * (1.5 * 2^23 + s) - d * 1.5 * 2^23 = d * s, rounded once. It is what quant_micro in
// quant_matmul.h computes, bit for bit: |s| < 2^22, and d, a float16, times 1.5 * 2^23 has a float32 value.
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
// Activation rows that share a panel: unpacking is 2 % of the work with 128, 8 % with 32. Their quants are read again for
// each panel of a pair of tiles, so they are to stay in half of a second-level cache of 1 MiB.
constexpr int kPanelMaxRows = 128;
constexpr int kPanelLeastRows = 32;
constexpr int kPanelQuantBytes = 512 << 10;
constexpr int kQuadsOfBlock = kBlock / 4;
// Sums of half blocks that are worked out once for rows that share panels: 64 KiB. Where rows have more blocks than 32
// rows of it hold, fewer rows share panels; more than kPanelMaxBlocks cannot.
constexpr int kPanelHalfSums = kPanelQuantBytes / kBlock;
constexpr int kPanelMaxBlocks = kPanelHalfSums / kPanelTokens;

template <int P, bool MIN, int NG>
struct alignas(64) Panel {
    uint8_t weights[kPanelBlocks][kQuadsOfBlock][NG][64];  // 4 columns of 16 rows, unsigned
    float scales[kPanelBlocks * P][NG][kPanelRows];
    float minima[MIN ? kPanelBlocks : 1][NG][kPanelRows];
};

// Of one tile of a panel.
struct PanelTile {
    uint8_t* weights;
    float *scales, *minima;
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
    float back[NT][kPanelBlocks];  // what takes the start of a sum back to zero
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
            _mm512_store_ps(back[t], _mm512_mul_ps(scales, _mm512_set1_ps(-kMagic)));
            if constexpr (MIN) _mm512_store_ps(low[t], _mm512_mul_ps(scales, _mm512_cvtepi32_ps(sums)));
        }
    }

private:
    static void store_start(int32_t* to, __m512i sums, int32_t offset) {
        const __m512i down = _mm512_mullo_epi32(sums, _mm512_set1_epi32(offset));
        _mm512_store_si512(to, _mm512_sub_epi32(_mm512_set1_epi32(kMagicBits), down));
    }
};

// sums[t][n] += NB blocks of a panel's tile n, which are those from `at` on, times activation row t. A chain is what is added up in integers: a block, or
// one of its two parts.
template <int P, bool MIN, int NT, int NG, int NB>
inline void panel_blocks(const Panel<P, MIN, NG>& panel, const PanelRowsAt& x, const PanelTerms<P, MIN, NT>& terms, int at, int block,
                         __m512 sums[NT][NG]) {
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
    UNROLL for (int c = 0; c < kChains; c++)
        UNROLL for (int t = 0; t < NT; t++) {
            const int b = block + c / P;
            const __m512 d = _mm512_set1_ps(terms.scale[t][b]), back = _mm512_set1_ps(terms.back[t][b]);
            UNROLL for (int n = 0; n < NG; n++) {
                const __m512 part = _mm512_fmadd_ps(_mm512_castsi512_ps(dot[c][t][n]), d, back);
                sums[t][n] = _mm512_fmadd_ps(part, _mm512_load_ps(panel.scales[at * P + c][n]), sums[t][n]);
                if constexpr (MIN)
                    sums[t][n] = _mm512_fmadd_ps(_mm512_set1_ps(terms.low[t][b]), _mm512_load_ps(panel.minima[at + c / P][n]), sums[t][n]);
            }
        }
}

// What is asked for while a panel is used, since what a panel takes from memory in one go would be waited for: the same
// place of kPanelTiles tiles that lie `apart` bytes from each other, `lines` cache lines in each step.
struct Ahead {
    const uint8_t* at;
    size_t apart;
    int lines;

    void ask() {
        for (int i = 0; i < lines; i++, at += 64)
            UNROLL for (int n = 0; n < kPanelTiles; n++) __builtin_prefetch(at + n * apart);
    }
};

// Where the output of some rows stands: sums on their way through the panels, and their last place.
template <int NG>
struct PanelOut {
    float* sums;  // [rows, NG, kPanelRows]
    float* out;
    size_t out_stride;
    const __mmask16* lanes;  // of each tile, those that are rows of the matrix
    bool adds;               // to what is in `out`
    bool first, last;        // panel of their rows
};

// sums += a panel's tiles, n_blocks of them from `first` on, times NT activation rows.
template <int P, bool MIN, int NT, int NG>
inline __attribute__((always_inline)) void panel_micro(const Panel<P, MIN, NG>& panel, int offset, int first, int n_blocks,
                                                       const PanelRowsAt& rows, const PanelOut<NG>& to, Ahead& ahead) {
    constexpr int NB = 2 / P;  // two chains at a time
    const PanelTerms<P, MIN, NT> terms(rows, offset, __mmask16((1u << n_blocks) - 1));
    __m512 sums[NT][NG];
    UNROLL for (int t = 0; t < NT; t++)
        UNROLL for (int n = 0; n < NG; n++)
            sums[t][n] = to.first ? _mm512_setzero_ps() : _mm512_load_ps(to.sums + (t * NG + n) * kPanelRows);
    PanelRowsAt x = rows;
    int b = 0;
    for (; b + NB <= n_blocks; b += NB, x.skip_blocks(NB)) {
        ahead.ask();
        panel_blocks<P, MIN, NT, NG, NB>(panel, x, terms, first + b, b, sums);
    }
    if (b < n_blocks) panel_blocks<P, MIN, NT, NG, 1>(panel, x, terms, first + b, b, sums);
    UNROLL for (int t = 0; t < NT; t++)
        UNROLL for (int n = 0; n < NG; n++)
            if (to.last) {
                float* out = to.out + t * to.out_stride + n * kPanelRows;
                if (to.adds) sums[t][n] = _mm512_add_ps(_mm512_maskz_loadu_ps(to.lanes[n], out), sums[t][n]);
                _mm512_mask_storeu_ps(out, to.lanes[n], sums[t][n]);
            } else
                _mm512_store_ps(to.sums + (t * NG + n) * kPanelRows, sums[t][n]);
}

// The product of some rows with some tiles, panel by panel.
template <int P, bool MIN>
class PanelProduct {
public:
    // At most kPanelMaxRows rows; first_sums: of the first halves of their blocks, [rows, n_blocks], for two parts.
    PanelProduct(const PanelFormat& format, const QuantMatmul& m, int row_begin, int row_end, const int32_t* first_sums)
        : format_(format), m_(m), row_begin_(row_begin), row_end_(row_end), first_sums_(first_sums) {}

    // Tiles tile to tile + NG - 1.
    template <int NG>
    void tiles(int tile) {
        __mmask16 lanes[NG];
        for (int n = 0; n < NG; n++) {
            const int left = m_.n_out - (tile + n) * kPanelRows;
            lanes[n] = left >= kPanelRows ? __mmask16(0xFFFF) : left > 0 ? __mmask16((1u << left) - 1) : __mmask16(0);
        }
        float* out = m_.out + size_t(row_begin_) * m_.out_stride + size_t(tile) * kPanelRows;
        all_columns<NG>(tile, 1, at(tile + NG, 0), {sums_, out, m_.out_stride, lanes, m_.adds, true, false});
    }

    // Columns 16 * tile to 16 * tile + 15 of act(gate) * up, where the first half of the tiles are the gate's:
    // `gated` [rows, 32] float32 gets them from its column `first` on.
    void gated_tile(int tile, Activation activation, int first, float* gated) {
        const int apart = m_.n_out / 2 / kPanelRows;
        const __mmask16 lanes[2] = {0xFFFF, 0xFFFF};
        all_columns<2>(tile, apart, at(tile + 1, 0), {sums_, sums_, 2 * kPanelRows, lanes, false, true, false});
        for (int r = 0; r < row_end_ - row_begin_; r++) {
            const float* of_row = sums_ + r * 2 * kPanelRows;
            const __m512 gate = _mm512_load_ps(of_row), up = _mm512_load_ps(of_row + kPanelRows);
            _mm512_store_ps(gated + r * kBlock + first, RowKernels<Avx512>::activated(activation, gate, up));
        }
    }

private:
    // Tiles `tile` and, NG in all, those `apart` tiles further on, of all columns: the weights are read in long streams,
    // and the sums stay near. (Taking a run of columns of many tiles at a time keeps activations nearer, but where rows of
    // the output are 64 kB apart their sums then fall into the same few lines of the second-level cache: 450 Gop/s in
    // place of 530.) `after` is what is multiplied next.
    template <int NG>
    void all_columns(int tile, int apart, const uint8_t* after, PanelOut<NG> to) {
        int n_blocks = 0, first = m_.first_run;  // the first block stands where it would in a row that is not cut
        for (int block = 0; block < m_.n_blocks; block += n_blocks, first = 0) {
            n_blocks = m_.n_blocks - block < kPanelBlocks - first ? m_.n_blocks - block : kPanelBlocks - first;
            to.first = block == 0, to.last = block + n_blocks == m_.n_blocks;
            alignas(64) Panel<P, MIN, NG> panel;
            for (int n = 0; n < NG; n++)
                format_.unpack[NG - 1](at(tile + n * apart, block), first, first + n_blocks,
                                       {panel.weights[0][0][n], panel.scales[0][n], panel.minima[0][n]});
            Ahead ahead{to.last ? after : at(tile, block + n_blocks), apart * m_.tile_bytes, 0};
            all_rows<NG>(panel, first, block, n_blocks, to, ahead);
        }
    }

    const uint8_t* at(int tile, int block) const {
        const int whole = (block + m_.first_run) / format_.runs * format_.block_bytes;
        const int absent = block ? m_.first_run * format_.run_bytes : 0;
        return m_.weights + size_t(tile) * m_.tile_bytes + size_t(whole - absent);
    }

    template <int NG>
    void all_rows(const Panel<P, MIN, NG>& panel, int first, int block, int n_blocks, PanelOut<NG> to, Ahead& ahead) const {
        const int n_rows = row_end_ - row_begin_, n_lines = kPanelBlocks / format_.runs * format_.block_bytes / 64 + 1;
        const int n_steps = n_rows / kPanelTokens * (n_blocks / 2);
        const uint8_t* const asked = ahead.at + n_lines * 64;
        ahead.lines = n_steps > 0 ? (n_lines + n_steps - 1) / n_steps : 0;
        const size_t i = size_t(row_begin_) * m_.n_blocks + block;
        PanelRowsAt x{m_.x_quants + i * kBlock, m_.x_scales + i, m_.x_sums + i, first_sums_ + (P > 1 ? block : 0),
                      size_t(m_.n_blocks)};
        int row = 0;
        for (; row + kPanelTokens <= n_rows; row += kPanelTokens) {
            if (to.last) ask_for_output(to);
            panel_micro<P, MIN, kPanelTokens, NG>(panel, format_.offset, first, n_blocks, x, to, ahead);
            if (ahead.at >= asked) ahead.lines = 0;
            x.skip_rows(kPanelTokens);
            to.sums += kPanelTokens * NG * kPanelRows, to.out += kPanelTokens * to.out_stride;
        }
        ahead.lines = 0;
        switch (n_rows - row) {
            case 3: return panel_micro<P, MIN, 3, NG>(panel, format_.offset, first, n_blocks, x, to, ahead);
            case 2: return panel_micro<P, MIN, 2, NG>(panel, format_.offset, first, n_blocks, x, to, ahead);
            case 1: return panel_micro<P, MIN, 1, NG>(panel, format_.offset, first, n_blocks, x, to, ahead);
        }
    }

    // The lines of the group of rows to come: 447 to 495 Gop/s for 512 rows of 2048.
    template <int NG>
    static void ask_for_output(const PanelOut<NG>& to) {
        UNROLL for (int t = kPanelTokens; t < 2 * kPanelTokens; t++)
            UNROLL for (int n = 0; n < NG; n++) __builtin_prefetch(to.out + t * to.out_stride + n * kPanelRows, 1);
    }

    const PanelFormat& format_;
    const QuantMatmul& m_;
    int row_begin_, row_end_;
    const int32_t* first_sums_;
    alignas(64) float sums_[kPanelMaxRows * kPanelTiles * kPanelRows];
};

// Calls work(product, row, row_end) for runs of rows that share panels.
template <int P, bool MIN, class Work>
void for_panel_rows(const PanelFormat& format, const QuantMatmul& m, int row_begin, int row_end, const Work& work) {
    const int fitting = kPanelQuantBytes / (m.n_blocks * kBlock);
    int most = fitting < kPanelLeastRows ? kPanelLeastRows : fitting > kPanelMaxRows ? kPanelMaxRows : fitting;
    alignas(64) int32_t first_sums[P > 1 ? kPanelHalfSums : 1];
    if (P > 1 && most * m.n_blocks > kPanelHalfSums) most = kPanelHalfSums / m.n_blocks;
    most = most / kPanelTokens * kPanelTokens;
    const int n_rows = row_end - row_begin, n_calls = (n_rows + most - 1) / most;
    const int step = ((n_rows + n_calls - 1) / n_calls + kPanelTokens - 1) / kPanelTokens * kPanelTokens;
    for (int row = row_begin; row < row_end; row += step) {
        const int end = row_end - row < step ? row_end : row + step;
        if constexpr (P > 1) {
            const int8_t* x = m.x_quants + size_t(row) * m.n_blocks * kBlock;
            for (int i = 0; i < (end - row) * m.n_blocks; i++) first_sums[i] = sum_of_16(x + size_t(i) * kBlock);
        }
        PanelProduct<P, MIN> product(format, m, row, end, first_sums);
        work(product, row, end);
    }
}

template <int P, bool MIN>
void panel_tiles(const PanelFormat& format, const QuantMatmul& m, int tile_begin, int tile_end, int row_begin, int row_end) {
    for_panel_rows<P, MIN>(format, m, row_begin, row_end, [&](PanelProduct<P, MIN>& product, int, int) {
        int tile = tile_begin;
        for (; tile + kPanelTiles <= tile_end; tile += kPanelTiles) product.template tiles<kPanelTiles>(tile);
        if (tile < tile_end) product.template tiles<1>(tile);
    });
}

// Tiles of the gate; an even number of them, so that they are whole blocks of the output.
template <int P, bool MIN>
void panel_gated_tiles(const PanelFormat& format, const GatedMatmul& g, int tile_begin, int tile_end, int row_begin,
                       int row_end) {
    constexpr int kRowsAtOnce = Avx512::W;
    const int n_blocks = g.product.n_out / 2 / kBlock;  // of a row of the output
    for_panel_rows<P, MIN>(format, g.product, row_begin, row_end, [&](PanelProduct<P, MIN>& product, int row, int end) {
        alignas(64) float gated[kPanelMaxRows * kBlock];
        for (int tile = tile_begin; tile < tile_end; tile += 2) {
            product.gated_tile(tile, g.activation, 0, gated);
            product.gated_tile(tile + 1, g.activation, kPanelRows, gated);
            for (int first = row; first < end; first += kRowsAtOnce) {
                const int n = end - first < kRowsAtOnce ? end - first : kRowsAtOnce;
                int8_t quants[kRowsAtOnce * kBlock];
                float scales[kRowsAtOnce];
                int32_t sums[kRowsAtOnce];
                quantize_blocks<Avx512>(gated + (first - row) * kBlock, n, quants, scales, sums);
                for (int r = 0; r < n; r++) {
                    const size_t to = size_t(first + r) * n_blocks + tile / 2;
                    std::memcpy(g.quants + to * kBlock, quants + r * kBlock, kBlock);
                    g.scales[to] = scales[r], g.sums[to] = sums[r];
                }
            }
        }
    });
}

template <class Block>
constexpr PanelFormat panel_format() {
    using Scales = TileScales<Avx512, Block::type>;
    return {{unpack_tile<Block, 1>, unpack_tile<Block, 2>}, Block::Weights::offset, Scales::runs, Scales::tile_block_bytes,
            Scales::tile_bytes(1) - Scales::tile_bytes(0)};
}

template <class Block>
void panel_matmul(const QuantMatmul& m, int tile_begin, int tile_end, int row_begin, int row_end) {
    constexpr QuantMeaning meaning = meaning_of(Block::type);
    panel_tiles<meaning.scales_of_run, meaning.has_min>(panel_format<Block>(), m, tile_begin, tile_end, row_begin, row_end);
}

template <class Block>
void panel_gated(const GatedMatmul& g, int tile_begin, int tile_end, int row_begin, int row_end) {
    constexpr QuantMeaning meaning = meaning_of(Block::type);
    panel_gated_tiles<meaning.scales_of_run, meaning.has_min>(panel_format<Block>(), g, tile_begin, tile_end, row_begin,
                                                              row_end);
}

}  // namespace
}  // namespace dllama

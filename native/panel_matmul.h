// Products of many activation rows with packed weights of blocked types, for AVX-512 VNNI, panel by panel.
#pragma once

#include "panel.h"

namespace dllama {
namespace {

// Activation rows that share a panel: unpacking is 2 % of the work with 128, 8 % with 32. Their quants are read again for
// each panel of a pair of tiles, so they are to stay in half of a second-level cache of 1 MiB.
constexpr int kPanelMaxRows = 128;
constexpr int kPanelLeastRows = 32;
constexpr int kPanelQuantBytes = 512 << 10;
// Sums of half blocks that are worked out once for rows that share panels: 64 KiB. Where rows have more blocks than 32
// rows of it hold, fewer rows share panels; more than kPanelMaxBlocks cannot.
constexpr int kPanelHalfSums = kPanelQuantBytes / kBlock;
constexpr int kPanelMaxBlocks = kPanelHalfSums / kPanelTokens;

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
                                       {panel.weights[0][0][n], panel.scales[0][n], panel.minima[0][n], panel.back[0][n]});
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

// Sums of the first halves of n blocks of activations.
inline void sum_first_halves(int32_t* sums, const int8_t* x, int n) {
    constexpr int kAtOnce = 16;
    const auto two = [](const int8_t* at) { return _mm512_loadu_si512(at); };
    const auto add = [](__m512 a, __m512 b) {
        return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
    };
    // of columns, 4 times that of the lane: lane i of the sums has blocks i, i + 4, i + 8, i + 12
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (; n >= kAtOnce; n -= kAtOnce, sums += kAtOnce, x += kAtOnce * kBlock) {
        __m512 eights[4];  // sums of 8 columns in each 64 bits, of four blocks
        UNROLL for (int i = 0; i < 4; i++) {
            const __m512i halves = _mm512_shuffle_i64x2(two(x + i * 128), two(x + i * 128 + 64), 0x88);
            const __m512i raised = _mm512_xor_si512(halves, _mm512_set1_epi8(-128));
            eights[i] = _mm512_castsi512_ps(_mm512_sad_epu8(raised, _mm512_setzero_si512()));
        }
        const __m512 first = _mm512_shuffle_ps(eights[0], eights[1], 0x88);
        const __m512 all = Avx512::fold_pairs(first, _mm512_shuffle_ps(eights[2], eights[3], 0x88), add);
        const __m512i ordered = _mm512_permutexvar_epi32(order, _mm512_castps_si512(all));
        _mm512_storeu_si512(sums, _mm512_sub_epi32(ordered, _mm512_set1_epi32(16 * 128)));
    }
    for (; n > 0; n--, x += kBlock) *sums++ = sum_of_16(x);
}

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
            sum_first_halves(first_sums, m.x_quants + size_t(row) * m.n_blocks * kBlock, (end - row) * m.n_blocks);
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

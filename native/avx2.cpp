// Kernels for AVX2 with FMA and F16C. A tile is 8 rows: one 256-bit register of float or int32 sums.
#include "attention_kernel.h"
#include "convert_kernel.h"
#include "float_matmul.h"
#include "simd_avx2.h"

namespace dllama {
namespace {

constexpr int kRows = 8;
constexpr int kGroup = 4;  // tiles at a time in a product with one row: all use each broadcast of activations

// GCC's -O3 leaves loops of four and more as loops, and arrays that they index in memory.
#define UNROLL _Pragma("GCC unroll 8")

__m256i four_of(const int8_t* x) {
    int32_t word;
    std::memcpy(&word, x, 4);
    return _mm256_set1_epi32(word);
}

__m256i load_bytes(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }

// Activations of NT consecutive rows, at one block.
struct Activations {
    const int8_t* quants;
    const float* scales;
    const int32_t* sums;
    size_t n_blocks;  // of a row

    __m256i four(int t, int column) const { return four_of(quants + t * n_blocks * kBlock + column); }
    __m256 scale(int t) const { return _mm256_broadcast_ss(scales + t * n_blocks); }
    __m256i sum(int t) const { return _mm256_set1_epi32(sums[t * n_blocks]); }
    void next() { quants += kBlock, scales++, sums++; }
};

// A block of NG tiles times NT activation rows: dot[t][n] = exact integer products of 8 rows.
// All loops have constant bounds and are unrolled: with NT * NG = 8 the sums fill half of the 16 registers, and
// the float sums wait in the first-level cache.
struct Q40Block {
    static constexpr int bytes = kRows * kQ40Bytes;

    template <int NT, int NG>
    static inline __attribute__((always_inline)) void dot(const uint8_t* const block[NG], const Activations& x,
                                                          __m256i dot[NT][NG]) {
        const __m256i low = _mm256_set1_epi8(15);
        UNROLL for (int g = 0; g < 4; g++) {
            __m256i packed[NG], nibbles[NG];
            UNROLL for (int n = 0; n < NG; n++) packed[n] = load_bytes(block[n] + 2 * kRows + g * 32);
            UNROLL for (int half = 0; half < 2; half++) {  // columns 4g to 4g + 3, then those 16 further on
                UNROLL for (int n = 0; n < NG; n++)
                    nibbles[n] = _mm256_and_si256(half ? _mm256_srli_epi16(packed[n], 4) : packed[n], low);
                UNROLL for (int t = 0; t < NT; t++) {
                    const __m256i xt = x.four(t, 16 * half + 4 * g);
                    // Pairs of products, at most 2 * 15 * 127 = 3810: the eight sums of a block fit into int16.
                    UNROLL for (int n = 0; n < NG; n++) {
                        const __m256i pairs = _mm256_maddubs_epi16(nibbles[n], xt);
                        dot[t][n] = g + half ? _mm256_add_epi16(dot[t][n], pairs) : pairs;
                    }
                }
            }
        }
        const __m256i ones = _mm256_set1_epi16(1);
        UNROLL for (int t = 0; t < NT; t++) {
            const __m256i offset = _mm256_slli_epi32(x.sum(t), 3);  // nibbles stand for -8 to 7
            UNROLL for (int n = 0; n < NG; n++)
                dot[t][n] = _mm256_sub_epi32(_mm256_madd_epi16(dot[t][n], ones), offset);
        }
    }
};

struct Q80Block {
    static constexpr int bytes = kRows * kQ80Bytes;

    template <int NT, int NG>
    static inline __attribute__((always_inline)) void dot(const uint8_t* const block[NG], const Activations& x,
                                                          __m256i dot[NT][NG]) {
        const __m256i ones = _mm256_set1_epi16(1);
        UNROLL for (int g = 0; g < 8; g++) {
            __m256i w[NG], magnitude[NG];
            UNROLL for (int n = 0; n < NG; n++) {
                w[n] = load_bytes(block[n] + 2 * kRows + g * 32);
                magnitude[n] = _mm256_abs_epi8(w[n]);  // -128 becomes 128, which is right for unsigned bytes
            }
            UNROLL for (int t = 0; t < NT; t++) {
                const __m256i xt = x.four(t, 4 * g);
                UNROLL for (int n = 0; n < NG; n++) {
                    // Activations take the weights' signs, not the other way round: they are never -128.
                    // Pairs of products reach 2 * 128 * 127 = 32512, so they are widened at once.
                    const __m256i pairs = _mm256_maddubs_epi16(magnitude[n], _mm256_sign_epi8(xt, w[n]));
                    const __m256i fours = _mm256_madd_epi16(pairs, ones);
                    dot[t][n] = g ? _mm256_add_epi32(dot[t][n], fours) : fours;
                }
            }
        }
    }
};

template <class Block, int NT, int NG>
void quant_micro(const QuantMatmul& m, int tile, int row) {
    const size_t first = size_t(row) * m.n_blocks;
    Activations x{m.x_quants + first * kBlock, m.x_scales + first, m.x_sums + first, size_t(m.n_blocks)};
    const uint8_t* block[NG];
    __m256 acc[NT][NG];
    UNROLL for (int n = 0; n < NG; n++) block[n] = m.weights + size_t(tile + n) * m.tile_bytes;
    UNROLL for (int t = 0; t < NT; t++)
        UNROLL for (int n = 0; n < NG; n++) acc[t][n] = _mm256_setzero_ps();
    for (int b = 0; b < m.n_blocks; b++) {
        __m256i dot[NT][NG];
        Block::template dot<NT, NG>(block, x, dot);
        __m256 scale[NG];
        UNROLL for (int n = 0; n < NG; n++) {
            scale[n] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)block[n]));
            block[n] += Block::bytes;
        }
        UNROLL for (int t = 0; t < NT; t++) {
            const __m256 xs = x.scale(t);
            UNROLL for (int n = 0; n < NG; n++)
                acc[t][n] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[t][n]), _mm256_mul_ps(scale[n], xs), acc[t][n]);
        }
        x.next();
    }
    for (int t = 0; t < NT; t++)
        for (int n = 0; n < NG; n++) {
            float* out = m.out + size_t(row + t) * m.n_out + size_t(tile + n) * kRows;
            const int rows_left = m.n_out - (tile + n) * kRows;
            if (rows_left >= kRows)
                _mm256_storeu_ps(out, acc[t][n]);
            else
                store_some<Avx2>(out, acc[t][n], rows_left);
        }
}

template <class Block, int NT, int NG>
int quant_pass(const QuantMatmul& m, int tile, int tile_end, int row) {
    for (; tile + NG <= tile_end; tile += NG) quant_micro<Block, NT, NG>(m, tile, row);
    return tile;
}

// Four activation rows x two tiles, or one row x four tiles, are what the registers hold.
template <class Block>
void quant_matmul(const QuantMatmul& m, int tile_begin, int tile_end, int row_begin, int row_end) {
    int row = row_begin;
    for (int tile = tile_begin; tile < tile_end; tile += 2) {
        const int end = tile + 2 < tile_end ? tile + 2 : tile_end;
        for (row = row_begin; row + 4 <= row_end; row += 4)
            quant_pass<Block, 4, 1>(m, quant_pass<Block, 4, 2>(m, tile, end, row), end, row);
    }
    for (; row + 2 <= row_end; row += 2)
        quant_pass<Block, 2, 1>(m, quant_pass<Block, 2, 2>(m, tile_begin, tile_end, row), tile_end, row);
    for (; row < row_end; row++)
        quant_pass<Block, 1, 1>(m, quant_pass<Block, 1, 4>(m, tile_begin, tile_end, row), tile_end, row);
}

}  // namespace

const KernelTable* avx2_kernels() {
    using S = Avx2;
    static const KernelTable table = {
        "avx2", kRows, 4, kGroup,
        quant_matmul<Q40Block>, quant_matmul<Q80Block>,
        float_matmul<S, kRows, 2, uint16_t>, float_matmul<S, kRows, 2, float>,
        RowKernels<S>::quantize, RowKernels<S>::rms_norm, RowKernels<S>::gated, RowKernels<S>::add,
        RowKernels<S>::rope, RowKernels<S>::store_half, RowKernels<S>::encode_q80, RowKernels<S>::add_q80,
        AttentionKernel<S>::attend_split, AttentionKernel<S>::attend_merge, AttentionKernel<S>::attend_finish,
        ConvertKernel<S>::convert,
    };
    return &table;
}

}  // namespace dllama

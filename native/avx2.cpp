// Kernels for AVX2 with FMA and F16C. A tile is 8 rows: one 256-bit register of float or int32 sums.
#include "attention_kernel.h"
#include "convert_kernel.h"
#include "float_matmul.h"
#include "simd_avx2.h"

namespace dllama {
namespace {

constexpr int kRows = 8;
constexpr int kGroup = 2;  // tiles at a time: both use each broadcast of four activations

__m256i four_of(const int8_t* x) {
    int32_t word;
    std::memcpy(&word, x, 4);
    return _mm256_set1_epi32(word);
}

__m256i load_bytes(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }

// A block of NG tiles times NT activation rows: dot[t][n] = exact integer products of 8 rows.
struct Q40Block {
    static constexpr int bytes = kRows * kQ40Bytes;

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    __m256i dot[NT][NG]) {
        const __m256i low = _mm256_set1_epi8(15);
        for (int g = 0; g < 4; g++) {
            __m256i first[NG], second[NG];  // columns 4g to 4g + 3, and 16 further on
            for (int n = 0; n < NG; n++) {
                const __m256i w = load_bytes(units[n] + g * 32);
                first[n] = _mm256_and_si256(w, low);
                second[n] = _mm256_and_si256(_mm256_srli_epi16(w, 4), low);
            }
            for (int t = 0; t < NT; t++) {
                const __m256i x_first = four_of(x[t] + 4 * g), x_second = four_of(x[t] + 16 + 4 * g);
                for (int n = 0; n < NG; n++) {
                    // Pairs of products, at most 2 * 15 * 127 = 3810: the eight sums of a block fit into int16.
                    const __m256i p = _mm256_maddubs_epi16(first[n], x_first);
                    const __m256i q = _mm256_maddubs_epi16(second[n], x_second);
                    dot[t][n] = g ? _mm256_add_epi16(_mm256_add_epi16(dot[t][n], p), q) : _mm256_add_epi16(p, q);
                }
            }
        }
        const __m256i ones = _mm256_set1_epi16(1);
        for (int t = 0; t < NT; t++) {
            const __m256i offset = _mm256_slli_epi32(_mm256_set1_epi32(*x_sum[t]), 3);  // nibbles stand for -8 to 7
            for (int n = 0; n < NG; n++)
                dot[t][n] = _mm256_sub_epi32(_mm256_madd_epi16(dot[t][n], ones), offset);
        }
    }
};

struct Q80Block {
    static constexpr int bytes = kRows * kQ80Bytes;

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const[NT],
                    __m256i dot[NT][NG]) {
        const __m256i ones = _mm256_set1_epi16(1);
        for (int g = 0; g < 8; g++) {
            __m256i w[NG], magnitude[NG];
            for (int n = 0; n < NG; n++) {
                w[n] = load_bytes(units[n] + g * 32);
                magnitude[n] = _mm256_abs_epi8(w[n]);  // -128 becomes 128, which is right for unsigned bytes
            }
            for (int t = 0; t < NT; t++) {
                const __m256i xt = four_of(x[t] + 4 * g);
                for (int n = 0; n < NG; n++) {
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
    const uint8_t* block[NG];
    const int8_t* x[NT];
    const float* x_scale[NT];
    const int32_t* x_sum[NT];
    __m256 acc[NT][NG];
    for (int n = 0; n < NG; n++) block[n] = m.weights + size_t(tile + n) * m.tile_bytes;
    for (int t = 0; t < NT; t++) {
        const size_t i = size_t(row + t) * m.n_blocks;
        x[t] = m.x_quants + i * kBlock, x_scale[t] = m.x_scales + i, x_sum[t] = m.x_sums + i;
        for (int n = 0; n < NG; n++) acc[t][n] = _mm256_setzero_ps();
    }
    for (int b = 0; b < m.n_blocks; b++) {
        const uint8_t* units[NG];
        __m256 scale[NG];
        __m256i dot[NT][NG];
        for (int n = 0; n < NG; n++) {
            units[n] = block[n] + 2 * kRows;
            scale[n] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)block[n]));
            block[n] += Block::bytes;
        }
        Block::template dot<NT, NG>(units, x, x_sum, dot);
        for (int t = 0; t < NT; t++) {
            const __m256 xs = _mm256_broadcast_ss(x_scale[t]);
            for (int n = 0; n < NG; n++)
                acc[t][n] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[t][n]), _mm256_mul_ps(scale[n], xs), acc[t][n]);
            x[t] += kBlock, x_scale[t]++, x_sum[t]++;
        }
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

template <class Block, int NG>
void quant_tiles(const QuantMatmul& m, int tile, int row_begin, int row_end) {
    int row = row_begin;
    for (; row + 4 <= row_end; row += 4) quant_micro<Block, 4, NG>(m, tile, row);
    for (; row + 2 <= row_end; row += 2) quant_micro<Block, 2, NG>(m, tile, row);
    for (; row < row_end; row++) quant_micro<Block, 1, NG>(m, tile, row);
}

template <class Block>
void quant_matmul(const QuantMatmul& m, int tile_begin, int tile_end, int row_begin, int row_end) {
    int tile = tile_begin;
    for (; tile + kGroup <= tile_end; tile += kGroup) quant_tiles<Block, kGroup>(m, tile, row_begin, row_end);
    for (; tile < tile_end; tile++) quant_tiles<Block, 1>(m, tile, row_begin, row_end);
}

}  // namespace

const KernelTable* avx2_kernels() {
    using S = Avx2;
    static const KernelTable table = {
        "avx2", kRows, 4, kGroup,
        quant_matmul<Q40Block>, quant_matmul<Q80Block>,
        float_matmul<S, kRows, kGroup, uint16_t>, float_matmul<S, kRows, kGroup, float>,
        RowKernels<S>::quantize, RowKernels<S>::rms_norm, RowKernels<S>::gated, RowKernels<S>::add,
        RowKernels<S>::rope, RowKernels<S>::store_half, RowKernels<S>::encode_q80, RowKernels<S>::add_q80,
        AttentionKernel<S>::attend_split, AttentionKernel<S>::attend_merge, AttentionKernel<S>::attend_finish,
        ConvertKernel<S>::convert,
    };
    return &table;
}

}  // namespace dllama

// Kernels for AVX-512 (F, BW, VL) with VNNI. A tile is 16 rows: one 512-bit register of float or int32 sums.
//
// vpdpbusd multiplies unsigned weights with signed activations and adds fours of products to int32: weights are
// read with an offset that makes them unsigned, and sums begin at minus the offset times the activations' sum.
#include "panel_matmul.h"
#include "peak.h"
#include "quant_matmul.h"
#include "simd_avx512.h"
#include "vector_table.h"

namespace dllama {
namespace {

constexpr int kRows = 16;

// A few rows: 32 rows x 4 tokens, unpacked in registers. Its 8 chains of vpdpbusd overlap with those of the next block. 8
// integer and 8 float sums, 4 weights, 2 scales and 2 constants are 24 of 32 registers. Unpacking is paid for each run of
// 4 tokens, so from the second run on a panel (panel_matmul.h) is quicker.
constexpr int kMatTokens = 4;
constexpr int kMatTiles = 2;
constexpr int kPanelPays = 5;  // rows

// Mat-vec: 4 tiles x 1 token are 4 chains of 8 vpdpbusd, which overlap with the next block's, and share each
// broadcast of activations. llvm-mca counts 50 cycles for 4 x 288 bytes of Q40 on an Ice Lake: 23 bytes a cycle,
// twice what one core reads from memory. More tiles would only be more streams for the prefetcher.
constexpr int kVecTiles = 4;

// F16 and F32: 2 tiles x 4 tokens are 8 chains, the 4 cycles of a multiply-add times 2 a cycle. The decoded run of
// 128 columns is 16 KiB for 2 tiles, half of the smallest first-level cache.
constexpr int kFloatTiles = 2;

__m512i load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }

__m512i four_of(const int8_t* x) {
    int32_t word;
    std::memcpy(&word, x, 4);
    return _mm512_set1_epi32(word);
}

template <int NT, int NG>
void start(int32_t offset, const int32_t* const x_sum[NT], __m512i dot[NT][NG]) {
    for (int t = 0; t < NT; t++) {
        const __m512i first = _mm512_set1_epi32(-offset * *x_sum[t]);
        for (int n = 0; n < NG; n++) dot[t][n] = first;
    }
}

struct Q40Block {
    static constexpr int bytes = kRows * traits_of(ElementType::q40).bytes;
    static constexpr int32_t offset = 8;  // nibbles 0 to 15 stand for -8 to 7

    static void unpack(const uint8_t* units, uint8_t* out, size_t stride) {
        const __m512i low = _mm512_set1_epi8(15);
        UNROLL for (int g = 0; g < 4; g++) {
            const __m512i w = load_bytes(units + g * 64);  // columns 4g to 4g + 3, and 16 further on
            _mm512_store_si512(out + g * stride, _mm512_and_si512(w, low));
            _mm512_store_si512(out + (g + 4) * stride, _mm512_and_si512(_mm512_srli_epi16(w, 4), low));
        }
    }

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    __m512i dot[NT][NG]) {
        const __m512i low = _mm512_set1_epi8(15);
        start<NT, NG>(offset, x_sum, dot);
        for (int g = 0; g < 4; g++) {
            __m512i first[NG], second[NG];  // columns 4g to 4g + 3, and 16 further on
            for (int n = 0; n < NG; n++) {
                const __m512i w = load_bytes(units[n] + g * 64);
                first[n] = _mm512_and_si512(w, low);
                second[n] = _mm512_and_si512(_mm512_srli_epi16(w, 4), low);
            }
            for (int t = 0; t < NT; t++) {
                const __m512i x_first = four_of(x[t] + 4 * g), x_second = four_of(x[t] + 16 + 4 * g);
                for (int n = 0; n < NG; n++) {
                    dot[t][n] = _mm512_dpbusd_epi32(dot[t][n], first[n], x_first);
                    dot[t][n] = _mm512_dpbusd_epi32(dot[t][n], second[n], x_second);
                }
            }
        }
    }
};

struct Q80Block {
    static constexpr int bytes = kRows * kQ80Bytes;
    static constexpr int32_t offset = 128;

    static void unpack(const uint8_t* units, uint8_t* out, size_t stride) {
        UNROLL for (int g = 0; g < 8; g++) {
            const __m512i w = _mm512_xor_si512(load_bytes(units + g * 64), _mm512_set1_epi8(-128));  // + 128
            _mm512_store_si512(out + g * stride, w);
        }
    }

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    __m512i dot[NT][NG]) {
        const __m512i sign = _mm512_set1_epi8(-128);
        start<NT, NG>(offset, x_sum, dot);
        for (int g = 0; g < 8; g++) {
            __m512i w[NG];
            for (int n = 0; n < NG; n++) w[n] = _mm512_xor_si512(load_bytes(units[n] + g * 64), sign);  // + 128
            for (int t = 0; t < NT; t++) {
                const __m512i xt = four_of(x[t] + 4 * g);
                for (int n = 0; n < NG; n++) dot[t][n] = _mm512_dpbusd_epi32(dot[t][n], w[n], xt);
            }
        }
    }
};

template <class Block>
void matmul(const QuantMatmul& m, int tile_begin, int tile_end, int row_begin, int row_end) {
    const auto kernel = row_end - row_begin < kPanelPays ? quant_matmul<Avx512, Block, kMatTokens, kMatTiles, kVecTiles>
                                                         : panel_matmul<Block>;
    kernel(m, tile_begin, tile_end, row_begin, row_end);
}

int64_t peak(int64_t rounds) {
    const __m512i ones = _mm512_set1_epi8(1);
    return 128 * dot_peak<16>(rounds, _mm512_setzero_si512(), ones, ones, [](__m512i sum, __m512i w, __m512i x) {
        return _mm512_dpbusd_epi32(sum, w, x);
    });
}

KernelTable make_table() {
    KernelTable table = vector_table<Avx512, kRows, kFloatTiles>("avx512");
    table.unit_bytes = 4;
    table.tile_group = kVecTiles;
    table.matmul[ElementType::q40] = matmul<Q40Block>;
    table.matmul[ElementType::q80] = matmul<Q80Block>;
    table.gated_matmul[ElementType::q40] = panel_gated<Q40Block>;
    table.gated_matmul[ElementType::q80] = panel_gated<Q80Block>;
    table.gated_rows = kPanelPays;
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* avx512_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

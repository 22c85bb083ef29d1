// Kernels for AVX-512 (F, BW, VL) with VNNI. A tile is 16 rows: one 512-bit register of float or int32 sums.
//
// vpdpbusd multiplies unsigned weights with signed activations and adds fours of products to int32: weights are
// read with an offset that makes them unsigned, and sums begin at minus the offset times the activations' sum.
#include "peak.h"
#include "quant_matmul.h"
#include "simd_avx512.h"
#include "vector_table.h"

namespace dllama {
namespace {

constexpr int kRows = 16;

// Mat-mat: 32 rows x 4 tokens. Its 8 chains of vpdpbusd (latency 5, one or two a cycle) overlap with those of the
// next block. 8 integer and 8 float sums, 4 weights, 2 scales and 2 constants are 24 of 32 registers, so a third
// tile or a sixth token would spill. 16 rows x 8 tokens has as many chains, but loads 17 times for 16 vpdpbusd where
// this loads 10 times, and two loads a cycle would be the limit on cores with two vpdpbusd a cycle. llvm-mca counts
// 62 cycles for the 64 vpdpbusd of a block on an Ice Lake, which begins one a cycle.
constexpr int kMatTokens = 4;
constexpr int kMatTiles = 2;

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
    static constexpr int bytes = kRows * kQ40Bytes;

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    __m512i dot[NT][NG]) {
        const __m512i low = _mm512_set1_epi8(15);
        start<NT, NG>(8, x_sum, dot);  // nibbles 0 to 15 stand for -8 to 7
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

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    __m512i dot[NT][NG]) {
        const __m512i sign = _mm512_set1_epi8(-128);
        start<NT, NG>(128, x_sum, dot);
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

int64_t peak(int64_t rounds) {
    const __m512i ones = _mm512_set1_epi8(1);
    return 128 * dot_peak(rounds, _mm512_setzero_si512(), ones, ones, [](__m512i sum, __m512i w, __m512i x) {
        return _mm512_dpbusd_epi32(sum, w, x);
    });
}

KernelTable make_table() {
    KernelTable table = vector_table<Avx512, kRows, kFloatTiles>("avx512");
    table.unit_bytes = 4;
    table.tile_group = kVecTiles;
    table.matmul_q40 = quant_matmul<Avx512, Q40Block, kMatTokens, kMatTiles, kVecTiles>;
    table.matmul_q80 = quant_matmul<Avx512, Q80Block, kMatTokens, kMatTiles, kVecTiles>;
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* avx512_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

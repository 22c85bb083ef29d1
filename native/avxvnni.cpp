// Matrix products for AVX2 with AVX-VNNI; all else, and the layout, is avx2.cpp's. A tile is 8 rows.
//
// As in avx512.cpp, vpdpbusd takes unsigned weights: they are read with an offset, and sums begin at minus the
// offset times the activations' sum.
#include "peak.h"
#include "quant_matmul.h"
#include "simd_avx2.h"

namespace dllama {
namespace {

constexpr int kRows = 8;

// Mat-mat: 16 rows x 4 tokens are 8 chains of vpdpbusd (latency 5, two a cycle). Of 16 registers the integer sums
// take 8, and weights, activations and constants the rest; the 8 float sums wait in the first-level cache, one load
// and one store for each 8 vpdpbusd. llvm-mca counts 51 cycles for the 64 of a Q40 block on an Alder Lake.
constexpr int kMatTokens = 4;
constexpr int kMatTiles = 2;

// Mat-vec: 4 tiles share each broadcast of activations; 35 cycles (llvm-mca, Alder Lake) for 4 x 144 bytes of Q40
// are 16 bytes a cycle, more than a core reads from memory.
constexpr int kVecTiles = 4;

__m256i load_bytes(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }

__m256i four_of(const int8_t* x) {
    int32_t word;
    std::memcpy(&word, x, 4);
    return _mm256_set1_epi32(word);
}

template <int NT, int NG>
void start(int32_t offset, const int32_t* const x_sum[NT], __m256i dot[NT][NG]) {
    for (int t = 0; t < NT; t++) {
        const __m256i first = _mm256_set1_epi32(-offset * *x_sum[t]);
        for (int n = 0; n < NG; n++) dot[t][n] = first;
    }
}

template <int NT, int NG>
void multiply(const __m256i weights[NG], const int8_t* const x[NT], int column, __m256i dot[NT][NG]) {
    for (int t = 0; t < NT; t++) {
        const __m256i xt = four_of(x[t] + column);
        for (int n = 0; n < NG; n++) dot[t][n] = _mm256_dpbusd_avx_epi32(dot[t][n], weights[n], xt);
    }
}

struct Q40Block {
    static constexpr int bytes = kRows * traits_of(ElementType::q40).bytes;

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    __m256i dot[NT][NG]) {
        const __m256i low = _mm256_set1_epi8(15);
        start<NT, NG>(8, x_sum, dot);  // nibbles 0 to 15 stand for -8 to 7
        for (int g = 0; g < 4; g++) {
            __m256i w[NG];
            for (int n = 0; n < NG; n++) w[n] = _mm256_and_si256(load_bytes(units[n] + g * 32), low);
            multiply<NT, NG>(w, x, 4 * g, dot);
            for (int n = 0; n < NG; n++)
                w[n] = _mm256_and_si256(_mm256_srli_epi16(load_bytes(units[n] + g * 32), 4), low);
            multiply<NT, NG>(w, x, 16 + 4 * g, dot);
        }
    }
};

struct Q80Block {
    static constexpr int bytes = kRows * kQ80Bytes;

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    __m256i dot[NT][NG]) {
        const __m256i sign = _mm256_set1_epi8(-128);
        start<NT, NG>(128, x_sum, dot);
        for (int g = 0; g < 8; g++) {
            __m256i w[NG];
            for (int n = 0; n < NG; n++) w[n] = _mm256_xor_si256(load_bytes(units[n] + g * 32), sign);  // + 128
            multiply<NT, NG>(w, x, 4 * g, dot);
        }
    }
};

int64_t peak(int64_t rounds) {
    const __m256i ones = _mm256_set1_epi8(1);
    return 64 * dot_peak<12>(rounds, _mm256_setzero_si256(), ones, ones, [](__m256i sum, __m256i w, __m256i x) {
        return _mm256_dpbusd_avx_epi32(sum, w, x);
    });
}

KernelTable make_table() {
    KernelTable table = *avx2_kernels();
    table.isa = "avxvnni";
    table.tile_group = kVecTiles;
    table.matmul[ElementType::q40] = quant_matmul<Avx2, Q40Block, kMatTokens, kMatTiles, kVecTiles>;
    table.matmul[ElementType::q80] = quant_matmul<Avx2, Q80Block, kMatTokens, kMatTiles, kVecTiles>;
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* avxvnni_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

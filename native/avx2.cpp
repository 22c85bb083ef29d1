// Kernels for AVX2 with FMA and F16C. A tile is 8 rows: one 256-bit register of float or int32 sums.
#include "peak.h"
#include "quant_matmul.h"
#include "simd_avx2.h"
#include "vector_table.h"

namespace dllama {
namespace {

constexpr int kRows = 8;

// Mat-mat: 4 tokens x 2 tiles are 8 integer sums, half of the 16 registers; the weights, activations and products
// take the rest, and the 8 float sums wait in the first-level cache.
constexpr int kMatTokens = 4;
constexpr int kMatTiles = 2;

// Mat-vec: 4 tiles share each broadcast of four activations.
constexpr int kVecTiles = 4;

// F16 and F32: 2 tiles x 4 tokens are 8 chains, the 4 cycles of a multiply-add times 2 a cycle.
constexpr int kFloatTiles = 2;

__m256i four_of(const int8_t* x) {
    int32_t word;
    std::memcpy(&word, x, 4);
    return _mm256_set1_epi32(word);
}

__m256i load_bytes(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }

// dot[t][n] = exact integer products of a block of NG tiles with NT activation rows.
struct Q40Block {
    static constexpr int bytes = kRows * traits_of(ElementType::q40).bytes;

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    __m256i dot[NT][NG]) {
        const __m256i low = _mm256_set1_epi8(15);
        UNROLL for (int g = 0; g < 4; g++) {
            __m256i packed[NG], nibbles[NG];
            UNROLL for (int n = 0; n < NG; n++) packed[n] = load_bytes(units[n] + g * 32);
            UNROLL for (int half = 0; half < 2; half++) {  // columns 4g to 4g + 3, then those 16 further on
                UNROLL for (int n = 0; n < NG; n++)
                    nibbles[n] = _mm256_and_si256(half ? _mm256_srli_epi16(packed[n], 4) : packed[n], low);
                UNROLL for (int t = 0; t < NT; t++) {
                    const __m256i xt = four_of(x[t] + 16 * half + 4 * g);
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
            const __m256i offset = _mm256_slli_epi32(_mm256_set1_epi32(*x_sum[t]), 3);  // nibbles stand for -8 to 7
            UNROLL for (int n = 0; n < NG; n++)
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
        UNROLL for (int g = 0; g < 8; g++) {
            __m256i w[NG], magnitude[NG];
            UNROLL for (int n = 0; n < NG; n++) {
                w[n] = load_bytes(units[n] + g * 32);
                magnitude[n] = _mm256_abs_epi8(w[n]);  // -128 becomes 128, which is right for unsigned bytes
            }
            UNROLL for (int t = 0; t < NT; t++) {
                const __m256i xt = four_of(x[t] + 4 * g);
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

int64_t peak(int64_t rounds) {
    const __m256i ones = _mm256_set1_epi8(1);
    return 64 * dot_peak<8>(rounds, _mm256_setzero_si256(), ones, ones, [](__m256i sum, __m256i w, __m256i x) {
        return _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x));
    });
}

KernelTable make_table() {
    KernelTable table = vector_table<Avx2, kRows, kFloatTiles>("avx2");
    table.unit_bytes = 4;
    table.tile_group = kVecTiles;
    table.matmul[ElementType::q40] = quant_matmul<Avx2, Q40Block, kMatTokens, kMatTiles, kVecTiles>;
    table.matmul[ElementType::q80] = quant_matmul<Avx2, Q80Block, kMatTokens, kMatTiles, kVecTiles>;
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* avx2_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

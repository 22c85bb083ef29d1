// Kernels for AVX2 with FMA and F16C. A tile is 8 rows: one 256-bit register of float or int32 sums.
#include "peak.h"
#include "quant_matmul.h"
#include "quants.h"
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

// vpmaddubsw multiplies unsigned with signed bytes and adds pairs of products to int16. Quants that may be negative give
// their signs to the activations, which are never -128; the other way round -128 would not fit.
template <ElementType weight_type>
struct MaddBlock {
    static constexpr ElementType type = weight_type;
    using Weights = Quants<Bytes256, type, true>;
    static constexpr QuantMeaning meaning = meaning_of(type);
    static constexpr int parts = meaning.scales_of_run;
    static constexpr bool is_signed = Weights::offset == 0 && !meaning.has_min;
    // Sums of pairs that int16 holds: 8 are all of a run.
    static constexpr int largest = is_signed ? meaning.largest : meaning.largest + meaning.offset - (meaning.offset > 0);
    static constexpr int n_fitting = 32767 / (2 * 127 * largest);
    static_assert(n_fitting >= 1, "a sum of a pair fits");

    template <int NT, int NG>
    static INLINE void dot(const uint8_t* const runs[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    __m256i dot[parts][NT][NG]) {
        if constexpr (n_fitting >= 8 && parts == 1) {
            __m256i pairs[NT][NG];
            UNROLL for (int t = 0; t < NT; t++) UNROLL for (int n = 0; n < NG; n++) pairs[t][n] = _mm256_setzero_si256();
            for_quads([&](auto g) __attribute__((always_inline)) {
                constexpr int G = decltype(g)::value;
                multiply<G, 0, NT, NG>(runs, x, pairs);
                multiply<G, 1, NT, NG>(runs, x, pairs);
            });
            start<NT, NG>(x_sum, dot[0]);
            widen<NT, NG>(pairs, dot[0]);
        } else {
            UNROLL for (int p = 0; p < parts; p++) start<NT, NG>(x_sum, dot[p]);
            half_run<0, NT, NG>(runs, x, dot[0]);
            half_run<1, NT, NG>(runs, x, dot[parts - 1]);
        }
    }

private:
    template <int NT, int NG>
    static INLINE void start(const int32_t* const x_sum[NT], __m256i sums[NT][NG]) {
        UNROLL for (int t = 0; t < NT; t++) {
            const __m256i first = Weights::offset ? _mm256_set1_epi32(-Weights::offset * *x_sum[t]) : _mm256_setzero_si256();
            UNROLL for (int n = 0; n < NG; n++) sums[t][n] = first;
        }
    }

    // Columns 0 to 15 of a run, or 16 to 31.
    template <int HALF, int NT, int NG>
    static INLINE void half_run(const uint8_t* const runs[NG], const int8_t* const x[NT], __m256i sums[NT][NG]) {
        __m256i pairs[NT][NG];
        for_quads([&](auto g) __attribute__((always_inline)) {
            constexpr int G = decltype(g)::value;
            if constexpr (G % n_together == 0)
                UNROLL for (int t = 0; t < NT; t++) UNROLL for (int n = 0; n < NG; n++) pairs[t][n] = _mm256_setzero_si256();
            multiply<G, HALF, NT, NG>(runs, x, pairs);
            if constexpr (G % n_together == n_together - 1) widen<NT, NG>(pairs, sums);
        });
    }
    static constexpr int n_together = n_fitting >= 4 ? 4 : n_fitting >= 2 ? 2 : 1;

    template <int G, int HALF, int NT, int NG>
    static INLINE void multiply(const uint8_t* const runs[NG], const int8_t* const x[NT], __m256i pairs[NT][NG]) {
        __m256i w[NG], magnitude[NG];
        UNROLL for (int n = 0; n < NG; n++) {
            w[n] = Weights::template half<G, HALF>(runs[n]);
            magnitude[n] = is_signed ? _mm256_abs_epi8(w[n]) : w[n];
        }
        UNROLL for (int t = 0; t < NT; t++) {
            const __m256i xt = four_of(x[t] + 16 * HALF + 4 * G);
            UNROLL for (int n = 0; n < NG; n++) {
                const __m256i signed_x = is_signed ? _mm256_sign_epi8(xt, w[n]) : xt;
                pairs[t][n] = _mm256_add_epi16(pairs[t][n], _mm256_maddubs_epi16(magnitude[n], signed_x));
            }
        }
    }

    template <int NT, int NG>
    static INLINE void widen(const __m256i pairs[NT][NG], __m256i sums[NT][NG]) {
        UNROLL for (int t = 0; t < NT; t++)
            UNROLL for (int n = 0; n < NG; n++)
                sums[t][n] = _mm256_add_epi32(sums[t][n], _mm256_madd_epi16(pairs[t][n], _mm256_set1_epi16(1)));
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
    for_blocked_types([&](auto tag) {
        table.matmul[tag] = quant_matmul<Avx2, MaddBlock<decltype(tag)::value>, kMatTokens, kMatTiles, kVecTiles>;
    });
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* avx2_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

// Sixteen float lanes of AVX-512 (F, BW, VL); the members are those of Portable in simd_portable.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernel_table.h"

namespace dllama {
namespace {

struct Avx512 {
    static constexpr int W = 16;
    static constexpr int kRegisters = 32;
    static constexpr bool kFolds = true;  // lanes of several vectors at a time: store_max_of_ints, store_int_sums
    using F = __m512;
    using I = __m512i;

    static F set1(float v) { return _mm512_set1_ps(v); }
    static F load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
    static F load_half(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
    static F set1_half(uint16_t h) { return _mm512_cvtph_ps(_mm256_set1_epi16(short(h))); }
    static void store_half(uint16_t* p, F v) {
        _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    static F load_bf16(const uint16_t* p) {
        const I wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
        return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
    }
    static F load_int8(const int8_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
    }

    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static F div(F a, F b) { return _mm512_div_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static F select_less(F a, F b, F x, F y) {
        return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
    }
    static F min(F a, F b) { return _mm512_min_ps(a, b); }  // b when either is NaN
    static F max(F a, F b) { return _mm512_max_ps(a, b); }

    static __m256 low(F v) { return _mm512_castps512_ps256(v); }
    static __m256 high(F v) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)); }
    static float sum(F v) {
        const __m256 e = _mm256_add_ps(low(v), high(v));
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
    }
    // Lane i = what `op` makes of the lanes of v[i]: 30 shuffles for 16 vectors.
    template <class Op>
    __attribute__((always_inline)) static F fold(const F v[16], Op op) {
        const F first = fold_lanes(fold_fours(v, op), fold_fours(v + 4, op), op);
        return fold_lanes(first, fold_lanes(fold_fours(v + 8, op), fold_fours(v + 12, op), op), op);
    }
    // In each quarter of 128 bits: pairs of a, then of b.
    template <class Op>
    static F fold_pairs(F a, F b, Op op) { return op(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD)); }
    // In each quarter: the quarter's lanes of each of four vectors.
    template <class Op>
    static F fold_fours(const F v[4], Op op) { return fold_pairs(fold_pairs(v[0], v[1], op), fold_pairs(v[2], v[3], op), op); }
    // Pairs of a's quarters, then of b's.
    template <class Op>
    static F fold_lanes(F a, F b, Op op) {
        return op(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
    }
    // out[r * 4 + i] = sum of v[r][i].
    static constexpr int kSumRows = 4;
    __attribute__((always_inline)) static void store_sums(float* out, const F v[4][4]) { store(out, fold(v[0], add)); }
    // out[i] = the largest lane, or the sum of the lanes, of v[i].
    static void store_max_of_ints(int32_t* out, const I v[16]) { store_folded(out, v, max_int); }
    static void store_int_sums(int32_t* out, const I v[16]) { store_folded(out, v, add_int); }
    template <class Op>
    static void store_folded(int32_t* out, const I v[16], Op op) {
        F lanes[16];
        _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) lanes[i] = _mm512_castsi512_ps(v[i]);
        const F folded = fold(lanes, [op](F a, F b) {
            return _mm512_castsi512_ps(op(_mm512_castps_si512(a), _mm512_castps_si512(b)));
        });
        store(reinterpret_cast<float*>(out), folded);
    }
    // out[j * stride] = element j of each of 16 vectors.
    static void store_transposed(float* out, size_t stride, const F rows[16]) {
        F pairs[16], fours[16];
        _Pragma("GCC unroll 16") for (int i = 0; i < 16; i += 2) {
            pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
            pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
        }
        _Pragma("GCC unroll 16") for (int i = 0; i < 16; i += 4)
            _Pragma("GCC unroll 16") for (int j = 0; j < 2; j++) {  // columns 2j and 2j + 1 of each quarter, of rows i to i + 3
                const __m512d a = _mm512_castps_pd(pairs[i + j]), b = _mm512_castps_pd(pairs[i + 2 + j]);
                fours[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                fours[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
        _Pragma("GCC unroll 16") for (int j = 0; j < 4; j++) {  // columns j, 4 + j, 8 + j and 12 + j
            const F a = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0x88);
            const F b = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0x88);
            const F c = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0xDD);
            const F d = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0xDD);
            store(out + j * stride, _mm512_shuffle_f32x4(a, b, 0x88));
            store(out + (8 + j) * stride, _mm512_shuffle_f32x4(a, b, 0xDD));
            store(out + (4 + j) * stride, _mm512_shuffle_f32x4(c, d, 0x88));
            store(out + (12 + j) * stride, _mm512_shuffle_f32x4(c, d, 0xDD));
        }
    }
    // The quarters of v go to four places.
    static void store_quarters(float* const out[4], F v) {
        _mm_storeu_ps(out[0], _mm512_castps512_ps128(v));
        _mm_storeu_ps(out[1], _mm512_extractf32x4_ps(v, 1));
        _mm_storeu_ps(out[2], _mm512_extractf32x4_ps(v, 2));
        _mm_storeu_ps(out[3], _mm512_extractf32x4_ps(v, 3));
    }
    static float max_of(F v) {
        const __m256 e = _mm256_max_ps(low(v), high(v));
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
    }
    static float min_of(F v) {
        const __m256 e = _mm256_min_ps(low(v), high(v));
        __m128 m = _mm_min_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
        m = _mm_min_ps(m, _mm_movehl_ps(m, m));
        return _mm_cvtss_f32(_mm_min_ss(m, _mm_movehdup_ps(m)));
    }

    static __m256i low(I v) { return _mm512_castsi512_si256(v); }
    static __m256i high(I v) { return _mm512_extracti64x4_epi64(v, 1); }
    static I magnitude_bits(F v) { return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7FFFFFFF)); }
    static I max_int(I a, I b) { return _mm512_max_epi32(a, b); }
    static int32_t max_of_int(I v) {
        const __m256i e = _mm256_max_epi32(low(v), high(v));
        __m128i m = _mm_max_epi32(_mm256_castsi256_si128(e), _mm256_extracti128_si256(e, 1));
        m = _mm_max_epi32(m, _mm_unpackhi_epi64(m, m));
        return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 1)));
    }
    static I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
    static int32_t sum_int(I v) {
        const __m256i e = _mm256_add_epi32(low(v), high(v));
        __m128i s = _mm_add_epi32(_mm256_castsi256_si128(e), _mm256_extracti128_si256(e, 1));
        s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
        return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 1)));
    }
    static I load_words(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static I bits(F v) { return _mm512_castps_si512(v); }
    template <int N>
    static I shift_right(I v) { return _mm512_srli_epi32(v, N); }
    template <int32_t MASK>
    static I and_int(I v) { return _mm512_and_si512(v, _mm512_set1_epi32(MASK)); }
    static I or_int(I a, I b) { return _mm512_or_si512(a, b); }
    static I round_to_int(F v) { return _mm512_cvtps_epi32(v); }
    static I trunc_to_int(F v) { return _mm512_cvttps_epi32(v); }
    // Lane i = table[index[i]], 0 <= index < 8.
    static constexpr bool kPicks = true;
    static F pick8(const float* table, I index) {
        return _mm512_permutexvar_ps(index, _mm512_castps256_ps512(_mm256_loadu_ps(table)));
    }
    static I twice_plus_less(I i, F a, F b) {  // 2 i + (a < b)
        const I twice = _mm512_add_epi32(i, i);
        return _mm512_mask_sub_epi32(twice, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), twice, _mm512_set1_epi32(-1));
    }
    static F pick_of_two(const float* table, I index, F a, F b) {  // the same, of table + 8 where a < b
        const I second = _mm512_mask_add_epi32(index, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), index, _mm512_set1_epi32(8));
        return _mm512_permutexvar_ps(second, load(table));
    }
    static F to_float(I v) { return _mm512_cvtepi32_ps(v); }
    static F power_of_two(I n) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
    }
    static F low_bits_as_exponent(F v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), 23)); }
    static void store_int8(int8_t* out, const I v[2]) {
        _mm_storeu_si128((__m128i*)out, _mm512_cvtsepi32_epi8(v[0]));
        _mm_storeu_si128((__m128i*)(out + 16), _mm512_cvtsepi32_epi8(v[1]));
    }
};

// Registers of 64 bytes: the members that quants.h and vnni_blocks.h ask for.
struct Bytes512 {
    static constexpr int kBytes = 64;
    using B = __m512i;
    using I = __m512i;

    static B load(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static B low(B b) { return _mm512_and_si512(b, _mm512_set1_epi8(15)); }
    static B high(B b) { return low(_mm512_srli_epi16(b, 4)); }
    static B lookup(const int8_t* table, B b) {
        return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_load_si128((const __m128i*)table)), b);
    }
    template <int SHIFT, int MASK>
    static B merge(B b, B plane) {
        const B shifted = SHIFT >= 0 ? _mm512_slli_epi16(plane, SHIFT >= 0 ? SHIFT : 0)
                                     : _mm512_srli_epi16(plane, SHIFT < 0 ? -SHIFT : 0);
        return _mm512_ternarylogic_epi32(b, shifted, _mm512_set1_epi8(MASK), 0xF8);  // b | (shifted & mask)
    }
    template <int N>
    static B subtract(B b) { return _mm512_sub_epi8(b, _mm512_set1_epi8(N)); }
    static B flip_sign(B b) { return _mm512_xor_si512(b, _mm512_set1_epi8(-128)); }

    static I set1(int32_t v) { return _mm512_set1_epi32(v); }
    static I dot(I sum, B weights, I x) { return _mm512_dpbusd_epi32(sum, weights, x); }
};

}  // namespace
}  // namespace dllama

// Eight float lanes of AVX2 with FMA and F16C; the members are those of Portable in simd_portable.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernel_table.h"

namespace dllama {
namespace {

struct Avx2 {
    static constexpr int W = 8;
    static constexpr int kRegisters = 16;
    static constexpr bool kFolds = false;
    using F = __m256;
    using I = __m256i;

    static F set1(float v) { return _mm256_set1_ps(v); }
    static F load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
    static F load_half(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
    static F set1_half(uint16_t h) { return _mm256_cvtph_ps(_mm_set1_epi16(short(h))); }
    static void store_half(uint16_t* p, F v) {
        _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    static F load_bf16(const uint16_t* p) {
        const I wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
        return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    }
    static F load_int8(const int8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
    }

    static F add(F a, F b) { return _mm256_add_ps(a, b); }
    static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    static F div(F a, F b) { return _mm256_div_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    static F select_less(F a, F b, F x, F y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
    static F min(F a, F b) { return _mm256_min_ps(a, b); }  // b when either is NaN
    static F max(F a, F b) { return _mm256_max_ps(a, b); }
    static float sum(F v) {
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
    }
    // out[r * 4 + i] = sum of v[r][i].
    static constexpr int kSumRows = 2;
    static void store_sums(float* out, const F v[2][4]) {
        F halves[4];  // of v[0][i] and v[1][i], added: one shuffle for both
        for (int i = 0; i < 4; i++)
            halves[i] = add(_mm256_blend_ps(v[0][i], v[1][i], 0xF0), _mm256_permute2f128_ps(v[0][i], v[1][i], 0x21));
        const F ab = add_neighbours(halves[0], halves[1]), cd = add_neighbours(halves[2], halves[3]);
        store(out, add_neighbours(ab, cd));
    }
    // As hadd, which is a micro-operation more.
    static F add_neighbours(F a, F b) { return add(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xDD)); }
    static float max_of(F v) {
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
    }
    static float min_of(F v) {
        __m128 m = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        m = _mm_min_ps(m, _mm_movehl_ps(m, m));
        return _mm_cvtss_f32(_mm_min_ss(m, _mm_movehdup_ps(m)));
    }

    static I magnitude_bits(F v) { return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7FFFFFFF)); }
    static I max_int(I a, I b) { return _mm256_max_epi32(a, b); }
    static int32_t max_of_int(I v) {
        __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        m = _mm_max_epi32(m, _mm_unpackhi_epi64(m, m));
        return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 1)));
    }
    static I add_int(I a, I b) { return _mm256_add_epi32(a, b); }
    static int32_t sum_int(I v) {
        __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
        return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 1)));
    }
    static I load_words(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
    static I bits(F v) { return _mm256_castps_si256(v); }
    template <int N>
    static I shift_right(I v) { return _mm256_srli_epi32(v, N); }
    template <int32_t MASK>
    static I and_int(I v) { return _mm256_and_si256(v, _mm256_set1_epi32(MASK)); }
    static I or_int(I a, I b) { return _mm256_or_si256(a, b); }
    static I round_to_int(F v) { return _mm256_cvtps_epi32(v); }
    static I trunc_to_int(F v) { return _mm256_cvttps_epi32(v); }
    // Lane i = table[index[i]], 0 <= index < 8.
    static constexpr bool kPicks = true;
    static F pick8(const float* table, I index) { return _mm256_permutevar8x32_ps(load(table), index); }
    static I twice_plus_less(I i, F a, F b) {  // 2 i + (a < b)
        return _mm256_sub_epi32(_mm256_add_epi32(i, i), _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ)));
    }
    static F pick_of_two(const float* table, I index, F a, F b) {  // the same, of table + 8 where a < b
        return select_less(a, b, pick8(table + 8, index), pick8(table, index));
    }
    static F to_float(I v) { return _mm256_cvtepi32_ps(v); }
    static F power_of_two(I n) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
    }
    static F low_bits_as_exponent(F v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), 23)); }
    static void store_int8(int8_t* out, const I v[4]) {
        // The packs work on 128-bit halves; the permutation puts groups of four back in order.
        const I bytes = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
        const I order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_storeu_si256((__m256i*)out, _mm256_permutevar8x32_epi32(bytes, order));
    }
};

// Registers of 32 bytes: the members that quants.h asks for, and set1.
struct Bytes256 {
    static constexpr int kBytes = 32;
    using B = __m256i;
    using I = __m256i;

    static B load(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
    static B low(B b) { return _mm256_and_si256(b, _mm256_set1_epi8(15)); }
    static B high(B b) { return low(_mm256_srli_epi16(b, 4)); }
    static B lookup(const int8_t* table, B b) {
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)table)), b);
    }
    template <int SHIFT, int MASK>
    static B merge(B b, B plane) {
        const B shifted = SHIFT >= 0 ? _mm256_slli_epi16(plane, SHIFT >= 0 ? SHIFT : 0)
                                     : _mm256_srli_epi16(plane, SHIFT < 0 ? -SHIFT : 0);
        return _mm256_or_si256(b, _mm256_and_si256(shifted, _mm256_set1_epi8(MASK)));
    }
    template <int N>
    static B subtract(B b) { return _mm256_sub_epi8(b, _mm256_set1_epi8(N)); }
    static B flip_sign(B b) { return _mm256_xor_si256(b, _mm256_set1_epi8(-128)); }

    static I set1(int32_t v) { return _mm256_set1_epi32(v); }
};

}  // namespace
}  // namespace dllama

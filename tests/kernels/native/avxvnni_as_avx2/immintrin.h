// Stands in for the compiler's header where AVX-VNNI is emulated: vpdpbusd by way of AVX2.
#pragma once
#include_next <immintrin.h>

// sums[i] += the four products of unsigned bytes 4i to 4i + 3 of `weights` with signed bytes of x, exact.
static inline __m256i emulated_dpbusd(__m256i sums, __m256i weights, __m256i x) {
    const __m256i even_x = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), odd_x = _mm256_srai_epi16(x, 8);
    const __m256i even = _mm256_and_si256(weights, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(weights, 8);
    const __m256i products = _mm256_add_epi32(_mm256_madd_epi16(even, even_x), _mm256_madd_epi16(odd, odd_x));
    return _mm256_add_epi32(sums, products);
}

#undef _mm256_dpbusd_avx_epi32
#define _mm256_dpbusd_avx_epi32(sums, weights, x) emulated_dpbusd(sums, weights, x)

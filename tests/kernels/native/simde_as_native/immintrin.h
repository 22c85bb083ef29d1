// Stands in for the compiler's header where AVX-512 is emulated: SIMDe's portable versions under the same names.
// SIMDe itself includes <immintrin.h> for what the machine really has; that second time the compiler's is meant.
#if defined(DLLAMA_EMULATED)
#include_next <immintrin.h>
#else
#define DLLAMA_EMULATED
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>

// What SIMDe 0.7.4 lacks: conversions from its versions for the two halves, shuffles and masks element by
// element, and multiply-adds that round once.
namespace simde_lacks {

inline simde__m512 floats(simde__m256 low, simde__m256 high) {
    simde__m512_private both;
    both.m256[0] = low, both.m256[1] = high;
    return simde__m512_from_private(both);
}
inline simde__m512i integers(simde__m256i low, simde__m256i high) {
    simde__m512i_private both;
    both.m256i[0] = low, both.m256i[1] = high;
    return simde__m512i_from_private(both);
}

inline simde__m512 cvtph_ps(simde__m256i v) {
    return floats(simde_mm256_cvtph_ps(simde_mm256_castsi256_si128(v)),
                  simde_mm256_cvtph_ps(simde_mm256_extracti128_si256(v, 1)));
}
inline simde__m256i cvtps_ph(simde__m512 v) {
    const simde__m512_private both = simde__m512_to_private(v);
    return simde_mm256_set_m128i(simde_mm256_cvtps_ph(both.m256[1], 0), simde_mm256_cvtps_ph(both.m256[0], 0));
}
inline simde__m512 cvtepi32_ps(simde__m512i v) {
    const simde__m512i_private both = simde__m512i_to_private(v);
    return floats(simde_mm256_cvtepi32_ps(both.m256i[0]), simde_mm256_cvtepi32_ps(both.m256i[1]));
}
inline simde__m512i cvtps_epi32(simde__m512 v) {
    const simde__m512_private both = simde__m512_to_private(v);
    return integers(simde_mm256_cvtps_epi32(both.m256[0]), simde_mm256_cvtps_epi32(both.m256[1]));
}
inline simde__m512i cvttps_epi32(simde__m512 v) {
    const simde__m512_private both = simde__m512_to_private(v);
    return integers(simde_mm256_cvttps_epi32(both.m256[0]), simde_mm256_cvttps_epi32(both.m256[1]));
}
inline simde__m512i cvtepi8_epi32(simde__m128i v) {
    return integers(simde_mm256_cvtepi8_epi32(v), simde_mm256_cvtepi8_epi32(simde_mm_unpackhi_epi64(v, v)));
}
inline simde__m512i cvtepu16_epi32(simde__m256i v) {
    return integers(simde_mm256_cvtepu16_epi32(simde_mm256_castsi256_si128(v)),
                    simde_mm256_cvtepu16_epi32(simde_mm256_extracti128_si256(v, 1)));
}

// Rounded once, unlike SIMDe's.
inline simde__m512 fmadd_ps(simde__m512 a, simde__m512 b, simde__m512 c) {
    const simde__m512_private x = simde__m512_to_private(a), y = simde__m512_to_private(b), z = simde__m512_to_private(c);
    return floats(_mm256_fmadd_ps(x.m256[0], y.m256[0], z.m256[0]), _mm256_fmadd_ps(x.m256[1], y.m256[1], z.m256[1]));
}
inline simde__m512 shuffle_f32x4(simde__m512 a, simde__m512 b, int which) {
    const simde__m512_private from[2] = {simde__m512_to_private(a), simde__m512_to_private(b)};
    simde__m512_private to;
    for (int q = 0; q < 4; q++) to.m128[q] = from[q / 2].m128[which >> 2 * q & 3];
    return simde__m512_from_private(to);
}
inline simde__m512i shuffle_i64x2(simde__m512i a, simde__m512i b, int which) {
    const simde__m512i_private from[2] = {simde__m512i_to_private(a), simde__m512i_to_private(b)};
    simde__m512i_private to;
    for (int q = 0; q < 4; q++) to.m128i[q] = from[q / 2].m128i[which >> 2 * q & 3];
    return simde__m512i_from_private(to);
}
// Elements that are masked out are not touched.
inline simde__m512 maskz_loadu_ps(simde__mmask16 mask, const void* p) {
    simde__m512_private v = simde__m512_to_private(simde_mm512_setzero_ps());
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) v.f32[i] = static_cast<const float*>(p)[i];
    return simde__m512_from_private(v);
}
inline simde__m512i maskz_loadu_epi32(simde__mmask16 mask, const void* p) {
    simde__m512i_private v = simde__m512i_to_private(simde_mm512_setzero_si512());
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) v.i32[i] = static_cast<const int32_t*>(p)[i];
    return simde__m512i_from_private(v);
}
inline void mask_storeu_ps(void* p, simde__mmask16 mask, simde__m512 a) {
    const simde__m512_private v = simde__m512_to_private(a);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) static_cast<float*>(p)[i] = v.f32[i];
}

}  // namespace simde_lacks

#define _mm512_cvtph_ps(v) simde_lacks::cvtph_ps(v)
#define _mm512_cvtps_ph(v, to_nearest) simde_lacks::cvtps_ph(v)
#define _mm512_cvtepi32_ps(v) simde_lacks::cvtepi32_ps(v)
#define _mm512_cvtps_epi32(v) simde_lacks::cvtps_epi32(v)
#define _mm512_cvttps_epi32(v) simde_lacks::cvttps_epi32(v)
#define _mm512_cvtepi8_epi32(v) simde_lacks::cvtepi8_epi32(v)
#define _mm512_cvtepu16_epi32(v) simde_lacks::cvtepu16_epi32(v)
#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps(a, b, c) simde_lacks::fmadd_ps(a, b, c)
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4(a, b, which) simde_lacks::shuffle_f32x4(a, b, which)
#undef _mm512_shuffle_i64x2
#define _mm512_shuffle_i64x2(a, b, which) simde_lacks::shuffle_i64x2(a, b, which)
#define _mm512_maskz_loadu_ps(mask, p) simde_lacks::maskz_loadu_ps(mask, p)
#define _mm512_maskz_loadu_epi32(mask, p) simde_lacks::maskz_loadu_epi32(mask, p)
#define _mm512_mask_storeu_ps(p, mask, v) simde_lacks::mask_storeu_ps(p, mask, v)
#endif

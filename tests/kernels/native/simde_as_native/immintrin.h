// Stands in for the compiler's header where AVX-512 is emulated: SIMDe's portable versions under the same names.
// SIMDe itself includes <immintrin.h> for what the machine really has; that second time the compiler's is meant.
#if defined(DLLAMA_EMULATED)
#include_next <immintrin.h>
#else
#define DLLAMA_EMULATED
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>

// Conversions that SIMDe 0.7.4 lacks, from its versions for the two halves.
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

}  // namespace simde_lacks

#define _mm512_cvtph_ps(v) simde_lacks::cvtph_ps(v)
#define _mm512_cvtps_ph(v, to_nearest) simde_lacks::cvtps_ph(v)
#define _mm512_cvtepi32_ps(v) simde_lacks::cvtepi32_ps(v)
#define _mm512_cvtps_epi32(v) simde_lacks::cvtps_epi32(v)
#define _mm512_cvttps_epi32(v) simde_lacks::cvttps_epi32(v)
#define _mm512_cvtepi8_epi32(v) simde_lacks::cvtepi8_epi32(v)
#define _mm512_cvtepu16_epi32(v) simde_lacks::cvtepu16_epi32(v)
#endif

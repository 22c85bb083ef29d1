// Integer products by vpdpbusd, which multiplies unsigned weights with signed activations and adds fours of products to
// int32: weights are read with an offset that makes them unsigned, and sums begin at minus the offset times the
// activations' sum. V has the members that quants.h asks for, and set1 and dot.
#pragma once

#include <immintrin.h>

#include "quants.h"
#include "row_kernels.h"

namespace dllama {
namespace {

// The sum of 16 activations: vpsadbw adds unsigned bytes.
inline int32_t sum_of_16(const int8_t* x) {
    const __m128i raised = _mm_xor_si128(_mm_loadu_si128((const __m128i*)x), _mm_set1_epi8(-128));
    const __m128i sums = _mm_sad_epu8(raised, _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 16 * 128;
}

template <class V>
typename V::I four_of(const int8_t* x) {
    int32_t word;
    std::memcpy(&word, x, 4);
    return V::set1(word);
}

template <class V, ElementType weight_type>
struct VnniBlock {
    static constexpr ElementType type = weight_type;
    using Weights = Quants<V, type, false>;
    static constexpr int parts = meaning_of(type).scales_of_run;

    template <int NT, int NG>
    static INLINE void dot(const uint8_t* const runs[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    typename V::I dot[parts][NT][NG]) {
        for (int t = 0; t < NT; t++) {
            int32_t sums[2] = {*x_sum[t], 0};
            if constexpr (parts == 2) sums[0] = sum_of_16(x[t]), sums[1] = *x_sum[t] - sums[0];
            for (int p = 0; p < parts; p++)
                for (int n = 0; n < NG; n++) dot[p][t][n] = V::set1(-Weights::offset * sums[p]);
        }
        for_quads([&](auto g) __attribute__((always_inline)) {
            constexpr int G = decltype(g)::value;
            add<G, 0, NT, NG>(runs, x, dot[0]);
            add<G, 1, NT, NG>(runs, x, dot[parts - 1]);
        });
    }

private:
    template <int G, int HALF, int NT, int NG>
    static INLINE void add(const uint8_t* const runs[NG], const int8_t* const x[NT], typename V::I dot[NT][NG]) {
        typename V::B w[NG];
        UNROLL for (int n = 0; n < NG; n++) w[n] = Weights::template half<G, HALF>(runs[n]);
        UNROLL for (int t = 0; t < NT; t++) {
            const typename V::I xt = four_of<V>(x[t] + 16 * HALF + 4 * G);
            UNROLL for (int n = 0; n < NG; n++) dot[t][n] = V::dot(dot[t][n], w[n], xt);
        }
    }
};

}  // namespace
}  // namespace dllama

// Four float lanes of aarch64 NEON; the members are those of Portable in simd_portable.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "kernel_table.h"

namespace dllama {
namespace {

struct Neon {
    static constexpr int W = 4;
    static constexpr int kRegisters = 32;
    static constexpr bool kFolds = false;
    using F = float32x4_t;
    using I = int32x4_t;

    static F set1(float v) { return vdupq_n_f32(v); }
    static F load(const float* p) { return vld1q_f32(p); }
    static void store(float* p, F v) { vst1q_f32(p, v); }
    static F load_half(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
    static F set1_half(uint16_t h) { return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(h))); }
    static void store_half(uint16_t* p, F v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
    static F load_bf16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
    static F load_int8(const int8_t* p) {
        int32_t word;
        std::memcpy(&word, p, 4);
        const int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(word)));
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
    }

    static F add(F a, F b) { return vaddq_f32(a, b); }
    static F sub(F a, F b) { return vsubq_f32(a, b); }
    static F mul(F a, F b) { return vmulq_f32(a, b); }
    static F div(F a, F b) { return vdivq_f32(a, b); }
    static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
    static F select_less(F a, F b, F x, F y) { return vbslq_f32(vcltq_f32(a, b), x, y); }
    static F min(F a, F b) { return select_less(a, b, a, b); }  // b when either is NaN, unlike vminq
    static F max(F a, F b) { return select_less(b, a, a, b); }
    static float sum(F v) { return vaddvq_f32(v); }
    // out[r * 4 + i] = sum of v[r][i].
    static constexpr int kSumRows = 4;
    static void store_sums(float* out, const F v[4][4]) {
        for (int r = 0; r < 4; r++)
            vst1q_f32(out + r * 4, vpaddq_f32(vpaddq_f32(v[r][0], v[r][1]), vpaddq_f32(v[r][2], v[r][3])));
    }
    static float max_of(F v) {
        const F m = max(v, vextq_f32(v, v, 2));
        return m[1] < m[0] ? m[0] : m[1];
    }
    static float min_of(F v) {
        const F m = min(v, vextq_f32(v, v, 2));
        return m[0] < m[1] ? m[0] : m[1];
    }

    static I magnitude_bits(F v) { return vandq_s32(vreinterpretq_s32_f32(v), vdupq_n_s32(0x7FFFFFFF)); }
    static I max_int(I a, I b) { return vmaxq_s32(a, b); }
    static int32_t max_of_int(I v) { return vmaxvq_s32(v); }
    static I add_int(I a, I b) { return vaddq_s32(a, b); }
    static int32_t sum_int(I v) { return vaddvq_s32(v); }
    static I load_words(const uint8_t* p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
    static I bits(F v) { return vreinterpretq_s32_f32(v); }
    template <int N>
    static I shift_right(I v) {
        if constexpr (N == 0)
            return v;
        else
            return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(v), N));
    }
    template <int32_t MASK>
    static I and_int(I v) { return vandq_s32(v, vdupq_n_s32(MASK)); }
    static I or_int(I a, I b) { return vorrq_s32(a, b); }
    static I round_to_int(F v) { return vcvtnq_s32_f32(v); }
    static I trunc_to_int(F v) { return vcvtq_s32_f32(v); }
    static constexpr bool kPicks = false;  // lanes from a table in registers: pick8, pick_of_two, twice_plus_less
    static F to_float(I v) { return vcvtq_f32_s32(v); }
    static F power_of_two(I n) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23)); }
    static F low_bits_as_exponent(F v) { return vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(v), 23)); }
    static void store_int8(int8_t* out, const I v[8]) {
        for (int i = 0; i < 2; i++) {
            const int16x8_t first = vcombine_s16(vqmovn_s32(v[4 * i]), vqmovn_s32(v[4 * i + 1]));
            const int16x8_t second = vcombine_s16(vqmovn_s32(v[4 * i + 2]), vqmovn_s32(v[4 * i + 3]));
            vst1q_s8(out + 16 * i, vcombine_s8(vqmovn_s16(first), vqmovn_s16(second)));
        }
    }
};

// Registers of 16 bytes: the members that quants.h asks for.
struct Bytes128 {
    static constexpr int kBytes = 16;
    using B = uint8x16_t;

    static B load(const uint8_t* p) { return vld1q_u8(p); }
    static B low(B b) { return vandq_u8(b, vdupq_n_u8(15)); }
    static B high(B b) { return vshrq_n_u8(b, 4); }
    static B lookup(const int8_t* table, B b) { return vreinterpretq_u8_s8(vqtbl1q_s8(vld1q_s8(table), b)); }
    template <int SHIFT, int MASK>
    static B merge(B b, B plane) {
        B shifted = plane;
        if constexpr (SHIFT > 0) shifted = vshlq_n_u8(plane, SHIFT);
        if constexpr (SHIFT < 0) shifted = vshrq_n_u8(plane, -SHIFT);
        return vorrq_u8(b, vandq_u8(shifted, vdupq_n_u8(MASK)));
    }
    template <int N>
    static B subtract(B b) { return vsubq_u8(b, vdupq_n_u8(N)); }
    static B flip_sign(B b) { return veorq_u8(b, vdupq_n_u8(128)); }
};

}  // namespace
}  // namespace dllama

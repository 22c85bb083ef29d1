// Four float lanes in the compiler's own vector type: what the kernels are written over where no instruction
// set is chosen. An instruction set's file has a struct with the same members.
//
// Everything in the files that instruction sets share is in an unnamed namespace: each file gets its own copy,
// built with its own flags, and the linker can never hand one file's AVX code to another.
#pragma once

#include <cstdint>
#include <cstring>

#include "half.h"
#include "kernel_table.h"

namespace dllama {
namespace {

struct Portable {
    static constexpr int W = 4;
    static constexpr int kRegisters = 16;
    static constexpr bool kFolds = false;
    typedef float F __attribute__((vector_size(16)));
    typedef int32_t I __attribute__((vector_size(16)));
    typedef uint32_t U __attribute__((vector_size(16)));

    static F set1(float v) { return F{v, v, v, v}; }
    static F load(const float* p) { F v; std::memcpy(&v, p, 16); return v; }
    static void store(float* p, F v) { std::memcpy(p, &v, 16); }
    static F load_half(const uint16_t* p) {
        return F{half_to_float(p[0]), half_to_float(p[1]), half_to_float(p[2]), half_to_float(p[3])};
    }
    static F set1_half(uint16_t h) { return set1(half_to_float(h)); }
    static void store_half(uint16_t* p, F v) {
        for (int i = 0; i < W; i++) p[i] = float_to_half(v[i]);
    }
    static F load_bf16(const uint16_t* p) {
        return (F)U{uint32_t(p[0]) << 16, uint32_t(p[1]) << 16, uint32_t(p[2]) << 16, uint32_t(p[3]) << 16};
    }
    static F load_int8(const int8_t* p) { return F{float(p[0]), float(p[1]), float(p[2]), float(p[3])}; }

    static F add(F a, F b) { return a + b; }
    static F sub(F a, F b) { return a - b; }
    static F mul(F a, F b) { return a * b; }
    static F div(F a, F b) { return a / b; }
    static F fma(F a, F b, F c) { return a * b + c; }
    static F select_less(F a, F b, F x, F y) {
        const I mask = a < b;
        return (F)((mask & (I)x) | (~mask & (I)y));
    }
    static F min(F a, F b) { return select_less(a, b, a, b); }  // b when either is NaN
    static F max(F a, F b) { return select_less(b, a, a, b); }
    static float sum(F v) { return (v[0] + v[2]) + (v[1] + v[3]); }
    // out[r * 4 + i] = sum of v[r][i].
    static constexpr int kSumRows = 2;
    static void store_sums(float* out, const F v[2][4]) {
        for (int i = 0; i < 8; i++) out[i] = sum(v[i / 4][i % 4]);
    }
    static float max_of(F v) {
        const F m = max(v, F{v[2], v[3], v[0], v[1]});
        return m[1] < m[0] ? m[0] : m[1];
    }
    static float min_of(F v) {
        const F m = min(v, F{v[2], v[3], v[0], v[1]});
        return m[0] < m[1] ? m[0] : m[1];
    }

    static I magnitude_bits(F v) { return (I)v & 0x7FFFFFFF; }
    static I max_int(I a, I b) {
        const I mask = a > b;
        return (mask & a) | (~mask & b);
    }
    static int32_t max_of_int(I v) {
        const I m = max_int(v, I{v[2], v[3], v[0], v[1]});
        return m[0] > m[1] ? m[0] : m[1];
    }
    static I add_int(I a, I b) { return (I)((U)a + (U)b); }
    static int32_t sum_int(I v) { return int32_t(uint32_t(v[0]) + uint32_t(v[1]) + uint32_t(v[2]) + uint32_t(v[3])); }
    // Nearest, ties to even, for |v| < 2^22; anything for the rest.
    static I round_to_int(F v) { return (I)((U)(v + 0x1.8p23f) - (U)set1(0x1.8p23f)); }
    static I trunc_to_int(F v) { return __builtin_convertvector(v, I); }  // for 0 <= v < 2^31
    static constexpr bool kPicks = false;  // lanes from a table in registers: pick8, pick_of_two, twice_plus_less
    static F to_float(I v) { return __builtin_convertvector(v, F); }
    static F power_of_two(I n) { return (F)((U)(n + 127) << 23); }  // -126 <= n <= 127
    static F low_bits_as_exponent(F v) { return (F)((U)v << 23); }
    // 32 integers as int8 (saturated or cut: they are in range unless a NaN came in).
    static void store_int8(int8_t* out, const I v[kBlock / W]) {
        for (int i = 0; i < kBlock; i++) out[i] = int8_t(uint8_t(uint32_t(v[i / W][i % W])));
    }
};

}  // namespace
}  // namespace dllama

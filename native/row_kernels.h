// Kernels on single rows, written once over a vector type S (see simd_portable.h).
#pragma once

#include <cmath>
#include <cstring>

#include "kernel_table.h"

// For loops of a few rounds over registers: GCC leaves some of them as loops, and their arrays in memory.
#define UNROLL _Pragma("GCC unroll 8")
#define UNROLL_ALL _Pragma("GCC unroll 16")

// For what works on arrays of registers: GCC keeps them in memory where it leaves a call.
#define INLINE inline __attribute__((always_inline))

namespace dllama {
namespace {

template <class S>
typename S::F load_some(const float* p, int n) {
    float values[S::W] = {};
    std::memcpy(values, p, size_t(n) * 4);
    return S::load(values);
}

template <class S>
void store_some(float* p, typename S::F v, int n) {
    float values[S::W];
    S::store(values, v);
    std::memcpy(p, values, size_t(n) * 4);
}

// e^x within 2 ulp for x in [-87, 88]; 0 below, e^88 above; NaN stays NaN.
// Cody-Waite reduction by ln 2 in two parts, then the polynomial of Cephes' expf.
template <class S>
typename S::F exp(typename S::F x) {
    using F = typename S::F;
    const F lowest = S::set1(-87.0f);
    const F y = S::max(lowest, S::min(S::set1(88.0f), x));
    const auto n = S::round_to_int(S::mul(y, S::set1(1.44269504f)));
    const F nf = S::to_float(n);
    F r = S::fma(nf, S::set1(-0.693359375f), y);
    r = S::fma(nf, S::set1(2.12194440e-4f), r);
    F p = S::set1(1.9875691500e-4f);
    p = S::fma(p, r, S::set1(1.3981999507e-3f));
    p = S::fma(p, r, S::set1(8.3334519073e-3f));
    p = S::fma(p, r, S::set1(4.1665795894e-2f));
    p = S::fma(p, r, S::set1(1.6666665459e-1f));
    p = S::fma(p, r, S::set1(5.0000001201e-1f));
    p = S::fma(S::mul(r, r), p, S::add(r, S::set1(1.0f)));
    return S::select_less(x, lowest, S::set1(0.0f), S::mul(p, S::power_of_two(n)));
}

// tanh(x), off by 2 ulp of 1; NaN stays NaN.
template <class S>
typename S::F tanh(typename S::F x) {
    const typename S::F one = S::set1(1), two = S::set1(2);
    return S::sub(one, S::div(two, S::add(one, exp<S>(S::mul(two, x)))));
}

// 2^y within 2 ulp for -126 <= y <= 0, 1 for 0; 0 below -126.5; NaN stays NaN.
// The minimax polynomial of degree 6 on [-1/2, 1/2], off by 2e-9 before its own roundings.
template <class S>
typename S::F exp2(typename S::F y) {
    using F = typename S::F;
    // Added to 1.5 x 2^23 a number is rounded to a whole one, which is then in the sum's low bits: with 127 on top
    // it is the exponent of a power of two, once it is moved to where exponents are; that of -127 is zero's.
    const F limited = S::max(S::set1(-127), y), shift = S::set1(0x1.8p23f + 127);
    const F shifted = S::add(limited, shift);
    const F r = S::sub(limited, S::sub(shifted, shift));
    F p = S::set1(1.5345812e-4f);
    p = S::fma(p, r, S::set1(1.3399931e-3f));
    p = S::fma(p, r, S::set1(9.6184891e-3f));
    p = S::fma(p, r, S::set1(5.5503286e-2f));
    p = S::fma(p, r, S::set1(2.4022646e-1f));
    p = S::fma(p, r, S::set1(6.9314718e-1f));
    p = S::fma(p, r, S::set1(1));
    return S::mul(p, S::low_bits_as_exponent(shifted));
}

// 1 / d, or 0 where that has no float32 value: everything in such a block rounds to zero.
inline float inverse_or_zero(float d) {
    const float inverse = 1.0f / d;
    return __builtin_isfinite(inverse) ? inverse : 0.0f;
}

// Quantises 32 values to int8 with scale d = max|v| / 127; returns d, and the sum of the quants in *sum.
// NaN and infinity end up in d, because the bits of magnitudes are compared as integers.
template <class S>
float quantize_block(const typename S::F v[kBlock / S::W], int8_t* quants, int32_t* sum) {
    constexpr int N = kBlock / S::W;
    auto bits = S::magnitude_bits(v[0]);
    for (int i = 1; i < N; i++) bits = S::max_int(bits, S::magnitude_bits(v[i]));
    const int32_t largest_bits = S::max_of_int(bits);
    float largest;
    std::memcpy(&largest, &largest_bits, 4);
    const float d = largest / 127.0f;
    const auto inverse = S::set1(inverse_or_zero(d));
    typename S::I q[N];
    for (int i = 0; i < N; i++) q[i] = S::round_to_int(S::mul(v[i], inverse));
    S::store_int8(quants, q);
    auto total = q[0];
    for (int i = 1; i < N; i++) total = S::add_int(total, q[i]);
    *sum = S::sum_int(total);
    return d;
}

// out[i] = the largest lane of v[i].
template <class S>
void largest_of_each(int32_t out[S::W], const typename S::I v[S::W]) {
    if constexpr (S::kFolds)
        S::store_max_of_ints(out, v);
    else
        UNROLL for (int i = 0; i < S::W; i++) out[i] = S::max_of_int(v[i]);
}

// out[i] = the sum of the lanes of v[i].
template <class S>
void sum_of_each(int32_t out[S::W], const typename S::I v[S::W]) {
    if constexpr (S::kFolds)
        S::store_int_sums(out, v);
    else
        UNROLL for (int i = 0; i < S::W; i++) out[i] = S::sum_int(v[i]);
}

// The same for n <= S::W blocks of float32, with scales as they are after float16. Divisions and float16 are done for all
// blocks in one vector. scales and sums have room for S::W blocks.
template <class S>
void quantize_blocks(const float* x, int n, int8_t* quants, float* scales, int32_t* sums) {
    using F = typename S::F;
    using I = typename S::I;
    constexpr int N = kBlock / S::W;
    I bits[S::W];
    for (int b = 0; b < n; b++) {
        bits[b] = S::magnitude_bits(S::load(x + b * kBlock));
        UNROLL for (int i = 1; i < N; i++)
            bits[b] = S::max_int(bits[b], S::magnitude_bits(S::load(x + b * kBlock + i * S::W)));
    }
    for (int b = n; b < S::W; b++) bits[b] = S::magnitude_bits(S::set1(0));
    int32_t largest_bits[S::W];
    largest_of_each<S>(largest_bits, bits);
    float largest[S::W], inverse[S::W];
    std::memcpy(largest, largest_bits, sizeof largest);
    const F d = S::div(S::load(largest), S::set1(127.0f));
    const F exact = S::div(S::set1(1), d);
    S::store(inverse, S::select_less(exact, S::set1(INFINITY), exact, S::set1(0)));  // as inverse_or_zero
    uint16_t halves[S::W];
    S::store_half(halves, d);
    S::store(scales, S::load_half(halves));
    I totals[S::W];
    for (int b = 0; b < n; b++) {
        const F scale = S::set1(inverse[b]);
        I q[N];
        UNROLL for (int i = 0; i < N; i++) q[i] = S::round_to_int(S::mul(S::load(x + b * kBlock + i * S::W), scale));
        S::store_int8(quants + b * kBlock, q);
        totals[b] = q[0];
        UNROLL for (int i = 1; i < N; i++) totals[b] = S::add_int(totals[b], q[i]);
    }
    for (int b = n; b < S::W; b++) totals[b] = S::round_to_int(S::set1(0));
    sum_of_each<S>(sums, totals);
}

// Calls work(b, n) for blocks b to b + n - 1 of n_blocks: S::W of them at a time, and the rest.
template <class S, class Work>
void for_block_runs(int n_blocks, const Work& work) {
    for (int b = 0; b < n_blocks; b += S::W) work(b, n_blocks - b < S::W ? n_blocks - b : S::W);
}

template <class S>
struct RowKernels {
    using F = typename S::F;
    static constexpr int W = S::W;
    static constexpr int N = kBlock / W;

    // Writes value(i) for columns i, i + 1, ..., W at a time; value_some(i, n) gives the last n < W.
    template <class Value, class ValueSome>
    static void write_row(const RowOut& out, int n, Value value, ValueSome value_some) {
        if (out.f32) {
            int i = 0;
            for (; i + W <= n; i += W) S::store(out.f32 + i, value(i));
            if (i < n) store_some<S>(out.f32 + i, value_some(i, n - i), n - i);
            return;
        }
        alignas(64) float values[W * kBlock];
        for_block_runs<S>(n / kBlock, [&](int b, int count) {
            for (int i = 0; i < count * kBlock; i += W) S::store(values + i, value(b * kBlock + i));
            quantize_some(out, b, count, values);
        });
    }

    // Blocks b to b + n - 1 of a row, n <= W, from their values.
    static void quantize_some(const RowOut& out, int b, int n, const float* values) {
        int8_t* quants = out.quants + size_t(b) * kBlock;
        if (n == W) return quantize_blocks<S>(values, W, quants, out.scales + b, out.sums + b);
        float scales[W];
        int32_t sums[W];
        quantize_blocks<S>(values, n, quants, scales, sums);
        for (int i = 0; i < n; i++) out.scales[b + i] = scales[i], out.sums[b + i] = sums[i];
    }

    static void quantize(const RowOut& out, const float* x, int n) {
        if (out.f32) return void(std::memcpy(out.f32, x, size_t(n) * 4));
        for_block_runs<S>(n / kBlock, [&](int b, int count) { quantize_some(out, b, count, x + size_t(b) * kBlock); });
    }

    // The sum of a row in four registers, to which add(sum, v) adds each vector v; the last one is filled up with `filler`.
    template <class Add>
    INLINE static float sum_row(const float* x, int n, float filler, Add add) {
        F s[4] = {S::set1(0), S::set1(0), S::set1(0), S::set1(0)};
        int i = 0;
        for (; i + 4 * W <= n; i += 4 * W)
            for (int j = 0; j < 4; j++) s[j] = add(s[j], S::load(x + i + j * W));
        for (; i + W <= n; i += W) s[0] = add(s[0], S::load(x + i));
        if (i < n) {
            float values[W];
            for (int j = 0; j < W; j++) values[j] = i + j < n ? x[i + j] : filler;
            s[1] = add(s[1], S::load(values));
        }
        return S::sum(S::add(S::add(s[0], s[1]), S::add(s[2], s[3])));
    }

    static void rms_norm(const RowOut& out, const float* x, const float* weight, float eps, int n) {
        const float squares = sum_row(x, n, 0.0f, [](F sum, F v) { return S::fma(v, v, sum); });
        const F scale = S::set1(1.0f / __builtin_sqrtf(squares / float(n) + eps));
        write_row(
            out, n, [&](int j) { return S::mul(S::mul(S::load(x + j), scale), S::load(weight + j)); },
            [&](int j, int count) {
                return S::mul(S::mul(load_some<S>(x + j, count), scale), load_some<S>(weight + j, count));
            });
    }

    // The variance is summed after the mean is known: as a difference of two sums it would lose what they have in common.
    static void layer_norm(const RowOut& out, const float* x, const float* weight, const float* bias, float eps, int n) {
        const float mean = sum_row(x, n, 0.0f, [](F sum, F v) { return S::add(sum, v); }) / float(n);
        const F middle = S::set1(mean);
        const float squares = sum_row(x, n, mean, [middle](F sum, F v) {
            const F off = S::sub(v, middle);
            return S::fma(off, off, sum);
        });
        const F scale = S::set1(1.0f / __builtin_sqrtf(squares / float(n) + eps));
        write_row(
            out, n,
            [&](int j) {
                const F normed = S::mul(S::sub(S::load(x + j), middle), scale);
                return S::fma(normed, S::load(weight + j), S::load(bias + j));
            },
            [&](int j, int count) {
                const F normed = S::mul(S::sub(load_some<S>(x + j, count), middle), scale);
                return S::fma(normed, load_some<S>(weight + j, count), load_some<S>(bias + j, count));
            });
    }

    static F silu(F x) { return S::div(x, S::add(S::set1(1), exp<S>(S::sub(S::set1(0), x)))); }

    // x * (1 + tanh(u)) / 2 = x / (1 + e^(-2u)) with u = sqrt(2 / pi) (x + 0.044715 x^3).
    static F gelu(F x) {
        const F cube = S::mul(S::mul(x, x), x);
        const F u = S::mul(S::set1(0.7978845608f), S::fma(S::set1(0.044715f), cube, x));
        return S::div(x, S::add(S::set1(1), exp<S>(S::mul(S::set1(-2), u))));
    }

    // x * sigmoid(1.702 x) for x = min(gate, 7), times 1 + up within [-7, 7].
    static F clamped_swiglu(F gate, F up) {
        const F limit = S::set1(7), below = S::set1(-7);
        const F x = S::min(limit, gate);  // NaN stays NaN
        const F swish = S::div(x, S::add(S::set1(1), exp<S>(S::mul(S::set1(-1.702f), x))));
        return S::mul(swish, S::add(S::set1(1), S::max(below, S::min(limit, up))));
    }

    static F activated(Activation activation, F gate, F up) {
        if (activation == Activation::swiglu_oai) return clamped_swiglu(gate, up);
        return S::mul(activation == Activation::silu ? silu(gate) : gelu(gate), up);
    }

    static void gated(const RowOut& out, const float* gate, const float* up, Activation activation, int n) {
        write_row(out, n, [&](int i) { return activated(activation, S::load(gate + i), S::load(up + i)); },
                  [&](int i, int c) {
                      return activated(activation, load_some<S>(gate + i, c), load_some<S>(up + i, c));
                  });
    }

    static void add(float* x, const float* y, int n) {
        for (int i = 0; i < n; i++) x[i] += y[i];
    }

    static void add_scaled(float* x, const float* y, float scale, int n) {
        for (int i = 0; i < n; i++) x[i] += scale * y[i];
    }

    // x := scale x, and cap tanh(scale x / cap) where there is a cap.
    static void soft_cap(float* x, float scale, float cap, int n) {
        const F to_scale = S::set1(cap > 0 ? scale / cap : scale), to_cap = S::set1(cap);
        const auto value = [&](F v) {
            const F scaled = S::mul(v, to_scale);
            return cap > 0 ? S::mul(to_cap, tanh<S>(scaled)) : scaled;
        };
        int i = 0;
        for (; i + W <= n; i += W) S::store(x + i, value(S::load(x + i)));
        if (i < n) store_some<S>(x + i, value(load_some<S>(x + i, n - i)), n - i);
    }

    // Plain loops: the compiler vectorises them, and they are nowhere near the top of a profile.
    static void rope(float* head, const float* cos_sin, int head_dim, int n_halves) {
        const int half = n_halves / 2;
        for (int i = 0; i < half; i++) {
            const float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], a = head[i], b = head[i + half];
            head[i] = a * c - b * s;
            head[i + half] = a * s + b * c;
        }
        constexpr int kPairs = 32;
        for (int i = half; i < head_dim / 2; i += kPairs)
            rope_pairs<kPairs>(head + 2 * i, cos_sin + 2 * i, head_dim / 2 - i < kPairs ? head_dim / 2 - i : kPairs);
    }

    // Of a * c - b * s beside a * s + b * c GCC makes fused multiply-adds, whatever -ffp-contract says, so the second
    // products go through memory: the bits are the same in every table.
    template <int MOST>
    static void rope_pairs(float* pairs, const float* cos_sin, int n) {
        float second[2 * MOST];
        for (int i = 0; i < n; i++) {
            second[2 * i] = -(pairs[2 * i + 1] * cos_sin[2 * i + 1]);
            second[2 * i + 1] = pairs[2 * i] * cos_sin[2 * i + 1];
        }
        __asm__ volatile("" : : "r"(second) : "memory");
        for (int i = 0; i < n; i++) {
            pairs[2 * i] = pairs[2 * i] * cos_sin[2 * i] + second[2 * i];
            pairs[2 * i + 1] = pairs[2 * i + 1] * cos_sin[2 * i] + second[2 * i + 1];
        }
    }

    static void store_half(uint16_t* out, const float* x, int n) {
        int i = 0;
        for (; i + W <= n; i += W) S::store_half(out + i, S::load(x + i));
        if (i < n) {
            uint16_t values[W];
            S::store_half(values, load_some<S>(x + i, n - i));
            std::memcpy(out + i, values, size_t(n - i) * 2);
        }
    }

    // n <= W blocks as they travel: a scale as float16, then the quants.
    static void encode_blocks(uint8_t* out, const float* x, int n) {
        int8_t quants[W * kBlock];
        float scales[W];
        int32_t sums[W];
        uint16_t halves[W];
        quantize_blocks<S>(x, n, quants, scales, sums);
        S::store_half(halves, S::load(scales));
        for (int b = 0; b < n; b++, out += kQ80Bytes) {
            std::memcpy(out, halves + b, 2);
            std::memcpy(out + 2, quants + b * kBlock, kBlock);
        }
    }

    static void encode_q80(uint8_t* out, const float* x, int n) {
        const int blocks = n / kBlock;
        for_block_runs<S>(blocks, [&](int b, int count) {
            encode_blocks(out + size_t(b) * kQ80Bytes, x + size_t(b) * kBlock, count);
        });
        if (n % kBlock) {
            float padded[kBlock] = {};
            std::memcpy(padded, x + size_t(blocks) * kBlock, size_t(n % kBlock) * 4);
            encode_blocks(out + size_t(blocks) * kQ80Bytes, padded, 1);
        }
    }
};

}  // namespace
}  // namespace dllama

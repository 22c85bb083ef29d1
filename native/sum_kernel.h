// The sum of all ranks' partial sums, straight from the bytes that travelled.
#pragma once

#include "row_kernels.h"

namespace dllama {
namespace {

// A sum is that of the parts alone, in rank order, and then of what it is added to: whoever adds the same parts gets
// the same bits, whatever it adds them to. A quant times a float16 is exact in float32, so fused or not makes no
// difference either.
template <class S>
struct SumKernel {
    using F = typename S::F;
    static constexpr int W = S::W;
    static constexpr int N = kBlock / W;

    // v = the sum of block `b` of all parts.
    static void sum_block(const WireParts& parts, int b, F v[N]) {
        const uint8_t* block = parts.data + size_t(b) * kQ80Bytes;
        for (int i = 0; i < N; i++) v[i] = S::set1(0);
        for (int p = 0; p < parts.count; p++, block += parts.stride) {
            uint16_t half;
            std::memcpy(&half, block, 2);
            const F d = S::set1_half(half);
            const int8_t* quants = reinterpret_cast<const int8_t*>(block + 2);
            UNROLL for (int i = 0; i < N; i++) v[i] = S::fma(S::load_int8(quants + i * W), d, v[i]);
        }
    }

    // v = what v is after a journey as Q80.
    static void round_block(F v[N]) {
        int8_t quants[kBlock];
        int32_t sum;
        const F d = S::set1(through_half<S>(quantize_block<S>(v, quants, &sum)));
        for (int i = 0; i < N; i++) v[i] = S::mul(S::load_int8(quants + i * W), d);
    }

    static void add_sum_q80(float* x, const WireParts& parts, int n, bool rounded) {
        for (int b = 0; b * kBlock < n; b++, x += kBlock) {
            F v[N];
            sum_block(parts, b, v);
            if (rounded) round_block(v);
            const int count = n - b * kBlock;
            if (count >= kBlock) {
                UNROLL for (int i = 0; i < N; i++) S::store(x + i * W, S::add(S::load(x + i * W), v[i]));
                continue;
            }
            float sum[kBlock];
            for (int i = 0; i < N; i++) S::store(sum + i * W, v[i]);
            for (int i = 0; i < count; i++) x[i] += sum[i];
        }
    }

    static void sum_q80(uint8_t* out, const WireParts& parts, int n_blocks) {
        for (int b = 0; b < n_blocks; b++, out += kQ80Bytes) {
            F v[N];
            sum_block(parts, b, v);
            int32_t sum;
            uint16_t scale[W];
            S::store_half(scale, S::set1(quantize_block<S>(v, reinterpret_cast<int8_t*>(out + 2), &sum)));
            std::memcpy(out, scale, 2);
        }
    }

    static void add_sum_f32(float* x, const float* parts, size_t stride, int n_parts, int n) {
        int i = 0;
        for (; i + W <= n; i += W) {
            F v = S::load(parts + i);
            for (int p = 1; p < n_parts; p++) v = S::add(v, S::load(parts + p * stride + i));
            S::store(x + i, S::add(S::load(x + i), v));
        }
        for (; i < n; i++) {
            float v = parts[i];
            for (int p = 1; p < n_parts; p++) v += parts[p * stride + i];
            x[i] += v;
        }
    }
};

}  // namespace
}  // namespace dllama

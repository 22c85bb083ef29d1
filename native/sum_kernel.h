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

    // v = the sum of block b of all parts.
    static void sum_block(const WireParts& parts, int b, F v[N]) {
        UNROLL for (int j = 0; j < N; j++) v[j] = S::set1(0);
        const uint8_t* block = parts.data + size_t(b) * kQ80Bytes;
        for (int p = 0; p < parts.count; p++, block += parts.stride) {
            uint16_t half;
            std::memcpy(&half, block, 2);
            const F d = S::set1_half(half);
            const int8_t* quants = reinterpret_cast<const int8_t*>(block + 2);
            UNROLL for (int j = 0; j < N; j++) v[j] = S::fma(S::load_int8(quants + j * W), d, v[j]);
        }
    }

    // values = the sums of blocks b to b + n - 1 of all parts.
    static void sum_blocks(const WireParts& parts, int b, int n, float* values) {
        for (int i = 0; i < n; i++, values += kBlock) {
            F v[N];
            sum_block(parts, b + i, v);
            UNROLL for (int j = 0; j < N; j++) S::store(values + j * W, v[j]);
        }
    }

    // The values of n <= W blocks, as they are after a journey as Q80.
    static void round_blocks(float* values, int n) {
        int8_t quants[W * kBlock];
        float scales[W];
        int32_t sums[W];
        quantize_blocks<S>(values, n, quants, scales, sums);
        for (int b = 0; b < n; b++) {
            const F d = S::set1(scales[b]);
            for (int i = b * kBlock; i < (b + 1) * kBlock; i += W)
                S::store(values + i, S::mul(S::load_int8(quants + i), d));
        }
    }

    // x += the sums of whole blocks.
    static void add_blocks(float* x, const WireParts& parts, int n_blocks) {
        for (int b = 0; b < n_blocks; b++, x += kBlock) {
            F v[N];
            sum_block(parts, b, v);
            UNROLL for (int j = 0; j < N; j++) S::store(x + j * W, S::add(S::load(x + j * W), v[j]));
        }
    }

    static void add_sum_q80(float* x, const WireParts& parts, int n, bool rounded) {
        if (!rounded && n % kBlock == 0) return add_blocks(x, parts, n / kBlock);
        alignas(64) float values[W * kBlock];
        for_block_runs<S>((n + kBlock - 1) / kBlock, [&](int b, int count) {
            const int first = b * kBlock, end = n - first < count * kBlock ? n - first : count * kBlock;
            sum_blocks(parts, b, count, values);
            if (rounded) round_blocks(values, count);
            int i = 0;
            for (; i + W <= end; i += W) S::store(x + first + i, S::add(S::load(x + first + i), S::load(values + i)));
            for (; i < end; i++) x[first + i] += values[i];
        });
    }

    static void sum_q80(uint8_t* out, const WireParts& parts, int n_blocks) {
        alignas(64) float values[W * kBlock];
        for_block_runs<S>(n_blocks, [&](int b, int count) {
            sum_blocks(parts, b, count, values);
            RowKernels<S>::encode_blocks(out + size_t(b) * kQ80Bytes, values, count);
        });
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

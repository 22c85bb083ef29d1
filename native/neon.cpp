// Kernels for every aarch64 CPU. A tile is 4 rows: one 128-bit register of float or int32 sums.
#include "peak.h"
#include "quant_matmul.h"
#include "simd_neon.h"
#include "vector_table.h"

namespace dllama {
namespace {

constexpr int kRows = 4;

// Without dot products a block's sums need two registers of int16 (or of pairs of int32) for each tile and token.
// Mat-mat: 8 rows x 2 tokens. Each broadcast of activations serves both tiles; 8 registers of these sums, 4 of float
// sums, 4 of weights and 4 of activations leave room for what is under way. 4 tokens would split nibbles half as
// often (8 of 100 instructions), but spill 30 times for a block.
constexpr int kMatTokens = 2;
constexpr int kMatTiles = 2;

// Mat-vec: 16 rows are 8 chains of multiply-adds of latency 4, two of which begin in a cycle.
constexpr int kVecTiles = 4;

// F16 and F32: 4 tiles x 4 tokens are 16 chains, enough for the four multiply-adds a cycle (latency 4) of the widest
// cores; with 4 weights and an activation they take 21 registers.
constexpr int kFloatTiles = 4;

// Activations 4g to 4g + 3 of x, four times.
template <int G>
int8x16_t four_of(int8x16_t x) {
    return vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), G));
}

int8x16_t load_bytes(const uint8_t* p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }

// low holds sums of pairs or fours of columns of rows 0 and 1, high of rows 2 and 3.
int32x4_t join(int32x4_t low, int32x4_t high) { return vpaddq_s32(low, high); }

struct Q40Block {
    static constexpr int bytes = kRows * traits_of(ElementType::q40).bytes;

    // Nibbles stay 0 to 15: eight products in a lane reach 8 * 15 * 127 = 15240, so int16 holds a whole block.
    template <int NT, int NG, int G>
    static void group(const uint8_t* const units[NG], const int8_t* const x[NT], int16x8_t low[NT][NG],
                      int16x8_t high[NT][NG]) {
        int8x16_t first[NG], second[NG];  // columns 4G to 4G + 3, and 16 further on
        for (int n = 0; n < NG; n++) {
            const uint8x16_t w = vld1q_u8(units[n] + G * 16);
            first[n] = vreinterpretq_s8_u8(vandq_u8(w, vdupq_n_u8(15)));
            second[n] = vreinterpretq_s8_u8(vshrq_n_u8(w, 4));
        }
        for (int t = 0; t < NT; t++) {
            const int8x16_t x_first = four_of<G>(vld1q_s8(x[t])), x_second = four_of<G>(vld1q_s8(x[t] + 16));
            for (int n = 0; n < NG; n++) {
                const int8x8_t begin = vget_low_s8(first[n]), x_begin = vget_low_s8(x_first);
                low[t][n] = G ? vmlal_s8(low[t][n], begin, x_begin) : vmull_s8(begin, x_begin);
                high[t][n] = G ? vmlal_high_s8(high[t][n], first[n], x_first) : vmull_high_s8(first[n], x_first);
                low[t][n] = vmlal_s8(low[t][n], vget_low_s8(second[n]), vget_low_s8(x_second));
                high[t][n] = vmlal_high_s8(high[t][n], second[n], x_second);
            }
        }
    }

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    int32x4_t dot[NT][NG]) {
        int16x8_t low[NT][NG], high[NT][NG];
        group<NT, NG, 0>(units, x, low, high);
        group<NT, NG, 1>(units, x, low, high);
        group<NT, NG, 2>(units, x, low, high);
        group<NT, NG, 3>(units, x, low, high);
        for (int t = 0; t < NT; t++) {
            const int32x4_t offset = vdupq_n_s32(8 * *x_sum[t]);  // they stand for -8 to 7
            for (int n = 0; n < NG; n++)
                dot[t][n] = vsubq_s32(join(vpaddlq_s16(low[t][n]), vpaddlq_s16(high[t][n])), offset);
        }
    }
};

struct Q80Block {
    static constexpr int bytes = kRows * kQ80Bytes;

    // Two products in an int16 reach 2 * 128 * 127 = 32512 (activations are never -128); more are added in int32.
    template <int NT, int NG, int G>
    static void two_groups(const uint8_t* const units[NG], const int8_t* const x[NT], int32x4_t low[NT][NG],
                           int32x4_t high[NT][NG]) {
        for (int t = 0; t < NT; t++) {
            const int8x16_t x16 = vld1q_s8(x[t] + G / 4 * 16);
            const int8x16_t x_first = four_of<G % 4>(x16), x_second = four_of<G % 4 + 1>(x16);
            for (int n = 0; n < NG; n++) {
                const int8x16_t first = load_bytes(units[n] + G * 16), second = load_bytes(units[n] + G * 16 + 16);
                int16x8_t pairs = vmull_s8(vget_low_s8(first), vget_low_s8(x_first));
                pairs = vmlal_s8(pairs, vget_low_s8(second), vget_low_s8(x_second));
                low[t][n] = vpadalq_s16(low[t][n], pairs);
                pairs = vmull_high_s8(first, x_first);
                pairs = vmlal_high_s8(pairs, second, x_second);
                high[t][n] = vpadalq_s16(high[t][n], pairs);
            }
        }
    }

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const[NT],
                    int32x4_t dot[NT][NG]) {
        int32x4_t low[NT][NG], high[NT][NG];
        for (int t = 0; t < NT; t++)
            for (int n = 0; n < NG; n++) low[t][n] = high[t][n] = vdupq_n_s32(0);
        two_groups<NT, NG, 0>(units, x, low, high);
        two_groups<NT, NG, 2>(units, x, low, high);
        two_groups<NT, NG, 4>(units, x, low, high);
        two_groups<NT, NG, 6>(units, x, low, high);
        for (int t = 0; t < NT; t++)
            for (int n = 0; n < NG; n++) dot[t][n] = join(low[t][n], high[t][n]);
    }
};

int64_t peak(int64_t rounds) {
    const int8x8_t ones = vdup_n_s8(1);
    return 16 * dot_peak<16>(rounds, vdupq_n_s16(0), ones, ones, [](int16x8_t sum, int8x8_t w, int8x8_t x) {
        return vmlal_s8(sum, w, x);
    });
}

KernelTable make_table() {
    KernelTable table = vector_table<Neon, kRows, kFloatTiles>("neon");
    table.unit_bytes = 4;
    table.tile_group = kVecTiles;
    table.matmul[ElementType::q40] = quant_matmul<Neon, Q40Block, kMatTokens, kMatTiles, kVecTiles>;
    table.matmul[ElementType::q80] = quant_matmul<Neon, Q80Block, kMatTokens, kMatTiles, kVecTiles>;
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* neon_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

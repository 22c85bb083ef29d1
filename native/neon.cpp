// Kernels for every aarch64 CPU. A tile is 4 rows: one 128-bit register of float or int32 sums.
#include "peak.h"
#include "quant_matmul.h"
#include "quants.h"
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

// low holds sums of pairs or fours of columns of rows 0 and 1, high of rows 2 and 3.
int32x4_t join(int32x4_t low, int32x4_t high) { return vpaddq_s32(low, high); }

int8x16_t as_signed(uint8x16_t bytes) { return vreinterpretq_s8_u8(bytes); }

template <ElementType weight_type>
struct MullBlock {
    static constexpr ElementType type = weight_type;
    using Weights = Quants<Bytes128, type, true>;
    static constexpr QuantMeaning meaning = meaning_of(type);
    static constexpr int parts = meaning.scales_of_run;
    static constexpr int largest = meaning.largest + (Weights::offset > 0 ? meaning.offset - 1 : 0);
    static constexpr int n_products = 8 / parts;  // that a lane adds up for a part
    static constexpr bool is_narrow = 32767 / (127 * largest) >= n_products;  // int16 holds them
    static_assert(32767 / (127 * largest) >= 2, "else two of them");

    template <int NT, int NG>
    static INLINE void dot(const uint8_t* const runs[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    int32x4_t dot[parts][NT][NG]) {
        if constexpr (is_narrow)
            narrow<NT, NG>(runs, x, x_sum, dot);
        else
            wide<NT, NG>(runs, x, dot[0]);
    }

private:
    template <int NT, int NG>
    static INLINE void narrow(const uint8_t* const runs[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                       int32x4_t dot[parts][NT][NG]) {
        int16x8_t low[parts][NT][NG], high[parts][NT][NG];
        for_quads([&](auto g) __attribute__((always_inline)) {
            constexpr int G = decltype(g)::value;
            uint8x16_t first[NG], second[NG];
            for (int n = 0; n < NG; n++)
                first[n] = Weights::template half<G, 0>(runs[n]), second[n] = Weights::template half<G, 1>(runs[n]);
            for (int t = 0; t < NT; t++) {
                const int8x16_t x_first = four_of<G>(vld1q_s8(x[t])), x_second = four_of<G>(vld1q_s8(x[t] + 16));
                for (int n = 0; n < NG; n++) {
                    add<G == 0>(low[0][t][n], high[0][t][n], as_signed(first[n]), x_first);
                    add<G == 0 && parts == 2>(low[parts - 1][t][n], high[parts - 1][t][n], as_signed(second[n]), x_second);
                }
            }
        });
        for (int t = 0; t < NT; t++) {
            const int32x4_t offset = vdupq_n_s32(Weights::offset * *x_sum[t]);
            for (int p = 0; p < parts; p++)
                for (int n = 0; n < NG; n++)
                    dot[p][t][n] = vsubq_s32(join(vpaddlq_s16(low[p][t][n]), vpaddlq_s16(high[p][t][n])), offset);
        }
    }

    template <bool IS_FIRST>
    static INLINE void add(int16x8_t& low, int16x8_t& high, int8x16_t w, int8x16_t x) {
        low = IS_FIRST ? vmull_s8(vget_low_s8(w), vget_low_s8(x)) : vmlal_s8(low, vget_low_s8(w), vget_low_s8(x));
        high = IS_FIRST ? vmull_high_s8(w, x) : vmlal_high_s8(high, w, x);
    }

    // Two products in an int16 reach 2 * 128 * 127 = 32512 (activations are never -128); more are added in int32.
    template <int NT, int NG>
    static INLINE void wide(const uint8_t* const runs[NG], const int8_t* const x[NT], int32x4_t dot[NT][NG]) {
        static_assert(is_narrow || (parts == 1 && Weights::offset == 0), "sums are the products'");
        int32x4_t low[NT][NG], high[NT][NG];
        for (int t = 0; t < NT; t++)
            for (int n = 0; n < NG; n++) low[t][n] = high[t][n] = vdupq_n_s32(0);
        for_quads([&](auto g) __attribute__((always_inline)) {
            constexpr int G = decltype(g)::value;
            uint8x16_t first[NG], second[NG];
            for (int n = 0; n < NG; n++)
                first[n] = Weights::template half<G, 0>(runs[n]), second[n] = Weights::template half<G, 1>(runs[n]);
            for (int t = 0; t < NT; t++) {
                const int8x16_t x_first = four_of<G>(vld1q_s8(x[t])), x_second = four_of<G>(vld1q_s8(x[t] + 16));
                for (int n = 0; n < NG; n++) {
                    int16x8_t of_low, of_high;
                    add<true>(of_low, of_high, as_signed(first[n]), x_first);
                    add<false>(of_low, of_high, as_signed(second[n]), x_second);
                    low[t][n] = vpadalq_s16(low[t][n], of_low);
                    high[t][n] = vpadalq_s16(high[t][n], of_high);
                }
            }
        });
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
    for_blocked_types([&](auto tag) {
        table.matmul[tag] = quant_matmul<Neon, MullBlock<decltype(tag)::value>, kMatTokens, kMatTiles, kVecTiles>;
    });
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* neon_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

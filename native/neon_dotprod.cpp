// Matrix products for aarch64 with SDOT (Armv8.2 dotprod); all else is neon.cpp's. Tiles are the same 4 rows.
#include "peak.h"
#include "quant_matmul.h"
#include "simd_neon.h"

namespace dllama {
namespace {

constexpr int kRows = 4;

// Mat-mat: 8 rows x 4 tokens are 8 chains of sdot (latency 3 to 4, two a cycle). 8 integer and 8 float sums, 8
// registers of activations, 4 weights and 2 scales are 30 of 32 registers: nothing is loaded twice, nothing more fits.
constexpr int kMatTokens = 4;
constexpr int kMatTiles = 2;

// Mat-vec: 16 rows are 4 chains of 8; with those of the next block, which do not depend on them, the latency is
// hidden, and 16 sdot for each 72 bytes of a tile are far above what a core reads from memory.
constexpr int kVecTiles = 4;

template <int NT>
struct Activations {
    explicit Activations(const int8_t* const x[NT]) {
        for (int t = 0; t < NT; t++) first[t] = vld1q_s8(x[t]), second[t] = vld1q_s8(x[t] + 16);
    }
    int8x16_t first[NT], second[NT];  // columns 0 to 15, 16 to 31
};

struct Q40Block {
    static constexpr int bytes = kRows * traits_of(ElementType::q40).bytes;

    template <int NT, int NG, int G>
    static void group(const uint8_t* const units[NG], const Activations<NT>& x, int32x4_t dot[NT][NG]) {
        for (int n = 0; n < NG; n++) {
            const uint8x16_t w = vld1q_u8(units[n] + G * 16);
            const int8x16_t first = vreinterpretq_s8_u8(vandq_u8(w, vdupq_n_u8(15)));
            const int8x16_t second = vreinterpretq_s8_u8(vshrq_n_u8(w, 4));
            for (int t = 0; t < NT; t++) {
                dot[t][n] = vdotq_laneq_s32(dot[t][n], first, x.first[t], G);
                dot[t][n] = vdotq_laneq_s32(dot[t][n], second, x.second[t], G);
            }
        }
    }

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    int32x4_t dot[NT][NG]) {
        const Activations<NT> a(x);
        for (int t = 0; t < NT; t++)  // nibbles 0 to 15 stand for -8 to 7
            for (int n = 0; n < NG; n++) dot[t][n] = vdupq_n_s32(-8 * *x_sum[t]);
        group<NT, NG, 0>(units, a, dot);
        group<NT, NG, 1>(units, a, dot);
        group<NT, NG, 2>(units, a, dot);
        group<NT, NG, 3>(units, a, dot);
    }
};

struct Q80Block {
    static constexpr int bytes = kRows * kQ80Bytes;

    template <int NT, int NG, int G>
    static void group(const uint8_t* const units[NG], const Activations<NT>& x, int32x4_t dot[NT][NG]) {
        for (int n = 0; n < NG; n++) {
            const int8x16_t first = vreinterpretq_s8_u8(vld1q_u8(units[n] + G * 16));
            const int8x16_t second = vreinterpretq_s8_u8(vld1q_u8(units[n] + (G + 4) * 16));
            for (int t = 0; t < NT; t++) {
                dot[t][n] = vdotq_laneq_s32(dot[t][n], first, x.first[t], G);
                dot[t][n] = vdotq_laneq_s32(dot[t][n], second, x.second[t], G);
            }
        }
    }

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const[NT],
                    int32x4_t dot[NT][NG]) {
        const Activations<NT> a(x);
        for (int t = 0; t < NT; t++)
            for (int n = 0; n < NG; n++) dot[t][n] = vdupq_n_s32(0);
        group<NT, NG, 0>(units, a, dot);
        group<NT, NG, 1>(units, a, dot);
        group<NT, NG, 2>(units, a, dot);
        group<NT, NG, 3>(units, a, dot);
    }
};

int64_t peak(int64_t rounds) {
    const int8x16_t ones = vdupq_n_s8(1);
    return 32 * dot_peak<16>(rounds, vdupq_n_s32(0), ones, ones, [](int32x4_t sum, int8x16_t w, int8x16_t x) {
        return vdotq_s32(sum, w, x);
    });
}

KernelTable make_table() {
    KernelTable table = *neon_kernels();
    table.isa = "neon_dotprod";
    table.tile_group = kVecTiles;
    table.matmul[ElementType::q40] = quant_matmul<Neon, Q40Block, kMatTokens, kMatTiles, kVecTiles>;
    table.matmul[ElementType::q80] = quant_matmul<Neon, Q80Block, kMatTokens, kMatTiles, kVecTiles>;
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* neon_dotprod_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

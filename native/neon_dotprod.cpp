// Matrix products for aarch64 with SDOT (Armv8.2 dotprod); all else is neon.cpp's. Tiles are the same 4 rows.
#include "peak.h"
#include "quant_matmul.h"
#include "quants.h"
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

template <ElementType weight_type>
struct DotBlock {
    static constexpr ElementType type = weight_type;
    using Weights = Quants<Bytes128, type, true>;
    static constexpr int parts = meaning_of(type).scales_of_run;

    template <int NT, int NG>
    static INLINE void dot(const uint8_t* const runs[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    int32x4_t dot[parts][NT][NG]) {
        const Activations<NT> a(x);
        for (int t = 0; t < NT; t++) {
            const int32x4_t first = vdupq_n_s32(-Weights::offset * *x_sum[t]);
            for (int p = 0; p < parts; p++)
                for (int n = 0; n < NG; n++) dot[p][t][n] = first;
        }
        for_quads([&](auto g) __attribute__((always_inline)) {
            constexpr int G = decltype(g)::value;
            for (int n = 0; n < NG; n++) {
                const int8x16_t w_first = vreinterpretq_s8_u8(Weights::template half<G, 0>(runs[n]));
                const int8x16_t w_second = vreinterpretq_s8_u8(Weights::template half<G, 1>(runs[n]));
                for (int t = 0; t < NT; t++) {
                    dot[0][t][n] = vdotq_laneq_s32(dot[0][t][n], w_first, a.first[t], G);
                    dot[parts - 1][t][n] = vdotq_laneq_s32(dot[parts - 1][t][n], w_second, a.second[t], G);
                }
            }
        });
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
    for_blocked_types([&](auto tag) {
        table.matmul[tag] = quant_matmul<Neon, DotBlock<decltype(tag)::value>, kMatTokens, kMatTiles, kVecTiles>;
    });
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* neon_dotprod_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

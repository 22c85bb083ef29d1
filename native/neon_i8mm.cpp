// Matrix products for aarch64 with SMMLA (Armv8.6 i8mm); all else is neon.cpp's. Tiles are the same 4 rows, but 8
// bytes of a row stay together: a register holds 2 rows x 8 columns, and smmla multiplies it with 8 columns x 2
// tokens into a square of 4 sums.
#include "peak.h"
#include "quant_matmul.h"
#include "simd_neon.h"

namespace dllama {
namespace {

constexpr int kRows = 4;

// Mat-mat: 8 rows x 4 tokens are 8 squares, as many chains of smmla (latency 3 to 4, two a cycle). 8 squares, 8
// float sums, 8 registers of activations, 4 weights and 2 scales are 30 of 32 registers. For each block 32 smmla do
// the work of 64 sdot.
constexpr int kMatTokens = 4;
constexpr int kMatTiles = 2;

// Mat-vec: the token stands twice in a square, so it takes as many smmla as sdot would take. 16 rows are 8 chains.
constexpr int kVecTiles = 4;

// Columns 8g to 8g + 7 of two tokens in one register, for g = 0 to 3 (of one token, twice, where NT is 1).
template <int NT>
struct Activations {
    static constexpr int n_pairs = (NT + 1) / 2;

    explicit Activations(const int8_t* const x[NT]) {
        static_assert(NT == 1 || NT % 2 == 0, "tokens come in pairs");
        for (int p = 0; p < n_pairs; p++)
            for (int half = 0; half < 2; half++) {
                const int8_t *first = x[2 * p], *second = x[NT == 1 ? 0 : 2 * p + 1];
                const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(first + 16 * half));
                const int64x2_t b = vreinterpretq_s64_s8(vld1q_s8(second + 16 * half));
                pair[p][2 * half] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
                pair[p][2 * half + 1] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
            }
    }
    int8x16_t pair[n_pairs][4];
};

// square[p][n][h]: rows 2h and 2h + 1 of tile n times the tokens of pair p, [r0t0, r0t1, r1t0, r1t1].
template <int NT, int NG>
struct Squares {
    static constexpr int n_pairs = Activations<NT>::n_pairs;

    Squares() {
        for (int p = 0; p < n_pairs; p++)
            for (int n = 0; n < NG; n++) square[p][n][0] = square[p][n][1] = vdupq_n_s32(0);
    }
    void add(int n, int half, int8x16_t weights, const Activations<NT>& x, int columns) {
        for (int p = 0; p < n_pairs; p++)
            square[p][n][half] = vmmlaq_s32(square[p][n][half], weights, x.pair[p][columns]);
    }
    // The sums of token t with the 4 rows of tile n.
    int32x4_t of(int t, int n) const {
        const int32x4_t* s = square[t / 2][n];
        return t % 2 ? vuzp2q_s32(s[0], s[1]) : vuzp1q_s32(s[0], s[1]);
    }
    int32x4_t square[n_pairs][NG][2];
};

struct Q40Block {
    static constexpr int bytes = kRows * traits_of(ElementType::q40).bytes;

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    int32x4_t dot[NT][NG]) {
        const Activations<NT> a(x);
        Squares<NT, NG> squares;
        for (int n = 0; n < NG; n++)
            for (int g = 0; g < 2; g++)  // columns 8g to 8g + 7, and 16 further on
                for (int half = 0; half < 2; half++) {
                    const uint8x16_t w = vld1q_u8(units[n] + (2 * g + half) * 16);
                    squares.add(n, half, vreinterpretq_s8_u8(vandq_u8(w, vdupq_n_u8(15))), a, g);
                    squares.add(n, half, vreinterpretq_s8_u8(vshrq_n_u8(w, 4)), a, 2 + g);
                }
        for (int t = 0; t < NT; t++) {
            const int32x4_t offset = vdupq_n_s32(8 * *x_sum[t]);  // nibbles 0 to 15 stand for -8 to 7
            for (int n = 0; n < NG; n++) dot[t][n] = vsubq_s32(squares.of(t, n), offset);
        }
    }
};

struct Q80Block {
    static constexpr int bytes = kRows * kQ80Bytes;

    template <int NT, int NG>
    static void dot(const uint8_t* const units[NG], const int8_t* const x[NT], const int32_t* const[NT],
                    int32x4_t dot[NT][NG]) {
        const Activations<NT> a(x);
        Squares<NT, NG> squares;
        for (int n = 0; n < NG; n++)
            for (int g = 0; g < 4; g++)
                for (int half = 0; half < 2; half++)
                    squares.add(n, half, vreinterpretq_s8_u8(vld1q_u8(units[n] + (2 * g + half) * 16)), a, g);
        for (int t = 0; t < NT; t++)
            for (int n = 0; n < NG; n++) dot[t][n] = squares.of(t, n);
    }
};

int64_t peak(int64_t rounds) {
    const int8x16_t ones = vdupq_n_s8(1);
    return 64 * dot_peak<16>(rounds, vdupq_n_s32(0), ones, ones, [](int32x4_t sum, int8x16_t w, int8x16_t x) {
        return vmmlaq_s32(sum, w, x);
    });
}

KernelTable make_table() {
    KernelTable table = *neon_kernels();
    table.isa = "neon_i8mm";
    table.unit_bytes = 8;
    table.tile_group = kVecTiles;
    table.matmul[ElementType::q40] = quant_matmul<Neon, Q40Block, kMatTokens, kMatTiles, kVecTiles>;
    table.matmul[ElementType::q80] = quant_matmul<Neon, Q80Block, kMatTokens, kMatTiles, kVecTiles>;
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* neon_i8mm_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

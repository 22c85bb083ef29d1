// Matrix products for aarch64 with SMMLA (Armv8.6 i8mm); all else is neon.cpp's. Tiles are the same 4 rows, but 8
// bytes of a row stay together: a register holds 2 rows x 8 columns, and smmla multiplies it with 8 columns x 2
// tokens into a square of 4 sums.
#include "peak.h"
#include "quant_matmul.h"
#include "quants.h"
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

// The quants of 2 rows x 8 columns, as quants.h says it of 4 columns of all rows.
template <ElementType type>
struct PairQuants {
    static constexpr BlockShape shape = shape_of(type);
    static constexpr QuantMeaning meaning = meaning_of(type);
    static constexpr int offset = Quants<Bytes128, type, true>::offset;

    // Rows 2 * HALF and the next of a tile: columns 8G to 8G + 7 of a run, and those 16 further on.
    template <int G, int HALF>
    static INLINE void pair(const uint8_t* run, int8x16_t& first, int8x16_t& second) {
        const uint8_t* low = run + shape.planes * 16;
        uint8x16_t a, b;
        if constexpr (type == ElementType::q80) {
            a = vld1q_u8(low + (2 * G + HALF) * 16), b = vld1q_u8(low + (2 * (G + 2) + HALF) * 16);
        } else {
            const uint8x16_t w = vld1q_u8(low + (2 * G + HALF) * 16);
            a = Bytes128::low(w), b = Bytes128::high(w);
        }
        if constexpr (meaning.is_table) a = Bytes128::lookup(table_of(type), a), b = Bytes128::lookup(table_of(type), b);
        if constexpr (shape.planes == 1) {
            const uint8x16_t plane = twice(run + 8 * HALF);
            a = merge<4 - 2 * G, 3 - 2 * G, 0x10>(a, plane), b = merge<-2 * G, -1 - 2 * G, 0x10>(b, plane);
        }
        if constexpr (shape.planes == 2) {
            a = merge<4 - 4 * G, 2 - 4 * G, 0x30>(a, twice(run + 8 * HALF));
            b = merge<4 - 4 * G, 2 - 4 * G, 0x30>(b, twice(run + 16 + 8 * HALF));
            a = Bytes128::subtract<meaning.offset>(a), b = Bytes128::subtract<meaning.offset>(b);
        }
        first = vreinterpretq_s8_u8(a), second = vreinterpretq_s8_u8(b);
    }

private:
    // The 4 bytes of a plane of each of two rows, for the first and the second four columns.
    static uint8x16_t twice(const uint8_t* plane) {
        const uint32x2_t words = vreinterpret_u32_u8(vld1_u8(plane));
        return vreinterpretq_u8_u32(vcombine_u32(vdup_lane_u32(words, 0), vdup_lane_u32(words, 1)));
    }

    // bytes | (plane shifted left, or right below 0: by FIRST for the first four columns, SECOND for the others, & MASK).
    template <int FIRST, int SECOND, int MASK>
    static uint8x16_t merge(uint8x16_t bytes, uint8x16_t plane) {
        const int8x8_t shifts = vext_s8(vdup_n_s8(FIRST), vdup_n_s8(SECOND), 4);
        return vorrq_u8(bytes, vandq_u8(vshlq_u8(plane, vcombine_s8(shifts, shifts)), vdupq_n_u8(MASK)));
    }
};

template <ElementType weight_type>
struct SquareBlock {
    static constexpr ElementType type = weight_type;
    using Weights = PairQuants<type>;
    static constexpr int parts = meaning_of(type).scales_of_run;

    template <int NT, int NG>
    static INLINE void dot(const uint8_t* const runs[NG], const int8_t* const x[NT], const int32_t* const x_sum[NT],
                    int32x4_t dot[parts][NT][NG]) {
        const Activations<NT> a(x);
        Squares<NT, NG> squares[parts];
        for (int n = 0; n < NG; n++) {
            add<0, 0>(runs[n], n, a, squares), add<0, 1>(runs[n], n, a, squares);
            add<1, 0>(runs[n], n, a, squares), add<1, 1>(runs[n], n, a, squares);
        }
        for (int t = 0; t < NT; t++) {
            const int32x4_t offset = vdupq_n_s32(Weights::offset * *x_sum[t]);
            for (int p = 0; p < parts; p++)
                for (int n = 0; n < NG; n++) dot[p][t][n] = vsubq_s32(squares[p].of(t, n), offset);
        }
    }

private:
    template <int G, int HALF, int NT, int NG>
    static INLINE void add(const uint8_t* run, int n, const Activations<NT>& x, Squares<NT, NG> squares[parts]) {
        int8x16_t first, second;
        Weights::template pair<G, HALF>(run, first, second);
        squares[0].add(n, HALF, first, x, G);
        squares[parts - 1].add(n, HALF, second, x, 2 + G);
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
    for_blocked_types([&](auto tag) {
        table.matmul[tag] = quant_matmul<Neon, SquareBlock<decltype(tag)::value>, kMatTokens, kMatTiles, kVecTiles>;
    });
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* neon_i8mm_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

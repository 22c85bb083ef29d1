// Kernels for any machine: what every instruction set's results are compared with, and the fallback.
#include "simd_portable.h"
#include "vector_table.h"

namespace dllama {
namespace {

constexpr int kRows = 8;

float half_at(const uint8_t* p) {
    uint16_t half;
    std::memcpy(&half, p, 2);
    return half_to_float(half);
}

// dot[r] = sum over a block of (weight of row r) * x, as integers.
struct Q40Block {
    static constexpr int bytes = kRows * traits_of(ElementType::q40).bytes;
    static void dot(const uint8_t* units, const int8_t* x, int32_t x_sum, int32_t dot[kRows]) {
        for (int g = 0; g < 4; g++)
            for (int r = 0; r < kRows; r++)
                for (int c = 0; c < 4; c++) {
                    const int byte = units[(g * kRows + r) * 4 + c];
                    dot[r] += (byte & 15) * x[4 * g + c] + (byte >> 4) * x[16 + 4 * g + c];
                }
        for (int r = 0; r < kRows; r++) dot[r] -= 8 * x_sum;
    }
};

struct Q80Block {
    static constexpr int bytes = kRows * kQ80Bytes;
    static void dot(const uint8_t* units, const int8_t* x, int32_t, int32_t dot[kRows]) {
        for (int g = 0; g < 8; g++)
            for (int r = 0; r < kRows; r++)
                for (int c = 0; c < 4; c++) dot[r] += int8_t(units[(g * kRows + r) * 4 + c]) * x[4 * g + c];
    }
};

template <class Block>
void quant_matmul(const QuantMatmul& m, int tile_begin, int tile_end, int row_begin, int row_end) {
    for (int tile = tile_begin; tile < tile_end; tile++)
        for (int t = row_begin; t < row_end; t++) {
            const uint8_t* block = m.weights + size_t(tile) * m.tile_bytes;
            float acc[kRows] = {};
            for (int b = 0; b < m.n_blocks; b++, block += Block::bytes) {
                const size_t i = size_t(t) * m.n_blocks + b;
                int32_t dot[kRows] = {};
                Block::dot(block + 2 * kRows, m.x_quants + i * kBlock, m.x_sums[i], dot);
                for (int r = 0; r < kRows; r++) acc[r] += half_at(block + 2 * r) * m.x_scales[i] * float(dot[r]);
            }
            const int row = tile * kRows;
            float* out = m.out + size_t(t) * m.n_out + row;
            for (int r = 0; r < kRows && row + r < m.n_out; r++) out[r] = m.adds ? out[r] + acc[r] : acc[r];
        }
}

// One multiply-add after another, as the compiler's own code does them.
int64_t peak(int64_t rounds) {
    volatile int8_t one = 1;
    int sums[8] = {};
    for (int64_t round = 0; round < rounds; round++) {
        const int w = one, x = one;
        for (int& sum : sums) sum += w * x;
    }
    return sums[0] > 0 ? rounds * 8 * 2 : 0;
}

KernelTable make_table() {
    KernelTable table = vector_table<Portable, kRows, 1>("scalar");
    table.unit_bytes = 4;
    table.tile_group = 1;
    table.matmul[ElementType::q40] = quant_matmul<Q40Block>;
    table.matmul[ElementType::q80] = quant_matmul<Q80Block>;
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* scalar_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

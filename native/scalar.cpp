// Kernels for any machine: what every instruction set's results are compared with, and the fallback.
#include "block_values.h"
#include "simd_portable.h"
#include "tile_layout.h"
#include "vector_table.h"

namespace dllama {
namespace {

constexpr int kRows = 8;
constexpr int kUnitBytes = 4;

// Activation rows that share the decoded blocks of a tile.
constexpr int kRowsAtOnce = 8;

// One block of a tile's rows, or what they have of it, times n_rows activation rows, whose first block is `block` of
// m.n_blocks.
template <ElementType type>
void add_block(const QuantMatmul& m, const uint8_t* tile, HeldRuns held, int block, int row, int n_rows, float sums[][kRows]) {
    using Values = BlockValues<type>;
    constexpr int width = Values::columns / Values::n_scales;  // columns that share a scale
    const int first_scale = held.first * (kBlock / width);
    for (int r = 0; r < kRows; r++) {
        uint8_t packed[traits_of(type).bytes];
        move_block<type, kRows, kUnitBytes, false>(tile, r, packed, held.n);
        const Values values(packed, held.n);
        for (int t = 0; t < n_rows; t++) {
            const size_t i = size_t(row + t) * m.n_blocks + block;
            const int8_t* x = m.x_quants + i * kBlock;
            for (int s = 0; s < held.n * (kBlock / width); s++) {
                int dot = 0;
                for (int c = s * width; c < (s + 1) * width; c++) dot += values.quants[c] * x[c];
                sums[t][r] += values.scales[first_scale + s] * m.x_scales[i + s * width / kBlock] * float(dot);
            }
            if constexpr (Values::meaning.has_min)
                for (int run = 0; run < held.n; run++)
                    sums[t][r] += values.minima[held.first + run] * (m.x_scales[i + run] * float(m.x_sums[i + run]));
        }
    }
}

template <ElementType type>
void quant_matmul(const QuantMatmul& m, int tile_begin, int tile_end, int row_begin, int row_end) {
    constexpr BlockShape shape = shape_of(type);
    for (int tile = tile_begin; tile < tile_end; tile++)
        for (int row = row_begin; row < row_end; row += kRowsAtOnce) {
            const int n_rows = row_end - row < kRowsAtOnce ? row_end - row : kRowsAtOnce;
            float sums[kRowsAtOnce][kRows] = {};
            const uint8_t* at = m.weights + size_t(tile) * m.tile_bytes;
            HeldRuns held{m.first_run, 0};
            for (int block = 0; block < m.n_blocks; block += held.n, held.first = 0) {
                held = held_runs(type, held.first, m.n_blocks - block);
                add_block<type>(m, at, held, block, row, n_rows, sums);
                at += kRows * (shape.head_bytes() + held.n * shape.run_bytes());
            }
            const int first = tile * kRows;
            for (int t = 0; t < n_rows; t++) {
                float* out = m.out + (row + t) * m.out_stride + first;
                for (int r = 0; r < kRows && first + r < m.n_out; r++) out[r] = m.adds ? out[r] + sums[t][r] : sums[t][r];
            }
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
    table.unit_bytes = kUnitBytes;
    table.tile_group = 1;
    for_blocked_types([&](auto tag) { table.matmul[tag] = quant_matmul<decltype(tag)::value>; });
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* scalar_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

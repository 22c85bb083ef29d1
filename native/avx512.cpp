// Kernels for AVX-512 (F, BW, VL) with VNNI. A tile is 16 rows: one 512-bit register of float or int32 sums.
#include "panel_matmul.h"
#include "peak.h"
#include "quant_matmul.h"
#include "simd_avx512.h"
#include "vector_table.h"
#include "vnni_blocks.h"

namespace dllama {
namespace {

constexpr int kRows = 16;

// A few rows: 32 rows x 4 tokens, unpacked in registers. Its 8 chains of vpdpbusd overlap with those of the next block. 8
// integer and 8 float sums, 4 weights, 2 scales and 2 constants are 24 of 32 registers. Unpacking is paid for each run of
// 4 tokens, so from the second run on a panel (panel_matmul.h) is quicker.
constexpr int kMatTokens = 4;
constexpr int kMatTiles = 2;
constexpr int kPanelPays = 5;  // rows

// Mat-vec: 4 tiles x 1 token are 4 chains of 8 vpdpbusd, which overlap with the next block's, and share each
// broadcast of activations. llvm-mca counts 50 cycles for 4 x 288 bytes of Q40 on an Ice Lake: 23 bytes a cycle,
// twice what one core reads from memory. More tiles would only be more streams for the prefetcher.
constexpr int kVecTiles = 4;

// F16 and F32: 2 tiles x 4 tokens are 8 chains, the 4 cycles of a multiply-add times 2 a cycle. The decoded run of
// 128 columns is 16 KiB for 2 tiles, half of the smallest first-level cache.
constexpr int kFloatTiles = 2;

template <class Block>
void matmul(const QuantMatmul& m, int tile_begin, int tile_end, int row_begin, int row_end) {
    const bool few = row_end - row_begin < kPanelPays || m.n_blocks > kPanelMaxBlocks;
    const auto kernel = few ? quant_matmul<Avx512, Block, kMatTokens, kMatTiles, kVecTiles> : panel_matmul<Block>;
    kernel(m, tile_begin, tile_end, row_begin, row_end);
}

int64_t peak(int64_t rounds) {
    const __m512i ones = _mm512_set1_epi8(1);
    return 128 * dot_peak<16>(rounds, _mm512_setzero_si512(), ones, ones, [](__m512i sum, __m512i w, __m512i x) {
        return _mm512_dpbusd_epi32(sum, w, x);
    });
}

KernelTable make_table() {
    KernelTable table = vector_table<Avx512, kRows, kFloatTiles>("avx512");
    table.unit_bytes = 4;
    table.tile_group = kVecTiles;
    for_blocked_types([&](auto tag) {
        using Block = VnniBlock<Bytes512, decltype(tag)::value>;
        table.matmul[tag] = matmul<Block>;
        table.gated_matmul[tag] = panel_gated<Block>;
    });
    table.gated_rows = kPanelPays;
    table.gated_blocks = kPanelMaxBlocks;
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* avx512_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

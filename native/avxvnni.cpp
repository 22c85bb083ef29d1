// Matrix products for AVX2 with AVX-VNNI; all else, and the layout, is avx2.cpp's. A tile is 8 rows.
#include "peak.h"
#include "quant_matmul.h"
#include "simd_avx2.h"
#include "vnni_blocks.h"

namespace dllama {
namespace {

constexpr int kRows = 8;

// Mat-mat: 16 rows x 4 tokens are 8 chains of vpdpbusd (latency 5, two a cycle). Of 16 registers the integer sums
// take 8, and weights, activations and constants the rest; the 8 float sums wait in the first-level cache, one load
// and one store for each 8 vpdpbusd. llvm-mca counts 51 cycles for the 64 of a Q40 block on an Alder Lake.
constexpr int kMatTokens = 4;
constexpr int kMatTiles = 2;

// Mat-vec: 4 tiles share each broadcast of activations; 35 cycles (llvm-mca, Alder Lake) for 4 x 144 bytes of Q40
// are 16 bytes a cycle, more than a core reads from memory.
constexpr int kVecTiles = 4;

struct VnniBytes256 : Bytes256 {
    static I dot(I sum, B weights, I x) { return _mm256_dpbusd_avx_epi32(sum, weights, x); }
};

int64_t peak(int64_t rounds) {
    const __m256i ones = _mm256_set1_epi8(1);
    return 64 * dot_peak<12>(rounds, _mm256_setzero_si256(), ones, ones, [](__m256i sum, __m256i w, __m256i x) {
        return _mm256_dpbusd_avx_epi32(sum, w, x);
    });
}

KernelTable make_table() {
    KernelTable table = *avx2_kernels();
    table.isa = "avxvnni";
    table.tile_group = kVecTiles;
    for_blocked_types([&](auto tag) {
        using Block = VnniBlock<VnniBytes256, decltype(tag)::value>;
        table.matmul[tag] = quant_matmul<Avx2, Block, kMatTokens, kMatTiles, kVecTiles>;
    });
    table.dot_peak = peak;
    return table;
}

}  // namespace

const KernelTable* avxvnni_kernels() {
    static const KernelTable table = make_table();
    return &table;
}

}  // namespace dllama

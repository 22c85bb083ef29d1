// What an instruction set offers: one table of functions on pointers and sizes. Nothing here allocates,
// throws or knows about models, files or networks; threads and the splitting of work live in ops.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "delta.h"
#include "element_types.h"

namespace dllama {

constexpr int kSumColumns = 128;  // F16/F32 products are summed in runs of this many columns, then run by run:
                                  // the rounding error grows with 128 + n / 128 instead of n

// swiglu_oai: gate * sigmoid(1.702 gate) * (up + 1) with gate at most 7 and up within 7 of 0 (gpt-oss).
enum class Activation : int { silu = 0, gelu = 1, swiglu_oai = 2 };

// A product with packed weights of a blocked type. Tile t holds rows [t * tile_rows, (t + 1) * tile_rows), and for each
// block of 32 columns: tile_rows float16 scales, then groups of unit_bytes from every row in turn.
struct QuantMatmul {
    const uint8_t* weights;
    size_t tile_bytes;
    int n_out;
    int n_blocks;
    const int8_t* x_quants;   // [rows, 32 * n_blocks], never -128
    const float* x_scales;    // [rows, n_blocks], values that a float16 has: the AVX-512 kernels rely on 11 bits
    const int32_t* x_sums;    // [rows, n_blocks], sums of the blocks' quants
    float* out;               // [rows, n_out], out_stride apart
    size_t out_stride;
    bool adds = false;        // to what is there
    int first_run = 0;        // of its block, that the first columns are (block_layout.h)
};

// act(gate) * up as Q80 rows, where the first half of the product's rows of weights are the gate's and the second half
// the up projection's; each half is whole blocks. The product's `out` is not used.
struct GatedMatmul {
    QuantMatmul product;
    Activation activation;
    int8_t* quants;  // [rows, n_out / 2]
    float* scales;   // [rows, n_out / 64]
    int32_t* sums;   // [rows, n_out / 64]
};

// A product with F16 or F32 weights. Tile t is [n_in][tile_rows].
struct FloatMatmul {
    const void* weights;
    size_t tile_bytes;
    int n_out;
    int n_in;
    const float* x;  // [rows, n_in]
    float* out;      // [rows, n_out], out_stride apart
    size_t out_stride;
    bool adds = false;
};

// One row of output: float32 when f32 is set, else Q80 quants with scales and sums (n a multiple of 32).
struct RowOut {
    float* f32;
    int8_t* quants;
    float* scales;
    int32_t* sums;
};

// Rows of output: float32 [T, n] when f32 is set, else Q80.
struct RowsOut {
    float* f32;
    int8_t* quants;
    float* scales;
    int32_t* sums;
    int n;

    // Columns from `column` (a multiple of 32) of row t.
    RowOut at(int t, int column = 0) const {
        const size_t i = size_t(t) * n + column;
        if (f32) return {f32 + i, nullptr, nullptr, nullptr};
        return {nullptr, quants + i, scales + i / kBlock, sums + i / kBlock};
    }
};

// Q80 blocks of the same elements from `count` ranks; those of rank p begin at data + p * stride.
struct WireParts {
    const uint8_t* data;
    size_t stride;
    int count;
};

// Shape letters: T rows, H query heads, K KV heads, E head width, P positions of a page, S sequences.
struct Attention {
    RowsOut out;                // [T, H*E]; Q80 where heads are whole blocks
    const float* qkv;           // [T, (H+2K)*E]
    const int32_t* positions;   // [T]
    const int32_t* sequence;    // [T]
    const int32_t* page_table;  // [S, max_pages]
    const void* keys;           // [n_pages, K, P, E] float32, float16, or Q80 blocks along E
    const void* values;         // the same
    ElementType cache_type;
    int n_rows, n_heads, n_kv_heads, head_dim, page_size, max_pages, head_offset, group, window;
    const float* sinks = nullptr;  // [H]: a logit more for each query head, without a value
    float soft_cap = 0;            // of scores; 0: none

    // Latent attention (latent.h): one row of each position is the key of all heads, and its first `value_dim` elements are
    // their value. KV heads are then but groups of query heads, qkv are queries only, and out is [H, T, value_dim].
    struct Latent {
        int value_dim = 0;  // 0: it is none
        float scale = 0;    // of the products of queries and keys
    } latent = {};
    int value_dim() const { return latent.value_dim ? latent.value_dim : head_dim; }
    int row_columns() const { return latent.value_dim ? n_heads * head_dim : (n_heads + 2 * n_kv_heads) * head_dim; }
    int n_cached_heads() const { return latent.value_dim ? 1 : n_kv_heads; }
    // Columns from query head `head` on of row t of the output.
    RowOut out_at(int t, int head) const {
        return latent.value_dim ? out.at(head * n_rows + t) : out.at(t, head * head_dim);
    }
};

// Rows [first, first + count) of one sequence, at consecutive positions.
struct RowTile {
    int first, count;
};

constexpr int kAttentionSplit = 256;  // positions whose softmax is computed apart and merged in order
constexpr int kAttentionBlock = 32;   // positions whose keys or values are read for all queries of a tile at a time:
                                      // 16 KiB at the most with 128 float32 columns, half of a first-level cache
constexpr int kWideBlock = 8;         // the same of heads that are wider than kWide: 18 KiB with 576 columns
constexpr int kWide = 256;
constexpr int kQuad = 4;              // queries that are computed side by side
constexpr int kQuadScores = (kAttentionSplit + kQuad) * kQuad;  // floats; rounding up to vectors goes past the split
constexpr int kQuadFloats = 32;       // of what is known of a quad beside its scores

// Floats of scratch that attend_split needs, aligned to 64 bytes: a block of keys or values as float32, quads, their
// scores, the scales of keys and values where they are Q80 (written in whole vectors), and the queries once more.
inline size_t attention_scratch(int queries, int head_dim) {
    return size_t(kAttentionBlock + kQuad) * head_dim + 16 +
           size_t((queries + kQuad - 1) / kQuad) * (kQuadFloats + kQuadScores) +
           size_t(2 * kAttentionSplit) * (head_dim / kBlock) + 16 + size_t(queries + kQuad) * head_dim;
}

// Softmax state of a set of queries (a row tile x the query heads of one KV head, rows outermost), room for whole quads.
// largest[i] = -inf and weight[i] = 0 mark a query that has seen no position. Scores are those of a base of 2.
struct SoftmaxState {
    float* largest;  // [queries]
    float* weight;   // [queries] sum of 2^(score - largest)
    float* mixed;    // [queries, mixed_stride] sum of 2^(score - largest) * value
    int mixed_stride;
};

constexpr int kLogitBlock = 32;  // logits that share a maximum: with 128k of them and 256 candidates, 1 block
                                 // in 8 is searched, and the maxima take a few microseconds to look through

template <class Product>
using TileFunction = void (*)(const Product&, int tile_begin, int tile_end, int row_begin, int row_end);

struct KernelTable {
    const char* isa;
    int tile_rows;   // rows that one tile of a packed matrix interleaves
    int unit_bytes;  // bytes of quants of a row that stay together in a tile
    int tile_group;  // tiles that one call handles at a time: chunks are multiples of it

    // By the type of the weights: output rows of tiles [tile_begin, tile_end) for activation rows [row_begin, row_end).
    // A matrix of a blocked type has a `matmul`, any other one a `float_matmul`; null where there is no such matrix.
    ByType<TileFunction<QuantMatmul>> matmul;
    ByType<TileFunction<FloatMatmul>> float_matmul;
    // Tiles [tile_begin, tile_end) of the gate, and those of the up projection beside them; even numbers. Null where rows
    // are not worth it: the product is computed first then, and activated afterwards. The same bits either way.
    ByType<TileFunction<GatedMatmul>> gated_matmul;
    bool has_product(ElementType type) const { return matmul[type] || float_matmul[type]; }
    int gated_rows;    // from which `gated_matmul` pays
    int gated_blocks;  // that a row may have for it
    bool fuses_gate(ElementType type, int n_rows, int n_blocks) const {
        return gated_matmul[type] && n_rows >= gated_rows && n_blocks <= gated_blocks;
    }

    void (*quantize)(const RowOut& out, const float* x, int n);
    void (*rms_norm)(const RowOut& out, const float* x, const float* weight, float eps, int n);
    void (*layer_norm)(const RowOut& out, const float* x, const float* weight, const float* bias, float eps, int n);
    void (*gated)(const RowOut& out, const float* gate, const float* up, Activation activation, int n);
    void (*add)(float* x, const float* y, int n);
    void (*add_scaled)(float* x, const float* y, float scale, int n);  // x += scale * y, rounded twice
    void (*soft_cap)(float* x, float scale, float cap, int n);
    // Pairs (i, i + n_halves / 2) of the first n_halves elements, (2i, 2i + 1) of the others.
    void (*rope)(float* head, const float* cos_sin, int head_dim, int n_halves);
    void (*store_half)(uint16_t* out, const float* x, int n);
    void (*encode_q80)(uint8_t* out, const float* x, int n);  // the last block is padded with zeros

    // x += the sum of the parts, n elements; rounded: the sum as it is after a journey as Q80.
    void (*add_sum_q80)(float* x, const WireParts& parts, int n, bool rounded);
    void (*add_sum_f32)(float* x, const float* parts, size_t stride, int n_parts, int n);
    void (*sum_q80)(uint8_t* out, const WireParts& parts, int n_blocks);  // out = the sum as Q80

    // The same bits in every table (router_kernel.h): out = x / sqrt(mean of squares + eps) * weight, and
    // out[t * out_stride + e] = the product of rows t of x and e of w, both of n columns.
    void (*router_norm)(float* out, const float* x, const float* weight, float eps, int n);
    void (*router_logits)(float* out, int out_stride, const float* x, const float* w, int n, int n_rows, int n_experts);

    // state := softmax over the positions of split `split` that each query of the tile sees.
    // scratch: attention_scratch() floats.
    void (*attend_split)(const Attention&, RowTile tile, int kv_head, int split, const SoftmaxState& state,
                         float* scratch);
    // total := total and part together; part covers later positions.
    void (*attend_merge)(const SoftmaxState& total, const SoftmaxState& part, int queries, int head_dim);
    // Writes mixed / weight of every query of the tile to attention.out.
    void (*attend_finish)(const Attention&, RowTile tile, int kv_head, const SoftmaxState& total);

    // Channels [first, first + n) of all rows of a run, whose state then is that of the row after them.
    void (*causal_conv)(const CausalConv&, const StateRun& run, int first, int n);
    // One value head, likewise. scratch: delta_scratch() floats.
    void (*delta_rule)(const DeltaRule&, const StateRun& run, int head, float* scratch);
    // out = rms_norm of each head of x [n_heads, width] * silu(gate); x is overwritten.
    void (*gated_norm)(const RowOut& out, float* x, const float* weight, const float* gate, float eps, int n_heads,
                       int width);
    void (*sigmoid_scale)(const RowOut& out, const float* x, float gate, int n);
    void (*sigmoid_mul)(const RowOut& out, const float* x, const float* gate, int n);  // x * sigmoid(gate)

    // The largest of each kLogitBlock of x; sums of 2^((x - largest) * scale) for one or two scales.
    void (*block_maxima)(float* out, const float* x, int n);
    void (*sum_exp)(double* sums, const float* x, int n, float largest, const float* scales, int n_scales);

    // False when an element or scale was not finite, before or after. n elements; blocked types take whole blocks.
    bool (*convert)(uint8_t* out, ElementType out_type, const uint8_t* src, ElementType src_type, size_t n);

    // One row of n float32 weights to blocks of `type` whose scales are searched, so that the sum of importance x (what
    // is lost)^2 is small; importance: of each column, finite and not negative, null for all the same. False when a
    // weight is not finite, or too large. All instruction sets write the same bits.
    bool (*quantize_weights)(uint8_t* out, ElementType type, const float* x, const float* importance, size_t n);

    // Does nothing but 8-bit multiply-adds on registers; returns how many operations (2 for each multiply-add).
    int64_t (*dot_peak)(int64_t rounds);
    int64_t (*float_peak)(int64_t rounds);  // the same of float32 multiply-adds
};

// Query heads [begin, end) of this rank that use KV head kv_head.
struct HeadRange {
    int begin, end;
};
static inline HeadRange heads_of(const Attention& a, int kv_head) {
    int begin = kv_head * a.group - a.head_offset;
    int end = begin + a.group;
    return {begin < 0 ? 0 : begin, end > a.n_heads ? a.n_heads : end};
}

const KernelTable* scalar_kernels();
#if defined(DLLAMA_AVX2)
const KernelTable* avx2_kernels();
#endif
#if defined(DLLAMA_AVXVNNI)
const KernelTable* avxvnni_kernels();
#endif
#if defined(DLLAMA_AVX512)
const KernelTable* avx512_kernels();
#endif
#if defined(DLLAMA_NEON)
const KernelTable* neon_kernels();
#endif
#if defined(DLLAMA_NEON_DOTPROD)
const KernelTable* neon_dotprod_kernels();
#endif
#if defined(DLLAMA_NEON_I8MM)
const KernelTable* neon_i8mm_kernels();
#endif

}  // namespace dllama

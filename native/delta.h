// Gated delta nets: what their operations work on. T rows, S sequences, C channels, HK and HV key and value heads of this
// rank, DK and DV their widths, W inputs of a convolution.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dllama {

// Where rows stand in their sequences, and where the states of these are: one for each page of positions, that behind the
// last row there. Rows of a sequence follow each other, at positions that do.
struct StatePlaces {
    const int32_t *positions, *sequence;  // [T]
    const int32_t* page_table;            // [S, max_pages]
    int max_pages, page_size, n_rows;
};

// out[t, c] = silu of the sum over j of weights[j, c] * x[t - W + 1 + j, c].
struct CausalConv {
    float* out;            // [T, C]
    const float* x;        // [T, C], x_stride apart
    int64_t x_stride;
    const float* weights;  // [W, C]
    float* state;          // [pages, W - 1, C]: the inputs before the next row, oldest first
    int n_channels, width;
};

// The recurrence of each value head h with the queries and keys of key head (h + head_offset) / group.
struct DeltaRule {
    float* out;                     // [T, HV * DV]
    const float* qkv;               // [T, 2 HK * DK + HV * DV]
    const float *beta, *alpha;      // [T, HV], gate_stride apart: what the strength and the decay are computed from
    int64_t gate_stride;
    const float *log_rate, *dt_bias;  // [HV]
    float* state;                   // [pages, HV, DK, DV]
    int n_key_heads, n_value_heads, key_dim, value_dim, head_offset, group;
};

// Rows of one sequence, from `position` on; pages[p] is where the state of its page p is.
struct StateRun {
    int first, count, position, page_size;
    const int32_t* pages;

    int page(int i) const { return pages[(position + i) / page_size]; }  // of row i
    bool begins_page(int i) const { return (position + i) % page_size == 0; }
    int rows_left(int i) const { return page_size - (position + i) % page_size; }  // of the page, row i among them
};

constexpr int kMostConvWidth = 8;
constexpr int kConvChannels = 512;  // that a thread takes at a time: whole cache lines of every row
// Rows whose queries, keys and values are gathered at a time, since those of a head lie a power of two apart, in few sets
// of a cache: with heads of 128 they and the output are 64 KiB.
constexpr int kDeltaRows = 32;

// Floats of a head, whole cache lines.
inline size_t whole_lines(int width) { return (size_t(width) + 15) / 16 * 16; }

// Floats of scratch that `delta_rule` needs: queries, keys, values, output, decay and strength of each row.
inline size_t delta_scratch(int key_dim, int value_dim) {
    return size_t(kDeltaRows) * (2 * whole_lines(key_dim) + 2 * whole_lines(value_dim) + 16);
}

}  // namespace dllama

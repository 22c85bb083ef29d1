// Latent attention: all heads share one row of each position, the latent, from which keys and values are made. Queries are
// made to fit the latents instead, and what attention takes of these becomes values afterwards.
//
// Shape letters: T rows, H query heads of the rank, N elements of a query without a rope, R with one, L of a latent.
#pragma once

#include "experts.h"

namespace dllama {

// Where rows stand in their sequences and in the cache of latents [n_pages, 1, P, L + R].
struct LatentRows {
    const int32_t* positions;   // [T]
    const int32_t* sequence;    // [T]
    const int32_t* page_table;  // [S, max_pages]
    int page_size, max_pages, n_rows;
};

// Of rows [T, L + R]: norms the first L elements, turns the others, stores all.
struct LatentStore {
    float* rows;
    const float* weight;   // [L]
    const float* cos_sin;  // [n_positions, R / 2, 2]
    void* cache;
    ElementType cache_type;
    float eps;
    int n_latent, n_turned;
    bool halves;
};

// Of queries [T, H (N + R)]: the first N elements of each go to `content` [H T, N], head by head, the others are turned and
// become the last R of L + R elements in `absorbed` [T, H (L + R)].
struct LatentQueries {
    const float* queries;
    RowsOut content;
    float* absorbed;
    const float* cos_sin;
    int n_heads, n_turned, n_absorbed;  // R, L + R
    bool halves;
};

// out [T, H stride], the first n_out columns of each head := x [H T, n_in], head by head, times the head's own matrix.
struct HeadProducts {
    MatrixStack stack;
    RowsOut x;
    float* out;
    int stride, n_rows, n_heads;
};

}  // namespace dllama

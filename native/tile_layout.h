// How the blocks of R rows are interleaved in a tile: the first pieces of all rows, then the second ones, and so on.
#pragma once

#include "block_layout.h"

namespace dllama {
namespace {

// N pieces of WIDTH bytes between a packed block and row r of a tile, whose next piece is at `tile`.
template <int R, int WIDTH, int N, bool TO_TILE, class Byte, class Packed>
void move_pieces(Byte*& tile, int r, Packed*& packed) {
    for (int i = 0; i < N; i++, tile += R * WIDTH, packed += WIDTH)
        if constexpr (TO_TILE)
            std::memcpy(tile + r * WIDTH, packed, WIDTH);
        else
            std::memcpy(packed, tile + r * WIDTH, WIDTH);
}

// The pieces of a packed block of row r, of which it has n_runs.
template <ElementType type, int R, int UNIT, bool TO_TILE, class Byte, class Packed>
inline void move_block(Byte* tile, int r, Packed* packed, int n_runs = runs_of(type)) {
    constexpr BlockShape shape = shape_of(type);
    move_pieces<R, 2, shape.halves, TO_TILE>(tile, r, packed);
    move_pieces<R, 4, shape.words, TO_TILE>(tile, r, packed);
    move_pieces<R, 1, shape.bytes, TO_TILE>(tile, r, packed);
    for (int run = 0; run < n_runs; run++) {
        move_pieces<R, 4, shape.planes, TO_TILE>(tile, r, packed);
        move_pieces<R, UNIT, shape.low_bytes / UNIT, TO_TILE>(tile, r, packed);
    }
}

}  // namespace
}  // namespace dllama

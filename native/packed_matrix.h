// Weights in the layout that the kernels read: rows interleaved tile by tile (kernel_table.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "block_layout.h"
#include "kernel_table.h"

namespace dllama {

struct PackedLayout {
    ElementType type;
    int n_out, n_in;
    int tile_rows, unit_bytes;
    int first_run = 0;  // of its block, that the first columns are: rows may be cut within blocks (block_layout.h)

    size_t row_bytes() const { return cut_row_bytes(type, first_run, size_t(n_in)); }  // of an unpacked row
    int n_tiles() const { return (n_out + tile_rows - 1) / tile_rows; }
    size_t tile_bytes() const { return row_bytes() * size_t(tile_rows); }
    size_t bytes() const { return tile_bytes() * size_t(n_tiles()); }
};

// Packs rows [first, first + n) from `rows`, [n, row_bytes]. False when a scale or an element was not finite.
// Disjoint rows may be packed by several threads at once.
bool pack(const PackedLayout& layout, uint8_t* packed, int first, int n, const uint8_t* rows);

// The inverse of pack.
void unpack(const PackedLayout& layout, const uint8_t* packed, int first, int n, uint8_t* rows);

// Cuts n rows, each the blocks of a file that have columns of it: `first_run` and n_in as in a layout, `out` [n, row_bytes].
void cut_rows(ElementType type, int first_run, int n_in, const uint8_t* blocks, int n, uint8_t* out);

// Zeroed memory on huge pages where the system has them, aligned to 64 bytes at least. nullptr when there is none.
struct Memory {
    void* base = nullptr;
    size_t mapped = 0;
    uint8_t* data = nullptr;
};
Memory map_memory(size_t bytes);
void unmap_memory(const Memory& memory);

}  // namespace dllama

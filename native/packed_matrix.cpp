#include "packed_matrix.h"

#include <sys/mman.h>

#include <cstring>
#include <type_traits>

namespace dllama {
namespace {

constexpr size_t kHugePage = size_t(2) << 20;

bool half_is_finite(uint16_t h) { return (h & 0x7C00) != 0x7C00; }
bool is_finite(uint16_t h) { return half_is_finite(h); }
bool is_finite(uint32_t bits) { return (bits & 0x7F800000) != 0x7F800000; }

// Rows of one tile: [begin, end) inside the tile, the first of them at `rows`.
struct TileRows {
    int begin, end;
};

// Copies blocks between rows and a tile. R is the number of interleaved rows; a whole tile takes the loops with
// constant bounds, which the compiler unrolls.
template <int R, int UNIT, int BLOCK_BYTES, bool TO_TILE, class Byte>
bool move_blocks(Byte* tile, TileRows which, int n_blocks, size_t row_bytes,
                 std::conditional_t<TO_TILE, const uint8_t, uint8_t>* rows) {
    constexpr int units = (BLOCK_BYTES - 2) / UNIT;
    bool finite = true;
    auto move_row = [&](Byte* block, int r, auto* row) {
        if constexpr (TO_TILE) {
            uint16_t scale;
            std::memcpy(&scale, row, 2);
            finite &= half_is_finite(scale);
            std::memcpy(block + 2 * r, row, 2);
            for (int u = 0; u < units; u++) std::memcpy(block + 2 * R + (u * R + r) * UNIT, row + 2 + u * UNIT, UNIT);
        } else {
            std::memcpy(row, block + 2 * r, 2);
            for (int u = 0; u < units; u++) std::memcpy(row + 2 + u * UNIT, block + 2 * R + (u * R + r) * UNIT, UNIT);
        }
    };
    for (int b = 0; b < n_blocks; b++, tile += R * BLOCK_BYTES, rows += BLOCK_BYTES) {
        if (which.begin == 0 && which.end == R)
            for (int r = 0; r < R; r++) move_row(tile, r, rows + size_t(r) * row_bytes);
        else
            for (int r = which.begin; r < which.end; r++) move_row(tile, r, rows + size_t(r - which.begin) * row_bytes);
    }
    return finite;
}

template <int R, class T, bool TO_TILE, class Byte>
bool move_elements(Byte* tile, TileRows which, int n_in, size_t row_bytes,
                   std::conditional_t<TO_TILE, const uint8_t, uint8_t>* rows) {
    constexpr int RUN = 16;  // columns of a row at a time: a run of F32 is a cache line
    bool finite = true;
    for (int c = 0; c < n_in; c += RUN) {
        const int run = n_in - c < RUN ? n_in - c : RUN;
        for (int r = which.begin; r < which.end; r++) {
            auto* row = rows + size_t(r - which.begin) * row_bytes + size_t(c) * sizeof(T);
            for (int i = 0; i < run; i++) {
                auto* element = tile + (size_t(c + i) * R + r) * sizeof(T);
                T value;
                if constexpr (TO_TILE) {
                    std::memcpy(&value, row + i * sizeof(T), sizeof(T));
                    finite &= is_finite(value);
                    std::memcpy(element, &value, sizeof(T));
                } else {
                    std::memcpy(row + i * sizeof(T), element, sizeof(T));
                }
            }
        }
    }
    return finite;
}

template <int R, int UNIT, bool TO_TILE, class Tile, class Rows>
bool move_tile(const PackedLayout& layout, Tile* tile, TileRows which, Rows* rows) {
    const size_t row_bytes = layout.row_bytes();
    const int n = layout.n_in;
    return with_type(layout.type, [&](auto tag) {
        constexpr ElementTraits traits = traits_of(tag);
        if constexpr (traits.block > 1)
            return move_blocks<R, UNIT, traits.bytes, TO_TILE>(tile, which, n / traits.block, row_bytes, rows);
        else
            return move_elements<R, std::conditional_t<traits.bytes == 2, uint16_t, uint32_t>, TO_TILE>(tile, which, n,
                                                                                                     row_bytes, rows);
    });
}

template <int R, int UNIT, bool TO_TILE, class Tile, class Rows>
bool move_rows(const PackedLayout& layout, Tile* packed, int first, int n, Rows* rows) {
    bool finite = true;
    for (int row = first; row < first + n;) {
        const int tile = row / R, begin = row % R;
        const int end = first + n - tile * R < R ? first + n - tile * R : R;
        finite &= move_tile<R, UNIT, TO_TILE>(layout, packed + size_t(tile) * layout.tile_bytes(), {begin, end}, rows);
        rows += size_t(end - begin) * layout.row_bytes();
        row += end - begin;
    }
    return finite;
}

template <bool TO_TILE, class Tile, class Rows>
bool move_by_shape(const PackedLayout& layout, Tile* packed, int first, int n, Rows* rows) {
    const int shape = layout.tile_rows * 16 + layout.unit_bytes;
    switch (shape) {
        case 4 * 16 + 4: return move_rows<4, 4, TO_TILE>(layout, packed, first, n, rows);
        case 4 * 16 + 8: return move_rows<4, 8, TO_TILE>(layout, packed, first, n, rows);
        case 8 * 16 + 4: return move_rows<8, 4, TO_TILE>(layout, packed, first, n, rows);
        case 8 * 16 + 8: return move_rows<8, 8, TO_TILE>(layout, packed, first, n, rows);
        case 16 * 16 + 4: return move_rows<16, 4, TO_TILE>(layout, packed, first, n, rows);
        default: return false;
    }
}

}  // namespace

bool pack(const PackedLayout& layout, uint8_t* packed, int first, int n, const uint8_t* rows) {
    return move_by_shape<true>(layout, packed, first, n, rows);
}

void unpack(const PackedLayout& layout, const uint8_t* packed, int first, int n, uint8_t* rows) {
    move_by_shape<false>(layout, packed, first, n, rows);
}

Memory map_memory(size_t bytes) {
    // Aligned to a huge page but not rounded up to one: the tail stays on small pages, so that the memory in use
    // is the matrix and no more.
    const size_t slack = bytes >= kHugePage ? kHugePage : 0;
    Memory memory;
    memory.mapped = bytes + slack;
    if (memory.mapped == 0) return memory;
    memory.base = mmap(nullptr, memory.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (memory.base == MAP_FAILED) return {};
    memory.data = static_cast<uint8_t*>(memory.base);
    if (slack) {
        const size_t misaligned = reinterpret_cast<uintptr_t>(memory.base) % kHugePage;
        if (misaligned) memory.data += kHugePage - misaligned;
#if defined(MADV_HUGEPAGE)
        madvise(memory.data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // only a wish: its failure is no fault
#endif
    }
    return memory;
}

void unmap_memory(const Memory& memory) {
    if (memory.base) munmap(memory.base, memory.mapped);
}

}  // namespace dllama

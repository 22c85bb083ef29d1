#include "packed_matrix.h"

#include <sys/mman.h>

#include <cstring>
#include <type_traits>

#include "tile_layout.h"

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

// Whether the scales of a packed block are numbers.
template <ElementType type>
bool block_is_finite(const uint8_t* packed) {
    if constexpr (type == ElementType::mxfp4) return packed[0] != 0x7F;  // 255 in the file: OCP's NaN
    bool finite = true;
    for (int i = 0; i < shape_of(type).n_floats; i++) {
        uint16_t scale;
        std::memcpy(&scale, packed + 2 * i, 2);
        finite &= half_is_finite(scale);
    }
    return finite;
}

// Moves blocks between rows and a tile. R is the number of interleaved rows; a whole tile takes the loops with
// constant bounds, which the compiler unrolls.
template <ElementType type, int R, int UNIT, bool TO_TILE, class Byte>
bool move_blocks(Byte* tile, TileRows which, int first_run, int n_runs, size_t row_bytes,
                 std::conditional_t<TO_TILE, const uint8_t, uint8_t>* rows) {
    constexpr int bytes = traits_of(type).bytes, head_bytes = shape_of(type).head_bytes(), run_bytes = shape_of(type).run_bytes();
    bool finite = true;
    auto move_row = [&](Byte* block, int r, auto* row) {
        if constexpr (!is_rearranged(type)) {
            move_block<type, R, UNIT, TO_TILE>(block, r, row);
            if constexpr (TO_TILE) finite &= block_is_finite<type>(row);
        } else {
            uint8_t packed[bytes];
            if constexpr (TO_TILE) {
                to_packed<type>(row, packed);
                finite &= block_is_finite<type>(packed);
                move_block<type, R, UNIT, true>(block, r, packed);
            } else {
                move_block<type, R, UNIT, false>(block, r, packed);
                from_packed<type>(packed, row);
            }
        }
    };
    for (HeldRuns held{first_run, 0}; n_runs > 0; n_runs -= held.n, held.first = 0) {
        held = held_runs(type, held.first, n_runs);
        const int n_bytes = head_bytes + held.n * run_bytes;
        if (held.n < runs_of(type)) {
            for (int r = which.begin; r < which.end; r++) {
                auto* row = rows + size_t(r - which.begin) * row_bytes;
                if constexpr (TO_TILE) finite &= block_is_finite<type>(row);
                move_block<type, R, UNIT, TO_TILE>(tile, r, row, held.n);
            }
        } else if (which.begin == 0 && which.end == R) {
            for (int r = 0; r < R; r++) move_row(tile, r, rows + size_t(r) * row_bytes);
        } else {
            for (int r = which.begin; r < which.end; r++) move_row(tile, r, rows + size_t(r - which.begin) * row_bytes);
        }
        tile += R * n_bytes, rows += n_bytes;
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
        constexpr ElementTraits traits = traits_of(decltype(tag)::value);
        if constexpr (traits.block > 1)
            return move_blocks<decltype(tag)::value, R, UNIT, TO_TILE>(tile, which, layout.first_run, n / kBlock, row_bytes,
                                                                     rows);
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

void cut_rows(ElementType type, int first_run, int n_in, const uint8_t* blocks, int n, uint8_t* out) {
    with_type(type, [&](auto tag) {
        constexpr ElementType of = decltype(tag)::value;
        constexpr int bytes = traits_of(of).bytes;
        if constexpr (is_blocked(of)) {
            constexpr int head_bytes = shape_of(of).head_bytes(), run_bytes = shape_of(of).run_bytes();
            for (int row = 0; row < n; row++)
                for (int first = first_run, left = n_in / kBlock; left > 0; blocks += bytes) {
                    const HeldRuns held = held_runs(of, first, left);
                    if (held.n == runs_of(of)) {
                        std::memcpy(out, blocks, bytes);
                    } else {
                        uint8_t packed[bytes];
                        to_packed<of>(blocks, packed);
                        std::memcpy(out, packed, head_bytes);
                        std::memcpy(out + head_bytes, packed + head_bytes + held.first * run_bytes, size_t(held.n) * run_bytes);
                    }
                    out += head_bytes + held.n * run_bytes;
                    left -= held.n, first = 0;
                }
        }
        return true;
    });
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

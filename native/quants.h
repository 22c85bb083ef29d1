// The quants of a tile's rows as bytes, a register of 4 columns of every row, written once over V, which has
//   B, kBytes: a register and its bytes, 4 for each row of a tile;
//   load(p); low(b), high(b): the nibbles of each byte; lookup(table, b): 16 values by nibbles;
//   merge<SHIFT, MASK>(b, plane): b | (plane shifted left, or right where SHIFT is below 0, & MASK);
//   subtract<N>(b), and flip_sign(b): bytes -128 to 127 as 0 to 255.
// Bytes stand for as much less as `offset` says. With SIGNED they are int8: values of tables and Q80 as they are, and those
// of types with several scales in a run without an offset; else they are uint8.
#pragma once

#include "block_layout.h"
#include "row_kernels.h"

namespace dllama {
namespace {

// A table's values plus 128.
struct UnsignedTable {
    alignas(16) int8_t of[16];
    explicit constexpr UnsignedTable(const int8_t* values) : of{} {
        for (int i = 0; i < 16; i++) of[i] = int8_t(uint8_t(values[i] + 128));
    }
};
constexpr UnsignedTable kIq4Unsigned(kIq4Values), kMxfp4Unsigned(kMxfp4Values);

template <class V, ElementType type, bool SIGNED>
struct Quants {
    using B = typename V::B;
    static constexpr BlockShape shape = shape_of(type);
    static constexpr QuantMeaning meaning = meaning_of(type);
    static constexpr bool is_q80 = type == ElementType::q80;
    static constexpr bool has_parts = meaning.scales_of_run > 1;
    static constexpr int offset = meaning.is_table || is_q80 ? (SIGNED ? 0 : 128) : SIGNED && has_parts ? 0 : meaning.offset;

    // Columns 4G to 4G + 3 of the first or second half of a run.
    template <int G, int HALF>
    static INLINE B half(const uint8_t* run) {
        const uint8_t* low = run + shape.planes * V::kBytes;
        if constexpr (is_q80) {
            const B b = V::load(low + (G + 4 * HALF) * V::kBytes);
            return SIGNED ? b : V::flip_sign(b);
        } else {
            const B w = V::load(low + G * V::kBytes);
            const B b = HALF ? V::high(w) : V::low(w);
            if constexpr (meaning.is_table) {
                return V::lookup(table(), b);
            } else if constexpr (shape.planes == 1) {
                return V::template merge<4 * (1 - HALF) - G, 0x10>(b, V::load(run));
            } else if constexpr (shape.planes == 2) {
                const B whole = V::template merge<4 - 2 * G, 0x30>(b, V::load(run + HALF * V::kBytes));
                if constexpr (SIGNED)
                    return V::template subtract<meaning.offset>(whole);
                else
                    return whole;
            } else {
                return b;
            }
        }
    }

private:
    static const int8_t* table() {
        if constexpr (SIGNED)
            return table_of(type);
        else
            return type == ElementType::mxfp4 ? kMxfp4Unsigned.of : kIq4Unsigned.of;
    }
};

// work(std::integral_constant<int, G>()) for G from 0 to 3.
template <class Work>
inline __attribute__((always_inline)) void for_quads(const Work& work) {
    work(std::integral_constant<int, 0>());
    work(std::integral_constant<int, 1>());
    work(std::integral_constant<int, 2>());
    work(std::integral_constant<int, 3>());
}

}  // namespace
}  // namespace dllama

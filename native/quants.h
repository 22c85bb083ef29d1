// The quants of a tile's rows as bytes, a register of 4 columns of every row, written once over V, which has
//   B, kBytes: a register and its bytes, 4 for each row of a tile;
//   load(p); low(b), high(b): the nibbles of each byte; lookup(table, b): 16 values by nibbles;
//   merge<SHIFT, MASK>(b, plane): b | (plane shifted left, or right where SHIFT is below 0, & MASK);
//   subtract<N>(b), and flip_sign(b): bytes -128 to 127 as 0 to 255.
// Bytes stand for as much less as `offset` says. With SIGNED they are int8: values of tables and Q80 as they are, and those
// of types with several scales in a run without an offset; else they are uint8.
#pragma once

#include "block_layout.h"

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

    // Columns 4G to 4G + 3 of a run in `first`, those 16 further on in `second`.
    template <int G>
    static void pair(const uint8_t* run, B& first, B& second) {
        const uint8_t* low = run + shape.planes * V::kBytes;
        if constexpr (is_q80) {
            first = V::load(low + G * V::kBytes), second = V::load(low + (G + 4) * V::kBytes);
            if constexpr (!SIGNED) first = V::flip_sign(first), second = V::flip_sign(second);
        } else {
            const B w = V::load(low + G * V::kBytes);
            first = V::low(w), second = V::high(w);
            if constexpr (meaning.is_table) {
                first = V::lookup(table(), first), second = V::lookup(table(), second);
            } else {
                if constexpr (shape.planes == 1) {
                    const B plane = V::load(run);
                    first = V::template merge<4 - G, 0x10>(first, plane);
                    second = V::template merge<-G, 0x10>(second, plane);
                } else if constexpr (shape.planes == 2) {
                    first = V::template merge<4 - 2 * G, 0x30>(first, V::load(run));
                    second = V::template merge<4 - 2 * G, 0x30>(second, V::load(run + V::kBytes));
                }
                if constexpr (SIGNED && has_parts)
                    first = V::template subtract<meaning.offset>(first), second = V::template subtract<meaning.offset>(second);
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

// Blocks of quantised weights as a packed matrix keeps them: the bits of the file in an order that kernels read with
// ease. Nothing is rounded or lost, so a packed block has as many bytes as one of the file.
//
// Rows of blocks of 256 columns may be cut between any two runs of 32. A block of which a row has a part is its head and
// the runs that there are, packed like this wherever it lies; whole blocks of rows that travel are those of the file.
//
// A packed block of a row is its head (scales, as the file has them), then for each run of 32 columns: the planes, which
// are the bits of quants beyond the fourth, and the low bits. Low bits are 16 bytes, column j in the low nibble of byte j
// and column j + 16 in its high one; those of Q80 are the 32 quants. A plane is 4 bytes: with one bit for each quant, bit g
// of byte c belongs to column 4g + c; with two, bits 2g and 2g + 1 of byte c of plane h belong to column 16h + 4g + c.
#pragma once

#include <cstring>

#include "element_types.h"

namespace dllama {

struct BlockShape {
    int halves, words, bytes;  // the pieces of the head: so many of 2, of 4 and of 1 bytes
    int n_floats;              // the first of `halves` are float16
    int planes, low_bytes;     // of a run

    constexpr int head_bytes() const { return 2 * halves + 4 * words + bytes; }
    constexpr int run_bytes() const { return 4 * planes + low_bytes; }
};

constexpr BlockShape shape_of(ElementType type) {
    switch (type) {
        case ElementType::q80: return {1, 0, 0, 1, 0, 32};
        case ElementType::q41: return {2, 0, 0, 2, 0, 16};
        case ElementType::q50: return {1, 0, 0, 1, 1, 16};
        case ElementType::q51: return {2, 0, 0, 2, 1, 16};
        case ElementType::q4k: return {2, 3, 0, 2, 0, 16};
        case ElementType::q5k: return {2, 3, 0, 2, 1, 16};
        case ElementType::q6k: return {1, 0, 16, 1, 2, 16};
        case ElementType::iq4xs: return {2, 1, 0, 1, 0, 16};
        case ElementType::mxfp4: return {0, 0, 1, 0, 0, 16};
        default: return {1, 0, 0, 1, 0, 16};  // Q40, IQ4_NL
    }
}

constexpr int runs_of(ElementType type) { return traits_of(type).block / kBlock; }

// The runs of a block that a row has: n of them, from `first` on.
struct HeldRuns {
    int first, n;
};

// Of the block in which the row's runs from `first` on begin, when `left` runs of the row are left.
constexpr HeldRuns held_runs(ElementType type, int first, int left) {
    return {first, left < runs_of(type) - first ? left : runs_of(type) - first};
}

// Bytes of a row of n columns, the first of which are run `first_run` of their block.
constexpr size_t cut_row_bytes(ElementType type, int first_run, size_t n) {
    if (!is_blocked(type)) return bytes_of(type, n);
    const size_t runs = n / kBlock, of_block = size_t(runs_of(type));
    const size_t blocks = runs ? (size_t(first_run) + runs + of_block - 1) / of_block : 0;
    return blocks * size_t(shape_of(type).head_bytes()) + runs * size_t(shape_of(type).run_bytes());
}

// What quants stand for: (quant - offset), or a value of a table; `largest` is the largest magnitude of that.
// A value of the matrix is that times a scale, for which there are `scales_of_run` in a run; a block with minima adds
// the run's minimum to it.
struct QuantMeaning {
    int offset, largest;
    bool is_table, has_min;
    int scales_of_run;
};

constexpr QuantMeaning meaning_of(ElementType type) {
    switch (type) {
        case ElementType::q80: return {0, 128, false, false, 1};
        case ElementType::q41:
        case ElementType::q4k: return {0, 15, false, true, 1};
        case ElementType::q50: return {16, 16, false, false, 1};
        case ElementType::q51:
        case ElementType::q5k: return {0, 31, false, true, 1};
        case ElementType::q6k: return {32, 32, false, false, 2};
        case ElementType::iq4nl:
        case ElementType::iq4xs: return {0, 127, true, false, 1};
        case ElementType::mxfp4: return {0, 12, true, false, 1};
        default: return {8, 8, false, false, 1};  // Q40
    }
}

namespace {

// ggml's values for IQ4_NL and IQ4_XS, and twice those of a float of 4 bits (OCP Microscaling, E2M1).
alignas(16) constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
alignas(16) constexpr int8_t kMxfp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

constexpr const int8_t* table_of(ElementType type) { return type == ElementType::mxfp4 ? kMxfp4Values : kIq4Values; }

// False where the file has the bits in the same order.
constexpr bool is_rearranged(ElementType type) {
    return shape_of(type).planes > 0 || type == ElementType::q4k || type == ElementType::mxfp4;
}

// 32 bytes with columns j of one run in the low nibbles and of another in the high ones, as the low bits of both runs.
inline void split_nibbles(const uint8_t* file, uint8_t* lower, uint8_t* upper) {
    for (int j = 0; j < 16; j++) {
        lower[j] = uint8_t((file[j] & 15) | file[j + 16] << 4);
        upper[j] = uint8_t(file[j] >> 4 | (file[j + 16] & 0xF0));
    }
}

inline void join_nibbles(uint8_t* file, const uint8_t* lower, const uint8_t* upper) {
    for (int j = 0; j < 16; j++) {
        file[j] = uint8_t((lower[j] & 15) | upper[j] << 4);
        file[j + 16] = uint8_t(lower[j] >> 4 | (upper[j] & 0xF0));
    }
}

// Bit 4g + c of a word to bit g of its byte c.
inline uint32_t plane_of_bits(uint32_t word) {
    uint32_t plane = 0;
    for (int c = 0; c < 4; c++) {
        uint32_t bits = word >> c & 0x11111111u;
        bits = (bits | bits >> 3) & 0x03030303u;
        bits = (bits | bits >> 6) & 0x000F000Fu;
        plane |= ((bits | bits >> 12) & 0xFFu) << 8 * c;
    }
    return plane;
}

inline uint32_t bits_of_plane(uint32_t plane) {
    uint32_t word = 0;
    for (int c = 0; c < 4; c++) {
        uint32_t bits = plane >> 8 * c & 0xFFu;
        bits = (bits | bits << 12) & 0x000F000Fu;
        bits = (bits | bits << 6) & 0x03030303u;
        word |= ((bits | bits << 3) & 0x11111111u) << c;
    }
    return word;
}

// Bit s of byte g becomes bit g of byte s.
inline uint64_t transposed_bits(uint64_t m) {
    uint64_t t = (m ^ m >> 7) & 0x00AA00AA00AA00AAu;
    m ^= t ^ t << 7;
    t = (m ^ m >> 14) & 0x0000CCCC0000CCCCu;
    m ^= t ^ t << 14;
    t = (m ^ m >> 28) & 0x00000000F0F0F0F0u;
    return m ^ t ^ t << 28;
}

// Bits 2k and 2k + 1 of byte g become bits 2g and 2g + 1 of byte k.
inline uint32_t transposed_pairs(uint32_t m) {
    uint32_t t = (m ^ m >> 6) & 0x00CC00CCu;
    m ^= t ^ t << 6;
    t = (m ^ m >> 12) & 0x0000F0F0u;
    return m ^ t ^ t << 12;
}

// Between the fifth bits of Q5_K, byte l with those of column l of all eight runs, and planes. Its own inverse but for
// which side is written.
template <bool TO_PACKED, class File, class Packed>
void move_fifth_bits(File* file, Packed* runs, int run_bytes) {
    for (int c = 0; c < 4; c++) {
        uint64_t matrix = 0;
        for (int i = 0; i < 8; i++) matrix |= uint64_t(TO_PACKED ? file[4 * i + c] : runs[i * run_bytes + c]) << 8 * i;
        matrix = transposed_bits(matrix);
        for (int i = 0; i < 8; i++) {
            const uint8_t byte = uint8_t(matrix >> 8 * i);
            if constexpr (TO_PACKED)
                runs[i * run_bytes + c] = byte;
            else
                file[4 * i + c] = byte;
        }
    }
}

// Between the upper two bits of four runs of Q6_K, byte l with those of column l of all of them, and planes.
template <bool TO_PACKED, class File, class Packed>
void move_upper_bits(File* file, Packed* runs, int run_bytes) {
    for (int c = 0; c < 8; c++) {
        const int first = c / 4 * 16 + c % 4;  // column
        uint32_t matrix = 0;
        for (int i = 0; i < 4; i++) matrix |= uint32_t(TO_PACKED ? file[first + 4 * i] : runs[i * run_bytes + c]) << 8 * i;
        matrix = transposed_pairs(matrix);
        for (int i = 0; i < 4; i++) {
            const uint8_t byte = uint8_t(matrix >> 8 * i);
            if constexpr (TO_PACKED)
                runs[i * run_bytes + c] = byte;
            else
                file[first + 4 * i] = byte;
        }
    }
}

// One block of a file as it is packed.
template <ElementType type>
void to_packed(const uint8_t* file, uint8_t* packed) {
    constexpr BlockShape shape = shape_of(type);
    constexpr int head = shape.head_bytes(), run = shape.run_bytes(), low = 4 * shape.planes;
    uint8_t* const runs = packed + head;
    if constexpr (type == ElementType::q4k || type == ElementType::q5k) {
        constexpr int fifth_bits = type == ElementType::q5k ? 32 : 0;
        std::memcpy(packed, file, head);
        for (int i = 0; i < 8; i += 2)
            split_nibbles(file + head + fifth_bits + 16 * i, runs + i * run + low, runs + (i + 1) * run + low);
        if constexpr (type == ElementType::q5k) move_fifth_bits<true>(file + head, runs, run);
    } else if constexpr (type == ElementType::q6k) {
        std::memcpy(packed, file + 208, 2);       // the scale of the scales, at the end in the file
        std::memcpy(packed + 2, file + 192, 16);  // scales of 16 columns
        for (int i = 0; i < 8; i += 4, file += 64) {
            uint8_t* const four = runs + i * run;
            split_nibbles(file, four + low, four + 2 * run + low);
            split_nibbles(file + 32, four + run + low, four + 3 * run + low);
        }
        file -= 128;
        move_upper_bits<true>(file + 128, runs, run);
        move_upper_bits<true>(file + 160, runs + 4 * run, run);
    } else {
        std::memcpy(packed, file, traits_of(type).bytes);
        if constexpr (shape.planes) {
            uint32_t word;
            std::memcpy(&word, packed + head, 4);
            word = plane_of_bits(word);
            std::memcpy(packed + head, &word, 4);
        }
        if constexpr (type == ElementType::mxfp4) packed[0] ^= 0x80;  // the power as a number with a sign, plus 128
    }
}

// The inverse.
template <ElementType type>
void from_packed(const uint8_t* packed, uint8_t* file) {
    constexpr BlockShape shape = shape_of(type);
    constexpr int head = shape.head_bytes(), run = shape.run_bytes(), low = 4 * shape.planes;
    const uint8_t* const runs = packed + head;
    if constexpr (type == ElementType::q4k || type == ElementType::q5k) {
        constexpr int fifth_bits = type == ElementType::q5k ? 32 : 0;
        std::memcpy(file, packed, head);
        for (int i = 0; i < 8; i += 2)
            join_nibbles(file + head + fifth_bits + 16 * i, runs + i * run + low, runs + (i + 1) * run + low);
        if constexpr (type == ElementType::q5k) move_fifth_bits<false>(file + head, runs, run);
    } else if constexpr (type == ElementType::q6k) {
        std::memcpy(file + 208, packed, 2);
        std::memcpy(file + 192, packed + 2, 16);
        for (int i = 0; i < 8; i += 4, file += 64) {
            const uint8_t* const four = runs + i * run;
            join_nibbles(file, four + low, four + 2 * run + low);
            join_nibbles(file + 32, four + run + low, four + 3 * run + low);
        }
        file -= 128;
        move_upper_bits<false>(file + 128, runs, run);
        move_upper_bits<false>(file + 160, runs + 4 * run, run);
    } else {
        std::memcpy(file, packed, traits_of(type).bytes);
        if constexpr (shape.planes) {
            uint32_t word;
            std::memcpy(&word, file + head, 4);
            word = bits_of_plane(word);
            std::memcpy(file + head, &word, 4);
        }
        if constexpr (type == ElementType::mxfp4) file[0] ^= 0x80;
    }
}

}  // namespace
}  // namespace dllama

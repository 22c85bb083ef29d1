// What a packed block of one row stands for, in plain code: for conversion, and for machines without vectors.
#pragma once

#include <cmath>

#include "block_layout.h"
#include "half.h"

namespace dllama {
namespace {

// The 6-bit scale or minimum of run j of 8, of Q4_K and Q5_K: four in the low six bits of the bytes of `words[first]`, the
// others in nibbles of words[2], with their upper two bits above those of the first four.
inline int six_bits(const uint32_t words[3], int first, int j) {
    if (j < 4) return int(words[first] >> 8 * j & 63);
    const int place = 8 * (j - 4);
    return int((words[2] >> (place + 4 * first) & 15) | (words[first] >> (place + 2) & 0x30));
}

template <ElementType type>
struct BlockValues {
    static constexpr BlockShape shape = shape_of(type);
    static constexpr QuantMeaning meaning = meaning_of(type);
    static constexpr int columns = traits_of(type).block, runs = columns / kBlock;
    static constexpr int n_scales = runs * meaning.scales_of_run;

    // value of column j = quants[j] * scales[j * n_scales / columns] + minima[j / 32]
    int8_t quants[columns];
    float scales[n_scales];
    float minima[runs];

    // Of a block with n_runs runs, whose quants are the first ones here.
    explicit BlockValues(const uint8_t* packed, int n_runs = runs) {
        read_scales(packed);
        for (int run = 0; run < n_runs; run++)
            read_quants(packed + shape.head_bytes() + run * shape.run_bytes(), quants + run * kBlock);
    }

private:
    static int meant(int quant) {
        if constexpr (meaning.is_table)
            return table_of(type)[quant];
        else
            return quant - meaning.offset;
    }

    static void read_quants(const uint8_t* run, int8_t* out) {
        const uint8_t* low = run + 4 * shape.planes;
        if constexpr (type == ElementType::q80) {
            std::memcpy(out, low, kBlock);
        } else {
            for (int j = 0; j < 16; j++) {
                int first = low[j] & 15, second = low[j] >> 4;
                const int g = j / 4, c = j % 4;
                if constexpr (shape.planes == 1) first |= (run[c] >> g & 1) << 4, second |= (run[c] >> (g + 4) & 1) << 4;
                if constexpr (shape.planes == 2)
                    first |= (run[c] >> 2 * g & 3) << 4, second |= (run[4 + c] >> 2 * g & 3) << 4;
                out[j] = int8_t(meant(first)), out[j + 16] = int8_t(meant(second));
            }
        }
    }

    void read_scales(const uint8_t* head) {
        for (float& minimum : minima) minimum = 0;
        if constexpr (type == ElementType::mxfp4) {
            scales[0] = std::ldexp(1.0f, int8_t(head[0]));
        } else if constexpr (type == ElementType::q4k || type == ElementType::q5k) {
            const float d = half_at(head), d_min = half_at(head + 2);
            uint32_t words[3];
            std::memcpy(words, head + 4, 12);
            for (int j = 0; j < runs; j++)
                scales[j] = d * float(six_bits(words, 0, j)), minima[j] = -(d_min * float(six_bits(words, 1, j)));
        } else if constexpr (type == ElementType::q6k) {
            for (int j = 0; j < n_scales; j++) scales[j] = half_at(head) * float(int8_t(head[2 + j]));
        } else if constexpr (type == ElementType::iq4xs) {
            uint16_t upper;
            uint32_t lower;
            std::memcpy(&upper, head + 2, 2);
            std::memcpy(&lower, head + 4, 4);
            for (int j = 0; j < runs; j++)
                scales[j] = half_at(head) * float(int((lower >> 4 * j & 15) | (upper >> 2 * j & 3) << 4) - 32);
        } else {
            scales[0] = half_at(head);
            if constexpr (meaning.has_min) minima[0] = half_at(head + 2);
        }
    }
};

}  // namespace
}  // namespace dllama

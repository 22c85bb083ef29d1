// Blocks of any quants with scales of one's choice.
#pragma once

#include "block_layout.h"
#include "compare.h"

namespace compare {

inline uint16_t half_of(float value) {
    uint16_t half;
    dllama::scalar_kernels()->store_half(&half, &value, 1);
    return half;
}

// Sets the float16 numbers of a block of a file to what scale() gives, one after another, or its power of two to power().
template <class Scale, class Power>
void set_scales(dllama::ElementType type, uint8_t* block, const Scale& scale, const Power& power) {
    if (type == dllama::ElementType::mxfp4) block[0] = uint8_t(power());
    uint8_t* at = type == dllama::ElementType::q6k ? block + 208 : block;  // at the end
    for (int i = 0; i < dllama::shape_of(type).n_floats; i++) {
        const uint16_t half = half_of(scale());
        std::memcpy(at + 2 * i, &half, 2);
    }
}

// The bytes that stand before a block's quants, when it has minima.
inline int bytes_before_quants(dllama::ElementType type) {
    return type == dllama::ElementType::q41 || type == dllama::ElementType::q51 ? 4 : 16;
}

}  // namespace compare

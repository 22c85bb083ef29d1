// float16 without an instruction for it.
#pragma once

#include <cstdint>
#include <cstring>

namespace dllama {
namespace {

inline float half_to_float(uint16_t h) {
    // Exponent and mantissa move into place; the multiplication rebiases, and makes subnormals normal.
    const uint32_t sign = uint32_t(h & 0x8000) << 16;
    uint32_t bits = uint32_t(h & 0x7FFF) << 13;
    float value;
    if ((h & 0x7C00) == 0x7C00) {
        bits |= 0x7F800000u;
        std::memcpy(&value, &bits, 4);
    } else {
        std::memcpy(&value, &bits, 4);
        value *= 0x1p112f;
        std::memcpy(&bits, &value, 4);
    }
    bits |= sign;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint16_t float_to_half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    bits &= 0x7FFFFFFF;
    if (bits > 0x7F800000) return uint16_t(sign | 0x7E00);          // NaN
    if (bits >= 0x477FF000) return uint16_t(sign | 0x7C00);         // rounds to infinity
    if (bits < 0x38800000) {                                        // subnormal: let the adder round
        float magnitude;
        std::memcpy(&magnitude, &bits, 4);
        magnitude += 0.5f;
        std::memcpy(&bits, &magnitude, 4);
        return uint16_t(sign | (bits - 0x3F000000));
    }
    bits += 0xC8000FFFu + (bits >> 13 & 1);  // rebias by -112, round to nearest even
    return uint16_t(sign | bits >> 13);
}

inline float half_at(const uint8_t* p) {
    uint16_t half;
    std::memcpy(&half, p, 2);
    return half_to_float(half);
}

}  // namespace
}  // namespace dllama

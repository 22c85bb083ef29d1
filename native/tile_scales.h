// The scales and minima of a tile's rows, one vector for each run of 32 columns: S::W rows are a tile.
#pragma once

#include "row_kernels.h"
#include "tile_layout.h"

namespace dllama {
namespace {

template <class S, ElementType type>
struct TileScales {
    using F = typename S::F;
    using I = typename S::I;
    static constexpr BlockShape shape = shape_of(type);
    static constexpr QuantMeaning meaning = meaning_of(type);
    static constexpr int R = S::W;
    static constexpr int runs = traits_of(type).block / kBlock, parts = meaning.scales_of_run;
    static constexpr int tile_block_bytes = R * traits_of(type).bytes;
    static constexpr bool has_min = meaning.has_min;

    // Of a block with so many runs.
    static constexpr int tile_bytes(int n_runs) { return R * (shape.head_bytes() + n_runs * shape.run_bytes()); }

    // Where the quants of a run begin, counted from the first that there is.
    static const uint8_t* run_at(const uint8_t* block, int run) {
        return block + R * (shape.head_bytes() + run * shape.run_bytes());
    }

    // Of blocks with one scale.
    static F scale(const uint8_t* block) {
        if constexpr (type == ElementType::mxfp4) {
            // 2^n for n from -128 on: as two factors, since the smallest are no normal numbers.
            const F n = S::load_int8(reinterpret_cast<const int8_t*>(block)), normal = S::max(S::set1(-126), n);
            return S::mul(S::power_of_two(S::round_to_int(normal)), S::power_of_two(S::round_to_int(S::sub(n, normal))));
        } else {
            return half(block, 0);
        }
    }
    static F min(const uint8_t* block) { return half(block, 1); }

    // Of blocks with many: scales[(run * parts + part) * stride], and minima[run * stride] where there are any.
    static void read(const uint8_t* block, float* scales, float* minima, size_t stride) {
        read_run<0>(block, scales, minima, stride);
    }

private:
    static F half(const uint8_t* block, int i) {
        return S::load_half(reinterpret_cast<const uint16_t*>(block + 2 * R * i));
    }
    static I word(const uint8_t* block, int i) { return S::load_words(block + 2 * R * shape.halves + 4 * R * i); }

    template <int RUN>
    static void read_run(const uint8_t* block, float* scales, float* minima, size_t stride) {
        if constexpr (RUN < runs) {
            const F d = half(block, 0);
            if constexpr (type == ElementType::q6k) {
                const auto* codes = reinterpret_cast<const int8_t*>(block + 2 * R);
                for (int part = 0; part < 2; part++)
                    S::store(scales + (2 * RUN + part) * stride, S::mul(S::load_int8(codes + (2 * RUN + part) * R), d));
            } else if constexpr (type == ElementType::iq4xs) {
                const I low = S::template and_int<15>(S::template shift_right<4 * RUN>(word(block, 0)));
                // The upper bits are the second of the halves, as the upper half of what was read as bfloat16.
                const I halves = S::bits(S::load_bf16(reinterpret_cast<const uint16_t*>(block + 2 * R)));
                const I high = S::template and_int<0x30>(shifted_to_4<16 + 2 * RUN>(halves));
                S::store(scales + RUN * stride, S::mul(d, S::sub(S::to_float(S::or_int(low, high)), S::set1(32))));
            } else {
                S::store(scales + RUN * stride, S::mul(d, S::to_float(six_bits<RUN, 0>(block))));
                const F lowered = S::sub(S::set1(0), half(block, 1));
                S::store(minima + RUN * stride, S::mul(lowered, S::to_float(six_bits<RUN, 1>(block))));
            }
            read_run<RUN + 1>(block, scales, minima, stride);
        }
    }

    // Bit `from` and those above it as bit 4 and those above it.
    template <int FROM>
    static I shifted_to_4(I v) { return S::template shift_right<FROM - 4>(v); }

    // As in block_values.h.
    template <int RUN, int FIRST>
    static I six_bits(const uint8_t* block) {
        if constexpr (RUN < 4) {
            return S::template and_int<63>(S::template shift_right<8 * RUN>(word(block, FIRST)));
        } else {
            constexpr int place = 8 * (RUN - 4);
            const I low = S::template and_int<15>(S::template shift_right<place + 4 * FIRST>(word(block, 2)));
            return S::or_int(low, S::template and_int<0x30>(S::template shift_right<place + 2>(word(block, FIRST))));
        }
    }
};

// Those of one block of NG tiles, where a product with few rows needs them: in registers, or beside the stack where there
// are too many.
template <class Scales, class S, int NG>
struct HeldScales {
    using F = typename S::F;
    static constexpr bool is_one = Scales::runs == 1;

    explicit HeldScales(const uint8_t* const block[NG]) {
        UNROLL for (int n = 0; n < NG; n++)
            if constexpr (is_one) {
                one[n] = Scales::scale(block[n]);
                if constexpr (Scales::has_min) lowest[n] = Scales::min(block[n]);
            } else {
                Scales::read(block[n], scales[0][n], minima[0][n], NG * S::W);
            }
    }
    F scale(int n, int i) const { return is_one ? one[n] : S::load(scales[i][n]); }
    F min(int n, int run) const { return is_one ? lowest[n] : S::load(minima[run][n]); }

private:
    F one[NG], lowest[NG];
    alignas(64) float scales[is_one ? 1 : Scales::runs * Scales::parts][NG][S::W];
    alignas(64) float minima[is_one || !Scales::has_min ? 1 : Scales::runs][NG][S::W];
};

}  // namespace
}  // namespace dllama

// float32 weights to blocks whose scales are searched, written once over a vector type S: Q40, Q80 and IQ4NL, and by way of
// files of their own Q4K and Q6K.
#pragma once

#include "quantize_q4k.h"
#include "quantize_q6k.h"

namespace dllama {
namespace {

template <class S>
struct QuantizeKernel {
    using F = typename S::F;
    static constexpr int W = S::W;
    static constexpr int N = kBlock / W;

    // One row of n weights, whole blocks, to `out`. importance: of each column, finite and not negative; null for none.
    // False when a weight is not finite, or too large for a float16 scale.
    static bool quantize(uint8_t* out, ElementType type, const float* x, const float* importance, size_t n) {
        switch (type) {
            case ElementType::q40: return row<Q40>(out, x, importance, n);
            case ElementType::q80: return row<Q80>(out, x, importance, n);
            case ElementType::iq4nl: return row<Iq4nl>(out, x, importance, n);
            case ElementType::q4k: return super_blocks<Q4kQuantizer<S>>(out, x, importance, n);
            case ElementType::q6k: return super_blocks<Q6kQuantizer<S>>(out, x, importance, n);
            default: return false;
        }
    }

private:
    // A type: its levels, the reaches of a quick and of a thorough search, and its quants from weights and 1 / scale.
    struct Q40 {
        static constexpr ElementType type = ElementType::q40;
        using Levels = WholeLevels<S, -8, 7>;
        static constexpr bool symmetric = false;
        static constexpr Reaches<1> quick = spread_reaches<1>(-8, -8, 7, 0.72f, 1.12f);
        static constexpr Reaches<3> thorough = spread_reaches<3>(-8, -8, 7, 0.45f, 1.2f);
        static void write(uint8_t* out, const float* x, float inverse) {
            int8_t quants[kBlock];
            quants_of(quants, x, inverse, Levels::nearest);
            for (int j = 0; j < 16; j++) out[j] = uint8_t((quants[j] + 8) | (quants[j + 16] + 8) << 4);
        }
    };
    struct Iq4nl {
        static constexpr ElementType type = ElementType::iq4nl;
        using Levels = Iq4Levels<S>;
        static constexpr bool symmetric = false;
        static constexpr Reaches<1> quick = spread_reaches<1>(-127, -127, 113, 0.72f, 1.12f);
        static constexpr Reaches<3> thorough = spread_reaches<3>(-127, -127, 113, 0.45f, 1.2f);
        static void write(uint8_t* out, const float* x, float inverse) {
            int8_t quants[kBlock];
            quants_of(quants, x, inverse, Levels::index);
            for (int j = 0; j < 16; j++) out[j] = uint8_t(quants[j] | quants[j + 16] << 4);
        }
    };
    struct Q80 {
        static constexpr ElementType type = ElementType::q80;
        using Levels = WholeLevels<S, -127, 127>;
        static constexpr bool symmetric = true;
        static constexpr Reaches<1> quick = spread_reaches<1>(127, 127, 127, 0.97f, 1.0f);
        static constexpr Reaches<1> thorough = quick;
        static void write(uint8_t* out, const float* x, float inverse) {
            quants_of(reinterpret_cast<int8_t*>(out), x, inverse, Levels::nearest);
        }
    };

    template <class Type>
    static bool row(uint8_t* out, const float* x, const float* importance, size_t n) {
        bool sound = true;
        for (size_t i = 0; i < n; i += kBlock, out += traits_of(Type::type).bytes) {
            float values[kBlock], weights[kBlock];
            std::memcpy(values, x + i, sizeof values);
            const float largest = largest_of(values, Type::symmetric);
            const auto found = is_important(weights, importance ? importance + i : nullptr, kBlock)
                                   ? Search<Type>::find(values, Importance<S>{weights}, kBlock, largest, Type::thorough)
                                   : Search<Type>::find(values, EvenImportance<S>(), kBlock, largest, Type::quick);
            sound &= __builtin_isfinite(found.scale) && __builtin_isfinite(found.error);
            write_half<S>(out, found.scale);
            Type::write(out + 2, values, found.scale == 0 ? 0 : 1.0f / found.scale);
        }
        return sound;
    }
    template <class Quantizer>
    static bool super_blocks(uint8_t* out, const float* x, const float* importance, size_t n) {
        bool sound = true;
        for (size_t i = 0; i < n; i += kSuperBlock, out += Quantizer::kBytes)
            sound &= Quantizer::quantize(out, x + i, importance ? importance + i : nullptr);
        return sound;
    }

    template <class Type>
    using Search = ScaleSearch<S, typename Type::Levels>;

    // The element of largest magnitude, without its sign where the levels have none to prefer.
    static float largest_of(const float values[kBlock], bool symmetric) {
        F low = S::load(values), high = low;
        for (int i = 1; i < N; i++) {
            const F v = S::load(values + i * W);
            low = S::min(low, v), high = S::max(high, v);
        }
        const float least = S::min_of(low), greatest = S::max_of(high);
        return -least > greatest ? (symmetric ? -least : least) : greatest;
    }

    template <class Nearest>
    static void quants_of(int8_t quants[kBlock], const float* x, float inverse, const Nearest& nearest) {
        typename S::I q[N];
        for (int i = 0; i < N; i++) q[i] = S::round_to_int(nearest(S::mul(S::load(x + i * W), S::set1(inverse))));
        S::store_int8(quants, q);
    }
};

}  // namespace
}  // namespace dllama

// Conversion between element types, 32 elements at a time, written once over a vector type S.
#pragma once

#include "block_values.h"
#include "row_kernels.h"

namespace dllama {
namespace {

template <class S>
struct ConvertKernel {
    using F = typename S::F;
    static constexpr int W = S::W;
    static constexpr int N = kBlock / W;

    static float scale_at(const uint8_t* p) {
        uint16_t halves[W] = {};
        std::memcpy(halves, p, 2);
        float values[W];
        S::store(values, S::load_half(halves));
        return values[0];
    }

    template <ElementType type>
    static void read(F v[N], const uint8_t* src) {
        if constexpr (type == ElementType::f32) {
            float values[kBlock];
            std::memcpy(values, src, sizeof values);
            for (int i = 0; i < N; i++) v[i] = S::load(values + i * W);
        } else if constexpr (type == ElementType::f16 || type == ElementType::bf16) {
            uint16_t values[kBlock];
            std::memcpy(values, src, sizeof values);
            for (int i = 0; i < N; i++)
                v[i] = type == ElementType::f16 ? S::load_half(values + i * W) : S::load_bf16(values + i * W);
        } else {
            int8_t quants[kBlock];
            if constexpr (type == ElementType::q40)
                for (int j = 0; j < 16; j++) {
                    quants[j] = int8_t((src[2 + j] & 15) - 8);
                    quants[j + 16] = int8_t((src[2 + j] >> 4) - 8);
                }
            else
                std::memcpy(quants, src + 2, kBlock);
            const F d = S::set1(scale_at(src));
            for (int i = 0; i < N; i++) v[i] = S::mul(S::load_int8(quants + i * W), d);
        }
    }

    // Calls take(v) for each 32 elements of one block that the file has in an order of its own.
    template <ElementType type, class Take>
    static void read_block(const uint8_t* src, const Take& take) {
        uint8_t packed[traits_of(type).bytes];
        to_packed<type>(src, packed);
        const BlockValues<type> block(packed);
        constexpr int columns_of_scale = block.columns / block.n_scales;
        static_assert(columns_of_scale % W == 0, "a vector has one scale");
        for (int column = 0; column < block.columns; column += kBlock) {
            F v[N];
            for (int i = 0; i < N; i++) {
                const int first = column + i * W;
                v[i] = S::mul(S::load_int8(block.quants + first), S::set1(block.scales[first / columns_of_scale]));
                if constexpr (block.meaning.has_min) v[i] = S::add(v[i], S::set1(block.minima[column / kBlock]));
            }
            take(v);
        }
    }

    // Writes 32 elements; *worst gathers the bits of the largest magnitude that was written or read.
    template <ElementType type>
    static void write(uint8_t* out, const F v[N], typename S::I* worst) {
        if constexpr (type == ElementType::f32) {
            for (int i = 0; i < N; i++) *worst = S::max_int(*worst, S::magnitude_bits(v[i]));
            float values[kBlock];
            for (int i = 0; i < N; i++) S::store(values + i * W, v[i]);
            std::memcpy(out, values, sizeof values);
        } else if constexpr (type == ElementType::f16) {
            uint16_t values[kBlock];
            for (int i = 0; i < N; i++) {
                S::store_half(values + i * W, v[i]);
                *worst = S::max_int(*worst, S::magnitude_bits(S::load_half(values + i * W)));
            }
            std::memcpy(out, values, sizeof values);
        } else {
            for (int i = 0; i < N; i++) *worst = S::max_int(*worst, S::magnitude_bits(v[i]));
            const float d = type == ElementType::q40 ? write_q40(out + 2, v) : write_q80(out + 2, v);
            uint16_t scale[W];
            S::store_half(scale, S::set1(d));
            std::memcpy(out, scale, 2);
            *worst = S::max_int(*worst, S::magnitude_bits(S::load_half(scale)));
        }
    }

    static float write_q80(uint8_t* out, const F v[N]) {
        int32_t sum;
        return quantize_block<S>(v, reinterpret_cast<int8_t*>(out), &sum);
    }

    // d = the element of largest magnitude, with its sign, over -8; nibble = trunc(v / d + 8.5), 0 to 15.
    static float write_q40(uint8_t* out, const F v[N]) {
        F low = v[0], high = v[0];
        for (int i = 1; i < N; i++) low = S::min(low, v[i]), high = S::max(high, v[i]);
        const float least = S::min_of(low), greatest = S::max_of(high);
        const float d = (-least > greatest ? least : greatest) / -8.0f;
        const F inverse = S::set1(inverse_or_zero(d)), zero = S::set1(0);
        typename S::I q[N];
        for (int i = 0; i < N; i++) {
            F scaled = S::add(S::mul(v[i], inverse), S::set1(8.5f));
            scaled = S::max(S::min(scaled, S::set1(15.0f)), zero);
            q[i] = S::trunc_to_int(scaled);
        }
        int8_t nibbles[kBlock];
        S::store_int8(nibbles, q);
        for (int j = 0; j < 16; j++) out[j] = uint8_t((nibbles[j] & 15) | (nibbles[j + 16] << 4));
        return d;
    }

    template <ElementType out_type, ElementType src_type>
    static bool run(uint8_t* out, const uint8_t* src, size_t n) {
        auto worst = S::magnitude_bits(S::set1(0));
        constexpr bool is_read_by_block = is_blocked(src_type) && src_type != ElementType::q40 && src_type != ElementType::q80;
        if constexpr (is_read_by_block) {
            for (size_t i = 0; i < n; i += traits_of(src_type).block, src += traits_of(src_type).bytes)
                read_block<src_type>(src, [&](const F v[N]) {
                    write<out_type>(out, v, &worst);
                    out += bytes_of(out_type, kBlock);
                });
        } else {
            F v[N];
            const size_t whole = n / kBlock * kBlock;
            for (size_t i = 0; i < whole; i += kBlock) {
                read<src_type>(v, src);
                write<out_type>(out, v, &worst);
                src += bytes_of(src_type, kBlock);
                out += bytes_of(out_type, kBlock);
            }
            if (whole < n) {
                uint8_t padded_src[kBlock * 4] = {}, padded_out[kBlock * 4];
                std::memcpy(padded_src, src, bytes_of(src_type, n - whole));
                read<src_type>(v, padded_src);
                write<out_type>(padded_out, v, &worst);
                std::memcpy(out, padded_out, bytes_of(out_type, n - whole));
            }
        }
        return S::max_of_int(worst) < 0x7F800000;
    }


    static bool convert(uint8_t* out, ElementType out_type, const uint8_t* src, ElementType src_type, size_t n) {
        return with_type(out_type, [&](auto to) {
            constexpr ElementType written = to;
            if constexpr (can_be_written(written))
                return with_type(src_type, [&](auto from) { return run<written, decltype(from)::value>(out, src, n); });
            else
                return false;
        });
    }
};

}  // namespace
}  // namespace dllama

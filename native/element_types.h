// Element types of weights and buffers, and their sizes: the one place where native code knows them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dllama {

constexpr int kBlock = 32;  // elements of activations, of Q40 and of Q80 that share one scale

// The numbers are those of dtypes.py.
enum class ElementType : int {
    f32 = 0, f16 = 1, q40 = 2, q80 = 3, bf16 = 16, q41 = 17, q50 = 18, q51 = 19, q4k = 20, q5k = 21, q6k = 22, iq4nl = 23,
    iq4xs = 24, mxfp4 = 25
};
constexpr int kElementTypes = 26;  // all numbers are below

// `block` elements are stored together in `bytes` bytes, in ggml's layouts (docs/formats.md).
struct ElementTraits {
    const char* name;
    int block, bytes;
};

// A block of no elements where the number names no type.
constexpr ElementTraits traits_of(ElementType type) {
    switch (type) {
        case ElementType::f32: return {"f32", 1, 4};
        case ElementType::f16: return {"f16", 1, 2};
        case ElementType::bf16: return {"bf16", 1, 2};
        case ElementType::q40: return {"q40", 32, 18};
        case ElementType::q41: return {"q41", 32, 20};
        case ElementType::q50: return {"q50", 32, 22};
        case ElementType::q51: return {"q51", 32, 24};
        case ElementType::q80: return {"q80", 32, 34};
        case ElementType::q4k: return {"q4k", 256, 144};
        case ElementType::q5k: return {"q5k", 256, 176};
        case ElementType::q6k: return {"q6k", 256, 210};
        case ElementType::iq4nl: return {"iq4nl", 32, 18};
        case ElementType::iq4xs: return {"iq4xs", 256, 136};
        case ElementType::mxfp4: return {"mxfp4", 32, 17};
    }
    return {"", 0, 0};
}

constexpr bool is_blocked(ElementType type) { return traits_of(type).block > 1; }

// Bytes of n elements that follow each other, whole blocks.
constexpr size_t bytes_of(ElementType type, size_t n) {
    return n / size_t(traits_of(type).block) * size_t(traits_of(type).bytes);
}

// work(TypeTag<type>()) for each type whose rows are blocks.
template <class Work>
void for_blocked_types(const Work& work) {
    for (int number = 0; number < kElementTypes; number++)
        with_type(ElementType(number), [&](auto tag) {
            if constexpr (is_blocked(decltype(tag)::value)) work(tag);
            return true;
        });
}

// Types that `convert` writes; the others are only read.
constexpr bool can_be_written(ElementType type) {
    return type == ElementType::f32 || type == ElementType::f16 || type == ElementType::q40 || type == ElementType::q80;
}

constexpr int kQ80Bytes = traits_of(ElementType::q80).bytes;

// Something for each element type; zero, or null, where nothing was set.
template <class T>
class ByType {
public:
    T& operator[](ElementType type) { return of_[int(type)]; }
    const T& operator[](ElementType type) const { return of_[int(type)]; }

private:
    T of_[kElementTypes]{};
};

template <ElementType type>
using TypeTag = std::integral_constant<ElementType, type>;

// work(TypeTag<type>()): `type` as something that the compiler knows. What `work` returns by default for no type.
template <class Work>
auto with_type(ElementType type, const Work& work) -> decltype(work(TypeTag<ElementType::f32>())) {
    switch (type) {
        case ElementType::f32: return work(TypeTag<ElementType::f32>());
        case ElementType::f16: return work(TypeTag<ElementType::f16>());
        case ElementType::bf16: return work(TypeTag<ElementType::bf16>());
        case ElementType::q40: return work(TypeTag<ElementType::q40>());
        case ElementType::q41: return work(TypeTag<ElementType::q41>());
        case ElementType::q50: return work(TypeTag<ElementType::q50>());
        case ElementType::q51: return work(TypeTag<ElementType::q51>());
        case ElementType::q80: return work(TypeTag<ElementType::q80>());
        case ElementType::q4k: return work(TypeTag<ElementType::q4k>());
        case ElementType::q5k: return work(TypeTag<ElementType::q5k>());
        case ElementType::q6k: return work(TypeTag<ElementType::q6k>());
        case ElementType::iq4nl: return work(TypeTag<ElementType::iq4nl>());
        case ElementType::iq4xs: return work(TypeTag<ElementType::iq4xs>());
        case ElementType::mxfp4: return work(TypeTag<ElementType::mxfp4>());
    }
    return {};
}

}  // namespace dllama

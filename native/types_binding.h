// Element types and packed rows as Python gives and gets them.
#pragma once

#include <nanobind/ndarray.h>

#include <string>

#include "array_arg.h"
#include "packed_matrix.h"

namespace dllama {

// fits(type): whether it may be used here.
template <class Fits>
ElementType element_type(int number, const char* name, const Fits& fits) {
    const bool known = number >= 0 && number < kElementTypes && traits_of(ElementType(number)).block > 0;
    if (!known || !fits(ElementType(number)))
        wrong_value(std::string(name) + " " + std::to_string(number) + " is not an element type that fits here");
    return ElementType(number);
}

inline void need_whole_blocks(ElementType type, int64_t n, const char* name) {
    const ElementTraits traits = traits_of(type);
    if (n % traits.block)
        wrong_value(std::string(name) + " must be a multiple of " + std::to_string(traits.block) + " for " + traits.name);
}

inline nb::object to_python(ElementType type) {
    return nb::module_::import_("dllama.dtypes").attr("ElementType")(int(type));
}

// Rows of blocks may be cut between any two runs of 32 columns.
inline void need_whole_runs(ElementType type, int64_t n, const char* name) {
    if (is_blocked(type) && n % kBlock) wrong_value(std::string(name) + " must be a multiple of 32 for " + traits_of(type).name);
}

inline PackedLayout checked_layout(const KernelTable& kernels, int dtype, int n_out, int n_in, int first_in) {
    const ElementType type = element_type(dtype, "dtype", [&](ElementType t) { return kernels.has_product(t); });
    require(n_out >= 0 && n_out <= (1 << 30), "n_out", "must be between 0 and 2^30");
    require(n_in > 0 && n_in <= (1 << 30), "n_in", "must be between 1 and 2^30");
    require(first_in >= 0 && first_in <= (1 << 30), "first_in", "must be between 0 and 2^30");
    need_whole_runs(type, n_in, "n_in");
    need_whole_runs(type, first_in, "first_in");
    return {type, n_out, n_in, kernels.tile_rows, kernels.unit_bytes, first_in % traits_of(type).block / kBlock};
}

// False when a scale or an element was not finite.
inline bool pack_checked(const PackedLayout& layout, uint8_t* packed, int first_row, nb::handle rows) {
    const ArrayArg from(rows, "rows", kUint8, 2);
    const int64_t n = from.size(0);
    require(first_row >= 0 && first_row + n <= layout.n_out, "first_row", "and rows reach outside the matrix");
    from.need_size(1, int64_t(layout.row_bytes()));
    const nb::gil_scoped_release release;
    return pack(layout, packed, first_row, int(n), from.data<uint8_t>());
}

inline nb::object unpack_checked(const PackedLayout& layout, const uint8_t* packed, int first_row, int n) {
    require(first_row >= 0 && n >= 0 && first_row + int64_t(n) <= layout.n_out, "first_row",
            "and n reach outside the matrix");
    const size_t row_bytes = layout.row_bytes();
    auto* data = new uint8_t[size_t(n) * row_bytes + 1];
    const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
    unpack(layout, packed, first_row, n, data);
    return nb::cast(nb::ndarray<nb::numpy, uint8_t, nb::ndim<2>>(data, {size_t(n), row_bytes}, owner));
}

}  // namespace dllama

// The quantisers of dllama._native: arguments are checked here.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cmath>
#include <optional>

#include "array_arg.h"
#include "cpu.h"

namespace dllama {
namespace {

ElementType quantized_type(int number) {
    constexpr ElementType kKnown[] = {ElementType::q40, ElementType::q80, ElementType::iq4nl, ElementType::q4k,
                                      ElementType::q6k};
    for (const ElementType known : kKnown)
        if (int(known) == number) return known;
    wrong_value("out_type " + std::to_string(number) + " is not an element type that is quantised to");
}

const KernelTable& kernels_of(const std::optional<std::string>& isa) {
    const KernelTable* tables[kMaxIsas];
    const int n = usable_kernels(tables);
    for (int i = 0; i < n; i++)
        if (!isa || *isa == tables[i]->isa) return *tables[i];
    wrong_value("isa '" + *isa + "' is not what this machine has");
}

bool quantize(nb::handle out, int out_number, nb::handle x, nb::handle importance, const std::optional<std::string>& isa) {
    const ElementType type = quantized_type(out_number);
    const KernelTable& kernels = kernels_of(isa);
    const ArrayArg to(out, "out", kUint8, 2, Access::write), from(x, "x", kFloat32, 2);
    const int64_t n_rows = from.size(0), n = from.size(1);
    require(n % traits_of(type).block == 0, "x", "must have rows of whole blocks");
    const int64_t row_bytes = int64_t(bytes_of(type, size_t(n)));
    to.need_size(0, n_rows);
    to.need_size(1, row_bytes);
    std::optional<ArrayArg> weights;
    if (!importance.is_none()) {
        weights.emplace(importance, "importance", kFloat32, 1);
        weights->need_size(0, n);
        for (int64_t i = 0; i < n; i++) {
            const float value = weights->data<float>()[i];
            require(std::isfinite(value) && value >= 0, "importance", "must be finite and not negative");
        }
    }
    const float* of_columns = weights ? weights->data<float>() : nullptr;
    const nb::gil_scoped_release release;
    bool sound = true;
    for (int64_t row = 0; row < n_rows; row++)
        sound &= kernels.quantize_weights(to.data<uint8_t>() + row * row_bytes, type, from.data<float>() + row * n,
                                          of_columns, size_t(n));
    return sound;
}

}  // namespace

void define_quantizers(nb::module_& m) {
    m.def("quantize", &quantize, nb::arg("out"), nb::arg("out_type"), nb::arg("x"),
          nb::arg("importance") = nb::none(), nb::arg("isa") = nb::none());
}

}  // namespace dllama

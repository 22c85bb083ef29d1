// What Python sees of mixtures of experts: stacks of matrices, and where rows go.
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include "array_arg.h"
#include "compute.h"
#include "objects.h"
#include "types_binding.h"

namespace dllama {
namespace {

constexpr int kMostExperts = 1 << 16;

void new_stack(PackedStack* self, Compute& compute, int dtype, int n_matrices, int n_out, int n_in, int first_in) {
    require(n_matrices >= 0 && n_matrices <= 2 * kMostExperts, "n_matrices", "must be between 0 and 131072");
    const PackedLayout layout = checked_layout(compute.kernels(), dtype, n_out, n_in, first_in);
    new (self) PackedStack{layout, n_matrices, compute.matrix_memory().take(layout.bytes() * size_t(n_matrices))};
}

void need_index(const PackedStack& stack, int index) {
    require(index >= 0 && index < stack.n_matrices, "index", "is outside the stack");
}

bool pack_stack(PackedStack& stack, int index, int first_row, nb::handle rows) {
    need_index(stack, index);
    return pack_checked(stack.layout, stack.matrix(index), first_row, rows);
}

nb::object unpack_stack(const PackedStack& stack, int index, int first_row, int n) {
    need_index(stack, index);
    return unpack_checked(stack.layout, stack.matrix(index), first_row, n);
}

void new_routed_rows(RoutedRows* self, int max_rows, int n_experts, int top_k) {
    require(max_rows >= 0 && max_rows <= (1 << 24), "max_rows", "must be between 0 and 2^24");
    require(n_experts >= 1 && n_experts <= kMostExperts, "n_experts", "must be between 1 and 65536");
    require(top_k >= 1 && top_k <= n_experts, "top_k", "must be between 1 and n_experts");
    require(int64_t(max_rows) * top_k < (int64_t(1) << 31), "max_rows", "has too many slots");
    new (self) RoutedRows(max_rows, n_experts, top_k);
}

template <class T>
nb::object view(nb::handle owner, const std::vector<T>& values, size_t rows, size_t columns) {
    const nb::ndarray<nb::numpy, const T, nb::ndim<2>> array(values.data(), {rows, columns}, owner);
    return nb::cast(array, nb::rv_policy::reference);
}

}  // namespace

void define_experts(nb::module_& m) {
    nb::class_<PackedStack>(m, "PackedStack")
        .def("__init__", &new_stack, nb::arg("compute"), nb::arg("dtype"), nb::arg("n_matrices"), nb::arg("n_out"),
             nb::arg("n_in"), nb::arg("first_in") = 0)
        .def("pack", &pack_stack, nb::arg("index"), nb::arg("first_row"), nb::arg("rows"))
        .def("unpack", &unpack_stack, nb::arg("index"), nb::arg("first_row"), nb::arg("n"))
        .def_ro("n_matrices", &PackedStack::n_matrices)
        .def_prop_ro("n_out", [](const PackedStack& s) { return s.layout.n_out; })
        .def_prop_ro("n_in", [](const PackedStack& s) { return s.layout.n_in; })
        .def_prop_ro("dtype", [](const PackedStack& s) { return to_python(s.layout.type); })
        .def_prop_ro("nbytes", [](const PackedStack& s) { return s.layout.bytes() * size_t(s.n_matrices); });
    nb::class_<RoutedRows>(m, "RoutedRows")
        .def("__init__", &new_routed_rows, nb::arg("max_rows"), nb::arg("n_experts"), nb::arg("top_k"))
        .def_ro("max_rows", &RoutedRows::max_rows)
        .def_ro("n_experts", &RoutedRows::n_experts)
        .def_ro("top_k", &RoutedRows::top_k)
        .def_ro("n_rows", &RoutedRows::n_rows)
        .def_prop_ro("ids", [](nb::handle self) {
            const RoutedRows& r = nb::cast<const RoutedRows&>(self);
            return view(self, r.ids, size_t(r.max_rows), size_t(r.top_k));
        })
        .def_prop_ro("weights", [](nb::handle self) {
            const RoutedRows& r = nb::cast<const RoutedRows&>(self);
            return view(self, r.weights, size_t(r.max_rows), size_t(r.top_k));
        })
        .def_prop_ro("logits", [](nb::handle self) {
            const RoutedRows& r = nb::cast<const RoutedRows&>(self);
            return view(self, r.logits, size_t(r.max_rows), size_t(r.n_experts));
        });
}

}  // namespace dllama

// What tokenizers need of native code, for dllama._native: arguments are checked here.
#include <nanobind/ndarray.h>

#include "array_arg.h"
#include "piece_cuts.h"

namespace dllama {
namespace {

nb::object to_array(std::vector<int32_t>&& values) {
    auto* kept = new std::vector<int32_t>(std::move(values));
    const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<int32_t>*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, int32_t, nb::ndim<1>>(kept->data(), {kept->size()}, owner));
}

// text: UTF-8 of all pieces, one after another; ends [n] int64: where each of them ends in it.
nb::tuple cuts_of_pieces(nb::bytes text, nb::handle ends, int n_cut) {
    const ArrayArg of_ends(ends, "ends", kInt64, 1);
    const int64_t n = of_ends.size(0), *end = of_ends.data<int64_t>();
    require(n < (int64_t(1) << 30), "ends", "must be fewer than 2^30");
    require(n_cut >= 0 && n_cut <= n, "n_cut", "must be between 0 and the number of pieces");
    for (int64_t i = 0; i < n; i++)
        require(end[i] >= (i ? end[i - 1] : 0) && end[i] <= int64_t(text.size()), "ends", "must rise within the text");
    PieceCuts cuts;
    {
        const nb::gil_scoped_release release;
        cuts = piece_cuts({text.c_str(), end, int(n)}, n_cut);
    }
    return nb::make_tuple(to_array(std::move(cuts.left)), to_array(std::move(cuts.right)));
}

}  // namespace

void define_tokenizers(nb::module_& m) {
    m.def("piece_cuts", &cuts_of_pieces, nb::arg("text"), nb::arg("ends"), nb::arg("n_cut"));
}

}  // namespace dllama

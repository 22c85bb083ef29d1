// dllama._native: arguments are checked here, the GIL is released, and the operation runs on every thread.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <deque>
#include <mutex>
#include <optional>

#include "array_arg.h"
#include "compute.h"
#include "cpu.h"
#include "merge_candidates.h"
#include "objects.h"
#include "types_binding.h"

namespace dllama {
namespace {

std::vector<std::string> supported_isas() {
    const KernelTable* tables[kMaxIsas];
    const int n = usable_kernels(tables);
    std::vector<std::string> names;
    for (int i = 0; i < n; i++) names.emplace_back(tables[i]->isa);
    return names;
}

bool convert(nb::handle out, int out_number, nb::handle src, int src_number, int64_t n) {
    const ElementType out_type = element_type(out_number, "out_type", can_be_written);
    const ElementType src_type = element_type(src_number, "src_type", [](ElementType) { return true; });
    require(n >= 0, "n_elements", "must not be negative");
    need_whole_blocks(out_type, n, "n_elements");
    need_whole_blocks(src_type, n, "n_elements");
    const ArrayArg to(out, "out", kUint8, 1, Access::write), from(src, "src", kUint8, 1);
    to.need_at_least(0, int64_t(bytes_of(out_type, size_t(n))));
    from.need_at_least(0, int64_t(bytes_of(src_type, size_t(n))));
    static const KernelTable* const best = [] {
        const KernelTable* tables[kMaxIsas];
        usable_kernels(tables);
        return tables[0];
    }();
    const nb::gil_scoped_release release;
    return best->convert(to.data<uint8_t>(), out_type, from.data<uint8_t>(), src_type, size_t(n));
}

// Arrays of a RankPart.
struct RankArrays {
    RankArrays(nb::tuple arrays, int n_rows)
        : ids(arrays[0], "ids", kInt32, 2), logits(arrays[1], "logits", kFloat32, 2), sums(arrays[2], "sums", kFloat64, 2),
          target_logits(arrays[3], "target_logits", kFloat32, 1) {
        ids.need_size(0, n_rows);
        logits.need_size(0, n_rows);
        logits.need_at_least(1, 1);
        ids.need_size(1, logits.size(1));
        sums.need_size(0, 2);
        sums.need_size(1, n_rows);
        target_logits.need_size(0, n_rows);
    }
    RankPart part() const {
        return {ids.data<int32_t>(), logits.data<float>(), sums.data<double>(), target_logits.data<float>(),
                int(logits.size(1))};
    }
    ArrayArg ids, logits, sums, target_logits;
};

void merge_candidates_of_arrays(nb::handle ids, nb::handle logits, nb::handle log_sums, nb::handle target_logits,
                                const std::vector<nb::tuple>& parts, nb::handle temperature) {
    const ArrayArg of_ids(ids, "ids", kInt32, 2, Access::write), of_logits(logits, "logits", kFloat32, 2, Access::write);
    const ArrayArg of_sums(log_sums, "log_sums", kFloat64, 2, Access::write);
    const ArrayArg of_targets(target_logits, "target_logits", kFloat32, 1, Access::write);
    const ArrayArg temperatures(temperature, "temperature", kFloat32, 1);
    const int n_rows = int(temperatures.size(0)), n = int(of_ids.size(1));
    of_ids.need_size(0, n_rows);
    of_logits.need_size(0, n_rows);
    of_logits.need_size(1, n);
    of_sums.need_size(0, 2);
    of_sums.need_size(1, n_rows);
    of_targets.need_size(0, n_rows);
    std::deque<RankArrays> arrays;
    std::vector<RankPart> of_ranks;
    int n_known = 0;
    for (const nb::tuple& part : parts) {
        require(part.size() == 4, "parts", "must be tuples of four arrays");
        of_ranks.push_back(arrays.emplace_back(part, n_rows).part());
        n_known += of_ranks.back().n_candidates;
    }
    require(n <= n_known, "ids", "must have at most as many columns as all parts");
    merge_candidates(of_ranks, temperatures.data<float>(), n_rows,
                     {of_ids.data<int32_t>(), of_logits.data<float>(), of_sums.data<double>(), of_targets.data<float>(), n});
}

// out [T, bytes of a cut row]: what rows have of the blocks in which their columns first_in to first_in + n_in lie.
void cut_rows_checked(nb::handle out, int dtype, nb::handle blocks, int64_t first_in, int n_in) {
    const ElementType type = element_type(dtype, "dtype", is_blocked);
    require(first_in >= 0, "first_in", "must not be negative");
    require(n_in >= 0, "n_in", "must not be negative");
    need_whole_runs(type, first_in, "first_in");
    need_whole_runs(type, n_in, "n_in");
    const int block = traits_of(type).block, first_run = int(first_in % block) / kBlock;
    const ArrayArg to(out, "out", kUint8, 2, Access::write), from(blocks, "blocks", kUint8, 2);
    const int64_t n_blocks = n_in ? (first_run * kBlock + int64_t(n_in) + block - 1) / block : 0;
    from.need_size(1, n_blocks * traits_of(type).bytes);
    to.need_size(0, from.size(0));
    to.need_size(1, int64_t(cut_row_bytes(type, first_run, size_t(n_in))));
    const nb::gil_scoped_release release;
    cut_rows(type, first_run, n_in, from.data<uint8_t>(), int(from.size(0)), to.data<uint8_t>());
}

void new_matrix(PackedMatrix* self, Compute& compute, int dtype, int n_out, int n_in, int first_in) {
    const PackedLayout layout = checked_layout(compute.kernels(), dtype, n_out, n_in, first_in);
    new (self) PackedMatrix{layout, compute.matrix_memory().take(layout.bytes())};
}

bool pack_rows(PackedMatrix& matrix, int first_row, nb::handle rows) {
    return pack_checked(matrix.layout, matrix.memory.data(), first_row, rows);
}

nb::object unpack_rows(const PackedMatrix& matrix, int first_row, int n) {
    return unpack_checked(matrix.layout, matrix.memory.data(), first_row, n);
}

void new_q80_rows(Q80Rows* self, int max_rows, int n) {
    require(max_rows >= 0, "max_rows", "must not be negative");
    require(n > 0 && n % kBlock == 0, "n", "must be a positive multiple of 32");
    new (self) Q80Rows(max_rows, n);
}

template <class T>
nb::object view_of(nb::handle owner, T* data, int rows, int columns) {
    const nb::ndarray<nb::numpy, T, nb::ndim<2>> view(data, {size_t(rows), size_t(columns)}, owner);
    return nb::cast(view, nb::rv_policy::reference);
}

void define_objects(nb::module_& m) {
    nb::class_<BoundArray>(m, "BoundArray").def(nb::init<nb::handle>(), nb::arg("array"));
    nb::class_<PackedMatrix>(m, "PackedMatrix")
        .def("__init__", &new_matrix, nb::arg("compute"), nb::arg("dtype"), nb::arg("n_out"), nb::arg("n_in"),
             nb::arg("first_in") = 0)
        .def("pack", &pack_rows, nb::arg("first_row"), nb::arg("rows"))
        .def("unpack", &unpack_rows, nb::arg("first_row"), nb::arg("n"))
        .def_prop_ro("n_out", [](const PackedMatrix& p) { return p.layout.n_out; })
        .def_prop_ro("n_in", [](const PackedMatrix& p) { return p.layout.n_in; })
        .def_prop_ro("dtype", [](const PackedMatrix& p) { return to_python(p.layout.type); })
        .def_prop_ro("nbytes", [](const PackedMatrix& p) { return p.layout.bytes(); });
    nb::class_<Q80Rows>(m, "Q80Rows")
        .def("__init__", &new_q80_rows, nb::arg("max_rows"), nb::arg("n"))
        .def_ro("max_rows", &Q80Rows::max_rows)
        .def_ro("n", &Q80Rows::n)
        .def_prop_ro("quants", [](nb::handle self) {
            const Q80Rows& q = nb::cast<const Q80Rows&>(self);
            return view_of(self, q.quants, q.max_rows, q.n);
        })
        .def_prop_ro("scales", [](nb::handle self) {
            const Q80Rows& q = nb::cast<const Q80Rows&>(self);
            return view_of(self, q.scales, q.max_rows, q.n / kBlock);
        })
        .def_prop_ro("sums", [](nb::handle self) {
            const Q80Rows& q = nb::cast<const Q80Rows&>(self);
            return view_of(self, q.sums, q.max_rows, q.n / kBlock);
        });
}

void new_compute(Compute* self, int n_threads, const std::optional<std::string>& isa) {
    require(n_threads >= 1 && n_threads <= 1024, "n_threads", "must be between 1 and 1024");
    const KernelTable* tables[kMaxIsas];
    const int n = usable_kernels(tables);
    int chosen = 0;
    std::string names;
    for (int i = 0; i < n; i++) names += std::string(i ? ", " : "") + tables[i]->isa;
    if (isa) {
        while (chosen < n && *isa != tables[chosen]->isa) chosen++;
        if (chosen == n) wrong_value("isa '" + *isa + "' is not what this machine has: " + names);
    }
    new (self) Compute(tables[chosen], n_threads);
}

void define_compute(nb::module_& m) {
    nb::class_<Program>(m, "Program").def("run", &Program::run).def("__len__", &Program::size);
    nb::class_<Compute>(m, "Compute")
        .def("__init__", &new_compute, nb::arg("n_threads"), nb::arg("isa") = nb::none())
        .def_prop_ro("isa", [](const Compute& c) { return c.kernels().isa; })
        .def_prop_ro("n_threads", &Compute::n_threads)
        .def("record", &Compute::record, nb::arg("call"), nb::arg("args"), nb::keep_alive<0, 1>())
        .def("matmul", &Compute::matmul, nb::arg("out"), nb::arg("matrix"), nb::arg("x"), nb::arg("n_rows"),
             nb::arg("add") = false, nb::arg("first_column") = nb::none())
        .def("gated_matmul", &Compute::gated_matmul, nb::arg("out"), nb::arg("matrix"), nb::arg("x"), nb::arg("scratch"),
             nb::arg("n_rows"), nb::arg("activation"))
        .def("quantize_rows", &Compute::quantize_rows, nb::arg("out"), nb::arg("x"), nb::arg("n_rows"))
        .def("rms_norm", &Compute::rms_norm, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("eps"),
             nb::arg("n_rows"))
        .def("rms_norm_in_order", &Compute::rms_norm_in_order, nb::arg("out"), nb::arg("x"), nb::arg("weight"),
             nb::arg("eps"), nb::arg("n_rows"))
        .def("layer_norm", &Compute::layer_norm, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("bias"),
             nb::arg("eps"), nb::arg("n_rows"))
        .def("silu_mul", &Compute::silu_mul, nb::arg("out"), nb::arg("gate_up"), nb::arg("n_rows"),
             nb::arg("activation"))
        .def("add_bias", &Compute::add_bias, nb::arg("x"), nb::arg("bias"), nb::arg("n_rows"))
        .def("soft_cap", &Compute::soft_cap, nb::arg("x"), nb::arg("scale"), nb::arg("cap"), nb::arg("n_rows"))
        .def("clear", &Compute::clear, nb::arg("x"), nb::arg("n_rows"))
        .def("head_rms_norm", &Compute::head_rms_norm, nb::arg("x"), nb::arg("weight"), nb::arg("eps"),
             nb::arg("first_head"), nb::arg("n_heads"), nb::arg("n_rows"))
        .def("rope_store", &Compute::rope_store, nb::arg("qkv"), nb::arg("cos_sin"), nb::arg("positions"),
             nb::arg("sequence"), nb::arg("page_table"), nb::arg("k_cache"), nb::arg("v_cache"), nb::arg("n_heads"),
             nb::arg("n_halves"), nb::arg("n_rows"))
        .def("attention", &Compute::attention, nb::arg("out"), nb::arg("qkv"), nb::arg("positions"),
             nb::arg("sequence"), nb::arg("page_table"), nb::arg("k_cache"), nb::arg("v_cache"), nb::arg("n_heads"),
             nb::arg("head_offset"), nb::arg("group"), nb::arg("window"), nb::arg("n_rows"),
             nb::arg("sinks") = nb::none(), nb::arg("soft_cap") = 0.0f)
        .def("causal_conv", &Compute::causal_conv, nb::arg("out"), nb::arg("x"), nb::arg("weights"), nb::arg("state"),
             nb::arg("positions"), nb::arg("sequence"), nb::arg("page_table"), nb::arg("page_size"), nb::arg("n_rows"))
        .def("delta_rule", &Compute::delta_rule, nb::arg("out"), nb::arg("qkv"), nb::arg("gates"), nb::arg("first_gate"),
             nb::arg("log_rate"), nb::arg("dt_bias"), nb::arg("state"), nb::arg("positions"), nb::arg("sequence"),
             nb::arg("page_table"), nb::arg("page_size"), nb::arg("head_offset"), nb::arg("group"), nb::arg("n_rows"))
        .def("gated_norm", &Compute::gated_norm, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("eps"),
             nb::arg("gate"), nb::arg("first_column"), nb::arg("n_rows"))
        .def("sigmoid_scale", &Compute::sigmoid_scale, nb::arg("out"), nb::arg("x"), nb::arg("gate"), nb::arg("n_rows"))
        .def("sigmoid_mul", &Compute::sigmoid_mul, nb::arg("out"), nb::arg("x"), nb::arg("gate"), nb::arg("first_column"),
             nb::arg("n_rows"))
        .def("top_candidates", &Compute::top_candidates, nb::arg("ids"), nb::arg("largest"), nb::arg("sums"),
             nb::arg("logits"), nb::arg("temperature"), nb::arg("first_id"), nb::arg("n_rows"))
        .def("latent_store", &Compute::latent_store, nb::arg("rows"), nb::arg("weight"), nb::arg("eps"),
             nb::arg("cos_sin"), nb::arg("positions"), nb::arg("sequence"), nb::arg("page_table"), nb::arg("cache"),
             nb::arg("halves"), nb::arg("n_rows"))
        .def("latent_queries", &Compute::latent_queries, nb::arg("content"), nb::arg("absorbed"), nb::arg("queries"),
             nb::arg("cos_sin"), nb::arg("positions"), nb::arg("n_heads"), nb::arg("halves"), nb::arg("n_rows"))
        .def("head_products", &Compute::head_products, nb::arg("out"), nb::arg("stack"), nb::arg("x"), nb::arg("n_rows"))
        .def("latent_attention", &Compute::latent_attention, nb::arg("out"), nb::arg("queries"), nb::arg("positions"),
             nb::arg("sequence"), nb::arg("page_table"), nb::arg("cache"), nb::arg("scale"), nb::arg("n_rows"))
        .def("route", &Compute::route, nb::arg("routing"), nb::arg("x"), nb::arg("norm"), nb::arg("eps"),
             nb::arg("weights"), nb::arg("n_rows"), nb::arg("renormalised"), nb::arg("sigmoid") = false,
             nb::arg("choice_bias") = nb::none(), nb::arg("n_groups") = 1, nb::arg("top_groups") = 1,
             nb::arg("group_best") = 1, nb::arg("scale") = 1.0f, nb::arg("logit_bias") = nb::none())
        .def("experts_gated", &Compute::experts_gated, nb::arg("out"), nb::arg("stack"), nb::arg("x"),
             nb::arg("routing"), nb::arg("n_rows"), nb::arg("activation"), nb::arg("gate_bias") = nb::none(),
             nb::arg("up_bias") = nb::none())
        .def("experts_down", &Compute::experts_down, nb::arg("out"), nb::arg("stack"), nb::arg("x"), nb::arg("routing"),
             nb::arg("n_rows"), nb::arg("add") = false, nb::arg("bias") = nb::none())
        .def("encode_q80", &Compute::encode_q80, nb::arg("out"), nb::arg("x"), nb::arg("n_rows"))
        .def("add_q80", &Compute::add_q80, nb::arg("x"), nb::arg("parts"), nb::arg("n_rows"),
             nb::arg("rounded") = false)
        .def("add_norm_q80", &Compute::add_norm_q80, nb::arg("out"), nb::arg("x"), nb::arg("parts"), nb::arg("weight"),
             nb::arg("eps"), nb::arg("n_rows"), nb::arg("rounded") = false)
        .def("sum_q80", &Compute::sum_q80, nb::arg("out"), nb::arg("parts"))
        .def("add_f32", &Compute::add_f32, nb::arg("x"), nb::arg("parts"), nb::arg("n_rows"))
        .def("read_memory", &Compute::read_memory, nb::arg("memory"))
        .def("dot_peak", &Compute::dot_peak, nb::arg("rounds"))
        .def("float_peak", &Compute::float_peak, nb::arg("rounds"))
        .def_prop_ro("native_s", &Compute::native_s)
        .def_prop_ro("attention_s", &Compute::attention_s);
}

}  // namespace

void define_experts(nb::module_& m);  // experts_binding.cpp
void define_sockets(nb::module_& m);  // socket_binding.cpp
void define_maps(nb::module_& m);     // map_binding.cpp
void define_quantizers(nb::module_& m);  // quantize_binding.cpp
void define_tokenizers(nb::module_& m);  // tokenizer_binding.cpp

}  // namespace dllama

NB_MODULE(_native, m) {
    m.doc() = "Native kernels of dllama; dllama.kernels is their documented face.";
    // A process that is told to end does so with objects alive, held by threads that wait; that is no leak.
    nanobind::set_leak_warnings(false);
    m.def("supported_isas", &dllama::supported_isas);
    m.def("cut_rows", &dllama::cut_rows_checked, nanobind::arg("out"), nanobind::arg("dtype"), nanobind::arg("blocks"),
          nanobind::arg("first_in"), nanobind::arg("n_in"));
    m.def("convert", &dllama::convert, nanobind::arg("out"), nanobind::arg("out_type"), nanobind::arg("src"),
          nanobind::arg("src_type"), nanobind::arg("n_elements"));
    m.def("merge_candidates", &dllama::merge_candidates_of_arrays, nanobind::arg("ids"), nanobind::arg("logits"),
          nanobind::arg("log_sums"), nanobind::arg("target_logits"), nanobind::arg("parts"), nanobind::arg("temperature"));
    dllama::define_objects(m);
    dllama::define_experts(m);
    dllama::define_compute(m);
    dllama::define_sockets(m);
    dllama::define_maps(m);
    dllama::define_quantizers(m);
    dllama::define_tokenizers(m);
}

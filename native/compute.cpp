#include "compute.h"

#include <limits>

#include "operation_args.h"

namespace dllama {

std::unique_ptr<Program> Compute::record(const nb::callable& call, const nb::args& args) {
    require(!recording_, "compute", "records already");
    auto program = std::make_unique<Program>(*this);
    struct Recording {
        Compute& compute;
        ~Recording() { compute.recording_ = nullptr; }
    } recording{*this};
    recorder_ = std::this_thread::get_id();
    recording_ = program.get();
    call(*args);
    return program;
}

void Compute::matmul(Object out, Object matrix_object, Object x, int n_rows, bool add, std::optional<int> first_column) {
    const PackedMatrix* packed;
    if (!nb::try_cast(matrix_object, packed)) wrong_type("matrix must be a PackedMatrix");
    const PackedMatrix& matrix = *packed;
    const PackedLayout& layout = matrix.layout;
    need_packed_here(layout, kernels());
    const FloatRows to(out, "out", n_rows, Access::write);
    if (first_column)
        require(*first_column >= 0 && int64_t(*first_column) + layout.n_out <= to.n(), "first_column",
                "and the matrix reach outside out");
    else
        to.need_size(1, layout.n_out);
    float* const values = to.values() + first_column.value_or(0);
    const size_t stride = size_t(to.n());
    if (is_blocked(layout.type)) {
        const Q80Rows* q;
        if (!nb::try_cast(x, q)) wrong_type("x must be Q80Rows for a matrix of " + std::string(traits_of(layout.type).name));
        QuantMatmul m = quant_product(matrix, *q, n_rows, values);
        m.out_stride = stride;
        m.adds = add;
        run({out, matrix_object, x}, [this, m, type = layout.type, n_rows] { ops_.matmul(m, type, n_rows); });
    } else {
        if (nb::isinstance<Q80Rows>(x)) wrong_type("x must be float32 for a matrix of " + std::string(traits_of(layout.type).name));
        const FloatRows from(x, "x", n_rows);
        from.need_size(1, layout.n_in);
        const FloatMatmul m{matrix.memory.data(), layout.tile_bytes(), layout.n_out, layout.n_in, from.values(),
                            values, stride, add};
        run({out, matrix_object, x}, [this, m, type = layout.type, n_rows] { ops_.matmul(m, type, n_rows); });
    }
}

void Compute::quantize_rows(Object out, Object x, int n_rows) {
    const FloatRows from(x, "x", n_rows);
    if (!nb::isinstance<Q80Rows>(out)) wrong_type("out must be Q80Rows");
    const RowsArg to(out, "out", n_rows, from.n());
    run({out, x}, [=, to = to.rows, from = from.values()] { ops_.quantize_rows(to, from, n_rows); });
}

void Compute::rms_norm(Object out, Object x, Object weight, float eps, int n_rows) {
    const FloatRows from(x, "x", n_rows);
    const ArrayArg scale(weight, "weight", kFloat32, 1);
    scale.need_size(0, from.n());
    const RowsArg to(out, "out", n_rows, from.n());
    run({out, x, weight}, [=, to = to.rows, from = from.values(), scale = scale.data<float>()] {
        ops_.rms_norm(to, from, scale, eps, n_rows);
    });
}

void Compute::rms_norm_in_order(Object out, Object x, Object weight, float eps, int n_rows) {
    const FloatRows from(x, "x", n_rows), to(out, "out", n_rows, Access::write);
    const ArrayArg scale(weight, "weight", kFloat32, 1);
    scale.need_size(0, from.n());
    to.need_size(1, from.n());
    run({out, x, weight}, [=, to = to.values(), from = from.values(), n = from.n(), scale = scale.data<float>()] {
        ops_.rms_norm_in_order(to, from, scale, eps, n, n_rows);
    });
}

void Compute::layer_norm(Object out, Object x, Object weight, Object bias, float eps, int n_rows) {
    const FloatRows from(x, "x", n_rows);
    const ArrayArg scale(weight, "weight", kFloat32, 1), addend(bias, "bias", kFloat32, 1);
    scale.need_size(0, from.n());
    addend.need_size(0, from.n());
    const RowsArg to(out, "out", n_rows, from.n());
    run({out, x, weight, bias}, [=, to = to.rows, from = from.values(), scale = scale.data<float>(),
                                 addend = addend.data<float>()] {
        ops_.layer_norm(to, from, scale, addend, eps, n_rows);
    });
}

void Compute::gated_matmul(Object out, Object matrix, Object x, Object scratch, int n_rows,
                           const std::string& activation) {
    const PackedMatrix* packed;
    const Q80Rows* from;
    const bool fused = nb::try_cast(matrix, packed) && nb::try_cast(x, from) && nb::isinstance<Q80Rows>(out);
    if (!fused) {
        matmul(scratch, matrix, x, n_rows);
        silu_mul(out, scratch, n_rows, activation);
        return;
    }
    const PackedLayout& layout = packed->layout;
    const FloatRows product(scratch, "scratch", n_rows, Access::write);
    product.need_size(1, layout.n_out);
    need_packed_here(layout, kernels());
    require(is_blocked(layout.type), "matrix", "must be of a blocked type for Q80Rows");
    require(layout.n_out % (2 * kBlock) == 0, "matrix", "must have a gate and an up projection of whole blocks");
    const RowsOut to = RowsArg(out, "out", n_rows, layout.n_out / 2).rows;
    const GatedMatmul g{quant_product(*packed, *from, n_rows, nullptr), activation_named(activation), to.quants, to.scales,
                        to.sums};
    run({out, matrix, x, scratch}, [=, type = layout.type, values = product.values()] {
        ops_.gated_matmul(g, type, values, n_rows);
    });
}

void Compute::silu_mul(Object out, Object gate_up, int n_rows, const std::string& activation) {
    const FloatRows from(gate_up, "gate_up", n_rows);
    require(from.n() % 2 == 0, "gate_up", "must have an even number of columns");
    const Activation kind = activation_named(activation);
    const RowsArg to(out, "out", n_rows, from.n() / 2);
    run({out, gate_up}, [=, to = to.rows, from = from.values()] { ops_.silu_mul(to, from, kind, n_rows); });
}

void Compute::add_bias(Object x, Object bias, int n_rows) {
    const FloatRows rows(x, "x", n_rows, Access::write);
    const ArrayArg addend(bias, "bias", kFloat32, 1);
    addend.need_size(0, rows.n());
    run({x, bias}, [=, to = rows.values(), from = addend.data<float>(), n = rows.n()] {
        ops_.add_bias(to, from, n, n_rows);
    });
}

void Compute::soft_cap(Object x, float scale, float cap, int n_rows) {
    const FloatRows rows(x, "x", n_rows, Access::write);
    require(cap >= 0, "cap", "must not be negative");
    run({x}, [=, to = rows.values(), n = rows.n()] { ops_.soft_cap(to, scale, cap, n, n_rows); });
}

void Compute::clear(Object x, int n_rows) {
    const FloatRows rows(x, "x", n_rows, Access::write);
    run({x}, [=, to = rows.values(), n = rows.n()] { ops_.clear(to, n, n_rows); });
}

void Compute::head_rms_norm(Object x, Object weight, float eps, int first_head, int n_heads, int n_rows) {
    const FloatRows rows(x, "x", n_rows, Access::write);
    const ArrayArg scale(weight, "weight", kFloat32, 1);
    const int64_t head_dim = scale.size(0);
    require(first_head >= 0 && n_heads >= 0 && (int64_t(first_head) + n_heads) * head_dim <= rows.n(), "n_heads",
            "and first_head reach outside x");
    run({x, weight}, [=, to = rows.values(), scale = scale.data<float>(), n = rows.n()] {
        ops_.head_rms_norm(to, scale, eps, n, int(head_dim), first_head, n_heads, n_rows);
    });
}

void Compute::rope_store(Object qkv, Object cos_sin, Object positions, Object sequence, Object page_table,
                         Object k_cache, Object v_cache, int n_heads, int n_halves, int n_rows) {
    const FloatRows rows(qkv, "qkv", n_rows, Access::write);
    const Paged paged(positions, sequence, page_table, k_cache, v_cache, Access::write, n_rows);
    const ArrayArg angles(cos_sin, "cos_sin", kFloat32, 3);
    require(n_heads >= 0, "n_heads", "must not be negative");
    require(paged.head_dim() % 2 == 0, "k_cache", "must have an even head width");
    require(n_halves >= 0 && n_halves % 2 == 0 && n_halves <= paged.head_dim(), "n_halves",
            "must be an even part of a head");
    rows.need_size(1, (int64_t(n_heads) + 2 * paged.n_kv_heads()) * paged.head_dim());
    angles.need_size(1, paged.head_dim() / 2);
    angles.need_size(2, 2);
    const Rope rope{rows.values(), angles.data<float>(), paged.positions.data<int32_t>(),
                    paged.sequence.data<int32_t>(), paged.page_table.data<int32_t>(), paged.keys.data<void>(),
                    paged.values.data<void>(), paged.type, n_halves, n_rows, n_heads, paged.n_kv_heads(),
                    paged.head_dim(), paged.page_size(), paged.max_pages()};
    run({qkv, cos_sin, positions, sequence, page_table, k_cache, v_cache},
        [this, rope, places = paged.places(), n_angles = angles.size(0)] {
            places.check(rope.n_rows, 1);
            for (int t = 0; t < rope.n_rows; t++)
                require(places.positions[t] < n_angles, "positions", "has a position outside cos_sin");
            ops_.rope_store(rope);
        });
}

void Compute::attention(Object out, Object qkv, Object positions, Object sequence, Object page_table, Object k_cache,
                        Object v_cache, int n_heads, int head_offset, int group, int window, int n_rows,
                        Object sinks, float soft_cap) {
    const FloatRows rows(qkv, "qkv", n_rows);
    const Paged paged(positions, sequence, page_table, k_cache, v_cache, Access::read, n_rows);
    const int64_t head_dim = paged.head_dim();
    require(n_heads >= 0, "n_heads", "must not be negative");
    require(group > 0, "group", "must be positive");
    require(head_offset >= 0, "head_offset", "must not be negative");
    require(window >= 0, "window", "must not be negative");
    require(soft_cap >= 0, "soft_cap", "must not be negative");
    require((int64_t(n_heads) - 1 + head_offset) / group < paged.n_kv_heads(), "n_heads",
            "and head_offset need more KV heads than k_cache has");
    const RowsOut to = RowsArg(out, "out", n_rows, int(n_heads * head_dim)).rows;
    rows.need_size(1, (int64_t(n_heads) + 2 * paged.n_kv_heads()) * head_dim);
    require(to.f32 || head_dim % kBlock == 0, "out", "must be float32 where heads are not whole blocks of 32");
    const Attention a{to, rows.values(), paged.positions.data<int32_t>(), paged.sequence.data<int32_t>(),
                      paged.page_table.data<int32_t>(), paged.keys.data<void>(), paged.values.data<void>(), paged.type,
                      n_rows, n_heads, paged.n_kv_heads(), paged.head_dim(), paged.page_size(), paged.max_pages(),
                      head_offset, group, window, optional_floats(sinks, "sinks", {n_heads}), soft_cap};
    run({out, qkv, positions, sequence, page_table, k_cache, v_cache, sinks}, [this, a, places = paged.places()] {
        places.check(a.n_rows, a.window);
        if (a.n_rows == 0 || a.n_heads == 0) return;
        attention_s_ += seconds_of([&] { ops_.attention(a, workspace(ops_.attention_workspace(a))); });
    });
}

uint8_t* Compute::workspace(size_t bytes) {
    if (bytes > workspace_bytes_) {
        workspace_ = std::make_unique<OwnedMemory>(bytes);
        workspace_bytes_ = bytes;
    }
    return workspace_ ? workspace_->data() : nullptr;
}

void Compute::top_candidates(Object ids, Object largest, Object sums, Object logits, Object temperature, int first_id,
                             int n_rows) {
    const FloatRows from(logits, "logits", n_rows);
    const FloatRows values(largest, "largest", n_rows, Access::write);
    const ArrayArg numbers(ids, "ids", kInt32, 2, Access::write), temperatures(temperature, "temperature", kFloat32, 1);
    const ArrayArg totals(sums, "sums", kFloat64, 2, Access::write);
    require(values.n() >= 1 && values.n() <= from.n(), "largest", "must have 1 to as many columns as logits");
    require(first_id >= 0 && first_id <= std::numeric_limits<int>::max() - from.n(), "first_id", "is out of range");
    need_rows(n_rows, numbers.size(0), "ids");
    numbers.need_size(1, values.n());
    temperatures.need_at_least(0, n_rows);
    totals.need_size(0, 2);
    totals.need_size(1, n_rows);
    const TopCandidates c{from.values(), temperatures.data<float>(), n_rows, from.n(), first_id, values.n(),
                          numbers.data<int32_t>(), values.values(), totals.data<double>()};
    run({ids, largest, sums, logits, temperature},
        [this, c] { ops_.top_candidates(c, workspace(ops_.candidates_workspace(c))); });
}

uint64_t Compute::read_memory(Object memory) {
    const ArrayArg from(memory, "memory", kUint8, 1);
    uint64_t result = 0;
    run_now([&] { result = ops_.read_memory(from.data<uint8_t>(), size_t(from.size(0))); });
    return result;
}

int64_t Compute::float_peak(int64_t rounds) {
    require(rounds >= 0, "rounds", "must not be negative");
    int64_t operations = 0;
    run_now([&] { operations = ops_.float_peak(rounds); });
    return operations;
}

int64_t Compute::dot_peak(int64_t rounds) {
    require(rounds >= 0, "rounds", "must not be negative");
    int64_t operations = 0;
    run_now([&] { operations = ops_.dot_peak(rounds); });
    return operations;
}

}  // namespace dllama

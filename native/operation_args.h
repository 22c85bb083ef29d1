// The arguments of operations, checked: rows of numbers, and places in a paged cache.
#pragma once

#include <optional>

#include "array_arg.h"
#include "objects.h"
#include "ops.h"

namespace dllama {

inline void need_rows(int n_rows, int64_t available, const char* name) {
    if (n_rows < 0 || n_rows > available)
        wrong_value("n_rows " + std::to_string(n_rows) + " is not between 0 and the " + std::to_string(available) +
                    " rows of " + name);
}

inline void need_packed_here(const PackedLayout& layout, const KernelTable& kernels) {
    require(layout.tile_rows == kernels.tile_rows && layout.unit_bytes == kernels.unit_bytes, "matrix",
            "was packed for another instruction set");
}

inline Activation activation_named(const std::string& name) {
    if (name == "silu") return Activation::silu;
    if (name == "gelu") return Activation::gelu;
    require(name == "swiglu_oai", "activation", "must be 'silu', 'gelu' or 'swiglu_oai'");
    return Activation::swiglu_oai;
}

// Float32 values of these sizes that may be left away (None).
inline const float* optional_floats(nb::handle object, const char* name, std::initializer_list<int64_t> sizes) {
    if (object.is_none()) return nullptr;
    const ArrayArg array(object, name, kFloat32, int(sizes.size()));
    int dim = 0;
    for (const int64_t size : sizes) array.need_size(dim++, size);
    return array.data<float>();
}

// A float32 [T, n] array with at least n_rows rows.
class FloatRows : public ArrayArg {
public:
    FloatRows(nb::handle object, const char* name, int n_rows, Access access = Access::read)
        : ArrayArg(object, name, kFloat32, 2, access) {
        need_rows(n_rows, size(0), name);
        require(size(1) < (int64_t(1) << 30), name, "has too many columns");
    }
    float* values() const { return data<float>(); }
    int n() const { return int(size(1)); }
};

// Parts of a sum as Q80: uint8 [n_parts, at least n_rows rows of n columns in whole blocks].
class WireArg : public ArrayArg {
public:
    WireArg(nb::handle object, int n, int n_rows) : ArrayArg(object, "parts", kUint8, 2) {
        need_at_least(1, (int64_t(n) + kBlock - 1) / kBlock * kQ80Bytes * n_rows);
    }
    WireParts parts() const { return {data<uint8_t>(), size_t(size(1)), int(size(0))}; }
};

// "rows" out: Q80Rows or float32 [T, n].
struct RowsArg {
    RowsArg(nb::handle object, const char* name, int n_rows, int n) {
        if (const Q80Rows* q; nb::try_cast(object, q)) {
            need_rows(n_rows, q->max_rows, name);
            if (q->n != n) wrong_value(std::string(name) + ".n must be " + std::to_string(n) + ", not " + std::to_string(q->n));
            rows = {nullptr, q->quants, q->scales, q->sums, n};
        } else {
            array.emplace(object, name, n_rows, Access::write);
            array->need_size(1, n);
            rows = {array->values(), nullptr, nullptr, nullptr, n};
        }
    }
    std::optional<FloatRows> array;
    RowsOut rows;
};

// The product of Q40 or Q80 weights with quantised rows.
inline QuantMatmul quant_product(const PackedMatrix& matrix, const Q80Rows& x, int n_rows, float* out) {
    const PackedLayout& layout = matrix.layout;
    need_rows(n_rows, x.max_rows, "x");
    require(x.n == layout.n_in, "x", "must have as many columns as the matrix");
    return {matrix.memory.data(), layout.tile_bytes(), layout.n_out, layout.n_in / kBlock, x.quants, x.scales, x.sums, out,
            size_t(layout.n_out), false, layout.first_run};
}

inline const PackedStack& stack_of(nb::handle object, const KernelTable& kernels) {
    const PackedStack* stack;
    if (!nb::try_cast(object, stack)) wrong_type("stack must be a PackedStack");
    need_packed_here(stack->layout, kernels);
    return *stack;
}

inline MatrixStack matrices_of(const PackedStack& stack) {
    const PackedLayout& layout = stack.layout;
    return {stack.memory.data(), layout.bytes(), layout.tile_bytes(), layout.type, layout.n_out, layout.n_in,
            layout.first_run};
}

// The input of a product: quantised for types of blocks, float32 for others.
inline RowsOut input_of(nb::handle x, const PackedLayout& layout, int64_t n_rows) {
    const bool blocked = is_blocked(layout.type);
    const std::string type = traits_of(layout.type).name;
    if (const Q80Rows* q; nb::try_cast(x, q)) {
        if (!blocked) wrong_type("x must be float32 for a stack of " + type);
        need_rows(int(n_rows), q->max_rows, "x");
        require(q->n == layout.n_in, "x", "must have as many columns as the stack");
        return {nullptr, q->quants, q->scales, q->sums, q->n};
    }
    if (blocked) wrong_type("x must be Q80Rows for a stack of " + type);
    const FloatRows rows(x, "x", int(n_rows));
    rows.need_size(1, layout.n_in);
    return {rows.values(), nullptr, nullptr, nullptr, layout.n_in};
}

// How many columns rows have: Q80Rows or float32 [T, n].
inline int columns_of_rows(nb::handle x) {
    if (const Q80Rows* q; nb::try_cast(x, q)) return q->n;
    return FloatRows(x, "out", 0).n();
}

// Where rows stand in their sequences and caches. Every index that the kernels will follow is checked before they do.
struct Places {
    const int32_t *positions, *sequence, *page_table;
    int64_t n_sequences, n_pages;
    int page_size, max_pages;

    // Checks positions, sequences and the pages that each row uses; window 0: from the beginning, 1: its own only.
    void check(int n_rows, int window) const {
        int checked_to = -1;  // last page of the row before, when it has the same sequence
        for (int t = 0; t < n_rows; t++) {
            require(sequence[t] >= 0 && sequence[t] < n_sequences, "sequence", "has a number outside page_table");
            require(positions[t] >= 0 && positions[t] / page_size < max_pages, "positions",
                    "has a position outside page_table");
            const int oldest = window > 0 && positions[t] >= window ? positions[t] - window + 1 : 0;
            const bool goes_on = t > 0 && sequence[t] == sequence[t - 1] && positions[t] >= positions[t - 1];
            int page = oldest / page_size;
            if (goes_on && page < checked_to) page = checked_to;
            const int32_t* pages = page_table + int64_t(sequence[t]) * max_pages;
            for (; page <= positions[t] / page_size; page++)
                require(pages[page] >= 0 && pages[page] < n_pages, "page_table", "has a page outside the cache");
            checked_to = positions[t] / page_size;
        }
    }
};

// The arguments of operations on a paged cache.
struct Paged {
    Paged(nb::handle positions, nb::handle sequence, nb::handle page_table, nb::handle k_cache, nb::handle v_cache,
          Access access, int n_rows)
        : positions(positions, "positions", kInt32, 1),
          sequence(sequence, "sequence", kInt32, 1),
          page_table(page_table, "page_table", kInt32, 2),
          keys(k_cache, "k_cache", 4, access),
          values(v_cache, "v_cache", 4, access) {
        need_rows(n_rows, this->positions.size(0), "positions");
        need_rows(n_rows, this->sequence.size(0), "sequence");
        type = keys.is(kFloat16) ? ElementType::f16 : keys.is(kUint8) ? ElementType::q80 : ElementType::f32;
        if (type == ElementType::f32 && !keys.is(kFloat32)) keys.fail_type("must be float16, float32 or uint8 (q80)");
        const Element& element = type == ElementType::f16 ? kFloat16 : type == ElementType::q80 ? kUint8 : kFloat32;
        if (!values.is(element)) values.fail_type("must have the element type of k_cache");
        require(type != ElementType::q80 || keys.size(3) % kQ80Bytes == 0, "k_cache",
                "of uint8 must have whole Q80 blocks of 34 bytes in its last dimension");
        for (int dim = 0; dim < 4; dim++) values.need_size(dim, keys.size(dim));
        require(keys.size(1) > 0 && keys.size(2) > 0 && keys.size(3) > 0, "k_cache", "must not be empty");
    }

    int n_kv_heads() const { return int(keys.size(1)); }
    int page_size() const { return int(keys.size(2)); }
    int head_dim() const {
        return int(type == ElementType::q80 ? keys.size(3) / kQ80Bytes * kBlock : keys.size(3));
    }
    int max_pages() const { return int(page_table.size(1)); }
    Places places() const {
        return {positions.data<int32_t>(), sequence.data<int32_t>(), page_table.data<int32_t>(),
                page_table.size(0), keys.size(0), page_size(), max_pages()};
    }

    ArrayArg positions, sequence, page_table, keys, values;
    ElementType type;
};

}  // namespace dllama

// The operations of latent attention, with their arguments checked.
#include "compute.h"
#include "operation_args.h"

namespace dllama {
namespace {

// Query heads that are computed together: quads of them fill the lanes of the widest vectors, and a tile of rows has
// enough of them beside each other; with many heads, more of them share what is converted of a latent.
constexpr int kFewHeads = 64, kHeadsOfFew = 16, kHeadsOfMany = 32;

LatentRows rows_of(const Paged& paged, int n_rows) {
    return {paged.positions.data<int32_t>(), paged.sequence.data<int32_t>(), paged.page_table.data<int32_t>(),
            paged.page_size(), paged.max_pages(), n_rows};
}

void check_angles(const Places& places, int n_rows, int64_t n_angles) {
    for (int t = 0; t < n_rows; t++)
        require(places.positions[t] >= 0 && places.positions[t] < n_angles, "positions", "has a position outside cos_sin");
}

void need_one_head(const Paged& paged) { require(paged.n_kv_heads() == 1, "cache", "must have one head"); }

}  // namespace

void Compute::latent_store(Object rows_object, Object weight, float eps, Object cos_sin, Object positions, Object sequence,
                           Object page_table, Object cache, bool halves, int n_rows) {
    const FloatRows rows(rows_object, "rows", n_rows, Access::write);
    const Paged paged(positions, sequence, page_table, cache, cache, Access::write, n_rows);
    const ArrayArg scale(weight, "weight", kFloat32, 1), angles(cos_sin, "cos_sin", kFloat32, 3);
    need_one_head(paged);
    rows.need_size(1, paged.head_dim());
    angles.need_size(2, 2);
    const int64_t n_latent = scale.size(0), n_turned = 2 * angles.size(1);
    require(n_latent + n_turned == rows.n(), "weight", "and cos_sin must have the columns of rows together");
    const LatentStore s{rows.values(), scale.data<float>(), angles.data<float>(), paged.keys.data<void>(), paged.type, eps,
                        int(n_latent), int(n_turned), halves};
    run({rows_object, weight, cos_sin, positions, sequence, page_table, cache},
        [this, s, at = rows_of(paged, n_rows), places = paged.places(), n_angles = angles.size(0)] {
            places.check(at.n_rows, 1);
            check_angles(places, at.n_rows, n_angles);
            ops_.latent_store(s, at);
        });
}

void Compute::latent_queries(Object content, Object absorbed, Object queries, Object cos_sin, Object positions, int n_heads,
                             bool halves, int n_rows) {
    const FloatRows from(queries, "queries", n_rows), to(absorbed, "absorbed", n_rows, Access::write);
    const ArrayArg angles(cos_sin, "cos_sin", kFloat32, 3), of_rows(positions, "positions", kInt32, 1);
    need_rows(n_rows, of_rows.size(0), "positions");
    angles.need_size(2, 2);
    require(n_heads > 0 && from.n() % n_heads == 0 && to.n() % n_heads == 0, "n_heads", "must divide the columns");
    const int n_turned = int(2 * angles.size(1)), n_content = from.n() / n_heads - n_turned;
    require(n_content > 0 && to.n() / n_heads > n_turned, "cos_sin", "must be of a part of each head");
    require(int64_t(n_rows) * n_heads < (int64_t(1) << 31), "n_rows", "is too large");
    const RowsArg rows(content, "content", n_rows * n_heads, n_content);
    require(rows.rows.f32 || n_content % kBlock == 0, "content", "must be whole blocks of 32");
    const LatentQueries q{from.values(), rows.rows, to.values(), angles.data<float>(), n_heads, n_turned, to.n() / n_heads,
                          halves};
    const Places places{of_rows.data<int32_t>(), nullptr, nullptr, 0, 0, 0, 0};
    run({content, absorbed, queries, cos_sin, positions}, [this, q, places, n_rows, n_angles = angles.size(0)] {
        check_angles(places, n_rows, n_angles);
        ops_.latent_queries(q, {places.positions, nullptr, nullptr, 0, 0, n_rows});
    });
}

void Compute::head_products(Object out, Object stack_object, Object x, int n_rows) {
    const PackedStack& stack = stack_of(stack_object, kernels());
    const int n_heads = stack.n_matrices;
    const FloatRows to(out, "out", n_rows, Access::write);
    require(n_heads > 0 && to.n() % n_heads == 0 && to.n() / n_heads >= stack.layout.n_out, "out",
            "must have columns for the products of each head");
    const RowsOut from = input_of(x, stack.layout, int64_t(n_rows) * n_heads);
    const HeadProducts p{matrices_of(stack), from, to.values(), to.n() / n_heads, n_rows, n_heads};
    run({out, stack_object, x}, [this, p] { ops_.head_products(p); });
}

void Compute::latent_attention(Object out, Object queries, Object positions, Object sequence, Object page_table,
                               Object cache, float scale, int n_rows) {
    const FloatRows from(queries, "queries", n_rows);
    const Paged paged(positions, sequence, page_table, cache, cache, Access::read, n_rows);
    need_one_head(paged);
    const int width = paged.head_dim();
    require(from.n() > 0 && from.n() % width == 0, "queries", "must be heads as wide as the cache");
    const int n_heads = from.n() / width;
    require(scale > 0, "scale", "must be positive");
    const int n_latent = columns_of_rows(out);
    require(n_latent > 0 && n_latent <= width, "out", "must have at most the columns of the cache");
    const RowsOut to = RowsArg(out, "out", n_rows * n_heads, n_latent).rows;
    require(to.f32 || n_latent % kBlock == 0, "out", "must be whole blocks of 32");
    const int group = n_heads <= kFewHeads ? kHeadsOfFew : kHeadsOfMany;
    Attention a{to, from.values(), paged.positions.data<int32_t>(), paged.sequence.data<int32_t>(),
                paged.page_table.data<int32_t>(), paged.keys.data<void>(), paged.keys.data<void>(), paged.type,
                n_rows, n_heads, (n_heads + group - 1) / group, width, paged.page_size(), paged.max_pages(), 0, group, 0};
    a.latent = {n_latent, scale};
    run({out, queries, positions, sequence, page_table, cache}, [this, a, places = paged.places()] {
        places.check(a.n_rows, 0);
        if (a.n_rows == 0) return;
        attention_s_ += seconds_of([&] { ops_.attention(a, workspace(ops_.attention_workspace(a))); });
    });
}

}  // namespace dllama

// Attention over scattered pages: near the scalar kernels' result, and the same bits for a row alone.
#include <algorithm>
#include <vector>

#include "compare.h"

namespace compare {
namespace {

using namespace dllama;

struct Shape {
    int n_heads, n_kv_heads, head_dim, page_size, head_offset, group, window, first, n_rows;
    ElementType type;
};

std::string name_of(const Shape& s) {
    return "attention E=" + std::to_string(s.head_dim) + " window=" + std::to_string(s.window) + " rows=" +
           std::to_string(s.n_rows) + " from " + std::to_string(s.first) + " type " + std::to_string(int(s.type));
}

// Rows of one sequence at consecutive positions, over a cache whose pages lie in reverse; what no row sees is NaN.
struct Problem {
    Problem(const Shape& s, Random& random)
        : shape(s), n_pages((s.first + s.n_rows + s.page_size - 1) / s.page_size),
          qkv(size_t(s.n_rows) * (s.n_heads + 2 * s.n_kv_heads) * s.head_dim), positions(s.n_rows), sequence(s.n_rows),
          page_table(n_pages), keys(cache_size()), values(cache_size()), stored_keys(stored_size()),
          stored_values(stored_size()) {
        random.fill_normal(qkv);
        keys.fill(NAN), values.fill(NAN);
        for (int t = 0; t < s.n_rows; t++) positions[t] = s.first + t, sequence[t] = 0;
        for (int page = 0; page < n_pages; page++) page_table[page] = n_pages - 1 - page;
        for (int p = 0; p < s.first + s.n_rows; p++)
            for (int head = 0; head < s.n_kv_heads; head++) {
                const size_t slot = (size_t(page_table[p / s.page_size]) * s.n_kv_heads + head) * s.page_size + p % s.page_size;
                for (int e = 0; e < s.head_dim; e++)
                    keys[slot * s.head_dim + e] = random.normal(), values[slot * s.head_dim + e] = random.normal();
            }
        scalar_kernels()->convert(stored_keys, s.type, bytes_of(keys), ElementType::f32, cache_size());
        scalar_kernels()->convert(stored_values, s.type, bytes_of(values), ElementType::f32, cache_size());
    }
    static const uint8_t* bytes_of(const float* values) { return reinterpret_cast<const uint8_t*>(values); }
    size_t cache_size() const { return size_t(n_pages) * shape.n_kv_heads * shape.page_size * shape.head_dim; }
    size_t stored_size() const { return dllama::bytes_of(shape.type, cache_size()); }

    Attention arguments(float* out) const {
        const uint8_t *k = stored_keys, *v = stored_values;
        return {{out, nullptr, nullptr, nullptr, shape.n_heads * shape.head_dim}, qkv, positions, sequence, page_table, k, v,
                shape.type, shape.n_rows, shape.n_heads, shape.n_kv_heads, shape.head_dim, shape.page_size, n_pages,
                shape.head_offset, shape.group, shape.window};
    }

    // The rows of one tile, split by split and merged in order.
    void run(const KernelTable& k, float* out, RowTile tile) const {
        const Attention a = arguments(out);
        const int queries = (tile.count * shape.group + kQuad - 1) / kQuad * kQuad, stride = (shape.head_dim + 15) / 16 * 16;
        const size_t state_size = size_t(queries) * (2 + stride);
        std::vector<float> memory(2 * state_size), scratch(attention_scratch(queries, shape.head_dim) + 16);
        float* aligned = scratch.data() + (64 - uintptr_t(scratch.data()) % 64) / 4 % 16;
        auto state = [&](int i) {
            float* p = memory.data() + i * state_size;
            return SoftmaxState{p, p + queries, p + 2 * queries, stride};
        };
        const int first = positions[tile.first], last = positions[tile.first + tile.count - 1];
        const int begin = shape.window ? std::max(0, first - shape.window + 1) / kAttentionSplit : 0;
        for (int head = 0; head < shape.n_kv_heads; head++) {
            const HeadRange heads = heads_of(a, head);
            if (heads.begin >= heads.end) continue;
            for (int split = begin; split <= last / kAttentionSplit; split++) {
                k.attend_split(a, tile, head, split, state(split != begin), aligned);
                if (split != begin)
                    k.attend_merge(state(0), state(1), tile.count * (heads.end - heads.begin), shape.head_dim);
            }
            k.attend_finish(a, tile, head, state(0));
        }
    }

    Shape shape;
    int n_pages;
    Guarded<float> qkv;
    Guarded<int32_t> positions, sequence, page_table;
    Guarded<float> keys, values;
    Guarded<uint8_t> stored_keys, stored_values;
};

// The longest vector of n, each `width` long, NaN aside.
double longest(const float* v, size_t n, int width) {
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double squares = 0;
        for (int e = 0; e < width; e++) squares += double(v[i * width + e]) * v[i * width + e];
        if (squares > most) most = squares;
    }
    return std::sqrt(most);
}

void check(const KernelTable& k, const Shape& s, Random& random, Report& report) {
    const Problem p(s, random);
    const size_t n = size_t(s.n_rows) * s.n_heads * s.head_dim;
    Guarded<float> got(n), wanted(n), alone(n);
    got.fill(NAN), wanted.fill(NAN), alone.fill(NAN);
    p.run(k, got, {0, s.n_rows});
    p.run(*scalar_kernels(), wanted, {0, s.n_rows});
    // As in test_attention.py, for two kernels: a score is off by (E + 2) eps |q| |k| / sqrt(E), its weight by that as
    // a factor; a sum over blocks of 32 and their rescaling add their own roundings.
    const size_t query_width = size_t(s.n_heads + 2 * s.n_kv_heads);
    const double length = longest(p.qkv, s.n_rows * query_width, s.head_dim) *
                          longest(p.keys, p.cache_size() / s.head_dim, s.head_dim);
    const double score = (s.head_dim + 2) * kEps * length / std::sqrt(double(s.head_dim));
    const int seen = s.first + s.n_rows;
    const double sums = (std::min(seen, 256) * 2 + seen / 256.0 * 4 + 16) * kEps;
    const double bound = 2 * (2 * score + sums) * longest(p.values, p.cache_size(), 1);
    report.near(got, wanted, n, [&](size_t) { return bound; }, name_of(s));
    for (int t = 0; t < s.n_rows; t++) p.run(k, alone, {t, 1});
    report.check(std::memcmp(alone, got, n * 4) == 0, name_of(s) + " company");
    report.check(got.intact(), name_of(s) + " memory");
}

}  // namespace

void attentions(const KernelTable& k, Report& report) {
    Random random(4);
    for (const ElementType type : {ElementType::f32, ElementType::f16, ElementType::q80})
        for (const int window : {0, 40})
            for (const int head_dim : {2, 6, 16, 20, 64, 80, 96, 128}) {
                if (type == ElementType::q80 && head_dim % kBlock) continue;  // whole blocks only
                check(k, {3, 3, head_dim, 7, 0, 1, window, 0, 5, type}, random, report);
                check(k, {5, 2, head_dim, 16, 1, 4, window, 29, 4, type}, random, report);
                check(k, {4, 1, head_dim, 32, 0, 4, window, 510, 5, type}, random, report);
            }
}

}  // namespace compare

// What queries of a tile see of a split of positions, four of them at a time.
#pragma once

#include "cache_rows.h"

namespace dllama {
namespace {

// Positions [begin, end), counted from a split's first.
struct Range {
    int begin, end;
    int size() const { return end - begin; }
    bool empty() const { return begin >= end; }
};
inline Range both(Range a, Range b) {
    const Range r = {a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
    return r.empty() ? Range{0, 0} : r;
}
inline Range either(Range a, Range b) {
    if (a.empty() || b.empty()) return a.empty() ? b : a;
    return {a.begin < b.begin ? a.begin : b.begin, a.end > b.end ? a.end : b.end};
}
// What a row sees of a split.
inline Range seen(const Attention& a, int row, int split) {
    const int end = a.positions[row] + 1, begin = a.window > 0 && end > a.window ? end - a.window : 0;
    const int first = split * kAttentionSplit;
    return both({begin - first, end - first}, {0, kAttentionSplit});
}

struct Quad {
    const float* query[kQuad];
    Range range[kQuad];
    Range all, common;  // what any of them sees, and what every one does
};
static_assert(sizeof(Quad) <= kQuadFloats * sizeof(float), "scratch has room for quads");

// Queries first to first + 3 of a tile.
inline Quad quad_at(const Attention& a, RowTile tile, HeadRange heads, int split, int first) {
    const int group = heads.end - heads.begin, last = tile.count * group - 1;
    const size_t row_stride = size_t(a.row_columns());
    Quad quad;
    for (int q = 0; q < kQuad; q++) {
        const int i = first + q < last ? first + q : last, row = tile.first + i / group;
        quad.query[q] = a.qkv + row * row_stride + size_t(heads.begin + i % group) * a.head_dim;
        quad.range[q] = seen(a, row, split);
        quad.all = q ? either(quad.all, quad.range[q]) : quad.range[q];
        quad.common = q ? both(quad.common, quad.range[q]) : quad.range[q];
    }
    return quad;
}

}  // namespace
}  // namespace dllama

// Splitting attention over threads: by row tiles and KV heads, and where these are few also by positions.
#include <algorithm>

#include "ops.h"
#include "row_runs.h"

namespace dllama {
namespace {

// Queries of a tile: all of them share what is converted of a block of keys or values. Of 64 columns each they are 16 KiB,
// half of the smallest first-level cache; 32 are 3 to 10 % slower.
constexpr int kTileQueries = 64;
constexpr size_t kLine = 64;

size_t round_to_line(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// Where things lie in the workspace: the tiles, scratch for each thread, then softmax states.
struct Plan {
    int rows_per_tile, queries, mixed_stride;
    size_t tiles_bytes, scratch_bytes, state_bytes;
    int n_threads;

    SoftmaxState state(uint8_t* workspace, size_t i) const {
        float* p = reinterpret_cast<float*>(workspace + tiles_bytes + n_threads * scratch_bytes + i * state_bytes);
        const size_t per_query = round_to_line(size_t(queries) * 4) / 4;
        return {p, p + per_query, p + 2 * per_query, mixed_stride};
    }
    float* scratch(uint8_t* workspace, int thread) const {
        return reinterpret_cast<float*>(workspace + tiles_bytes + thread * scratch_bytes);
    }
};

Plan plan_of(const Attention& a, int n_threads) {
    Plan p;
    p.n_threads = n_threads;
    p.rows_per_tile = std::max(1, kTileQueries / a.group);
    p.queries = (p.rows_per_tile * a.group + kQuad - 1) / kQuad * kQuad;
    p.mixed_stride = int(round_to_line(size_t(a.value_dim()) * 4) / 4);
    p.tiles_bytes = round_to_line(size_t(a.n_rows) * sizeof(RowTile));
    p.scratch_bytes = round_to_line(attention_scratch(p.queries, a.head_dim) * 4);
    p.state_bytes = 2 * round_to_line(size_t(p.queries) * 4) + size_t(p.queries) * p.mixed_stride * 4;
    return p;
}

int make_tiles(const Attention& a, int rows_per_tile, RowTile* tiles) {
    int n = 0;
    for (int t = 0; t < a.n_rows; t++) {
        const bool joins = n > 0 && t > 0 && tiles[n - 1].count < rows_per_tile &&
                           a.sequence[t] == a.sequence[t - 1] && a.positions[t] == a.positions[t - 1] + 1;
        if (joins)
            tiles[n - 1].count++;
        else
            tiles[n++] = {t, 1};
    }
    return n;
}

struct Splits {
    int begin, end;
};

// Splits of which some row of the tile sees a position.
Splits splits_of(const Attention& a, RowTile tile) {
    const int first = a.positions[tile.first] + 1, last = a.positions[tile.first + tile.count - 1];
    const int begin = a.window > 0 && first > a.window ? first - a.window : 0;
    return {begin / kAttentionSplit, last / kAttentionSplit + 1};
}

int most_splits(const Attention& a) {
    int most = 1;
    for (int t = 0; t < a.n_rows; t++) {
        const Splits s = splits_of(a, {t, 1});
        most = std::max(most, s.end - s.begin + 1);
    }
    return most;
}

// Below this many (tile, KV head) pairs for each thread, splits are computed apart.
constexpr int kEnoughPairs = 4;

bool few_pairs(const Attention& a, int n_threads) { return a.n_rows * a.n_kv_heads < kEnoughPairs * n_threads; }

}  // namespace

size_t Ops::attention_workspace(const Attention& a) const {
    const Plan p = plan_of(a, n_threads());
    const size_t states = few_pairs(a, n_threads()) && n_threads() > 1
                              ? size_t(a.n_rows) * a.n_kv_heads * most_splits(a)
                              : size_t(n_threads()) * 2;
    return p.tiles_bytes + n_threads() * p.scratch_bytes + states * p.state_bytes;
}

void Ops::attention(const Attention& a, uint8_t* workspace) {
    const Plan p = plan_of(a, n_threads());
    RowTile* tiles = reinterpret_cast<RowTile*>(workspace);
    const int n_tiles = make_tiles(a, p.rows_per_tile, tiles);
    const auto queries = [&](RowTile tile, int kv_head) {
        const HeadRange heads = heads_of(a, kv_head);
        return tile.count * (heads.end - heads.begin);
    };

    if (!few_pairs(a, n_threads()) || n_threads() == 1) {
        // The tiles of a run of rows are those that begin there.
        const RowRuns runs(a.n_rows);
        const auto first_tile = [&](int row) {
            return int(std::partition_point(tiles, tiles + n_tiles, [&](RowTile t) { return t.first < row; }) - tiles);
        };
        const auto n_tiles_of = [&](int run) { return first_tile(runs.end(run)) - first_tile(runs.begin(run)); };
        runs.share(
            pool_, [&](int run) { return n_tiles_of(run) * a.n_kv_heads; },
            [&](int run, int pair, int thread) {
                const int n = n_tiles_of(run), kv_head = pair / n;
                const RowTile tile = tiles[first_tile(runs.begin(run)) + pair % n];
                if (queries(tile, kv_head) <= 0) return;
                const Splits splits = splits_of(a, tile);
                const SoftmaxState total = p.state(workspace, size_t(2 * thread));
                const SoftmaxState part = p.state(workspace, size_t(2 * thread + 1));
                for (int s = splits.begin; s < splits.end; s++) {
                    const bool first = s == splits.begin;
                    kernels_.attend_split(a, tile, kv_head, s, first ? total : part, p.scratch(workspace, thread));
                    if (!first) kernels_.attend_merge(total, part, queries(tile, kv_head), a.value_dim());
                }
                kernels_.attend_finish(a, tile, kv_head, total);
            });
        return;
    }

    const int pairs = n_tiles * a.n_kv_heads;
    const int most = most_splits(a);
    pool_.run(pairs * most, [&](int i, int thread) {
        const int pair = i / most;
        const RowTile tile = tiles[pair % n_tiles];
        const Splits splits = splits_of(a, tile);
        const int split = splits.begin + i % most;
        if (split < splits.end && queries(tile, pair / n_tiles) > 0)
            kernels_.attend_split(a, tile, pair / n_tiles, split, p.state(workspace, size_t(i)),
                                  p.scratch(workspace, thread));
    });
    pool_.run(pairs, [&](int pair, int) {
        const RowTile tile = tiles[pair % n_tiles];
        const int kv_head = pair / n_tiles, n_queries = queries(tile, kv_head);
        if (n_queries <= 0) return;
        const Splits splits = splits_of(a, tile);
        const SoftmaxState total = p.state(workspace, size_t(pair) * most);
        for (int s = 1; s < splits.end - splits.begin; s++)
            kernels_.attend_merge(total, p.state(workspace, size_t(pair) * most + s), n_queries, a.value_dim());
        kernels_.attend_finish(a, tile, kv_head, total);
    });
}

}  // namespace dllama

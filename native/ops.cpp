#include "ops.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "row_runs.h"

namespace dllama {
namespace {

// Elements of simple work (a norm, a sum) that are worth handing to another thread: about 2 microseconds.
constexpr int kGrain = 8192;
// An activation (an exponential and a division) takes about four times as long.
constexpr int kActivationCost = 4;
// Columns of one row that a thread takes at a time where columns do not depend on each other; whole blocks.
constexpr int kSpan = 1024;
// Bytes of weights that a chunk reads: its four streams run over 16 pages of 4 kB each. 64 kB reach 0.89 of the
// bandwidth that 256 kB and more reach (docs/log.md); larger chunks only let threads end further apart.
constexpr size_t kChunkBytes = 256 << 10;

// Bytes that a thread reads at a time when nothing but reading is measured.
constexpr size_t kReadBytes = 1 << 20;

int divide_up(int a, int b) { return (a + b - 1) / b; }

// Eight streams side by side, as the prefetchers of a core like it: 20 to 30 % above what one stream reads.
uint64_t read_words(const uint8_t* data, size_t bytes) {
    typedef uint64_t Pair __attribute__((vector_size(16)));  // a register everywhere
    constexpr int kStreams = 8, kLine = 64;                   // a cache line of each stream in turn
    const size_t part = bytes / kStreams / kLine * kLine;
    Pair sums[kStreams] = {};
    for (size_t i = 0; i < part; i += kLine)
#pragma GCC unroll 8
        for (int s = 0; s < kStreams; s++)
#pragma GCC unroll 4
            for (int j = 0; j < kLine; j += int(sizeof(Pair))) {
                Pair pair;
                std::memcpy(&pair, data + s * part + i + j, sizeof pair);
                sums[s] ^= pair;
            }
    Pair all = {};
    for (const Pair& sum : sums) all ^= sum;
    return all[0] ^ all[1];
}

}  // namespace

// Calls work(row_begin, row_end) for rows that are worth a thread's while together.
template <class Work>
void Ops::for_rows(int n_rows, int row_cost, const Work& work) {
    const RowRuns runs(n_rows);
    const int step = std::max(1, kGrain / std::max(1, row_cost));
    runs.share(
        pool_, [&](int run) { return divide_up(runs.end(run) - runs.begin(run), step); },
        [&](int run, int part, int) {
            const int begin = runs.begin(run) + part * step;
            work(begin, std::min(runs.end(run), begin + step));
        });
}

// Calls work(row, column, columns) for parts of each row; element_cost is that of one beside simple work.
template <class Work>
void Ops::for_spans(int n_rows, int n, int element_cost, const Work& work) {
    const RowRuns runs(n_rows);
    const int spans = divide_up(n, kSpan), step = std::max(1, kGrain / (kSpan * element_cost));
    const auto n_spans = [&](int run) { return (runs.end(run) - runs.begin(run)) * spans; };
    runs.share(
        pool_, [&](int run) { return divide_up(n_spans(run), step); },
        [&](int run, int part, int) {
            for (int i = part * step; i < std::min(n_spans(run), (part + 1) * step); i++) {
                const int column = i % spans * kSpan;
                work(runs.begin(run) + i / spans, column, std::min(kSpan, n - column));
            }
        });
}

// Calls work(tile_begin, tile_end, row_begin, row_end).
template <class Work>
void Ops::for_tiles(int n_tiles, size_t tile_bytes, int n_rows, const Work& work) {
    const RowRuns runs(n_rows);
    const int group = kernels_.tile_group, n_groups = divide_up(n_tiles, group);
    // As many chunks for each thread as its bytes need, and three at least, so that the last to end is not far behind.
    const size_t share = tile_bytes * size_t(n_tiles) / size_t(pool_.n_threads());
    const int rounds = int(std::max<size_t>(3, (share + kChunkBytes - 1) / kChunkBytes));
    const int n_chunks = std::min(n_groups, rounds * pool_.n_threads());
    const auto first_tile = [&](int chunk) { return int(int64_t(n_groups) * chunk / n_chunks) * group; };
    runs.share(
        pool_, [&](int) { return n_chunks; },
        [&](int run, int chunk, int) {
            work(first_tile(chunk), std::min(n_tiles, first_tile(chunk + 1)), runs.begin(run), runs.end(run));
        });
}

void Ops::matmul(const QuantMatmul& m, ElementType type, int n_rows) {
    const auto kernel = kernels_.matmul[type];
    for_tiles(divide_up(m.n_out, kernels_.tile_rows), m.tile_bytes, n_rows,
              [&](int tile, int tile_end, int row, int row_end) { kernel(m, tile, tile_end, row, row_end); });
}

void Ops::matmul(const FloatMatmul& m, ElementType type, int n_rows) {
    const auto kernel = kernels_.float_matmul[type];
    for_tiles(divide_up(m.n_out, kernels_.tile_rows), m.tile_bytes, n_rows,
              [&](int tile, int tile_end, int row, int row_end) { kernel(m, tile, tile_end, row, row_end); });
}

void Ops::gated_matmul(const GatedMatmul& g, ElementType type, float* scratch, int n_rows) {
    const auto kernel = kernels_.gated_matmul[type];
    const int n = g.product.n_out / 2;
    if (kernels_.fuses_gate(type, n_rows, g.product.n_blocks)) {
        for_tiles(n / kernels_.tile_rows, 2 * g.product.tile_bytes, n_rows,
                  [&](int tile, int tile_end, int row, int row_end) { kernel(g, tile, tile_end, row, row_end); });
        return;
    }
    QuantMatmul m = g.product;
    m.out = scratch;
    matmul(m, type, n_rows);
    silu_mul({nullptr, g.quants, g.scales, g.sums, n}, scratch, g.activation, n_rows);
}

void Ops::quantize_rows(const RowsOut& out, const float* x, int n_rows) {
    for_spans(n_rows, out.n, 1, [&](int t, int column, int columns) {
        kernels_.quantize(out.at(t, column), x + size_t(t) * out.n + column, columns);
    });
}

void Ops::rms_norm_in_order(float* out, const float* x, const float* weight, float eps, int n, int n_rows) {
    for_rows(n_rows, n, [&](int begin, int end) {
        for (size_t at = size_t(begin) * n; at < size_t(end) * n; at += n)
            kernels_.router_norm(out + at, x + at, weight, eps, n);
    });
}

void Ops::rms_norm(const RowsOut& out, const float* x, const float* weight, float eps, int n_rows) {
    for_rows(n_rows, out.n, [&](int begin, int end) {
        for (int t = begin; t < end; t++) kernels_.rms_norm(out.at(t), x + size_t(t) * out.n, weight, eps, out.n);
    });
}

void Ops::layer_norm(const RowsOut& out, const float* x, const float* weight, const float* bias, float eps, int n_rows) {
    for_rows(n_rows, 2 * out.n, [&](int begin, int end) {
        for (int t = begin; t < end; t++)
            kernels_.layer_norm(out.at(t), x + size_t(t) * out.n, weight, bias, eps, out.n);
    });
}

void Ops::silu_mul(const RowsOut& out, const float* gate_up, Activation activation, int n_rows) {
    const int n = out.n;
    for_spans(n_rows, n, kActivationCost, [&](int t, int column, int columns) {
        const float* gate = gate_up + size_t(t) * 2 * n + column;
        kernels_.gated(out.at(t, column), gate, gate + n, activation, columns);
    });
}

void Ops::add_bias(float* x, const float* bias, int n, int n_rows) {
    for_rows(n_rows, n, [&](int begin, int end) {
        for (int t = begin; t < end; t++) kernels_.add(x + size_t(t) * n, bias, n);
    });
}

void Ops::soft_cap(float* x, float scale, float cap, int n, int n_rows) {
    for_rows(n_rows, n, [&](int begin, int end) {
        for (int t = begin; t < end; t++) kernels_.soft_cap(x + size_t(t) * n, scale, cap, n);
    });
}

void Ops::clear(float* x, int n, int n_rows) {
    for_rows(n_rows, n, [&](int begin, int end) { std::fill(x + size_t(begin) * n, x + size_t(end) * n, 0.0f); });
}

void Ops::head_rms_norm(float* x, const float* weight, float eps, int n, int head_dim, int first_head, int n_heads,
                        int n_rows) {
    for_rows(n_rows, n_heads * head_dim, [&](int begin, int end) {
        for (int t = begin; t < end; t++)
            for (int h = first_head; h < first_head + n_heads; h++) {
                float* head = x + size_t(t) * n + size_t(h) * head_dim;
                kernels_.rms_norm({head, nullptr, nullptr, nullptr}, head, weight, eps, head_dim);
            }
    });
}

void Ops::rope_store(const Rope& r) {
    const int width = (r.n_heads + 2 * r.n_kv_heads) * r.head_dim;
    // Heads of all pages are numbered through: slot i is the i-th [E] of the cache.
    auto store = [&](void* cache, size_t i, const float* from) {
        if (r.cache_type == ElementType::f16)
            kernels_.store_half(static_cast<uint16_t*>(cache) + i * r.head_dim, from, r.head_dim);
        else if (r.cache_type == ElementType::q80)
            kernels_.encode_q80(static_cast<uint8_t*>(cache) + i * (r.head_dim / kBlock * kQ80Bytes), from, r.head_dim);
        else
            std::copy_n(from, r.head_dim, static_cast<float*>(cache) + i * r.head_dim);
    };
    auto one_row = [&](int t) {
        const int position = r.positions[t];
        const int page = r.page_table[size_t(r.sequence[t]) * r.max_pages + position / r.page_size];
        const float* cos_sin = r.cos_sin + size_t(position) * r.head_dim;
        float* head = r.qkv + size_t(t) * width;
        for (int h = 0; h < r.n_heads + r.n_kv_heads; h++)
            kernels_.rope(head + size_t(h) * r.head_dim, cos_sin, r.head_dim, r.n_halves);
        const float* key = head + size_t(r.n_heads) * r.head_dim;
        const float* value = key + size_t(r.n_kv_heads) * r.head_dim;
        size_t slot = size_t(page) * r.n_kv_heads * r.page_size + size_t(position % r.page_size);
        for (int k = 0; k < r.n_kv_heads; k++, slot += size_t(r.page_size)) {
            store(r.keys, slot, key + size_t(k) * r.head_dim);
            store(r.values, slot, value + size_t(k) * r.head_dim);
        }
    };
    for_rows(r.n_rows, width, [&](int begin, int end) {
        for (int t = begin; t < end; t++) one_row(t);
    });
}

void Ops::encode_q80(uint8_t* out, const float* x, int n, int n_rows) {
    const size_t row_bytes = size_t(divide_up(n, kBlock)) * kQ80Bytes;
    for_spans(n_rows, n, 1, [&](int t, int column, int columns) {
        kernels_.encode_q80(out + t * row_bytes + size_t(column / kBlock) * kQ80Bytes, x + size_t(t) * n + column,
                            columns);
    });
}

void Ops::add_q80(float* x, const WireParts& parts, int n, int n_rows, bool rounded) {
    const size_t row_bytes = size_t(divide_up(n, kBlock)) * kQ80Bytes;
    for_spans(n_rows, n, 1, [&](int t, int column, int columns) {
        const uint8_t* blocks = parts.data + t * row_bytes + size_t(column / kBlock) * kQ80Bytes;
        kernels_.add_sum_q80(x + size_t(t) * n + column, {blocks, parts.stride, parts.count}, columns, rounded);
    });
}

// Row by row: a row that was added to is still in the first-level cache when it is normed.
void Ops::add_norm_q80(const RowsOut& out, float* x, const WireParts& parts, const float* weight, float eps, int n_rows,
                       bool rounded) {
    const size_t row_bytes = size_t(divide_up(out.n, kBlock)) * kQ80Bytes;
    for_rows(n_rows, 2 * out.n, [&](int begin, int end) {
        for (int t = begin; t < end; t++) {
            float* row = x + size_t(t) * out.n;
            kernels_.add_sum_q80(row, {parts.data + t * row_bytes, parts.stride, parts.count}, out.n, rounded);
            kernels_.rms_norm(out.at(t), row, weight, eps, out.n);
        }
    });
}

void Ops::add_f32(float* x, const float* parts, int n_parts, size_t part_stride, int n, int n_rows) {
    for_spans(n_rows, n, 1, [&](int t, int column, int columns) {
        const size_t i = size_t(t) * n + column;
        kernels_.add_sum_f32(x + i, parts + i, part_stride, n_parts, columns);
    });
}

uint64_t Ops::read_memory(const uint8_t* data, size_t bytes) {
    std::atomic<uint64_t> all{0};
    pool_.run(int((bytes + kReadBytes - 1) / kReadBytes), [&](int chunk, int) {
        const size_t begin = size_t(chunk) * kReadBytes;
        all ^= read_words(data + begin, std::min(kReadBytes, bytes - begin));
    });
    return all;
}

int64_t Ops::dot_peak(int64_t rounds) {
    std::atomic<int64_t> operations{0};
    pool_.run(pool_.n_threads() * 8, [&](int, int) { operations += kernels_.dot_peak(rounds); });
    return operations;
}

int64_t Ops::float_peak(int64_t rounds) {
    std::atomic<int64_t> operations{0};
    pool_.run(pool_.n_threads() * 8, [&](int, int) { operations += kernels_.float_peak(rounds); });
    return operations;
}

}  // namespace dllama

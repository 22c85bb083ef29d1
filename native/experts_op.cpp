// Mixtures of experts: products whose work the router decides on (router_op.cpp).
#include <algorithm>
#include <cstring>

#include "experts.h"
#include "ops.h"

namespace dllama {
namespace {

constexpr size_t kLine = 64;
// Rows of one expert that are multiplied together, as in row_runs.h; those of a panel at the most (panel_matmul.h).
constexpr int kExpertRows = 128;
// Chunks for each thread: few, since a chunk gathers the rows of its expert for itself.
constexpr int kChunks = 8;
// Bytes of weights that a chunk of gate and up projections reads at least: two times four streams of 8 pages each.
constexpr size_t kChunkBytes = 256 << 10;
// Columns of the output that a chunk of down projections owns at the most: with kExpertRows rows their products are
// 256 KiB, a quarter of a second-level cache.
constexpr int kDownColumns = 512;

int divide_up(int a, int b) { return (a + b - 1) / b; }
size_t round_to_line(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// Rows of a matrix's input.
RowsOut rows_from(const RowsOut& x, size_t row) {
    const RowOut at = x.at(int(row));
    return {at.f32, at.quants, at.scales, at.sums, x.n};
}

// out [n_rows, columns of the tiles] = tiles [tile, tile_end) of a matrix of the stack times the rows x.
void multiply(const KernelTable& kernels, const MatrixStack& stack, int index, int tile, int tile_end, const RowsOut& x,
              int n_rows, float* out) {
    const uint8_t* weights = stack.tile(index, tile);
    const int n_out = std::min(stack.n_out, tile_end * kernels.tile_rows) - tile * kernels.tile_rows;
    const int n_tiles = tile_end - tile;
    if (is_blocked(stack.type)) {
        const QuantMatmul m{weights, stack.tile_bytes, n_out, stack.n_in / kBlock, x.quants, x.scales, x.sums, out,
                            size_t(n_out), false, stack.first_run};
        kernels.matmul[stack.type](m, 0, n_tiles, 0, n_rows);
    } else {
        const FloatMatmul m{weights, stack.tile_bytes, n_out, stack.n_in, x.f32, out, size_t(n_out)};
        kernels.float_matmul[stack.type](m, 0, n_tiles, 0, n_rows);
    }
}

// Memory of one thread: rows of x side by side, and products.
struct Scratch {
    RowsOut rows;
    float* products;

    static size_t row_bytes(const RowsOut& x, size_t n_rows) {
        return x.f32 ? round_to_line(n_rows * x.n * 4) : round_to_line(n_rows * x.n) + 2 * round_to_line(n_rows * x.n / 8);
    }
    Scratch(uint8_t* memory, const RowsOut& x, size_t n_rows) : rows{nullptr, nullptr, nullptr, nullptr, x.n} {
        products = reinterpret_cast<float*>(memory + row_bytes(x, n_rows));
        if (x.f32) {
            rows.f32 = reinterpret_cast<float*>(memory);
            return;
        }
        rows.quants = reinterpret_cast<int8_t*>(memory);
        rows.scales = reinterpret_cast<float*>(memory + round_to_line(n_rows * x.n));
        rows.sums = reinterpret_cast<int32_t*>(memory + round_to_line(n_rows * x.n) + round_to_line(n_rows * x.n / 8));
    }

    void gather(const RowsOut& x, const int32_t* which, int n_rows) const {
        for (int i = 0; i < n_rows; i++) {
            const RowOut from = x.at(which[i]), to = rows.at(i);
            if (x.f32) {
                std::memcpy(to.f32, from.f32, size_t(x.n) * 4);
                continue;
            }
            std::memcpy(to.quants, from.quants, size_t(x.n));
            std::memcpy(to.scales, from.scales, size_t(x.n) / kBlock * 4);
            std::memcpy(to.sums, from.sums, size_t(x.n) / kBlock * 4);
        }
    }
};

// Tiles that chunks are multiples of: whole blocks of the output, and whole groups of a kernel.
int tiles_together(const KernelTable& kernels) { return std::max(kernels.tile_group, kBlock / kernels.tile_rows); }

// Columns of a gate, or of an up projection, that a chunk has at the most.
int gated_columns(const ExpertsGated& g) { return divide_up(g.stack.n_out, kBlock) * kBlock; }

size_t gated_scratch(const ExpertsGated& g) {
    const size_t n_rows = size_t(std::min(kExpertRows, g.n_rows));
    return Scratch::row_bytes(g.x, n_rows) + round_to_line(2 * n_rows * gated_columns(g) * 4);
}

// Tiles [tile, tile_end) of the gate and the up projection of some rows of one expert, the first of them at `slot`.
void gate_rows(const KernelTable& kernels, const ExpertsGated& g, int expert, int tile, int tile_end, size_t slot,
               int n_rows, const Scratch& scratch) {
    const RowsOut out = rows_from(g.out, slot);
    if (out.quants && !g.gate_bias && kernels.fuses_gate(g.stack.type, n_rows, g.stack.n_in / kBlock)) {
        const RowsOut& x = scratch.rows;
        const QuantMatmul product{g.stack.tile(2 * expert, 0), g.stack.tile_bytes, 2 * g.stack.n_out,
                                  g.stack.n_in / kBlock, x.quants, x.scales, x.sums, nullptr, 0,
                                  false, g.stack.first_run};
        const GatedMatmul gated{product, g.activation, out.quants, out.scales, out.sums};
        return kernels.gated_matmul[g.stack.type](gated, tile, tile_end, 0, n_rows);
    }
    const int column = tile * kernels.tile_rows, columns = std::min(g.stack.n_out, tile_end * kernels.tile_rows) - column;
    float *gate = scratch.products, *up = gate + size_t(n_rows) * columns;
    multiply(kernels, g.stack, 2 * expert, tile, tile_end, scratch.rows, n_rows, gate);
    multiply(kernels, g.stack, 2 * expert + 1, tile, tile_end, scratch.rows, n_rows, up);
    const size_t first = size_t(expert) * g.stack.n_out + column;  // of the biases
    for (int t = 0; t < n_rows; t++) {
        float *of_gate = gate + size_t(t) * columns, *of_up = up + size_t(t) * columns;
        if (g.gate_bias) {
            kernels.add(of_gate, g.gate_bias + first, columns);
            kernels.add(of_up, g.up_bias + first, columns);
        }
        kernels.gated(out.at(t, column), of_gate, of_up, g.activation, columns);
    }
}

int down_columns(const ExpertsDown& d, const KernelTable& kernels) {
    const int together = tiles_together(kernels) * kernels.tile_rows;
    return divide_up(std::min(kDownColumns, d.stack.n_out), together) * together;
}

}  // namespace

size_t Ops::gated_workspace(const ExpertsGated& g) const { return n_threads() * gated_scratch(g); }

// A chunk is some tiles of one expert and all its rows. Many rows have chunks of whole experts, so that they are gathered
// once.
void Ops::experts_gated(const ExpertsGated& g, const Routing& routing, uint8_t* workspace) {
    const int together = tiles_together(kernels_), n_tiles = divide_up(g.stack.n_out, kernels_.tile_rows);
    const int n_groups = divide_up(n_tiles, together);
    int n_active = 0;
    for (int e = 0; e < routing.n_experts; e++) n_active += routing.n_rows_of(e) > 0;
    if (n_active == 0) return;
    const int fitting = std::max(1, int(2 * g.stack.matrix_bytes / kChunkBytes));
    const int n_parts = std::clamp(divide_up(kChunks * n_threads(), n_active), 1, std::min(fitting, n_groups));
    const size_t bytes = gated_scratch(g), n_together = size_t(std::min(kExpertRows, g.n_rows));
    pool_.run(routing.n_experts * n_parts, [&](int chunk, int thread) {
        const int expert = chunk / n_parts, part = chunk % n_parts;
        const int first = routing.first_slot[expert], end = routing.first_slot[expert + 1];
        const int tile = int(int64_t(n_groups) * part / n_parts) * together;
        const int tile_end = std::min(n_tiles, int(int64_t(n_groups) * (part + 1) / n_parts) * together);
        const Scratch scratch(workspace + thread * bytes, g.x, n_together);
        for (int slot = first; slot < end; slot += kExpertRows) {
            const int n_rows = std::min(kExpertRows, end - slot);
            scratch.gather(g.x, routing.slot_row + slot, n_rows);
            gate_rows(kernels_, g, expert, tile, tile_end, size_t(slot), n_rows, scratch);
        }
    });
}

size_t Ops::down_workspace(const ExpertsDown& d) const {
    return n_threads() * round_to_line(size_t(std::min(kExpertRows, d.n_rows)) * down_columns(d, kernels_) * 4);
}

// A chunk is some columns of the output, which nobody else adds to, of all rows: it walks through the experts.
void Ops::experts_down(const ExpertsDown& d, const Routing& routing, uint8_t* workspace) {
    const int together = tiles_together(kernels_), n_tiles = divide_up(d.stack.n_out, kernels_.tile_rows);
    const int n_groups = divide_up(n_tiles, together);
    const int widest = down_columns(d, kernels_) / (together * kernels_.tile_rows);  // groups
    const int n_chunks = std::clamp(3 * n_threads(), divide_up(n_groups, widest), n_groups);
    const size_t bytes = down_workspace(d) / size_t(n_threads());
    pool_.run(n_chunks, [&](int chunk, int thread) {
        const int tile = int(int64_t(n_groups) * chunk / n_chunks) * together;
        const int tile_end = std::min(n_tiles, int(int64_t(n_groups) * (chunk + 1) / n_chunks) * together);
        const int column = tile * kernels_.tile_rows;
        const int columns = std::min(d.stack.n_out, tile_end * kernels_.tile_rows) - column;
        float* products = reinterpret_cast<float*>(workspace + thread * bytes);
        if (!d.adds)
            for (int t = 0; t < d.n_rows; t++) std::fill_n(d.out + size_t(t) * d.stack.n_out + column, columns, 0.0f);
        for (int expert = 0; expert < routing.n_experts; expert++)
            for (int slot = routing.first_slot[expert]; slot < routing.first_slot[expert + 1]; slot += kExpertRows) {
                const int n_rows = std::min(kExpertRows, routing.first_slot[expert + 1] - slot);
                multiply(kernels_, d.stack, expert, tile, tile_end, rows_from(d.x, size_t(slot)), n_rows, products);
                for (int i = 0; i < n_rows; i++) {
                    float* product = products + size_t(i) * columns;
                    if (d.bias) kernels_.add(product, d.bias + size_t(expert) * d.stack.n_out + column, columns);
                    kernels_.add_scaled(d.out + size_t(routing.slot_row[slot + i]) * d.stack.n_out + column, product,
                                        routing.slot_weight[slot + i], columns);
                }
            }
    });
}

}  // namespace dllama

// Runs every operation of every usable instruction set on heap buffers of exactly the size they need, at awkward
// sizes, with several threads: the sanitizers that this is built with see any step outside, and any undefined one.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "cpu.h"
#include "merge_candidates.h"
#include "ops.h"

using namespace dllama;

namespace {

std::mt19937 random_bits(7);

std::vector<float> floats(size_t n) {
    std::vector<float> v(n);
    for (float& x : v) x = float(int(random_bits() % 2001) - 1000) / 500;
    return v;
}

std::vector<ElementType> all_types() {
    std::vector<ElementType> types;
    for (int number = 0; number < kElementTypes; number++)
        if (traits_of(ElementType(number)).block > 0) types.push_back(ElementType(number));
    return types;
}

std::unique_ptr<uint8_t[]> bytes(size_t n) { return std::make_unique<uint8_t[]>(n); }

// Q80 activations in vectors of exactly their size.
struct Rows {
    Rows(int n_rows, int n) : quants(size_t(n_rows) * n), scales(quants.size() / kBlock), sums(scales.size()), n(n) {}
    RowsOut out() { return {nullptr, quants.data(), scales.data(), sums.data(), n}; }
    std::vector<int8_t> quants;
    std::vector<float> scales;
    std::vector<int32_t> sums;
    int n;
};

// Rows that are cut from whole blocks of any bytes.
void encode_randomly(const PackedLayout& layout, uint8_t* encoded) {
    const size_t block = size_t(traits_of(layout.type).block);
    const size_t n_blocks = (size_t(layout.first_run) * kBlock + size_t(layout.n_in) + block - 1) / block;
    const size_t n_bytes = n_blocks * size_t(traits_of(layout.type).bytes) * size_t(layout.n_out);
    const auto blocks = bytes(n_bytes);
    for (size_t i = 0; i < n_bytes; i++) blocks[i] = uint8_t(random_bits());
    cut_rows(layout.type, layout.first_run, layout.n_in, blocks.get(), layout.n_out, encoded);
}

// first_run: that the first columns are, of their block.
void matmuls(Ops& ops, ElementType type, int n_out, int n_in, int n_rows, int first_run = 0) {
    const KernelTable& k = ops.kernels();
    const PackedLayout layout{type, n_out, n_in, k.tile_rows, k.unit_bytes, first_run};
    const auto weights = floats(size_t(n_out) * n_in);
    const auto encoded = bytes(layout.row_bytes() * n_out), packed = bytes(layout.bytes()), back = bytes(layout.row_bytes() * n_out);
    if (can_be_written(type))
        k.convert(encoded.get(), type, reinterpret_cast<const uint8_t*>(weights.data()), ElementType::f32, weights.size());
    else
        encode_randomly(layout, encoded.get());
    const int middle = n_out / 2;
    pack(layout, packed.get(), middle, n_out - middle, encoded.get() + layout.row_bytes() * middle);
    pack(layout, packed.get(), 0, middle, encoded.get());
    unpack(layout, packed.get(), 0, n_out, back.get());

    const auto x = floats(size_t(n_rows) * n_in);
    std::vector<float> out(size_t(n_rows) * n_out);
    if (is_blocked(type)) {
        Rows rows(n_rows, n_in);
        ops.quantize_rows(rows.out(), x.data(), n_rows);
        QuantMatmul m{packed.get(), layout.tile_bytes(), n_out, n_in / kBlock, rows.quants.data(),
                      rows.scales.data(), rows.sums.data(), out.data(), size_t(n_out), false, first_run};
        for (bool adds : {false, true}) {
            m.adds = adds;
            ops.matmul(m, type, n_rows);
        }
        if (n_out % (2 * kBlock) == 0) {
            Rows gated(n_rows, n_out / 2);
            ops.gated_matmul({m, Activation::silu, gated.quants.data(), gated.scales.data(), gated.sums.data()}, type,
                             out.data(), n_rows);
        }
    } else {
        for (bool adds : {false, true})
            ops.matmul(FloatMatmul{packed.get(), layout.tile_bytes(), n_out, n_in, x.data(), out.data(), size_t(n_out), adds}, type, n_rows);
    }
}

// Encoded and packed matrices of random weights, one after another.
struct Stack {
    Stack(const KernelTable& k, ElementType type, int n_matrices, int n_out, int n_in)
        : layout{type, n_out, n_in, k.tile_rows, k.unit_bytes}, memory(bytes(layout.bytes() * n_matrices)) {
        const auto encoded = bytes(layout.row_bytes() * n_out);
        for (int i = 0; i < n_matrices; i++) {
            const auto weights = floats(size_t(n_out) * n_in);
            const auto* from = reinterpret_cast<const uint8_t*>(weights.data());
            k.convert(encoded.get(), type, from, ElementType::f32, weights.size());
            pack(layout, memory.get() + layout.bytes() * i, 0, n_out, encoded.get());
        }
    }
    MatrixStack matrices() const {
        return {memory.get(), layout.bytes(), layout.tile_bytes(), layout.type, layout.n_out, layout.n_in, layout.first_run};
    }
    PackedLayout layout;
    std::unique_ptr<uint8_t[]> memory;
};

void experts(Ops& ops, ElementType type, int n_experts, int top_k, int n_ffn, int n, int n_rows) {
    const KernelTable& k = ops.kernels();
    const auto x = floats(size_t(n_rows) * n), norm = floats(n), router = floats(size_t(n_experts) * n);
    const size_t n_slots = size_t(n_rows) * top_k;
    std::vector<float> logits(size_t(n_rows) * n_experts), weights(n_slots), slot_weight(n_slots);
    std::vector<int32_t> ids(n_slots), first_slot(n_experts + 1), slot_row(n_slots);
    const Routing routing{logits.data(), ids.data(), weights.data(), first_slot.data(), slot_row.data(),
                          slot_weight.data(), n_experts, top_k};
    const auto workspace = [](size_t n_bytes) {
        return std::unique_ptr<uint8_t, void (*)(void*)>(static_cast<uint8_t*>(std::aligned_alloc(64, n_bytes)), std::free);
    };
    const auto bias = floats(n_experts);
    Router r{x.data(), norm.data(), router.data(), 1e-6f, n_rows, n, n_experts, top_k, n_rows % 2 == 0};
    ops.route(r, routing, workspace(ops.router_workspace(r)).get());
    r.sigmoid = true;
    r.choice_bias = bias.data();
    r.n_groups = n_experts;
    r.top_groups = top_k, r.group_best = 1;
    ops.route(r, routing, workspace(ops.router_workspace(r)).get());

    const Stack gate_up(k, type, 2 * n_experts, n_ffn, n), down(k, type, n_experts, n, n_ffn);
    std::vector<float> floats_of_slots(n_slots * n_ffn), out(x.size());
    const RowsOut plain{floats_of_slots.data(), nullptr, nullptr, nullptr, n_ffn};
    const bool blocked = type == ElementType::q40 || type == ElementType::q80;
    Rows quantized(n_rows, n), of_slots(int(n_slots), n_ffn);
    ops.quantize_rows(quantized.out(), x.data(), n_rows);
    const RowsOut source = blocked ? quantized.out() : RowsOut{const_cast<float*>(x.data()), nullptr, nullptr, nullptr, n};
    const ExpertsGated g{gate_up.matrices(), source, blocked ? of_slots.out() : plain, Activation::silu, n_rows};
    ops.experts_gated(g, routing, workspace(ops.gated_workspace(g)).get());
    for (bool adds : {false, true}) {
        const ExpertsDown d{down.matrices(), g.out, out.data(), n_rows, adds};
        ops.experts_down(d, routing, workspace(ops.down_workspace(d)).get());
    }
}

void rows(Ops& ops, int n, int n_rows) {
    auto x = floats(size_t(n_rows) * n);
    const auto weight = floats(n), gate_up = floats(size_t(n_rows) * 2 * n), parts = floats(size_t(3) * n_rows * n);
    std::vector<float> out(x.size());
    const RowsOut to{out.data(), nullptr, nullptr, nullptr, n};
    ops.rms_norm(to, x.data(), weight.data(), 1e-5f, n_rows);
    ops.rms_norm_in_order(out.data(), x.data(), weight.data(), 1e-5f, n, n_rows);
    ops.layer_norm(to, x.data(), weight.data(), parts.data(), 1e-5f, n_rows);
    ops.silu_mul(to, gate_up.data(), Activation::silu, n_rows);
    ops.silu_mul(to, gate_up.data(), Activation::gelu, n_rows);
    if (n % kBlock == 0) {
        Rows quantized(n_rows, n);
        ops.rms_norm(quantized.out(), x.data(), weight.data(), 1e-5f, n_rows);
        ops.layer_norm(quantized.out(), x.data(), weight.data(), parts.data(), 1e-5f, n_rows);
        ops.silu_mul(quantized.out(), gate_up.data(), Activation::silu, n_rows);
    }
    ops.add_bias(x.data(), weight.data(), n, n_rows);
    ops.soft_cap(x.data(), 0.5f, 30.0f, n, n_rows);
    ops.add_f32(x.data(), parts.data(), 3, size_t(n_rows) * n, n, n_rows);
    const size_t wire_bytes = size_t(n + kBlock - 1) / kBlock * kQ80Bytes * n_rows;
    const auto wire = bytes(wire_bytes);
    ops.encode_q80(wire.get(), x.data(), n, n_rows);
    ops.add_q80(x.data(), {wire.get(), wire_bytes, 1}, n, n_rows, true);
    ops.add_norm_q80(to, x.data(), {wire.get(), wire_bytes, 1}, weight.data(), 1e-5f, n_rows, false);
    ops.clear(x.data(), n, n_rows);
    ops.kernels().sum_q80(wire.get(), {wire.get(), wire_bytes, 1}, int(wire_bytes / kQ80Bytes));
    ops.head_rms_norm(x.data(), weight.data(), 1e-6f, n, n, 0, 1, n_rows);
}

void attend(Ops& ops, int heads, int kv_heads, int group, int head_dim, int page_size, int first, int n_rows, int window,
            ElementType type) {
    const int n_pages = (first + n_rows + page_size - 1) / page_size;
    const size_t elements = size_t(n_pages) * kv_heads * page_size * head_dim;
    const auto keys = bytes(PackedLayout{type, 1, int(elements), 1, 4}.row_bytes()),
               values = bytes(PackedLayout{type, 1, int(elements), 1, 4}.row_bytes());
    std::vector<int32_t> positions(n_rows), sequence(n_rows, 0), pages(n_pages);
    for (int t = 0; t < n_rows; t++) positions[t] = first + t;
    for (int p = 0; p < n_pages; p++) pages[p] = n_pages - 1 - p;
    auto qkv = floats(size_t(n_rows) * (heads + 2 * kv_heads) * head_dim);
    const auto cos_sin = floats(size_t(first + n_rows) * head_dim);
    std::vector<float> out(size_t(n_rows) * heads * head_dim);
    ops.rope_store({qkv.data(), cos_sin.data(), positions.data(), sequence.data(), pages.data(), keys.get(), values.get(),
                    type, n_rows % 2 == 0 ? head_dim / 2 * 2 : 0, n_rows, heads, kv_heads, head_dim, page_size, n_pages});
    Attention a{{out.data(), nullptr, nullptr, nullptr, heads * head_dim}, qkv.data(), positions.data(), sequence.data(),
                pages.data(), keys.get(), values.get(), type, n_rows, heads, kv_heads, head_dim, page_size, n_pages, 0,
                group, window, nullptr, window ? 2.0f : 0.0f};
    const auto workspace = bytes(ops.attention_workspace(a));
    ops.attention(a, workspace.get());
    if (head_dim % kBlock) return;
    Rows quantised(n_rows, heads * head_dim);
    a.out = quantised.out();
    ops.attention(a, workspace.get());
}

// Rows of two sequences, the second from a page border on, with a state for each page.
void delta_net(Ops& ops, int n_heads, int group, int offset, int key_dim, int value_dim, int width, int page_size, int first,
               int n_rows) {
    const int n_keys = (n_heads - 1 + offset) / group + 1, n_channels = 2 * n_keys * key_dim + n_heads * value_dim;
    const int n_values = n_heads * value_dim, stride = n_channels + n_values + 2 * n_heads;
    const int max_pages = (first + n_rows + page_size - 1) / page_size + 1, n_pages = 2 * max_pages;
    std::vector<int32_t> positions(2 * n_rows), sequence(2 * n_rows), pages(n_pages);
    for (int t = 0; t < n_rows; t++) {
        positions[t] = first + t, sequence[t] = 0;
        positions[n_rows + t] = page_size + t, sequence[n_rows + t] = 1;
    }
    for (int p = 0; p < n_pages; p++) pages[p] = n_pages - 1 - p;
    const auto x = floats(size_t(2) * n_rows * stride), weights = floats(size_t(width) * n_channels);
    const auto log_rate = floats(n_heads), dt_bias = floats(n_heads), norm = floats(value_dim);
    auto inputs = floats(size_t(n_pages) * (width - 1) * n_channels);
    auto state = floats(size_t(n_pages) * n_heads * key_dim * value_dim);
    std::vector<float> qkv(size_t(2) * n_rows * n_channels), read(size_t(2) * n_rows * n_values), out(read.size());
    const StatePlaces at{positions.data(), sequence.data(), pages.data(), max_pages, page_size, 2 * n_rows};
    ops.causal_conv({qkv.data(), x.data(), stride, weights.data(), inputs.data(), n_channels, width}, at,
                    bytes(ops.conv_workspace(at)).get());
    const float* gates = x.data() + n_channels + n_values;
    const DeltaRule d{read.data(), qkv.data(), gates, gates + n_heads, stride, log_rate.data(), dt_bias.data(), state.data(),
                      n_keys, n_heads, key_dim, value_dim, offset, group};
    ops.delta_rule(d, at, bytes(ops.delta_workspace(d, at)).get());
    const float* z = x.data() + n_channels;
    const RowsOut to{out.data(), nullptr, nullptr, nullptr, n_values};
    ops.sigmoid_mul(to, read.data(), z, stride, 2 * n_rows);
    ops.sigmoid_scale(to, read.data(), read.data(), 2 * n_rows);
    ops.gated_norm(to, read.data(), norm.data(), z, stride, 1e-6f, value_dim, 2 * n_rows);
    if (n_values % kBlock) return;
    Rows quantised(2 * n_rows, n_values);
    ops.sigmoid_mul(quantised.out(), read.data(), z, stride, 2 * n_rows);
    ops.gated_norm(quantised.out(), read.data(), norm.data(), z, stride, 1e-6f, value_dim, 2 * n_rows);
}

void candidates(Ops& ops, int n_rows, int n, int n_candidates) {
    auto logits = floats(size_t(n_rows) * n);
    logits[0] = -INFINITY;
    if (n_rows > 1) logits[size_t(n) + n / 2] = NAN;
    std::vector<float> temperature(n_rows, 0.8f), largest(size_t(n_rows) * n_candidates);
    std::vector<int32_t> ids(largest.size());
    std::vector<double> sums(size_t(n_rows) * 2);
    const TopCandidates c{logits.data(), temperature.data(), n_rows, n, 7, n_candidates,
                          ids.data(), largest.data(), sums.data()};
    const auto workspace = bytes(ops.candidates_workspace(c));
    ops.top_candidates(c, workspace.get());
}

// Of two ranks: the first has every row's candidates, the second fewer.
void merge(int n_rows, int n_first, int n_second) {
    const int n = n_first + n_second;
    auto first = floats(size_t(n_rows) * n_first), second = floats(size_t(n_rows) * n_second);
    if (n_rows > 1) std::fill_n(second.begin() + n_second, n_second, NAN);
    const std::vector<int32_t> ids(size_t(n_rows) * std::max(n_first, n_second));
    const std::vector<double> sums(size_t(n_rows) * 2, 1.5);
    const std::vector<float> targets(n_rows, NAN), temperature(n_rows, 0.8f);
    std::vector<int32_t> merged_ids(size_t(n_rows) * n);
    std::vector<float> merged_logits(merged_ids.size()), merged_targets(n_rows);
    std::vector<double> log_sums(size_t(n_rows) * 2);
    merge_candidates({{ids.data(), first.data(), sums.data(), targets.data(), n_first},
                      {ids.data(), second.data(), sums.data(), targets.data(), n_second}},
                     temperature.data(), n_rows,
                     {merged_ids.data(), merged_logits.data(), log_sums.data(), merged_targets.data(), n});
}

void convert_all(const KernelTable& k) {
    const auto row_bytes = [](ElementType type, int n) { return PackedLayout{type, 1, n, 1, 4}.row_bytes(); };
    for (ElementType from : all_types())
        for (ElementType to : all_types()) {
            if (!can_be_written(to)) continue;
            for (int n : {32, 64, 1, 31, 33, 256, 512}) {
                if (n % traits_of(from).block || n % traits_of(to).block) continue;
                // Any bytes at all: infinities and NaNs among them, and one byte off any alignment.
                const auto src = bytes(row_bytes(from, n) + 1), out = bytes(row_bytes(to, n) + 1);
                for (size_t i = 0; i <= row_bytes(from, n); i++) src[i] = uint8_t(random_bits());
                k.convert(out.get() + 1, to, src.get() + 1, from, size_t(n));
            }
        }
}

}  // namespace

int main() {
    const KernelTable* tables[kMaxIsas];
    const int n_tables = usable_kernels(tables);
    merge(1, 1, 1);
    merge(3, 256, 7);
    for (int i = 0; i < n_tables; i++) {
        convert_all(*tables[i]);
        for (int n_threads : {1, 3}) {
            Ops ops(tables[i], n_threads);
            for (ElementType type : all_types())
                for (int n_rows : {1, 2, 3, 7, 70, 150}) {
                    if (!tables[i]->has_product(type)) continue;
                    const int unit = std::max(kBlock, traits_of(type).block);
                    matmuls(ops, type, 1, unit, n_rows);
                    matmuls(ops, type, 83, std::max(96, unit), n_rows);
                    // A gate and an up projection of whole blocks, three panels.
                    matmuls(ops, type, 192, 1120 / unit * unit + (unit > kBlock ? unit : 0), n_rows);
                    if (type == ElementType::f16 || type == ElementType::f32) matmuls(ops, type, 37, 131, n_rows);
                    if (unit == kBlock) continue;
                    matmuls(ops, type, 83, 32, n_rows, 7);
                    matmuls(ops, type, 64, 1184, n_rows, 3);
                }
            for (ElementType type : {ElementType::q40, ElementType::q80, ElementType::f16, ElementType::f32})
                for (int n_rows : {1, 2, 6, 300}) {
                    experts(ops, type, 1, 1, 32, 32, n_rows);
                    experts(ops, type, 5, 2, 96, 160, n_rows);
                    if (type == ElementType::f16 || type == ElementType::f32) experts(ops, type, 4, 3, 37, 51, n_rows);
                }
            for (int n : {1, 7, 31, 32, 33, 96, 2080})
                for (int n_rows : {1, 9}) rows(ops, n, n_rows);
            for (int n_rows : {1, 3}) {
                candidates(ops, n_rows, 1, 1);
                candidates(ops, n_rows, 33, 33);
                candidates(ops, n_rows, 20001, 1);
                candidates(ops, n_rows, 20001, 100);
            }
            for (int n_rows : {1, 3, 40}) {
                delta_net(ops, 3, 2, 1, 16, 64, 4, 16, 0, n_rows);
                delta_net(ops, 2, 1, 0, 33, 37, 3, 8, 29, n_rows);
                delta_net(ops, 1, 4, 3, 1, 1, 1, 1, 5, n_rows);
                delta_net(ops, 9, 3, 0, 20, 128, 8, 64, 63, n_rows);
            }
            for (ElementType type : {ElementType::f16, ElementType::f32, ElementType::q80}) {
                attend(ops, 4, 2, 2, 64, 16, 0, 40, 0, type);
                attend(ops, 8, 1, 8, 64, 16, 30, 140, 0, type);  // two runs of rows
                attend(ops, 33, 1, 33, 32, 32, 500, 3, 290, type);
                if (type == ElementType::q80) continue;  // whole blocks only
                attend(ops, 3, 1, 3, 20, 7, 300, 1, 0, type);
                attend(ops, 2, 2, 1, 6, 1, 10, 5, 3, type);
            }
        }
        std::printf("%s\n", tables[i]->isa);
    }
    return 0;
}

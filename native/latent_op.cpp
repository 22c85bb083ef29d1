// Splitting the work of latent attention over threads, beside attention itself (attention_op.cpp).
#include <algorithm>
#include <cstring>

#include "ops.h"

namespace dllama {
namespace {

// Chunks for each thread: heads are few where ranks are many.
constexpr int kChunks = 4;

int divide_up(int a, int b) { return (a + b - 1) / b; }

}  // namespace

void Ops::latent_store(const LatentStore& s, const LatentRows& at) {
    const int width = s.n_latent + s.n_turned;
    pool_.run(at.n_rows, [&](int t, int) {
        const int position = at.positions[t];
        const int page = at.page_table[size_t(at.sequence[t]) * at.max_pages + position / at.page_size];
        const size_t slot = size_t(page) * at.page_size + size_t(position % at.page_size);
        float* row = s.rows + size_t(t) * width;
        kernels_.rms_norm({row, nullptr, nullptr, nullptr}, row, s.weight, s.eps, s.n_latent);
        kernels_.rope(row + s.n_latent, s.cos_sin + size_t(position) * s.n_turned, s.n_turned, s.halves ? s.n_turned : 0);
        if (s.cache_type == ElementType::f16)
            kernels_.store_half(static_cast<uint16_t*>(s.cache) + slot * width, row, width);
        else if (s.cache_type == ElementType::q80)
            kernels_.encode_q80(static_cast<uint8_t*>(s.cache) + slot * (width / kBlock * kQ80Bytes), row, width);
        else
            std::copy_n(row, width, static_cast<float*>(s.cache) + slot * width);
    });
}

void Ops::latent_queries(const LatentQueries& q, const LatentRows& at) {
    const int n_content = q.content.n, width = n_content + q.n_turned;
    pool_.run(at.n_rows, [&](int t, int) {
        const float* cos_sin = q.cos_sin + size_t(at.positions[t]) * q.n_turned;
        for (int h = 0; h < q.n_heads; h++) {
            const size_t head = size_t(t) * q.n_heads + h;
            const float* query = q.queries + head * width;
            float* turned = q.absorbed + (head + 1) * q.n_absorbed - q.n_turned;
            const RowOut content = q.content.at(h * at.n_rows + t);
            if (content.f32)
                std::copy_n(query, n_content, content.f32);
            else
                kernels_.quantize(content, query, n_content);
            std::copy_n(query + n_content, q.n_turned, turned);
            kernels_.rope(turned, cos_sin, q.n_turned, q.halves ? q.n_turned : 0);
        }
    });
}

// A chunk is some tiles of one head's matrix, and all rows.
void Ops::head_products(const HeadProducts& p) {
    const MatrixStack& stack = p.stack;
    const int group = kernels_.tile_group, n_tiles = divide_up(stack.n_out, kernels_.tile_rows);
    const int n_groups = divide_up(n_tiles, group);
    const int n_parts = std::clamp(divide_up(kChunks * n_threads(), std::max(1, p.n_heads)), 1, n_groups);
    pool_.run(p.n_heads * n_parts, [&](int chunk, int) {
        const int head = chunk / n_parts, part = chunk % n_parts;
        const int tile = int(int64_t(n_groups) * part / n_parts) * group;
        const int tile_end = std::min(n_tiles, int(int64_t(n_groups) * (part + 1) / n_parts) * group);
        const int column = tile * kernels_.tile_rows;
        const int n_out = std::min(stack.n_out, tile_end * kernels_.tile_rows) - column;
        const RowOut x = p.x.at(head * p.n_rows);
        float* out = p.out + size_t(head) * p.stride + column;
        const size_t out_stride = size_t(p.n_heads) * p.stride;
        if (is_blocked(stack.type)) {
            const QuantMatmul m{stack.tile(head, tile), stack.tile_bytes, n_out, stack.n_in / kBlock, x.quants, x.scales,
                                x.sums, out, out_stride, false, stack.first_run};
            kernels_.matmul[stack.type](m, 0, tile_end - tile, 0, p.n_rows);
        } else {
            const FloatMatmul m{stack.tile(head, tile), stack.tile_bytes, n_out, stack.n_in, x.f32, out, out_stride};
            kernels_.float_matmul[stack.type](m, 0, tile_end - tile, 0, p.n_rows);
        }
    });
}

}  // namespace dllama

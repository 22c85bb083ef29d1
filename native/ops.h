// The operations of a forward pass: each splits its work into chunks, and runs the kernels of one table on them.
// Which chunk an element falls into never changes its value.
#pragma once

#include "experts.h"
#include "kernel_table.h"
#include "latent.h"
#include "packed_matrix.h"
#include "thread_pool.h"

namespace dllama {

struct Rope {
    float* qkv;              // [T, (H+2K)*E]
    const float* cos_sin;    // [max_pos, E/2, 2]
    const int32_t *positions, *sequence, *page_table;
    void *keys, *values;     // [n_pages, K, P, E]
    ElementType cache_type;
    int n_halves;            // elements of each head that turn as halves; the others as neighbours
    int n_rows, n_heads, n_kv_heads, head_dim, page_size, max_pages;
};

// The n_candidates <= n largest logits of each row, and its sums of exponentials relative to the largest.
struct TopCandidates {
    const float* logits;       // [N, n], of the tokens from first_id on
    const float* temperature;  // [N], 0 for no second sum
    int n_rows, n, first_id, n_candidates;
    int32_t* ids;    // [N, n_candidates] by falling logit, of equals the lower id first
    float* largest;  // [N, n_candidates] their logits
    double* sums;    // [2, N]: of exp(logit - largest), and of exp((logit - largest) / temperature)
};

class Ops {
public:
    Ops(const KernelTable* kernels, int n_threads) : kernels_(*kernels), pool_(n_threads) {}

    const KernelTable& kernels() const { return kernels_; }
    int n_threads() const { return pool_.n_threads(); }

    void matmul(const QuantMatmul& m, ElementType type, int n_rows);
    void matmul(const FloatMatmul& m, ElementType type, int n_rows);
    // act(gate) * up. scratch: where the product goes when the kernels do not activate it themselves, [n_rows, n_out].
    void gated_matmul(const GatedMatmul& g, ElementType type, float* scratch, int n_rows);
    void quantize_rows(const RowsOut& out, const float* x, int n_rows);
    void rms_norm(const RowsOut& out, const float* x, const float* weight, float eps, int n_rows);
    void rms_norm_in_order(float* out, const float* x, const float* weight, float eps, int n, int n_rows);
    void layer_norm(const RowsOut& out, const float* x, const float* weight, const float* bias, float eps, int n_rows);
    void silu_mul(const RowsOut& out, const float* gate_up, Activation activation, int n_rows);
    void add_bias(float* x, const float* bias, int n, int n_rows);
    void soft_cap(float* x, float scale, float cap, int n, int n_rows);
    void clear(float* x, int n, int n_rows);
    void head_rms_norm(float* x, const float* weight, float eps, int n, int head_dim, int first_head, int n_heads,
                       int n_rows);
    void rope_store(const Rope& rope);
    // workspace: attention_workspace(a) bytes, aligned to 64.
    size_t attention_workspace(const Attention& a) const;
    void attention(const Attention& a, uint8_t* workspace);
    void latent_store(const LatentStore& s, const LatentRows& at);
    void latent_queries(const LatentQueries& q, const LatentRows& at);
    void head_products(const HeadProducts& p);
    // Workspaces of states: as many bytes as the function before says, aligned to 64.
    size_t conv_workspace(const StatePlaces& at) const;
    void causal_conv(const CausalConv& c, const StatePlaces& at, uint8_t* workspace);
    size_t delta_workspace(const DeltaRule& d, const StatePlaces& at) const;
    void delta_rule(const DeltaRule& d, const StatePlaces& at, uint8_t* workspace);
    void gated_norm(const RowsOut& out, float* x, const float* weight, const float* gate, int64_t gate_stride, float eps,
                    int width, int n_rows);
    void sigmoid_scale(const RowsOut& out, const float* x, const float* gate, int n_rows);
    void sigmoid_mul(const RowsOut& out, const float* x, const float* gate, int64_t gate_stride, int n_rows);
    // workspace: candidates_workspace(c) bytes, aligned to 64. A row with NaN or infinity has sums and logits of NaN.
    size_t candidates_workspace(const TopCandidates& c) const;
    void top_candidates(const TopCandidates& c, uint8_t* workspace);
    // Workspaces of mixtures: as many bytes as the function before says, aligned to 64.
    size_t router_workspace(const Router& r) const;
    void route(const Router& r, const Routing& routing, uint8_t* workspace);
    size_t gated_workspace(const ExpertsGated& g) const;
    void experts_gated(const ExpertsGated& g, const Routing& routing, uint8_t* workspace);
    size_t down_workspace(const ExpertsDown& d) const;
    void experts_down(const ExpertsDown& d, const Routing& routing, uint8_t* workspace);
    void encode_q80(uint8_t* out, const float* x, int n, int n_rows);
    // x += the sum of the parts, each of them rows like those of x.
    void add_q80(float* x, const WireParts& parts, int n, int n_rows, bool rounded);
    void add_norm_q80(const RowsOut& out, float* x, const WireParts& parts, const float* weight, float eps, int n_rows,
                      bool rounded);
    void add_f32(float* x, const float* parts, int n_parts, size_t part_stride, int n, int n_rows);

    // What other operations are measured against: reads the memory and returns something that depends on all of it;
    // does 8-bit multiply-adds on registers and returns how many operations that were.
    uint64_t read_memory(const uint8_t* data, size_t bytes);
    int64_t dot_peak(int64_t rounds);
    int64_t float_peak(int64_t rounds);  // the same with float32 multiply-adds

private:
    template <class Work>
    void for_spans(int n_rows, int n, int element_cost, const Work& work);
    template <class Work>
    void for_tiles(int n_tiles, size_t tile_bytes, int n_rows, const Work& work);
    template <class Work>
    void for_rows(int n_rows, int row_cost, const Work& work);
    template <class Work>
    void for_gated_rows(int n_rows, int n, const Work& work);

    const KernelTable& kernels_;
    ThreadPool pool_;
};

}  // namespace dllama

// What a table offers whatever the matrix products are: all kernels that are written once over a vector type S.
#pragma once

#include "attention_kernel.h"
#include "candidates_kernel.h"
#include "convert_kernel.h"
#include "delta_kernel.h"
#include "float_matmul.h"
#include "peak.h"
#include "quantize_kernel.h"
#include "router_kernel.h"
#include "sum_kernel.h"

namespace dllama {
namespace {

template <class S>
int64_t float_peak(int64_t rounds) {
    using F = typename S::F;
    return 2 * S::W * dot_peak<S::kRegisters / 2>(rounds, S::set1(0), S::set1(1), S::set1(0.5f),
                               [](F sum, F w, F x) { return S::fma(w, x, sum); });
}

// R rows in a tile; products with F16 and F32 weights take NG tiles at a time. What remains to be set are the products
// with weights of blocked types, their tile_group and unit_bytes, and dot_peak.
template <class S, int R, int NG>
KernelTable vector_table(const char* isa) {
    KernelTable table{};
    table.isa = isa;
    table.tile_rows = R;
    table.float_matmul[ElementType::f16] = float_matmul<S, R, NG, uint16_t>;
    table.float_matmul[ElementType::f32] = float_matmul<S, R, NG, float>;

    table.quantize = RowKernels<S>::quantize;
    table.rms_norm = RowKernels<S>::rms_norm;
    table.layer_norm = RowKernels<S>::layer_norm;
    table.gated = RowKernels<S>::gated;
    table.add = RowKernels<S>::add;
    table.add_scaled = RowKernels<S>::add_scaled;
    table.soft_cap = RowKernels<S>::soft_cap;
    table.rope = RowKernels<S>::rope;
    table.store_half = RowKernels<S>::store_half;
    table.encode_q80 = RowKernels<S>::encode_q80;
    table.add_sum_q80 = SumKernel<S>::add_sum_q80;
    table.add_sum_f32 = SumKernel<S>::add_sum_f32;
    table.sum_q80 = SumKernel<S>::sum_q80;

    table.router_norm = RouterKernel<S>::norm;
    table.router_logits = RouterKernel<S>::logits;

    table.attend_split = AttentionKernel<S>::attend_split;
    table.attend_merge = AttentionKernel<S>::attend_merge;
    table.attend_finish = AttentionKernel<S>::attend_finish;

    table.causal_conv = DeltaKernel<S>::causal_conv;
    table.delta_rule = DeltaKernel<S>::delta_rule;
    table.gated_norm = DeltaKernel<S>::gated_norm;
    table.sigmoid_scale = DeltaKernel<S>::sigmoid_scale;
    table.sigmoid_mul = DeltaKernel<S>::sigmoid_mul;

    table.block_maxima = CandidatesKernel<S>::block_maxima;
    table.sum_exp = CandidatesKernel<S>::sum_exp;

    table.float_peak = float_peak<S>;
    table.convert = ConvertKernel<S>::convert;
    table.quantize_weights = QuantizeKernel<S>::quantize;
    return table;
}

}  // namespace
}  // namespace dllama

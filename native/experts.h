// Mixtures of experts: which experts each row goes to, and products of rows with the matrices of their experts.
#pragma once

#include "kernel_table.h"

namespace dllama {

// Chooses the top_k experts of each row by the largest scores of its norm; of equals the lower id first. Scores are softmax
// or sigmoid of the logits, `logit_bias` among them. `choice_bias` is added for the choice alone, and for sigmoids only. With groups of neighbours
// only the experts of the best `top_groups` are there to choose: a group counts as the sum of its `group_best` best scores
// (with softmax as its best one).
struct Router {
    const float* x;        // [T, D], the residual stream
    const float* norm;     // [D]
    const float* weights;  // [n_experts, D]
    float eps;
    int n_rows, n, n_experts, top_k;
    bool renormalised;  // weights are the scores of the chosen ones over their sum; else their scores among all
    bool sigmoid = false;
    const float* choice_bias = nullptr;  // [n_experts]
    const float* logit_bias = nullptr;   // [n_experts]
    int n_groups = 1, top_groups = 1, group_best = 1;
    float scale = 1;  // of the weights
};

// Where the rows of a step go. A slot is one row at one expert; slots are ordered by expert, then by row.
struct Routing {
    float* logits;          // [T, n_experts]
    int32_t* ids;           // [T, top_k], by falling logit
    float* weights;         // [T, top_k]
    int32_t* first_slot;    // [n_experts + 1]: of each expert
    int32_t* slot_row;      // [T * top_k]
    float* slot_weight;     // [T * top_k]
    int n_experts, top_k;

    int n_rows_of(int expert) const { return first_slot[expert + 1] - first_slot[expert]; }
};

// Packed matrices [n_out, n_in] of one shape, one after another.
struct MatrixStack {
    const uint8_t* matrices;
    size_t matrix_bytes, tile_bytes;
    ElementType type;
    int n_out, n_in, first_run;  // as in PackedLayout

    const uint8_t* tile(int index, int tile) const { return matrices + index * matrix_bytes + tile * tile_bytes; }
};

// act(gate) * up of each slot: [slots, F].
struct ExpertsGated {
    MatrixStack stack;  // [F, D]: each expert's gate, then its up projection
    RowsOut x;          // [T, D]
    RowsOut out;        // [slots, F]
    Activation activation;
    int n_rows;
    const float* gate_bias = nullptr;  // [n_experts, F], added before the activation, both or none
    const float* up_bias = nullptr;
};

// out[row] = (out[row] or 0) + the sum of weight * product over the slots of the row, by rising expert.
struct ExpertsDown {
    MatrixStack stack;  // [D, F]
    RowsOut x;          // [slots, F]
    float* out;         // [T, D]
    int n_rows;
    bool adds;  // to what is in `out`
    const float* bias = nullptr;  // [n_experts, D], of each product
};

}  // namespace dllama

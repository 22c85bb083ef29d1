// The operations of mixtures of experts, with their arguments checked.
#include <algorithm>

#include "compute.h"
#include "operation_args.h"

namespace dllama {
namespace {

RoutedRows& routed(nb::handle object, int n_rows) {
    RoutedRows* rows;
    if (!nb::try_cast(object, rows)) wrong_type("routing must be RoutedRows");
    need_rows(n_rows, rows->max_rows, "routing");
    return *rows;
}

// What the router last chose, as far as it is what an operation was recorded for.
void need_routed(const RoutedRows& rows, int n_rows) {
    if (rows.n_rows != n_rows)
        wrong_value("routing is of " + std::to_string(rows.n_rows) + " rows, not of " + std::to_string(n_rows));
}

}  // namespace

void Compute::route(Object routing, Object x, Object norm, float eps, Object weights, int n_rows, bool renormalised,
                    bool sigmoid, Object choice_bias, int n_groups, int top_groups, int group_best,
                    float scale, Object logit_bias) {
    RoutedRows& to = routed(routing, n_rows);
    const FloatRows from(x, "x", n_rows);
    const ArrayArg norms(norm, "norm", kFloat32, 1), matrix(weights, "weights", kFloat32, 2);
    norms.need_size(0, from.n());
    matrix.need_size(0, to.n_experts);
    matrix.need_size(1, from.n());
    require(sigmoid || choice_bias.is_none(), "choice_bias", "is for sigmoids");
    const float* for_choice = optional_floats(choice_bias, "choice_bias", {to.n_experts});
    const float* of_logits = optional_floats(logit_bias, "logit_bias", {to.n_experts});
    require(n_groups >= 1 && to.n_experts % n_groups == 0, "n_groups", "must divide n_experts");
    const int width = to.n_experts / n_groups;
    require(top_groups >= 1 && top_groups <= n_groups && int64_t(top_groups) * width >= to.top_k, "top_groups",
            "must be 1 to n_groups, with experts enough");
    require(group_best >= 1 && group_best <= (sigmoid ? std::min(2, width) : 1), "group_best",
            "must be 1, or with sigmoids 2 where groups have as many");
    const Router r{from.values(), norms.data<float>(), matrix.data<float>(), eps, n_rows, from.n(), to.n_experts,
                   to.top_k, renormalised, sigmoid, for_choice, of_logits, n_groups, top_groups, group_best, scale};
    run({routing, x, norm, weights, choice_bias, logit_bias}, [this, r, &to] {
        ops_.route(r, to.routing(), workspace(ops_.router_workspace(r)));
        to.n_rows = r.n_rows;
    });
}

void Compute::experts_gated(Object out, Object stack_object, Object x, Object routing, int n_rows,
                            const std::string& activation, Object gate_bias, Object up_bias) {
    RoutedRows& by = routed(routing, n_rows);
    const PackedStack& stack = stack_of(stack_object, kernels());
    require(stack.n_matrices == 2 * by.n_experts, "stack", "must have a gate and an up projection for each expert");
    const RowsOut from = input_of(x, stack.layout, n_rows);
    const RowsOut to = RowsArg(out, "out", n_rows * by.top_k, stack.layout.n_out).rows;
    require(gate_bias.is_none() == up_bias.is_none(), "up_bias", "must be there where gate_bias is");
    const ExpertsGated g{matrices_of(stack),
                         from,
                         to,
                         activation_named(activation),
                         n_rows,
                         optional_floats(gate_bias, "gate_bias", {by.n_experts, stack.layout.n_out}),
                         optional_floats(up_bias, "up_bias", {by.n_experts, stack.layout.n_out})};
    run({out, stack_object, x, routing, gate_bias, up_bias}, [this, g, &by] {
        need_routed(by, g.n_rows);
        ops_.experts_gated(g, by.routing(), workspace(ops_.gated_workspace(g)));
    });
}

void Compute::experts_down(Object out, Object stack_object, Object x, Object routing, int n_rows, bool add, Object bias) {
    RoutedRows& by = routed(routing, n_rows);
    const PackedStack& stack = stack_of(stack_object, kernels());
    require(stack.n_matrices == by.n_experts, "stack", "must have a matrix for each expert");
    const RowsOut from = input_of(x, stack.layout, int64_t(n_rows) * by.top_k);
    const FloatRows to(out, "out", n_rows, Access::write);
    to.need_size(1, stack.layout.n_out);
    const ExpertsDown d{matrices_of(stack), from, to.values(), n_rows, add,
                        optional_floats(bias, "bias", {by.n_experts, stack.layout.n_out})};
    run({out, stack_object, x, routing, bias}, [this, d, &by] {
        need_routed(by, d.n_rows);
        ops_.experts_down(d, by.routing(), workspace(ops_.down_workspace(d)));
    });
}

}  // namespace dllama

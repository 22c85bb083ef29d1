// The operations of gated delta nets and gated attention, with their arguments checked.
#include "compute.h"
#include "operation_args.h"

namespace dllama {
namespace {

// Where rows stand, and the states of their sequences. What the arrays say is checked each time, before it is followed.
struct States {
    States(nb::handle positions, nb::handle sequence, nb::handle page_table, nb::handle state, int page_size, int n_dims,
           int n_rows)
        : positions(positions, "positions", kInt32, 1),
          sequence(sequence, "sequence", kInt32, 1),
          page_table(page_table, "page_table", kInt32, 2),
          state(state, "state", kFloat32, n_dims, Access::write) {
        need_rows(n_rows, this->positions.size(0), "positions");
        need_rows(n_rows, this->sequence.size(0), "sequence");
        require(page_size > 0, "page_size", "must be positive");
    }
    StatePlaces at(int page_size, int n_rows) const {
        return {positions.data<int32_t>(), sequence.data<int32_t>(), page_table.data<int32_t>(), int(page_table.size(1)),
                page_size, n_rows};
    }
    // A row reaches its own page, and that of the row before it.
    Places places(int page_size) const {
        return {positions.data<int32_t>(), sequence.data<int32_t>(), page_table.data<int32_t>(), page_table.size(0),
                state.size(0), page_size, int(page_table.size(1))};
    }

    ArrayArg positions, sequence, page_table, state;
};

void check_places(const Places& places, int n_rows) {
    places.check(n_rows, 2);
    for (int t = 1; t < n_rows; t++)
        require(places.sequence[t] != places.sequence[t - 1] || places.positions[t] == places.positions[t - 1] + 1,
                "positions", "of a sequence must follow each other");
}

// Columns [first, first + n) of float32 rows.
const float* columns_of(const FloatRows& rows, int first, int64_t n) {
    require(first >= 0 && first + n <= rows.n(), "first_column", "and what begins there reach outside");
    return rows.values() + first;
}

}  // namespace

void Compute::causal_conv(Object out, Object x, Object weights, Object state, Object positions, Object sequence,
                          Object page_table, int page_size, int n_rows) {
    const FloatRows from(x, "x", n_rows), to(out, "out", n_rows, Access::write);
    const ArrayArg kernel(weights, "weights", kFloat32, 2);
    const States states(positions, sequence, page_table, state, page_size, 3, n_rows);
    const int64_t n_channels = to.n(), width = kernel.size(0);
    require(width >= 1 && width <= kMostConvWidth, "weights", "must have 1 to 8 rows");
    kernel.need_size(1, n_channels);
    require(n_channels <= from.n(), "x", "must have at least as many columns as out");
    states.state.need_size(1, width - 1);
    states.state.need_size(2, n_channels);
    const CausalConv c{to.values(), from.values(), from.n(), kernel.data<float>(), states.state.data<float>(),
                       int(n_channels), int(width)};
    run({out, x, weights, state, positions, sequence, page_table},
        [this, c, at = states.at(page_size, n_rows), places = states.places(page_size)] {
            check_places(places, at.n_rows);
            ops_.causal_conv(c, at, workspace(ops_.conv_workspace(at)));
        });
}

void Compute::delta_rule(Object out, Object qkv, Object gates, int first_gate, Object log_rate, Object dt_bias, Object state,
                         Object positions, Object sequence, Object page_table, int page_size, int head_offset, int group,
                         int n_rows) {
    const FloatRows from(qkv, "qkv", n_rows), of_gates(gates, "gates", n_rows), to(out, "out", n_rows, Access::write);
    const ArrayArg rates(log_rate, "log_rate", kFloat32, 1), bias(dt_bias, "dt_bias", kFloat32, 1);
    const States states(positions, sequence, page_table, state, page_size, 4, n_rows);
    const int64_t n_heads = states.state.size(1), key_dim = states.state.size(2), value_dim = states.state.size(3);
    require(n_heads > 0 && key_dim > 0 && value_dim > 0, "state", "must not be empty");
    require(group > 0, "group", "must be positive");
    require(head_offset >= 0, "head_offset", "must not be negative");
    const int64_t n_key_heads = (n_heads - 1 + head_offset) / group + 1;
    rates.need_size(0, n_heads);
    bias.need_size(0, n_heads);
    to.need_size(1, n_heads * value_dim);
    from.need_size(1, 2 * n_key_heads * key_dim + n_heads * value_dim);
    const float* beta = columns_of(of_gates, first_gate, 2 * n_heads);
    const DeltaRule d{to.values(), from.values(), beta, beta + n_heads, of_gates.n(), rates.data<float>(),
                      bias.data<float>(), states.state.data<float>(), int(n_key_heads), int(n_heads), int(key_dim),
                      int(value_dim), head_offset, group};
    run({out, qkv, gates, log_rate, dt_bias, state, positions, sequence, page_table},
        [this, d, at = states.at(page_size, n_rows), places = states.places(page_size)] {
            check_places(places, at.n_rows);
            ops_.delta_rule(d, at, workspace(ops_.delta_workspace(d, at)));
        });
}

void Compute::gated_norm(Object out, Object x, Object weight, float eps, Object gate, int first_column, int n_rows) {
    const FloatRows from(x, "x", n_rows, Access::write), gates(gate, "gate", n_rows);
    const ArrayArg scale(weight, "weight", kFloat32, 1);
    require(scale.size(0) > 0 && from.n() % scale.size(0) == 0, "x", "must be whole heads of the weight's width");
    const float* by = columns_of(gates, first_column, from.n());
    const RowsArg to(out, "out", n_rows, from.n());
    run({out, x, weight, gate}, [=, to = to.rows, from = from.values(), scale = scale.data<float>(), stride = gates.n(),
                                 width = int(scale.size(0))] {
        ops_.gated_norm(to, from, scale, by, stride, eps, width, n_rows);
    });
}

void Compute::sigmoid_scale(Object out, Object x, Object gate, int n_rows) {
    const FloatRows from(x, "x", n_rows), gates(gate, "gate", n_rows);
    gates.need_size(1, 1);
    const RowsArg to(out, "out", n_rows, from.n());
    run({out, x, gate}, [=, to = to.rows, from = from.values(), by = gates.values()] {
        ops_.sigmoid_scale(to, from, by, n_rows);
    });
}

void Compute::sigmoid_mul(Object out, Object x, Object gate, int first_column, int n_rows) {
    const FloatRows from(x, "x", n_rows), gates(gate, "gate", n_rows);
    const float* by = columns_of(gates, first_column, from.n());
    const RowsArg to(out, "out", n_rows, from.n());
    run({out, x, gate}, [=, to = to.rows, from = from.values(), stride = gates.n()] {
        ops_.sigmoid_mul(to, from, by, stride, n_rows);
    });
}

}  // namespace dllama

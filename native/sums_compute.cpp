// Sums over ranks: arguments are checked here, the work is ops.cpp's.
#include "compute.h"
#include "operation_args.h"

namespace dllama {

void Compute::encode_q80(Object out, Object x, int n_rows) {
    const FloatRows from(x, "x", n_rows);
    const ArrayArg to(out, "out", kUint8, 2, Access::write);
    need_rows(n_rows, to.size(0), "out");
    to.need_size(1, (int64_t(from.n()) + kBlock - 1) / kBlock * kQ80Bytes);
    run({out, x}, [=, to = to.data<uint8_t>(), from = from.values(), n = from.n()] {
        ops_.encode_q80(to, from, n, n_rows);
    });
}

void Compute::add_q80(Object x, Object parts, int n_rows, bool rounded) {
    const FloatRows rows(x, "x", n_rows, Access::write);
    const WireArg from(parts, rows.n(), n_rows);
    run({x, parts}, [=, to = rows.values(), wire = from.parts(), n = rows.n()] {
        ops_.add_q80(to, wire, n, n_rows, rounded);
    });
}

void Compute::add_norm_q80(Object out, Object x, Object parts, Object weight, float eps, int n_rows, bool rounded) {
    const FloatRows rows(x, "x", n_rows, Access::write);
    const WireArg from(parts, rows.n(), n_rows);
    const ArrayArg scale(weight, "weight", kFloat32, 1);
    scale.need_size(0, rows.n());
    const RowsArg to(out, "out", n_rows, rows.n());
    run({out, x, parts, weight},
        [=, to = to.rows, values = rows.values(), wire = from.parts(), scale = scale.data<float>()] {
            ops_.add_norm_q80(to, values, wire, scale, eps, n_rows, rounded);
        });
}

void Compute::add_f32(Object x, Object parts, int n_rows) {
    const FloatRows rows(x, "x", n_rows, Access::write);
    const ArrayArg from(parts, "parts", kFloat32, 2);
    from.need_at_least(1, int64_t(rows.n()) * n_rows);
    require(from.size(0) > 0, "parts", "must not be empty");
    const int n_parts = int(from.size(0));
    const size_t stride = size_t(from.size(1));
    run({x, parts}, [=, to = rows.values(), from = from.data<float>(), n = rows.n()] {
        ops_.add_f32(to, from, n_parts, stride, n, n_rows);
    });
}

// On the calling thread, beside other operations: the thread that waits for the network adds while they compute.
void Compute::sum_q80(Object out, Object parts) const {
    const ArrayArg to(out, "out", kUint8, 1, Access::write);
    const ArrayArg from(parts, "parts", kUint8, 2);
    require(to.size(0) % kQ80Bytes == 0, "out", "must be whole Q80 blocks");
    from.need_at_least(1, to.size(0));
    const WireParts wire{from.data<uint8_t>(), size_t(from.size(1)), int(from.size(0))};
    const nb::gil_scoped_release release;
    kernels().sum_q80(to.data<uint8_t>(), wire, int(to.size(0) / kQ80Bytes));
}

}  // namespace dllama

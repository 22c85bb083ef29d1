// Gated delta nets: the convolution, the recurrence, and what gates rows.
#include "compare.h"

namespace compare {
namespace {

using namespace dllama;

std::string name_of(const char* what, int width, int n_rows, int more = 0) {
    char text[80];
    std::snprintf(text, sizeof text, "%s width=%d rows=%d %d", what, width, n_rows, more);
    return text;
}

// Pages of three positions, each in another place.
constexpr int kPageSize = 3, kPages = 16;
const int32_t kTable[kPages] = {5, 2, 9, 0, 11, 3, 8, 15, 1, 4, 13, 6, 14, 7, 12, 10};

void check_conv(const KernelTable& k, int n_channels, int width, int first, int n_rows, Random& random, Report& report) {
    const int stride = n_channels + 5;
    Guarded<float> x(size_t(n_rows) * stride), weights(size_t(width) * n_channels);
    Guarded<float> got(size_t(n_rows) * n_channels), wanted(got.size());
    Guarded<float> state(size_t(kPages) * (width - 1) * n_channels), wanted_state(state.size());
    random.fill_normal(x);
    random.fill_normal(weights);
    random.fill_normal(state);
    wanted_state.copy(state);
    const StateRun run{0, n_rows, first, kPageSize, kTable};
    const auto convolve = [&](const KernelTable& by, Guarded<float>& out, Guarded<float>& of) {
        const CausalConv c{out, x, stride, weights, of, n_channels, width};
        for (int from = 0; from < n_channels; from += kConvChannels)
            by.causal_conv(c, run, from, n_channels - from < kConvChannels ? n_channels - from : kConvChannels);
    };
    convolve(k, got, state);
    convolve(*scalar_kernels(), wanted, wanted_state);
    const auto bound = [&](size_t i) { return 40 * kEps * (4 + std::fabs(wanted[i])); };
    report.near(got, wanted, got.size(), bound, name_of("conv", width, n_rows, n_channels));
    report.equal<float>(state, wanted_state, state.size(), name_of("conv state", width, n_rows, n_channels));
    report.check(got.intact() && state.intact(), name_of("conv memory", width, n_rows));
}

void check_rule(const KernelTable& k, int key_dim, int value_dim, int first, int n_rows, Random& random, Report& report) {
    const int n_heads = 3, group = 2, offset = 1, n_keys = 2, width = 2 * n_keys * key_dim + n_heads * value_dim;
    Guarded<float> qkv(size_t(n_rows) * width), gates(size_t(n_rows) * 2 * n_heads), log_rate(n_heads), dt_bias(n_heads);
    Guarded<float> got(size_t(n_rows) * n_heads * value_dim), wanted(got.size());
    Guarded<float> state(size_t(kPages) * n_heads * key_dim * value_dim), wanted_state(state.size());
    Guarded<float> scratch(delta_scratch(key_dim, value_dim));
    random.fill_normal(qkv);
    random.fill_normal(gates, 2);
    random.fill_normal(log_rate);
    random.fill_normal(dt_bias);
    random.fill_normal(state);
    wanted_state.copy(state);
    const StateRun run{0, n_rows, first, kPageSize, kTable};
    const auto recur = [&](const KernelTable& by, Guarded<float>& out, Guarded<float>& of) {
        const DeltaRule d{out, qkv, gates, gates + n_heads, 2 * n_heads, log_rate, dt_bias, of,
                          n_keys, n_heads, key_dim, value_dim, offset, group};
        for (int head = 0; head < n_heads; head++) by.delta_rule(d, run, head, scratch);
    };
    recur(k, got, state);
    recur(*scalar_kernels(), wanted, wanted_state);
    // Each row rounds what is kept a few times; what was rounded before decays with it.
    const auto bound = [&](size_t) { return (key_dim + 20.0) * (n_rows + 4) * kEps; };
    report.near(got, wanted, got.size(), bound, name_of("delta rule", key_dim, n_rows, value_dim));
    report.near(state, wanted_state, state.size(), bound, name_of("delta state", key_dim, n_rows, value_dim));
    report.check(got.intact() && state.intact() && scratch.intact(), name_of("delta memory", key_dim, n_rows));
}

void check_gates(const KernelTable& k, int width, int n_heads, Random& random, Report& report) {
    const int n = width * n_heads;
    Guarded<float> x(n), again(n), gate(n), weight(width), got(n), wanted(n);
    random.fill_normal(x);
    random.fill_normal(gate, 8);
    random.fill_normal(weight);
    const auto near = [&](const char* what) {
        const auto bound = [&](size_t i) { return (n_heads + 40) * kEps * std::fabs(wanted[i]) + 1e-30; };
        report.near(got, wanted, n, bound, name_of(what, width, 1, n_heads));
        report.check(got.intact(), name_of("gate memory", width, 1, n_heads));
    };
    const RowOut to{got, nullptr, nullptr, nullptr}, wanted_to{wanted, nullptr, nullptr, nullptr};
    k.sigmoid_mul(to, x, gate, n);
    scalar_kernels()->sigmoid_mul(wanted_to, x, gate, n);
    near("sigmoid mul");
    k.sigmoid_scale(to, x, gate[0], n);
    scalar_kernels()->sigmoid_scale(wanted_to, x, gate[0], n);
    near("sigmoid scale");
    again.copy(x);
    k.gated_norm(to, x, weight, gate, 1e-6f, n_heads, width);
    scalar_kernels()->gated_norm(wanted_to, again, weight, gate, 1e-6f, n_heads, width);
    near("gated norm");
}

}  // namespace

void delta_nets(const KernelTable& k, Report& report) {
    Random random(9);
    for (int width : {1, 3, 4, 8})
        for (int n_rows : {1, 2, 7, 10}) {
            check_conv(k, 37, width, 0, n_rows, random, report);
            check_conv(k, 530, width, 5, n_rows, random, report);
            check_conv(k, 16, width, 3, n_rows, random, report);
        }
    for (int n_rows : {1, 2, 7, 10})
        for (int value_dim : {1, 15, 16, 33, 128}) {
            check_rule(k, 5, value_dim, 0, n_rows, random, report);
            check_rule(k, 32, value_dim, 6, n_rows, random, report);
        }
    for (int width : {1, 7, 32, 100})
        for (int n_heads : {1, 3}) check_gates(k, width, n_heads, random, report);
}

}  // namespace compare

// Splitting the operations of gated delta nets over threads: by sequences, and by channels or value heads.
#include <algorithm>

#include "ops.h"
#include "row_runs.h"

namespace dllama {
namespace {

constexpr int kGatedGrain = 2048;  // elements with an exponential that are worth handing to another thread

// Writes the runs of a step, one for each sequence; how many.
int make_runs(const StatePlaces& at, StateRun* runs) {
    int n = 0;
    for (int t = 0; t < at.n_rows; t++) {
        if (t > 0 && at.sequence[t] == at.sequence[t - 1])
            runs[n - 1].count++;
        else
            runs[n++] = {t, 1, at.positions[t], at.page_size, at.page_table + size_t(at.sequence[t]) * at.max_pages};
    }
    return n;
}

size_t runs_bytes(int n_rows) { return (size_t(n_rows) * sizeof(StateRun) + 63) / 64 * 64; }

}  // namespace

size_t Ops::conv_workspace(const StatePlaces& at) const { return runs_bytes(at.n_rows); }

void Ops::causal_conv(const CausalConv& c, const StatePlaces& at, uint8_t* workspace) {
    StateRun* const runs = reinterpret_cast<StateRun*>(workspace);
    const int n_runs = make_runs(at, runs);
    const int n_parts = (c.n_channels + kConvChannels - 1) / kConvChannels;
    pool_.run(n_runs * n_parts, [&](int i, int) {
        const int first = i % n_parts * kConvChannels;
        kernels_.causal_conv(c, runs[i / n_parts], first, std::min(kConvChannels, c.n_channels - first));
    });
}

size_t Ops::delta_workspace(const DeltaRule& d, const StatePlaces& at) const {
    return runs_bytes(at.n_rows) + n_threads() * delta_scratch(d.key_dim, d.value_dim) * sizeof(float);
}

void Ops::delta_rule(const DeltaRule& d, const StatePlaces& at, uint8_t* workspace) {
    StateRun* const runs = reinterpret_cast<StateRun*>(workspace);
    const int n_runs = make_runs(at, runs);
    float* const scratch = reinterpret_cast<float*>(workspace + runs_bytes(at.n_rows));
    pool_.run(n_runs * d.n_value_heads, [&](int i, int thread) {
        kernels_.delta_rule(d, runs[i / d.n_value_heads], i % d.n_value_heads,
                            scratch + size_t(thread) * delta_scratch(d.key_dim, d.value_dim));
    });
}

// Calls work(t) for each row.
template <class Work>
void Ops::for_gated_rows(int n_rows, int n, const Work& work) {
    const RowRuns runs(n_rows);
    const int step = std::max(1, kGatedGrain / std::max(1, n));
    runs.share(
        pool_, [&](int run) { return (runs.end(run) - runs.begin(run) + step - 1) / step; },
        [&](int run, int part, int) {
            const int begin = runs.begin(run) + part * step;
            for (int t = begin; t < std::min(runs.end(run), begin + step); t++) work(t);
        });
}

void Ops::sigmoid_mul(const RowsOut& out, const float* x, const float* gate, int64_t gate_stride, int n_rows) {
    for_gated_rows(n_rows, out.n, [&](int t) {
        kernels_.sigmoid_mul(out.at(t), x + size_t(t) * out.n, gate + t * gate_stride, out.n);
    });
}

void Ops::sigmoid_scale(const RowsOut& out, const float* x, const float* gate, int n_rows) {
    for_gated_rows(n_rows, out.n, [&](int t) {
        kernels_.sigmoid_scale(out.at(t), x + size_t(t) * out.n, gate[t], out.n);
    });
}

void Ops::gated_norm(const RowsOut& out, float* x, const float* weight, const float* gate, int64_t gate_stride, float eps,
                     int width, int n_rows) {
    for_gated_rows(n_rows, out.n, [&](int t) {
        kernels_.gated_norm(out.at(t), x + size_t(t) * out.n, weight, gate + t * gate_stride, eps, out.n / width, width);
    });
}

}  // namespace dllama

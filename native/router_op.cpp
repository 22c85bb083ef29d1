// The router of a mixture of experts. What it computes after the logits is scalar float32, each operation rounded by itself:
// all CPUs choose the same experts with the same weights.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "experts.h"
#include "ops.h"

namespace dllama {
namespace {

constexpr size_t kLine = 64;
// Rows whose norms a thread keeps while it multiplies them with all experts of the router.
constexpr int kRouterRows = 16;
// Added to the sum of sigmoids that others are divided by, as the models were trained: it may be 0.
constexpr float kLeastSum = 1e-20f;

int divide_up(int a, int b) { return (a + b - 1) / b; }
size_t round_to_line(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// e^x for x <= 0 within 3 ulp, 0 below -87: the polynomial of Cephes' expf (as in row_kernels.h) with each operation
// rounded by itself, so that it is the same on every CPU. NaN stays NaN.
float exp_below_zero(float x) {
    const float y = x < -87.0f ? -87.0f : x;
    const float shifted = y * 1.44269504f + 0x1.8p23f;  // the nearest whole number is in its low bits
    const float n = shifted - 0x1.8p23f;
    const float r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (r * r) * p + (r + 1.0f);
    uint32_t bits;
    std::memcpy(&bits, &shifted, 4);
    bits = (bits + 127) << 23;  // 2^n
    float power;
    std::memcpy(&power, &bits, 4);
    return x < -87.0f ? 0.0f : p * power;
}

// 1 / (1 + e^-x)
float sigmoid(float x) {
    const float e = exp_below_zero(x < 0 ? x : -x);
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

// The `n_best` largest of `n` scores in falling order, of equals the lower id first. NaN is larger than nothing: ids are
// valid whatever the scores are.
void choose(const float* scores, int n, int n_best, int32_t* ids) {
    for (int e = 0; e < n; e++) {
        int place = std::min(e, n_best);
        while (place > 0 && scores[e] > scores[ids[place - 1]]) place--;
        if (place == n_best) continue;
        for (int i = std::min(e, n_best - 1); i > place; i--) ids[i] = ids[i - 1];
        ids[place] = e;
    }
}

// Scores of experts outside of the best groups := -infinity. `sums`: room for a float and a number for each group.
void leave_groups(const Router& r, float* scores, float* sums) {
    const int width = r.n_experts / r.n_groups;
    int32_t best[2];
    for (int g = 0; g < r.n_groups; g++) {
        const float* group = scores + g * width;
        choose(group, width, r.group_best, best);
        sums[g] = r.group_best == 2 ? group[best[0]] + group[best[1]] : group[best[0]];
    }
    int32_t* order = reinterpret_cast<int32_t*>(sums + r.n_groups);
    choose(sums, r.n_groups, r.n_groups, order);
    for (int i = r.top_groups; i < r.n_groups; i++) std::fill_n(scores + order[i] * width, width, -INFINITY);
}

// `scores`: room for a float for each expert, and two for each group.
void choose_experts(const Router& r, const float* logits, float* scores, int32_t* ids) {
    const bool is_plain = !r.sigmoid && r.n_groups == r.top_groups;  // probabilities fall as logits do
    if (is_plain) return choose(logits, r.n_experts, r.top_k, ids);
    for (int e = 0; e < r.n_experts; e++) {
        scores[e] = r.sigmoid ? sigmoid(logits[e]) : logits[e];
        if (r.choice_bias) scores[e] += r.choice_bias[e];
    }
    if (r.n_groups > r.top_groups) leave_groups(r, scores, scores + r.n_experts);
    choose(scores, r.n_experts, r.top_k, ids);
}

void weigh(const Router& r, const float* logits, const int32_t* ids, float* weights) {
    if (r.sigmoid) {
        float total = 0;
        for (int k = 0; k < r.top_k; k++) total += weights[k] = sigmoid(logits[ids[k]]);
        if (r.renormalised)
            for (int k = 0; k < r.top_k; k++) weights[k] /= total + kLeastSum;
    } else {
        float largest = logits[ids[0]], total = 0;
        if (!r.renormalised)
            for (int e = 0; e < r.n_experts; e++) largest = logits[e] > largest ? logits[e] : largest;
        for (int k = 0; k < r.top_k; k++) weights[k] = exp_below_zero(logits[ids[k]] - largest);
        if (r.renormalised)
            for (int k = 0; k < r.top_k; k++) total += weights[k];
        else
            for (int e = 0; e < r.n_experts; e++) total += exp_below_zero(logits[e] - largest);
        for (int k = 0; k < r.top_k; k++) weights[k] /= total;
    }
    for (int k = 0; k < r.top_k; k++) weights[k] *= r.scale;
}

void order_slots(const Routing& routing, int n_rows) {
    const int n_slots = n_rows * routing.top_k;
    int32_t* next = routing.first_slot;  // next[e + 1]: where the next row of expert e goes
    std::fill_n(next, routing.n_experts + 1, 0);
    for (int i = 0; i < n_slots; i++)
        if (routing.ids[i] + 2 <= routing.n_experts) next[routing.ids[i] + 2]++;
    for (int e = 2; e <= routing.n_experts; e++) next[e] += next[e - 1];
    for (int i = 0; i < n_slots; i++) {
        const int slot = next[routing.ids[i] + 1]++;
        routing.slot_row[slot] = i / routing.top_k;
        routing.slot_weight[slot] = routing.weights[i];
    }
}

// Of the workspace of one thread: norms of rows, then the scores of one of them.
size_t thread_bytes(const Router& r) {
    return round_to_line(std::max(size_t(kRouterRows) * r.n, size_t(r.n_experts) + 2 * size_t(r.n_groups)) * 4);
}

}  // namespace

size_t Ops::router_workspace(const Router& r) const {
    return n_threads() * thread_bytes(r);
}

void Ops::route(const Router& r, const Routing& routing, uint8_t* workspace) {
    const int n_runs = divide_up(r.n_rows, kRouterRows);
    // Where rows are few, experts are shared out too; each chunk then works the norms of its rows out for itself.
    const int n_parts = std::clamp(3 * n_threads() / std::max(1, n_runs), 1, r.n_experts);
    const size_t bytes = thread_bytes(r);
    pool_.run(n_runs * n_parts, [&](int chunk, int thread) {
        float* normed = reinterpret_cast<float*>(workspace + thread * bytes);
        const int row = chunk / n_parts * kRouterRows, part = chunk % n_parts;
        const int n_rows = std::min(kRouterRows, r.n_rows - row);
        const int begin = int(int64_t(r.n_experts) * part / n_parts), end = int(int64_t(r.n_experts) * (part + 1) / n_parts);
        for (int t = 0; t < n_rows; t++)
            kernels_.router_norm(normed + size_t(t) * r.n, r.x + size_t(row + t) * r.n, r.norm, r.eps, r.n);
        kernels_.router_logits(routing.logits + size_t(row) * r.n_experts + begin, r.n_experts, normed,
                               r.weights + size_t(begin) * r.n, r.n, n_rows, end - begin);
    });
    pool_.run(n_runs, [&](int run, int thread) {
        float* scores = reinterpret_cast<float*>(workspace + thread * bytes);
        for (int t = run * kRouterRows; t < std::min(r.n_rows, (run + 1) * kRouterRows); t++) {
            if (r.logit_bias)
                for (int e = 0; e < r.n_experts; e++) routing.logits[size_t(t) * r.n_experts + e] += r.logit_bias[e];
            const float* logits = routing.logits + size_t(t) * r.n_experts;
            int32_t* ids = routing.ids + size_t(t) * r.top_k;
            choose_experts(r, logits, scores, ids);
            weigh(r, logits, ids, routing.weights + size_t(t) * r.top_k);
        }
    });
    order_slots(routing, r.n_rows);
}

}  // namespace dllama

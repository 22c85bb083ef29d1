// The largest logits of each row, and sums of exponentials: a pass for the maxima of blocks, then one in which chunks
// are summed while the blocks that can hold a candidate are searched.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops.h"

namespace dllama {
namespace {

// Logits that a thread takes at a time, about 2 microseconds of sums; whole blocks.
constexpr int kChunk = 8192;
constexpr size_t kLine = 64;
constexpr float kLog2E = 1.44269504f;

size_t round_to_line(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }
int divide_up(int a, int b) { return (a + b - 1) / b; }

// Sorts by falling logit, of equals by rising id: the logit's bits, made to fall as integers, before the id.
uint64_t key_of(float logit, uint32_t id) {
    const float value = logit + 0.0f;  // -0 is no less than 0
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint32_t rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return uint64_t(~rising) << 32 | id;
}

// Where things lie in the workspace.
struct Plan {
    Plan(const TopCandidates& c, int n_threads)
        : n_blocks(divide_up(c.n, kLogitBlock)), n_chunks(divide_up(c.n, kChunk)),
          maxima_bytes(round_to_line(size_t(n_blocks) * 4)), chunks_bytes(round_to_line(size_t(n_chunks) * 3 * 8)),
          keys_bytes(round_to_line(size_t(c.n_candidates) * 2 * 8)), row_bytes(maxima_bytes + chunks_bytes),
          bytes(size_t(c.n_rows) * row_bytes + size_t(n_threads) * keys_bytes), n_rows(c.n_rows) {}

    float* maxima(uint8_t* workspace, int row) const {  // [n_blocks]
        return reinterpret_cast<float*>(workspace + row * row_bytes);
    }
    double* chunks(uint8_t* workspace, int row) const {  // [n_chunks, 3]: the largest, and both sums
        return reinterpret_cast<double*>(workspace + row * row_bytes + maxima_bytes);
    }
    uint64_t* keys(uint8_t* workspace, int thread) const {  // [2 * n_candidates]
        return reinterpret_cast<uint64_t*>(workspace + n_rows * row_bytes + thread * keys_bytes);
    }

    int n_blocks, n_chunks;
    size_t maxima_bytes, chunks_bytes, keys_bytes, row_bytes, bytes;
    int n_rows;
};

int count_from(const float* values, int n, float bound) {
    int count = 0;
    for (int i = 0; i < n; i++) count += values[i] >= bound;
    return count;
}

// A number that at least `wanted` blocks, so as many logits, have or exceed, and if it can be not many more: searched for
// from the largest down, in steps that double and then halve. A tenth of the time of sorting as far as that.
float lower_bound(const float* maxima, int n_blocks, int wanted, float largest) {
    constexpr int kMostSteps = 24;
    if (wanted == 1) return largest;
    float low = largest, high = largest, step = std::max(1.0f, std::fabs(largest) / 64);
    int count = 0, n_steps = 0;
    for (; count < wanted; step *= 2) {
        if (wanted > n_blocks || ++n_steps > kMostSteps) return -INFINITY;
        high = low;
        low = largest - step;
        count = count_from(maxima, n_blocks, low);
    }
    while (count > wanted + wanted / 8 && ++n_steps <= kMostSteps) {
        const float middle = low + (high - low) / 2;
        const int count_middle = count_from(maxima, n_blocks, middle);
        if (count_middle < wanted) {
            high = middle;
        } else {
            low = middle;
            count = count_middle;
        }
    }
    return low;
}

// Writes the row's candidates; fewer than n_candidates only where logits are NaN. keys has room for twice as many.
void select(const TopCandidates& c, int row, const float* maxima, float largest, uint64_t* keys) {
    const float* x = c.logits + size_t(row) * c.n;
    const int wanted = c.n_candidates;
    float bound = lower_bound(maxima, divide_up(c.n, kLogitBlock), wanted, largest);
    uint64_t last = key_of(bound, std::numeric_limits<uint32_t>::max());
    int n = 0;
    for (int begin = 0; begin < c.n; begin += kLogitBlock) {
        if (maxima[begin / kLogitBlock] < bound) continue;
        const int end = std::min(c.n, begin + kLogitBlock);
        for (int i = begin; i < end; i++) {
            if (!(x[i] >= bound)) continue;
            const uint64_t key = key_of(x[i], uint32_t(i));
            if (key > last) continue;
            keys[n++] = key;
            if (n < 2 * wanted) continue;
            std::nth_element(keys, keys + wanted - 1, keys + n);
            n = wanted;
            last = keys[wanted - 1];
            bound = x[uint32_t(last)];
        }
    }
    if (n > wanted) std::nth_element(keys, keys + wanted - 1, keys + n);
    n = std::min(n, wanted);
    std::sort(keys, keys + n);
    for (int i = 0; i < n; i++) {
        const uint32_t id = uint32_t(keys[i]);
        c.ids[size_t(row) * wanted + i] = c.first_id + int32_t(id);
        c.largest[size_t(row) * wanted + i] = x[id];
    }
}

// How many different sums a row needs.
int n_sums(float temperature) { return temperature > 0 && temperature != 1 ? 2 : 1; }

void mark_as_no_numbers(const TopCandidates& c, int row) {
    for (int i = 0; i < c.n_candidates; i++) {
        c.ids[size_t(row) * c.n_candidates + i] = c.first_id + i;
        c.largest[size_t(row) * c.n_candidates + i] = NAN;
    }
}

// Adds up the chunks [n_chunks, 3] of a row, in their order.
void write_sums(const TopCandidates& c, int row, const double* chunks, int n_chunks) {
    const float temperature = c.temperature[row];
    double sums[2] = {0, 0}, most = -INFINITY;
    for (int chunk = 0; chunk < n_chunks; chunk++) {
        most = std::max(most, chunks[chunk * 3]);
        for (int i = 0; i < n_sums(temperature); i++) sums[i] += chunks[chunk * 3 + 1 + i];
    }
    if (std::isnan(sums[0]))
        mark_as_no_numbers(c, row);
    else if (most == -INFINITY)  // nothing is allowed: the little that each kernel gives for minus infinity is nothing
        sums[0] = sums[1] = 0;
    c.sums[row] = sums[0];
    c.sums[c.n_rows + row] = temperature > 0 ? sums[n_sums(temperature) - 1] : std::nan("");
}

}  // namespace

size_t Ops::candidates_workspace(const TopCandidates& c) const { return Plan(c, n_threads()).bytes; }

void Ops::top_candidates(const TopCandidates& c, uint8_t* workspace) {
    const Plan plan(c, n_threads());
    const auto logits = [&](int row, int chunk) { return c.logits + size_t(row) * c.n + size_t(chunk) * kChunk; };
    const auto count = [&](int chunk) { return std::min(kChunk, c.n - chunk * kChunk); };

    pool_.run(c.n_rows * plan.n_chunks, [&](int i, int) {
        const int row = i / plan.n_chunks, chunk = i % plan.n_chunks;
        float* maxima = plan.maxima(workspace, row) + chunk * (kChunk / kLogitBlock);
        kernels_.block_maxima(maxima, logits(row, chunk), count(chunk));
        plan.chunks(workspace, row)[chunk * 3] = *std::max_element(maxima, maxima + divide_up(count(chunk), kLogitBlock));
    });
    const auto largest = [&](int row) {
        double most = -INFINITY;
        for (int chunk = 0; chunk < plan.n_chunks; chunk++) most = std::max(most, plan.chunks(workspace, row)[chunk * 3]);
        return float(most);
    };

    pool_.run(c.n_rows * (1 + plan.n_chunks), [&](int i, int thread) {
        if (i < c.n_rows) {
            select(c, i, plan.maxima(workspace, i), largest(i), plan.keys(workspace, thread));
            return;
        }
        const int row = (i - c.n_rows) / plan.n_chunks, chunk = (i - c.n_rows) % plan.n_chunks;
        const float offset = largest(row) == -INFINITY ? 0 : largest(row);  // minus infinity less itself would be NaN
        double* sums = plan.chunks(workspace, row) + chunk * 3 + 1;
        const float scales[2] = {kLog2E, std::min(kLog2E / c.temperature[row], std::numeric_limits<float>::max())};
        kernels_.sum_exp(sums, logits(row, chunk), count(chunk), offset, scales, n_sums(c.temperature[row]));
    });
    for (int row = 0; row < c.n_rows; row++) {
        write_sums(c, row, plan.chunks(workspace, row), plan.n_chunks);
    }
}

}  // namespace dllama

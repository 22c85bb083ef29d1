#include "merge_candidates.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dllama {
namespace {

bool comes_before(float a, float b) { return a > b || (std::isnan(b) && !std::isnan(a)); }

// The first of what is left of each part, again and again; n_taken has an entry for each part.
void merge_row(const std::vector<RankPart>& parts, int row, const MergedCandidates& merged, std::vector<int>& n_taken) {
    const auto next = [&](size_t part) {
        return parts[part].logits[size_t(row) * parts[part].n_candidates + n_taken[part]];
    };
    const size_t start = size_t(row) * merged.n_candidates;
    std::fill(n_taken.begin(), n_taken.end(), 0);
    for (int i = 0; i < merged.n_candidates; i++) {
        size_t first = parts.size();
        for (size_t part = 0; part < parts.size(); part++) {
            if (n_taken[part] == parts[part].n_candidates) continue;
            if (first == parts.size() || comes_before(next(part), next(first))) first = part;
        }
        merged.logits[start + i] = next(first);
        merged.ids[start + i] = parts[first].ids[size_t(row) * parts[first].n_candidates + n_taken[first]++];
    }
}

// The log of the sum over all of exp(logit / temperature), from each part's sum, where its largest logit counts as 1.
double log_sum(const std::vector<RankPart>& parts, int row, size_t sum, double temperature) {
    double largest = -INFINITY, total = 0;
    const auto exponent = [&](const RankPart& part) {
        return double(part.logits[size_t(row) * part.n_candidates]) / temperature;
    };
    for (const RankPart& part : parts) largest = std::max(largest, exponent(part));
    for (const RankPart& part : parts) {
        const double of_part = part.sums[sum];
        if (of_part != 0) total += of_part * std::exp(exponent(part) - largest);
    }
    return std::log(total) + largest;
}

float target_logit(const std::vector<RankPart>& parts, int row) {
    for (const RankPart& part : parts)
        if (!std::isnan(part.target_logits[row])) return part.target_logits[row];
    return std::numeric_limits<float>::quiet_NaN();
}

}  // namespace

void merge_candidates(const std::vector<RankPart>& parts, const float* temperature, int n_rows,
                      const MergedCandidates& merged) {
    std::vector<int> n_taken(parts.size());
    for (int row = 0; row < n_rows; row++) {
        merge_row(parts, row, merged, n_taken);
        merged.log_sums[row] = log_sum(parts, row, size_t(row), 1);
        merged.log_sums[n_rows + row] = log_sum(parts, row, size_t(n_rows + row), temperature[row]);
        merged.target_logits[row] = target_logit(parts, row);
    }
}

}  // namespace dllama

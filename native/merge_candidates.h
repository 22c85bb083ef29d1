// What several ranks found in their spans of the vocabulary becomes what one would have found in all of it. Native, since
// it stands between two steps, where all ranks wait, and the weights have gone through the caches: for one row NumPy's
// operations took 113 us there and this takes 21; for 64 rows of 256 candidates, with warm caches, 226 and 70.
#pragma once

#include <cstdint>
#include <vector>

namespace dllama {

// Of one rank, for n_rows rows: see RankCandidates in model/candidates.py.
struct RankPart {
    const int32_t* ids;
    const float* logits;
    const double* sums;
    const float* target_logits;
    int n_candidates;
};

// Of all ranks: see Candidates in model/logits.py.
struct MergedCandidates {
    int32_t* ids;
    float* logits;
    double* log_sums;  // [2, n_rows]: log_sum_exp and log_sum_exp_at_t
    float* target_logits;
    int n_candidates;  // at most as many as all parts have
};

// `parts` in the order of their spans: of equal logits those of the first come first, NaN last.
void merge_candidates(const std::vector<RankPart>& parts, const float* temperature, int n_rows,
                      const MergedCandidates& merged);

}  // namespace dllama

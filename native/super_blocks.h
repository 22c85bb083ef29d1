// What the quantisers of super-blocks have in common: 256 weights whose runs of 32 or 16 have small whole numbers for scales,
// in units of a float16. Written once over a vector type S, with the search of scale_search.h.
//
// First each run gets the scale (and for Q4K the minimum) that would be the best for it alone. Then units for these are
// tried side by side; with each unit a run has the choice of a few whole numbers, among them those to which rounding to
// nearest without any search would lead. So no super-block is worse than by that.
#pragma once

#include "scale_search.h"

namespace dllama {
namespace {

constexpr int kSuperBlock = 256;

// Whole numbers of some unit that the lanes consider for a run, and the best so far.
template <class S, int numbers>
struct BestOfRun {
    using F = typename S::F;
    static constexpr int N = Lanes<S>::N;
    F error[N], number[numbers][N];

    void begin() {
        for (int i = 0; i < N; i++) error[i] = S::set1(__builtin_inff());
        for (auto& lanes : number)
            for (int i = 0; i < N; i++) lanes[i] = S::set1(0);
    }
    void consider(const F new_error[N], const F (*new_number)[N]) {
        for (int i = 0; i < N; i++) {
            for (int k = 0; k < numbers; k++)
                number[k][i] = S::select_less(new_error[i], error[i], new_number[k][i], number[k][i]);
            error[i] = S::select_less(new_error[i], error[i], new_error[i], error[i]);
        }
    }
};

// `value`, which a float16 has, as one.
template <class S>
void write_half(uint8_t* out, float value) {
    uint16_t halves[S::W];
    S::store_half(halves, S::set1(value));
    std::memcpy(out, halves, 2);
}

}  // namespace
}  // namespace dllama

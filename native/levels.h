// The levels that quants stand for, as floats: which of them is nearest to a weight that was divided by its scale.
#pragma once

#include "row_kernels.h"

namespace dllama {
namespace {

// Whole numbers from `low` to `high`.
template <class S, int low, int high>
struct WholeLevels {
    using F = typename S::F;
    // Halves to even; NaN becomes `high`.
    static F nearest(F v) {
        const F limited = S::max(S::min(v, S::set1(high)), S::set1(low)), shift = S::set1(0x1.8p23f);
        return S::sub(S::add(limited, shift), shift);
    }
};

constexpr int kTableLevels = 16;
// The levels of IQ4_NL, and of IQ4_XS, in 127ths: close together in the middle, where most weights are.
constexpr float kIq4Levels[kTableLevels] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

template <class S>
struct Iq4Levels {
    using F = typename S::F;
    // Halves to the lower one; NaN becomes the lowest.
    static INLINE F nearest(F v) {
        static constexpr Table levels([](int i) { return kIq4Levels[i]; });
        return of_nearest(v, levels);
    }
    // Which of the levels that is.
    static F index(F v) {
        static constexpr Table indices([](int i) { return float(i); });
        return of_nearest(v, indices);
    }

private:
    // What is said of levels 0, 2, ..., then of levels 1, 3, ...
    struct Table {
        float of[kTableLevels];
        template <class Of>
        explicit constexpr Table(const Of& value) : of{} {
            for (int i = 0; i < kTableLevels; i++) of[i % 2 * 8 + i / 2] = value(i);
        }
        constexpr float at(int i) const { return of[i % 2 * 8 + i / 2]; }
    };

    static constexpr float middle(int i) { return (kIq4Levels[i] + kIq4Levels[i + 1]) / 2; }

    static INLINE F of_nearest(F v, const Table& table) {
        if constexpr (S::kPicks) {  // halving what is left four times
            static constexpr float third[8] = {middle(1), middle(5), middle(9), middle(13)};
            static constexpr float fourth[8] = {middle(0), middle(2),  middle(4),  middle(6),
                                         middle(8), middle(10), middle(12), middle(14)};
            const F first = S::set1(middle(7)), second = S::select_less(first, v, S::set1(middle(11)), S::set1(middle(3)));
            auto i = S::twice_plus_less(S::round_to_int(S::set1(0)), first, v);
            i = S::twice_plus_less(i, second, v);
            i = S::twice_plus_less(i, S::pick8(third, i), v);
            return S::pick_of_two(table.of, i, S::pick8(fourth, i), v);
        } else {
            F found = S::set1(table.at(0));
            UNROLL_ALL for (int i = 1; i < kTableLevels; i++)
                found = S::select_less(S::set1(middle(i - 1)), v, S::set1(table.at(i)), found);
            return found;
        }
    }
};

}  // namespace
}  // namespace dllama

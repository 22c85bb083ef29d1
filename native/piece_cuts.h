// Every way to cut pieces of a vocabulary in two that are pieces themselves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dllama {

// n pieces, all different, as UTF-8 one after another: piece i ends before byte ends[i] of `text`.
struct Pieces {
    const char* text;
    const int64_t* ends;
    int n;

    size_t begin(int piece) const { return piece ? size_t(ends[piece - 1]) : 0; }
    size_t length(int piece) const { return size_t(ends[piece]) - begin(piece); }
};

struct PieceCuts {
    std::vector<int32_t> left, right;  // numbers of the pieces that the two parts are
};

// Those of the first n_cut pieces, in their order, and those of one piece from the shortest first part on.
PieceCuts piece_cuts(const Pieces& pieces, int n_cut);

}  // namespace dllama

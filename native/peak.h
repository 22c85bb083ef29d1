// The limit that products of many rows are measured against: the instruction set's own 8-bit dot product, on registers
// alone.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>  // or what stands in for it where the instruction set is emulated
#endif

#include "opaque.h"

namespace dllama {
namespace {

// Chains of sums hide the latency of a step. `step(sum, w, x)` returns the next sum; `rounds` for all of N chains. With 32
// registers 16 chains are more than any core needs (vpdpbusd: 5 to 6 cycles, 2 a cycle); with 16 registers 12 fit beside
// the operands, and AVX2's step, a product and an addition, needs 8 at the most: the product is in no chain. Returns the
// number of steps.
template <int N, class Sum, class Operand, class Step>
int64_t dot_peak(int64_t rounds, Sum zero, Operand w, Operand x, const Step& step) {
    Sum sums[N];
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) sums[i] = zero;
    for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 16
        for (int i = 0; i < N; i++) {
            DLLAMA_OPAQUE(w);
            sums[i] = step(sums[i], w, x);
            DLLAMA_OPAQUE(sums[i]);
        }
    return rounds * N;
}

}  // namespace
}  // namespace dllama

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

// Eight sums hide the latency of a step: 4 to 5 cycles, at most 2 steps a cycle, on the cores that we know; more did
// not fit into 16 registers with the compiler's copies. `step(sum, w, x)` returns the next sum. Returns the number of
// steps.
template <class Sum, class Operand, class Step>
int64_t dot_peak(int64_t rounds, Sum zero, Operand w, Operand x, const Step& step) {
    Sum a = zero, b = zero, c = zero, d = zero, e = zero, f = zero, g = zero, h = zero;
    const auto next = [&](Sum& sum) {
        DLLAMA_OPAQUE(w);
        sum = step(sum, w, x);
        DLLAMA_OPAQUE(sum);
    };
    for (int64_t round = 0; round < rounds; round++) next(a), next(b), next(c), next(d), next(e), next(f), next(g), next(h);
    return rounds * 8;
}

}  // namespace
}  // namespace dllama

#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace dllama {
namespace {

#if defined(__x86_64__)
struct Registers {
    unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
    Registers r;
    if (__get_cpuid_max(0, nullptr) >= leaf) __cpuid_count(leaf, subleaf, r.a, r.b, r.c, r.d);
    return r;
}

bool bit(unsigned word, int index) { return word >> index & 1; }

// Register state that the operating system saves on a switch (XCR0); 0 without XSAVE.
unsigned saved_state() {
    if (!bit(cpuid(1, 0).c, 27)) return 0;
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

[[maybe_unused]] bool has_avx2() {
    const Registers one = cpuid(1, 0), seven = cpuid(7, 0);
    const bool fma = bit(one.c, 12), f16c = bit(one.c, 29), avx2 = bit(seven.b, 5);
    return (saved_state() & 0x6) == 0x6 && fma && f16c && avx2;  // XMM and YMM
}

[[maybe_unused]] bool has_avx512() {
    const Registers seven = cpuid(7, 0);
    const bool f = bit(seven.b, 16), bw = bit(seven.b, 30), vl = bit(seven.b, 31), vnni = bit(seven.c, 11);
    return (saved_state() & 0xE0) == 0xE0 && has_avx2() && f && bw && vl && vnni;  // mask registers and ZMM
}
#endif

}  // namespace

int usable_kernels(const KernelTable* out[kMaxIsas]) {
    int n = 0;
#if defined(DLLAMA_AVX512)
    if (has_avx512()) out[n++] = avx512_kernels();
#endif
#if defined(DLLAMA_AVX2)
    if (has_avx2()) out[n++] = avx2_kernels();
#endif
    out[n++] = scalar_kernels();
    return n;
}

}  // namespace dllama

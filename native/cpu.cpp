#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
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

[[maybe_unused]] bool has_avxvnni() { return has_avx2() && cpuid(7, 0).a >= 1 && bit(cpuid(7, 1).a, 4); }
#elif defined(__aarch64__) && defined(__linux__)
// The kernel's documented bits (Documentation/arch/arm64/elf_hwcaps.rst); headers of old systems lack the names.
[[maybe_unused]] bool has_dotprod() { return getauxval(AT_HWCAP) >> 20 & 1; }
[[maybe_unused]] bool has_i8mm() { return getauxval(AT_HWCAP2) >> 13 & 1; }
#elif defined(__aarch64__) && defined(__APPLE__)
bool has_feature(const char* name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
[[maybe_unused]] bool has_dotprod() { return has_feature("hw.optional.arm.FEAT_DotProd"); }
[[maybe_unused]] bool has_i8mm() { return has_feature("hw.optional.arm.FEAT_I8MM"); }
#else
[[maybe_unused]] bool has_dotprod() { return false; }
[[maybe_unused]] bool has_i8mm() { return false; }
#endif

}  // namespace

int usable_kernels(const KernelTable* out[kMaxIsas]) {
    int n = 0;
#if defined(DLLAMA_AVX512)
    if (has_avx512()) out[n++] = avx512_kernels();
#endif
#if defined(DLLAMA_AVXVNNI)
    if (has_avxvnni()) out[n++] = avxvnni_kernels();
#endif
#if defined(DLLAMA_AVX2)
    if (has_avx2()) out[n++] = avx2_kernels();
#endif
#if defined(DLLAMA_NEON_I8MM)
    if (has_i8mm()) out[n++] = neon_i8mm_kernels();
#endif
#if defined(DLLAMA_NEON_DOTPROD)
    if (has_dotprod()) out[n++] = neon_dotprod_kernels();
#endif
#if defined(DLLAMA_NEON)
    out[n++] = neon_kernels();  // every aarch64 CPU
#endif
    out[n++] = scalar_kernels();
    return n;
}

}  // namespace dllama

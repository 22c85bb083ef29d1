#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dllama {

// Between two looks at what is waited for: tells the core that this is only a wait.
inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");  // "yield" does nothing on most cores
#endif
}

}  // namespace dllama

// A value that the compiler must have in a register, as it is.
#pragma once

// Keeps the compiler from computing `v` once for several rounds of a loop, from moving where it is computed, and from
// reading it from memory again where a register was meant to hold it.
#if defined(DLLAMA_EMULATED)
#define DLLAMA_OPAQUE(v) (void)(v)
#elif defined(__AVX512F__)
#define DLLAMA_OPAQUE(v) __asm__ volatile("" : "+v"(v))  // any of 32
#elif defined(__x86_64__)
#define DLLAMA_OPAQUE(v) __asm__ volatile("" : "+x"(v))
#elif defined(__aarch64__)
#define DLLAMA_OPAQUE(v) __asm__ volatile("" : "+w"(v))
#else
#define DLLAMA_OPAQUE(v) __asm__ volatile("" : "+m"(v))
#endif

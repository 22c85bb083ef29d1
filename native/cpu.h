// Which instruction sets this machine's CPU and operating system both support.
#pragma once

#include "kernel_table.h"

namespace dllama {

constexpr int kMaxIsas = 8;

// Fills `out` with the usable tables, best first, and returns how many; "scalar" is always the last.
int usable_kernels(const KernelTable* out[kMaxIsas]);

}  // namespace dllama

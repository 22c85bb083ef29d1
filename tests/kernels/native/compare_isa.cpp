// Compares an instruction set's kernels with the scalar ones: compare_isa NAME. Exit code 1 when they differ.
// compare_isa --list prints what the machine's CPU and system support, best first.
#include "compare.h"
#include "cpu.h"

namespace {

// A built table by name, whether or not the CPU is known to have it: an emulation may do it instead.
const dllama::KernelTable* table_of(const std::string& name) {
    using dllama::KernelTable;
    const KernelTable* const built[] = {
        dllama::scalar_kernels(),
#if defined(DLLAMA_AVX2)
        dllama::avx2_kernels(),
#endif
#if defined(DLLAMA_AVXVNNI)
        dllama::avxvnni_kernels(),
#endif
#if defined(DLLAMA_AVX512)
        dllama::avx512_kernels(),
#endif
#if defined(DLLAMA_NEON)
        dllama::neon_kernels(),
#endif
#if defined(DLLAMA_NEON_DOTPROD)
        dllama::neon_dotprod_kernels(),
#endif
#if defined(DLLAMA_NEON_I8MM)
        dllama::neon_i8mm_kernels(),
#endif
    };
    for (const KernelTable* table : built)
        if (name == table->isa) return table;
    return nullptr;
}

}  // namespace

int main(int n_args, char** args) {
    const std::string name = n_args == 2 ? args[1] : "";
    if (name == "--list") {
        const dllama::KernelTable* tables[dllama::kMaxIsas];
        const int n = dllama::usable_kernels(tables);
        for (int i = 0; i < n; i++) std::printf("%s\n", tables[i]->isa);
        return 0;
    }
    const dllama::KernelTable* kernels = table_of(name);
    if (!kernels) {
        std::printf("no kernels are named '%s' here\n", name.c_str());
        return 2;
    }
    compare::Report report;
    compare::matmuls(*kernels, report);
    compare::rows(*kernels, report);
    compare::conversions(*kernels, report);
    compare::attentions(*kernels, report);
    compare::candidates(*kernels, report);
    compare::delta_nets(*kernels, report);
    compare::routers(*kernels, report);
    compare::quantizations(*kernels, report);
    std::printf("%s: %d of %d comparisons failed\n", kernels->isa, report.n_failures(), report.n_checks());
    return report.n_failures() > 0;
}

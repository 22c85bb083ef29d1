// The router's arithmetic, the same bits in every instruction set.
#include "compare.h"

namespace compare {
namespace {

using namespace dllama;

std::string name_of(const char* what, int n, int n_rows = 1, int n_experts = 0) {
    char text[80];
    std::snprintf(text, sizeof text, "%s n=%d rows=%d experts=%d", what, n, n_rows, n_experts);
    return text;
}

void check_norm(const KernelTable& k, int n, Random& random, Report& report) {
    Guarded<float> x(n), weight(n), got(n), wanted(n);
    random.fill_normal(x, 3);
    random.fill_normal(weight);
    k.router_norm(got, x, weight, 1e-6f, n);
    scalar_kernels()->router_norm(wanted, x, weight, 1e-6f, n);
    report.equal<float>(got, wanted, n, name_of("router norm", n));
    report.check(got.intact(), name_of("router norm memory", n));
}

void check_logits(const KernelTable& k, int n, int n_rows, int n_experts, Random& random, Report& report) {
    const int stride = n_experts + 3;
    Guarded<float> x(size_t(n_rows) * n), w(size_t(n_experts) * n);
    Guarded<float> got(size_t(n_rows) * stride), wanted(size_t(n_rows) * stride);
    random.fill_normal(x);
    random.fill_normal(w);
    got.fill(7), wanted.fill(7);  // between the rows too
    k.router_logits(got, stride, x, w, n, n_rows, n_experts);
    scalar_kernels()->router_logits(wanted, stride, x, w, n, n_rows, n_experts);
    report.equal<float>(got, wanted, got.size(), name_of("router logits", n, n_rows, n_experts));
    report.check(got.intact(), name_of("router logits memory", n, n_rows, n_experts));
}

}  // namespace

void routers(const KernelTable& k, Report& report) {
    Random random(5);
    for (int n : {1, 7, 15, 16, 17, 31, 32, 100, 2049}) {
        check_norm(k, n, random, report);
        for (int n_rows : {1, 2, 3, 5, 8})
            for (int n_experts : {1, 2, 3, 9}) check_logits(k, n, n_rows, n_experts, random, report);
    }
}

}  // namespace compare

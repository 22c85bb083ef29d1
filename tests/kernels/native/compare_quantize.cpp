// Weights to blocks whose scales are searched: the same bytes and the same verdict.
#include "compare.h"

namespace compare {
namespace {

using namespace dllama;

void check(const KernelTable& k, ElementType type, float scale, bool weighted, Random& random, Report& report) {
    constexpr size_t n = 512;
    Guarded<float> x(n), importance(n);
    random.fill_normal(x, scale);
    for (size_t i = 0; i < n; i++) importance[i] = weighted && random.bits() % 8 ? std::fabs(random.normal()) : 0;
    const float* of_columns = weighted ? &importance[0] : nullptr;
    Guarded<uint8_t> got(bytes_of(type, n)), wanted(bytes_of(type, n));
    const bool good = k.quantize_weights(got, type, x, of_columns, n);
    const bool wanted_good = scalar_kernels()->quantize_weights(wanted, type, x, of_columns, n);
    char name[80];
    std::snprintf(name, sizeof name, "quantize to %s scale=%g%s", traits_of(type).name, scale, weighted ? " weighted" : "");
    report.check(good == wanted_good && got.intact(), std::string(name) + " verdict");
    if (wanted_good) report.equal<uint8_t>(got, wanted, got.size(), name);
}

void check_not_finite(const KernelTable& k, ElementType type, Report& report) {
    for (const float bad : {NAN, INFINITY, -INFINITY})
        for (int where = 0; where < 256; where += 17) {
            Guarded<float> x(256);
            x.fill(1);
            x[where] = bad;
            Guarded<uint8_t> to(bytes_of(type, 256));
            report.check(!k.quantize_weights(to, type, x, nullptr, 256),
                         std::string("quantize to ") + traits_of(type).name + ": not finite at " + std::to_string(where));
        }
}

}  // namespace

void quantizations(const KernelTable& k, Report& report) {
    Random random(11);
    for (const ElementType type : {ElementType::q40, ElementType::q80, ElementType::iq4nl, ElementType::q4k, ElementType::q6k}) {
        check_not_finite(k, type, report);
        for (const float scale : {0.f, 1e-42f, 1e-6f, 0.02f, 1.f, 3e4f, 1e38f})
            for (const bool weighted : {false, true}) check(k, type, scale, weighted, random, report);
    }
}

}  // namespace compare

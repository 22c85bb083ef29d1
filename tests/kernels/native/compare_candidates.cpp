// Maxima of blocks, which are exact, and sums of exponentials within their roundings.
#include "compare.h"

namespace compare {
namespace {

using namespace dllama;

const std::vector<int> kLengths = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 1023, 1024, 1025, 2111};

std::string name_of(const char* what, int n, float scale) {
    char text[80];
    std::snprintf(text, sizeof text, "%s n=%d scale=%g", what, n, scale);
    return text;
}

void check_maxima(const KernelTable& k, const Guarded<float>& x, const std::string& name, Report& report) {
    const int n = int(x.size()), n_blocks = (n + kLogitBlock - 1) / kLogitBlock;
    Guarded<float> got(n_blocks);
    k.block_maxima(got, x, n);
    bool right = true;
    for (int b = 0; b < n_blocks; b++) {
        float wanted = -INFINITY;
        for (int i = b * kLogitBlock; i < n && i < (b + 1) * kLogitBlock; i++)
            if (x[i] > wanted) wanted = x[i];
        right = right && got[b] == wanted;
    }
    report.check(right && got.intact(), name);
}

void check_sums(const KernelTable& k, const Guarded<float>& x, float largest, const std::string& name, Report& report) {
    const float scales[2] = {1.44269504f, 1.8f};
    for (int n_scales = 1; n_scales <= 2; n_scales++) {
        double got[2] = {-1, -1};
        k.sum_exp(got, x, int(x.size()), largest, scales, n_scales);
        for (int i = 0; i < n_scales; i++) {
            // Each weight: the difference and the product round, 2^y is within 2 ulp, and the sum of a run rounds.
            double wanted = 0, error = 0x1p-121;  // what fills the last vector weighs 2^-126 a lane
            for (size_t j = 0; j < x.size(); j++) {
                const double y = (double(x[j]) - largest) * scales[i], weight = y < -126 ? 0 : std::exp2(y);
                wanted += weight;
                error += (weight > 0 ? weight * (1.4 * std::fabs(y) + 4 + 1024 / 8) * kEps : 0) + 0x1p-125;
            }
            report.check(std::fabs(got[i] - wanted) <= error, name);
        }
        report.check(n_scales == 2 || got[1] == -1, name + " of one scale");
    }
}

}  // namespace

void candidates(const KernelTable& k, Report& report) {
    Random random(5);
    for (const int n : kLengths)
        for (const float scale : {0.0f, 1.0f, 20.0f, 1e30f}) {
            Guarded<float> x(n);
            random.fill_normal(x, scale);
            float largest = x[0];
            for (int i = 0; i < n; i++) largest = std::fmax(largest, x[i]);
            check_maxima(k, x, name_of("block_maxima", n, scale), report);
            check_sums(k, x, largest, name_of("sum_exp", n, scale), report);
            const int place = random.between(0, n - 1);
            x[place] = -INFINITY;
            check_maxima(k, x, name_of("block_maxima with -inf", n, scale), report);
            check_sums(k, x, largest, name_of("sum_exp with -inf", n, scale), report);
            x[place] = NAN;
            check_maxima(k, x, name_of("block_maxima with NaN", n, scale), report);
            const float one = 1;
            double sum = 0;
            k.sum_exp(&sum, x, n, largest, &one, 1);
            report.check(std::isnan(sum), name_of("sum_exp with NaN", n, scale));
        }
}

}  // namespace compare

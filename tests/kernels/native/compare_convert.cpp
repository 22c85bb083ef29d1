// Conversion between every two element types: the same bytes and the same verdict.
#include <vector>

#include "blocks.h"
#include "compare.h"

namespace compare {
namespace {

using namespace dllama;

// n elements of a type, by way of float32 and the scalar kernels (bf16: its upper half).
void fill(uint8_t* to, ElementType type, size_t n, float scale, Random& random) {
    Guarded<float> values(n);
    random.fill_normal(values, scale);
    if (!can_be_written(type) && is_blocked(type)) {
        for (size_t i = 0; i < bytes_of(type, n); i++) to[i] = uint8_t(random.bits());
        for (size_t i = 0; i < n / traits_of(type).block; i++)
            set_scales(type, to + i * traits_of(type).bytes, [&] { return random.normal(scale / 100); },
                       [&] { return random.between(0, 254); });
    } else if (type == ElementType::bf16)
        for (size_t i = 0; i < n; i++) std::memcpy(to + 2 * i, reinterpret_cast<uint8_t*>(&values[i]) + 2, 2);
    else
        scalar_kernels()->convert(to, type, reinterpret_cast<uint8_t*>(&values[0]), ElementType::f32, n);
}

void check(const KernelTable& k, ElementType out, ElementType src, size_t n, float scale, Random& random, Report& report) {
    Guarded<uint8_t> from(bytes_of(src, n)), got(bytes_of(out, n)), wanted(bytes_of(out, n));
    fill(from, src, n, scale, random);
    const bool good = k.convert(got, out, from, src, n);
    const bool wanted_good = scalar_kernels()->convert(wanted, out, from, src, n);
    char name[80];
    std::snprintf(name, sizeof name, "convert %d to %d n=%zu scale=%g", int(src), int(out), n, scale);
    report.check(good == wanted_good && got.intact(), std::string(name) + " verdict");
    if (wanted_good) report.equal<uint8_t>(got, wanted, got.size(), name);
}

// One element that is not finite, anywhere, is always found.
void check_not_finite(const KernelTable& k, ElementType out, Report& report) {
    for (const float bad : {NAN, INFINITY, -INFINITY})
        for (int where = 0; where < 64; where++) {
            Guarded<float> from(64);
            from.fill(1);
            from[where] = bad;
            Guarded<uint8_t> to(bytes_of(out, 64));
            report.check(!k.convert(to, out, reinterpret_cast<uint8_t*>(&from[0]), ElementType::f32, 64),
                         "convert: not finite at " + std::to_string(where));
        }
}

// Every float16, and every float32 that lies halfway between two of them or beside that.
void check_halves(const KernelTable& k, Report& report) {
    Guarded<uint16_t> halves(62 * 1024);
    for (size_t i = 0; i < halves.size(); i++) halves[i] = uint16_t(i < 31744 ? i : i - 31744 + 32768);  // the finite ones
    halves[halves.size() - 1] = 0;
    const auto* from = reinterpret_cast<const uint8_t*>(&halves[0]);
    Guarded<float> got(halves.size()), wanted(halves.size());
    k.convert(reinterpret_cast<uint8_t*>(&got[0]), ElementType::f32, from, ElementType::f16, halves.size());
    scalar_kernels()->convert(reinterpret_cast<uint8_t*>(&wanted[0]), ElementType::f32, from, ElementType::f16, halves.size());
    report.equal<float>(got, wanted, halves.size(), "convert every half");
    Guarded<uint16_t> back(halves.size()), wanted_back(halves.size());
    for (int step = -1; step <= 1; step++) {
        for (size_t i = 0; i + 1 < halves.size(); i++) {
            const float between = (wanted[i] + wanted[i + 1]) / 2;
            got[i] = step ? std::nextafter(between, step * INFINITY) : between;
        }
        k.store_half(back, got, int(got.size()));
        scalar_kernels()->store_half(wanted_back, got, int(got.size()));
        report.equal<uint16_t>(back, wanted_back, back.size(), "store_half between two halves");
    }
}

}  // namespace

void conversions(const KernelTable& k, Report& report) {
    Random random(3);
    const ElementType outs[] = {ElementType::f32, ElementType::f16, ElementType::q40, ElementType::q80};
    for (const ElementType out : outs) {
        check_not_finite(k, out, report);
        for (int number = 0; number < kElementTypes; number++) {
            const auto src = ElementType(number);
            if (traits_of(src).block == 0) continue;
            for (const float scale : {0.f, 1e-42f, 1e-7f, 1.f, 3e4f, 1e38f}) {
                const bool blocks = is_blocked(out) || is_blocked(src);
                const std::vector<int> lengths = traits_of(src).block > kBlock ? std::vector<int>{0, 256, 768}
                                                 : blocks                      ? std::vector<int>{0, 32, 64, 352}
                                                          : std::vector<int>{0, 1, 7, 16, 31, 32, 33, 65, 127};
                for (const int n : lengths) check(k, out, src, size_t(n), scale, random, report);
            }
        }
    }
    check_halves(k, report);
}

}  // namespace compare

// Kernels on single rows: bit for bit where there is no fused multiply-add, else within their roundings.
#include <algorithm>
#include <vector>

#include "compare.h"

namespace compare {
namespace {

using namespace dllama;

const std::vector<int> kLengths = {0, 1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 23, 31, 32, 33, 37, 63, 64, 65, 127, 1031};
const std::vector<int> kBlockLengths = {0, 32, 64, 96, 224, 1056};
const std::vector<float> kScales = {0, 1e-42f, 1e-30f, 1e-6f, 1, 1e4f, 1e30f};

std::string name_of(const char* what, int n, float scale = 1) {
    char text[80];
    std::snprintf(text, sizeof text, "%s n=%d scale=%g", what, n, scale);
    return text;
}

// One row of Q80 output.
struct Quantized {
    explicit Quantized(int n) : quants(n), scales(n / kBlock), sums(n / kBlock) {}
    RowOut out() { return {nullptr, quants, scales, sums}; }
    Guarded<int8_t> quants;
    Guarded<float> scales;
    Guarded<int32_t> sums;
};

RowOut floats(float* out) { return {out, nullptr, nullptr, nullptr}; }

void check_quantize(const KernelTable& k, int n, float scale, Random& random, Report& report) {
    Guarded<float> x(n);
    random.fill_normal(x, scale);
    for (int i = 0; i + 64 <= n; i += 96) x[i + 40] = 2.5f * scale, x[i + 41] = -127 * scale;  // ties, and the largest
    Quantized got(n), wanted(n);
    k.quantize(got.out(), x, n);
    scalar_kernels()->quantize(wanted.out(), x, n);
    report.equal<int8_t>(got.quants, wanted.quants, n, name_of("quants", n, scale));
    report.equal<float>(got.scales, wanted.scales, n / kBlock, name_of("scales", n, scale));
    report.equal<int32_t>(got.sums, wanted.sums, n / kBlock, name_of("sums", n, scale));
    report.check(got.quants.intact() && got.scales.intact() && got.sums.intact(), name_of("quantize memory", n));
}

// A block with NaN or infinity anywhere has a scale that shows it.
void check_not_finite(const KernelTable& k, Report& report) {
    for (const float bad : {NAN, INFINITY, -INFINITY})
        for (int where = 0; where < 32; where++) {
            Guarded<float> x(64);
            x.fill(1);
            x[32 + where] = bad;
            Quantized got(64);
            k.quantize(got.out(), x, 64);
            Guarded<uint8_t> bytes(68);
            k.encode_q80(bytes, x, 64);
            Guarded<uint8_t> summed(68);
            k.sum_q80(summed, {bytes, 68, 1}, 2);
            const bool bytes_show = (bytes[35] & 0x7C) == 0x7C && (summed[35] & 0x7C) == 0x7C;
            report.check(std::isfinite(got.scales[0]) && !std::isfinite(got.scales[1]) && bytes_show, name_of("not finite", where));
        }
}

void check_wire(const KernelTable& k, int n, float scale, Random& random, Report& report) {
    const int bytes = (n + kBlock - 1) / kBlock * kQ80Bytes;
    Guarded<float> x(n), sum(n), wanted_sum(n);
    random.fill_normal(x, scale);
    random.fill_normal(sum, scale);
    wanted_sum.copy(sum);
    Guarded<uint8_t> got(bytes), wanted(bytes);
    k.encode_q80(got, x, n);
    scalar_kernels()->encode_q80(wanted, x, n);
    report.equal<uint8_t>(got, wanted, bytes, name_of("encode_q80", n, scale));
    k.add(sum, x, n);
    scalar_kernels()->add(wanted_sum, x, n);
    report.equal<float>(sum, wanted_sum, n, name_of("add", n, scale));
    report.check(got.intact() && sum.intact(), name_of("wire memory", n));
}

// Sums of what one, two and five ranks sent; to the last bit, because nodes of different kinds hold the same residual.
void check_sums(const KernelTable& k, int n, float scale, Random& random, Report& report) {
    if (scale > 1e6f) return;  // the scales have no float16 value
    const int blocks = (n + kBlock - 1) / kBlock, bytes = blocks * kQ80Bytes;
    for (const int count : {1, 2, 5}) {
        Guarded<float> part(n), sum(n), wanted_sum(n), floats(size_t(n) * count);
        Guarded<uint8_t> wire(size_t(bytes) * count), got(bytes), wanted(bytes);
        for (int p = 0; p < count; p++) {
            random.fill_normal(part, scale);
            scalar_kernels()->encode_q80(wire + p * bytes, part, n);
            std::copy_n(static_cast<float*>(part), n, floats + p * n);
        }
        random.fill_normal(sum, scale);
        wanted_sum.copy(sum);
        const WireParts parts{wire, size_t(bytes), count};
        for (const bool rounded : {false, true}) {
            k.add_sum_q80(sum, parts, n, rounded);
            scalar_kernels()->add_sum_q80(wanted_sum, parts, n, rounded);
            report.equal<float>(sum, wanted_sum, n, name_of(rounded ? "rounded sum" : "add_sum_q80", n, scale));
        }
        k.add_sum_f32(sum, floats, size_t(n), count, n);
        scalar_kernels()->add_sum_f32(wanted_sum, floats, size_t(n), count, n);
        report.equal<float>(sum, wanted_sum, n, name_of("add_sum_f32", n, scale));
        k.sum_q80(got, parts, blocks);
        scalar_kernels()->sum_q80(wanted, parts, blocks);
        report.equal<uint8_t>(got, wanted, bytes, name_of("sum_q80", n, scale));
        report.check(sum.intact() && got.intact(), name_of("sums memory", n));
    }
}

void check_half(const KernelTable& k, int n, Random& random, Report& report) {
    Guarded<float> x(n);
    for (int i = 0; i < n; i++) {
        const uint32_t bits = random.bits();
        std::memcpy(&x[i], &bits, 4);
        if (i % 3) x[i] = std::ldexp(random.normal(), random.between(-26, 18));  // the range of float16 and beyond
        if (std::isnan(x[i])) x[i] = -0.0f;
    }
    Guarded<uint16_t> got(n), wanted(n);
    k.store_half(got, x, n);
    scalar_kernels()->store_half(wanted, x, n);
    report.equal<uint16_t>(got, wanted, n, name_of("store_half", n));
    report.check(got.intact(), name_of("store_half memory", n));
}

// Both kernels are within `error` of the truth, relative to the wanted number.
void check_norm(const KernelTable& k, int n, float scale, Random& random, Report& report) {
    if (scale > 1e15f) return;  // the squares have no float32 value
    Guarded<float> x(n), weight(n), got(n), wanted(n);
    random.fill_normal(x, scale);
    random.fill_normal(weight);
    k.rms_norm(floats(got), x, weight, 1e-5f, n);
    scalar_kernels()->rms_norm(floats(wanted), x, weight, 1e-5f, n);
    const double error = 2 * (n / 8.0 + 16) * kEps;
    report.near(got, wanted, n, [&](size_t i) { return error * std::fabs(wanted[i]) + 0x1p-148; },
                name_of("rms_norm", n, scale));
    report.check(got.intact(), name_of("rms_norm memory", n));
    if (n % kBlock) return;
    // Into Q80: what the float32 output would be quantised to.
    Quantized direct(n), later(n);
    k.rms_norm(direct.out(), x, weight, 1e-5f, n);
    scalar_kernels()->quantize(later.out(), got, n);
    report.equal<int8_t>(direct.quants, later.quants, n, name_of("rms_norm quants", n, scale));
    report.equal<float>(direct.scales, later.scales, n / kBlock, name_of("rms_norm scales", n, scale));
    report.equal<int32_t>(direct.sums, later.sums, n / kBlock, name_of("rms_norm sums", n, scale));
}

// The means differ by what their sums lose of the magnitudes; every number with them.
void check_layer_norm(const KernelTable& k, int n, float scale, Random& random, Report& report) {
    if (scale > 1e15f) return;  // the squares have no float32 value
    Guarded<float> x(n), weight(n), bias(n), got(n), wanted(n);
    random.fill_normal(x, scale);
    random.fill_normal(weight);
    random.fill_normal(bias);
    k.layer_norm(floats(got), x, weight, bias, 1e-5f, n);
    scalar_kernels()->layer_norm(floats(wanted), x, weight, bias, 1e-5f, n);
    double sum = 0, magnitudes = 0, squares = 0;
    for (int i = 0; i < n; i++) sum += x[i], magnitudes += std::fabs(x[i]) / n;
    for (int i = 0; i < n; i++) squares += (x[i] - sum / n) * (x[i] - sum / n);
    const double deviation = std::sqrt(squares / n + 1e-5), error = 2 * (n / 8.0 + 16) * kEps;
    const auto bound = [&](size_t i) {
        return error * ((std::fabs(x[i]) + magnitudes) / deviation * std::fabs(weight[i]) + std::fabs(bias[i])) + 0x1p-148;
    };
    report.near(got, wanted, n, bound, name_of("layer_norm", n, scale));
    report.check(got.intact(), name_of("layer_norm memory", n));
}

void check_gated(const KernelTable& k, Activation activation, int n, float scale, Random& random, Report& report) {
    if (scale > 1e10f) return;  // the cube has no float32 value
    Guarded<float> gate(n), up(n), got(n), wanted(n);
    random.fill_normal(gate, scale);
    random.fill_normal(up);
    if (n > 20 && scale == 1) gate[3] = NAN, up[9] = INFINITY, gate[17] = 200, gate[18] = -200;
    k.gated(floats(got), gate, up, activation, n);
    scalar_kernels()->gated(floats(wanted), gate, up, activation, n);
    // exp within 2 ulp of an argument that rounds: |argument| <= 88 where the result counts.
    const double error = 2 * (8 + (activation == Activation::gelu ? 6 * 88 : 0)) * kEps;
    report.near(got, wanted, n, [&](size_t i) { return error * std::fabs(wanted[i]) + 0x1p-126; },
                name_of(activation == Activation::silu ? "silu" : "gelu", n, scale));
    report.check(got.intact(), name_of("gated memory", n));
    if (n % kBlock || scale == 1) return;
    Quantized direct(n), later(n);
    k.gated(direct.out(), gate, up, activation, n);
    scalar_kernels()->quantize(later.out(), got, n);
    report.equal<int8_t>(direct.quants, later.quants, n, name_of("gated quants", n, scale));
    report.equal<float>(direct.scales, later.scales, n / kBlock, name_of("gated scales", n, scale));
    report.equal<int32_t>(direct.sums, later.sums, n / kBlock, name_of("gated sums", n, scale));
}

void check_rope(const KernelTable& k, int n, int n_halves, Random& random, Report& report) {
    Guarded<float> got(n), wanted(n), angles(n);
    random.fill_normal(got);
    random.fill_normal(angles);
    wanted.copy(got);
    k.rope(got, angles, n, n_halves);
    scalar_kernels()->rope(wanted, angles, n, n_halves);
    report.equal<float>(got, wanted, n, name_of(n_halves ? "rope halves" : "rope adjacent", n));
    report.check(got.intact(), name_of("rope memory", n));
}

}  // namespace

void rows(const KernelTable& k, Report& report) {
    Random random(2);
    check_not_finite(k, report);
    for (const float scale : kScales) {
        for (const int n : kBlockLengths) check_quantize(k, n, scale, random, report);
        for (const int n : kLengths) {
            check_wire(k, n, scale, random, report);
            check_sums(k, n, scale, random, report);
            check_norm(k, n, scale, random, report);
            check_layer_norm(k, n, scale, random, report);
            check_gated(k, Activation::silu, n, scale, random, report);
            check_gated(k, Activation::gelu, n, scale, random, report);
        }
    }
    for (const int n : kLengths) check_half(k, n, random, report);
    for (const int n : {0, 2, 6, 8, 10, 16, 20, 32, 34, 64, 80, 128})
        for (const int n_halves : {0, n / 4 * 2, n / 2 * 2}) check_rope(k, n, n_halves, random, report);
}

}  // namespace compare

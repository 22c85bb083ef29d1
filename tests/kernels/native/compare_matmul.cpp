// Matrix products: exact where every float operation is, else within the roundings of the sum; and the same bits
// whatever rows and tiles one call takes.
#include <algorithm>
#include <vector>

#include "blocks.h"
#include "compare.h"
#include "packed_matrix.h"

namespace compare {
namespace {

using namespace dllama;

enum class Numbers { exact, extreme, random, wide };  // extreme: largest quants, exact; wide: scales of any size

struct Shape {
    ElementType type;
    int n_out, n_in, n_rows;
    int first_run = 0;  // n_in columns from this run of 32 on, of rows of whole blocks

    // Columns of the blocks that the rows are cut from.
    size_t n_whole() const {
        const size_t block = size_t(traits_of(type).block), columns = size_t(first_run) * kBlock + size_t(n_in);
        return (columns + block - 1) / block * block;
    }
};

std::string name_of(const Shape& s, const char* what) {
    return std::string(what) + " " + traits_of(s.type).name + " [" + std::to_string(s.n_out) + ", " +
           std::to_string(s.n_in) + "] from " + std::to_string(s.first_run) + " x " + std::to_string(s.n_rows);
}

float half_rounded(float value) {
    const uint16_t half = half_of(value);
    float rounded;
    scalar_kernels()->convert(reinterpret_cast<uint8_t*>(&rounded), ElementType::f32,
                              reinterpret_cast<const uint8_t*>(&half), ElementType::f16, 1);
    return rounded;
}

float scale_of(Numbers numbers, Random& random) {
    switch (numbers) {
        case Numbers::exact:
        case Numbers::extreme: return std::ldexp(1.0f, random.between(-1, 1));
        case Numbers::random: return random.normal();
        default: return std::ldexp(random.normal(), random.between(-28, 13));  // subnormal halves to nearly the largest
    }
}

// The two kinds of products behind one face, for a table and for the rows and tiles of a call.
struct Problem {
    Problem(const Shape& s, Numbers numbers, Random& random)
        : shape(s), blocked(is_blocked(s.type)), n_blocks(s.n_in / kBlock),
          weights(bytes_of(s.type, s.n_whole()) * size_t(s.n_out)),
          rows(layout(*scalar_kernels()).row_bytes() * size_t(s.n_out)),
          x(blocked ? 0 : size_t(s.n_rows) * s.n_in), quants(blocked ? size_t(s.n_rows) * s.n_in : 0),
          x_scales(quants.size() / kBlock), x_sums(quants.size() / kBlock) {
        blocked ? fill_blocks(numbers, random) : fill_elements(numbers, random);
        if (blocked)
            cut_rows(s.type, s.first_run, s.n_in, weights, s.n_out, rows);
        else
            rows.copy(weights);
    }

    PackedLayout layout(const KernelTable& k) const {
        return {shape.type, shape.n_out, shape.n_in, k.tile_rows, k.unit_bytes, shape.first_run};
    }
    size_t n_results() const { return size_t(shape.n_rows) * shape.n_out; }

    void fill_blocks(Numbers numbers, Random& random) {
        const int bytes = traits_of(shape.type).bytes;
        const bool is_q80 = shape.type == ElementType::q80;
        const int reach = numbers == Numbers::wide ? 28 : numbers == Numbers::random ? 4 : 1;  // of powers of two
        for (size_t i = 0; i < weights.size(); i += bytes) {
            const uint8_t extremes[] = {uint8_t(is_q80 ? 128 : 0), uint8_t(is_q80 ? 127 : 255)};
            const int same = random.between(0, 1);
            for (int j = 0; j < bytes; j++)
                weights[i + j] = numbers == Numbers::extreme ? extremes[same] : uint8_t(random.bits());
            set_scales(shape.type, &weights[i], [&] { return scale_of(numbers, random); },
                       [&] { return 128 + random.between(-reach, reach); });
        }
        for (size_t b = 0; b < x_scales.size(); b++) {
            x_scales[b] = half_rounded(std::fabs(scale_of(numbers, random)));
            const int same = random.between(0, 1) ? 127 : -127;
            x_sums[b] = 0;
            for (int j = 0; j < kBlock; j++) {
                quants[b * kBlock + j] = int8_t(numbers == Numbers::extreme ? same : random.between(-127, 127));
                x_sums[b] += quants[b * kBlock + j];
            }
        }
    }

    void fill_elements(Numbers numbers, Random& random) {
        const bool exact = numbers == Numbers::exact || numbers == Numbers::extreme;
        auto element = [&] { return exact ? float(random.between(-64, 64)) : scale_of(numbers, random); };
        for (size_t i = 0; i < size_t(shape.n_out) * shape.n_in; i++) {
            const float value = element();
            const uint16_t half = half_of(value);
            if (shape.type == ElementType::f16)
                std::memcpy(&weights[2 * i], &half, 2);
            else
                std::memcpy(&weights[4 * i], &value, 4);
        }
        for (size_t i = 0; i < x.size(); i++) x[i] = element();
    }

    void run(const KernelTable& k, const uint8_t* packed, float* out, int tile, int tile_end, int row, int row_end) const {
        const size_t tile_bytes = layout(k).tile_bytes();
        if (blocked) {
            const QuantMatmul m{packed, tile_bytes, shape.n_out, n_blocks, quants, x_scales, x_sums, out,
                                size_t(shape.n_out), false, shape.first_run};
            k.matmul[shape.type](m, tile, tile_end, row, row_end);
        } else {
            const FloatMatmul m{packed, tile_bytes, shape.n_out, shape.n_in, x, out, size_t(shape.n_out)};
            k.float_matmul[shape.type](m, tile, tile_end, row, row_end);
        }
    }

    // Weights as float32, and what of each is the minimum that was added.
    void decode(Guarded<float>& to, Guarded<float>& minima) const {
        decode_columns(weights, to);
        minima.fill(0);
        if (!blocked || !meaning_of(shape.type).has_min) return;
        Guarded<uint8_t> lowest(weights.size());
        lowest.copy(weights);
        const int bytes = traits_of(shape.type).bytes, before = bytes_before_quants(shape.type);
        for (size_t i = 0; i < lowest.size(); i += bytes) std::memset(&lowest[i + before], 0, bytes - before);
        decode_columns(lowest, minima);
    }
    // Those of the shape, of whole rows.
    void decode_columns(const uint8_t* whole_rows, Guarded<float>& to) const {
        Guarded<float> whole(shape.n_whole() * shape.n_out);
        scalar_kernels()->convert(reinterpret_cast<uint8_t*>(&whole[0]), ElementType::f32, whole_rows, shape.type, whole.size());
        for (int r = 0; r < shape.n_out; r++)
            for (int c = 0; c < shape.n_in; c++)
                to[size_t(r) * shape.n_in + c] = whole[r * shape.n_whole() + size_t(shape.first_run) * kBlock + c];
    }
    double activation(size_t row, size_t column) const {
        const size_t i = row * shape.n_in + column;
        return blocked ? double(quants[i]) * x_scales[i / kBlock] : x[i];
    }
    int parts() const { return blocked ? meaning_of(shape.type).scales_of_run : 1; }
    // What the sum adds, by magnitudes; integer products are exact, so those that share a scale count as one.
    double magnitude(const float* row_weights, const float* row_minima, size_t row) const {
        double total = 0;
        const int width = blocked ? kBlock / parts() : 1;
        for (int c = 0; c < shape.n_in;) {
            double scaled = 0, lowest = 0;
            for (const int end = c + width; c < end; c++) {
                scaled += (double(row_weights[c]) - row_minima[c]) * activation(row, c);
                lowest += row_minima[c] * activation(row, c);
            }
            total += std::fabs(scaled) + std::fabs(lowest);
        }
        return total;
    }
    // Whether float32 has every sum of these numbers: there are no scales of scales.
    bool is_exact(Numbers numbers) const {
        return (numbers == Numbers::exact || numbers == Numbers::extreme) && traits_of(shape.type).block <= kBlock;
    }

    Shape shape;
    bool blocked;
    int n_blocks;
    Guarded<uint8_t> weights;  // rows as in a file
    Guarded<uint8_t> rows;     // what is packed of them
    Guarded<float> x;
    Guarded<int8_t> quants;
    Guarded<float> x_scales;
    Guarded<int32_t> x_sums;
};

struct Packed {
    Packed(const Problem& p, const KernelTable& k) : layout(p.layout(k)), bytes(layout.bytes()) {
        bytes.fill(0);
        finite = pack(layout, bytes, 0, p.shape.n_out, p.rows);
    }
    PackedLayout layout;
    Guarded<uint8_t> bytes;
    bool finite;
};

void check_values(const KernelTable& k, const Shape& shape, Numbers numbers, Random& random, Report& report) {
    const Problem p(shape, numbers, random);
    const Packed mine(p, k), reference(p, *scalar_kernels());
    const int n_tiles = mine.layout.n_tiles();
    Guarded<float> got(p.n_results()), wanted(p.n_results()), split(p.n_results());
    got.fill(NAN), wanted.fill(NAN), split.fill(NAN);
    p.run(k, mine.bytes, got, 0, n_tiles, 0, shape.n_rows);
    p.run(*scalar_kernels(), reference.bytes, wanted, 0, reference.layout.n_tiles(), 0, shape.n_rows);
    report.check(mine.finite && got.intact() && mine.bytes.intact(), name_of(shape, "memory"));

    Guarded<uint8_t> again(p.rows.size());
    unpack(mine.layout, mine.bytes, 0, shape.n_out, again);
    report.equal<uint8_t>(again, p.rows, again.size(), name_of(shape, "unpack"));

    if (p.is_exact(numbers)) {
        report.equal<float>(got, wanted, p.n_results(), name_of(shape, "exact"));
    } else {
        // n sums, product and two scales round once each, in both kernels; what is subnormal rounds absolutely.
        Guarded<float> decoded(size_t(shape.n_out) * shape.n_in), minima(decoded.size());
        p.decode(decoded, minima);
        const int terms = p.blocked && meaning_of(shape.type).has_min ? 2 : p.parts();
        const double n = (p.blocked ? terms * p.n_blocks : std::min(shape.n_in, 128) + shape.n_in / 128) + 3;
        report.near(got, wanted, p.n_results(), [&](size_t i) {
            const size_t at = i % shape.n_out * shape.n_in;
            return 2 * n * (kEps / 2 * p.magnitude(decoded + at, minima + at, i / shape.n_out) + 0x1p-149);
        }, name_of(shape, numbers == Numbers::wide ? "wide" : "random"));
    }
    for (int row = 0; row < shape.n_rows; row++)
        for (int tile = 0; tile < n_tiles; tile += 3)
            p.run(k, mine.bytes, split, tile, std::min(n_tiles, tile + 3), row, row + 1);
    report.check(std::memcmp(split, got, p.n_results() * 4) == 0, name_of(shape, "company"));
}

void check_not_finite(const KernelTable& k, ElementType type, Random& random, Report& report) {
    const int n_in = traits_of(type).block > kBlock ? 256 : 96;
    const Shape shape{type, 19, n_in, 5};
    Problem p(shape, Numbers::random, random);
    const Packed mine(p, k);
    if (p.blocked)
        p.x_scales[p.n_blocks + 1] = INFINITY, p.x_scales[2 * p.n_blocks + 1] = NAN;  // rows 1 and 2
    else
        p.x[1 * 96 + 40] = INFINITY, p.x[2 * 96 + 41] = NAN;
    Guarded<float> out(p.n_results());
    out.fill(0);
    p.run(k, mine.bytes, out, 0, mine.layout.n_tiles(), 0, shape.n_rows);
    bool good = true;
    for (size_t i = 0; i < p.n_results(); i++) {
        const size_t row = i / shape.n_out;
        good &= std::isfinite(out[i]) == (row != 1 && row != 2);
    }
    report.check(good, name_of(shape, "not finite"));
}

}  // namespace

void matmuls(const KernelTable& k, Report& report) {
    Random random(1);
    const int r = k.tile_rows, group = k.tile_rows * k.tile_group;
    const std::vector<int> outs = {1, r - 1, r, group + 2 * r + 1, 3 * group - 1};
    for (int number = 0; number < kElementTypes; number++) {
        const auto type = ElementType(number);
        if (!k.has_product(type)) continue;
        const std::vector<int> ins = traits_of(type).block == 1        ? std::vector<int>{1, 2, 127, 128, 259}
                                     : traits_of(type).block == kBlock ? std::vector<int>{32, 64, 224}
                                                                       : std::vector<int>{256, 768};
        for (const int n_out : outs)
            for (const int n_in : ins)
                for (const int n_rows : {0, 1, 4, 11})
                    for (const Numbers numbers : {Numbers::exact, Numbers::extreme, Numbers::random, Numbers::wide})
                        check_values(k, {type, n_out, n_in, n_rows}, numbers, random, report);
        if (traits_of(type).block > kBlock)
            for (const auto& [first_run, n_in] : std::vector<std::pair<int, int>>{{0, 32}, {3, 64}, {7, 64}, {5, 864}})
                for (const int n_out : {r, group + 2 * r + 1})
                    for (const int n_rows : {1, 4, 11})
                        check_values(k, {type, n_out, n_in, n_rows, first_run}, Numbers::random, random, report);
        check_not_finite(k, type, random, report);
    }
}

}  // namespace compare

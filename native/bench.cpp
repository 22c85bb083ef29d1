// Speed of the kernels against what the machine can do: bytes of weights read per second beside a plain read of the
// same buffer, and operations per second of products with many rows.
//
//   cmake -S . -B build/bench -DDLLAMA_BENCH=ON && cmake --build build/bench --target dllama_bench
//   build/bench/dllama_bench [isa] [threads] [rows|candidates|decode|prefill|pack|attention] [type of weights]
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "block_layout.h"
#include "cpu.h"
#include "objects.h"
#include "ops.h"

using namespace dllama;

namespace {

// Seconds that one of the quickest tenth of the runs takes, and a run in the middle: on a machine that does other
// things too, the first is near what the kernel can do. The first round only warms up.
struct Times {
    double quick, median;
};

template <class Work>
double measure_once(const Work& work) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    work();
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// work(i) for i in [0, n), `rounds` times.
template <class Work>
Times measure(int rounds, int n, const Work& work) {
    std::vector<double> times;
    for (int i = -n; i < rounds * n; i++) {
        const double seconds = measure_once([&] { work((i + n) % n); });
        if (i >= 0) times.push_back(seconds);
    }
    std::sort(times.begin(), times.end());
    return {times[times.size() / 10], times[times.size() / 2]};
}

// What a matrix may take that the second-level cache of one core holds with room to spare.
constexpr size_t kCachedBytes = size_t(192) << 10;

struct Bench {
    const KernelTable& kernels;
    Ops ops;
    ThreadPool pool;
    std::mt19937 random{1};

    Bench(const KernelTable* table, int n_threads) : kernels(*table), ops(table, n_threads), pool(n_threads) {}

    // Several matrices one after another, so that together they do not fit into any cache.
    void matmul(ElementType type, int n_out, int n_in, int n_rows) {
        const PackedLayout layout{type, n_out, n_in, kernels.tile_rows, kernels.unit_bytes};
        const bool decode = n_rows <= 8;
        const int n_matrices = decode ? int((size_t(256) << 20) / layout.bytes()) : 1;
        const OwnedMemory weights(layout.bytes() * n_matrices);
        fill(layout, weights.data(), n_matrices);
        Q80Rows x(n_rows, n_in);
        std::vector<float> values(size_t(n_rows) * n_in);
        const OwnedMemory out_memory(size_t(n_rows) * n_out * sizeof(float));  // as NumPy has it: on huge pages
        float* const out = reinterpret_cast<float*>(out_memory.data());
        for (float& v : values) v = float(int(random() % 2001) - 1000) / 1000;
        const RowsOut rows{nullptr, x.quants, x.scales, x.sums, n_in};
        ops.quantize_rows(rows, values.data(), n_rows);
        const Times t = measure(decode ? 10 : 20, n_matrices, [&](int i) {
            run(layout, weights.data() + i * layout.bytes(), x, values, out, n_rows);
        });
        std::printf("%s %5d x %5d, %3d rows: ", traits_of(type).name, n_out, n_in, n_rows);
        const double bytes = double(layout.bytes()), work = 2.0 * n_out * n_in * n_rows;
        std::printf("%7.1f Gop/s quick, %7.1f median", work / t.quick / 1e9, work / t.median / 1e9);
        if (decode) {
            const size_t all = layout.bytes() * n_matrices;
            static volatile uint64_t sink;
            const Times r = measure(10, 1, [&](int) { sink = ops.read_memory(weights.data(), all); });
            const double read = double(all) / r.quick, rate = bytes / t.quick;
            std::printf("; weights %6.2f GB/s, %6.2f; plain read %6.2f: %3.0f%%; from the cache %6.2f", rate / 1e9,
                        bytes / t.median / 1e9, read / 1e9, 100 * rate / read,
                        cached_bytes_per_s(layout, weights.data(), x, values, out, n_rows) / 1e9);
        }
        std::printf("\n");
    }

    void fill(const PackedLayout& layout, uint8_t* packed, int n_matrices) {
        std::vector<uint8_t> row(layout.row_bytes());
        for (uint8_t& byte : row) byte = uint8_t(random());
        const size_t step = is_blocked(layout.type) ? size_t(traits_of(layout.type).bytes) : 2;
        const bool is_mxfp4 = layout.type == ElementType::mxfp4;
        const size_t first = layout.type == ElementType::q6k ? 208 : 0;  // its scale is at the end
        const int n_floats = is_blocked(layout.type) ? shape_of(layout.type).n_floats : 1;
        for (size_t i = first; i + 1 < row.size(); i += step) {
            if (is_mxfp4) row[i] = 120;
            for (size_t j = i + 1; j < i + 2 * size_t(n_floats); j += 2)
                row[j] = uint8_t((row[j] & 0x3B) | 0x20);  // small positive numbers, none of them subnormal
        }
        for (int i = 0; i < n_matrices; i++)
            for (int r = 0; r < layout.n_out; r++) pack(layout, packed + i * layout.bytes(), r, 1, row.data());
    }

    void run(const PackedLayout& layout, const uint8_t* weights, const Q80Rows& x, const std::vector<float>& values,
             float* out, int n_rows) {
        if (is_blocked(layout.type))
            ops.matmul(QuantMatmul{weights, layout.tile_bytes(), layout.n_out, layout.n_in / kBlock, x.quants, x.scales,
                                   x.sums, out, size_t(layout.n_out)}, layout.type, n_rows);
        else
            ops.matmul(FloatMatmul{weights, layout.tile_bytes(), layout.n_out, layout.n_in, values.data(), out,
                                   size_t(layout.n_out)},
                       layout.type, n_rows);
    }

    // Computing without reading: the first rows of the matrix, again and again from the second-level cache.
    double cached_bytes_per_s(PackedLayout layout, const uint8_t* weights, const Q80Rows& x,
                              const std::vector<float>& values, float* out, int n_rows) {
        layout.n_out = int(kCachedBytes * size_t(pool.n_threads()) / layout.tile_bytes()) * layout.tile_rows;
        const Times t = measure(200, 1, [&](int) { run(layout, weights, x, values, out, n_rows); });
        return double(layout.bytes()) / t.quick;
    }

    // Every thread takes a chunk and waits until all have begun.
    void starting() {
        const int n = pool.n_threads();
        const Times t = measure(2000, 1, [&](int) {
            std::atomic<int> begun{0};
            pool.run(n, [&](int, int) {
                begun++;
                while (begun < n) {}
            });
        });
        std::printf("from the call until every thread has begun, and back: %.2f us quick, %.2f us median\n",
                    t.quick * 1e6, t.median * 1e6);
    }

    void convert(ElementType to) {
        const size_t n = size_t(1) << 20;
        std::vector<uint16_t> src(n);
        for (uint16_t& h : src) h = uint16_t((random() & 0x80FF) | 0x3F00);
        std::vector<uint8_t> out(n * 2);
        const Times t = measure(40, 1, [&](int) {
            kernels.convert(out.data(), to, reinterpret_cast<const uint8_t*>(src.data()), ElementType::bf16, n);
        });
        std::printf("bf16 to %s: %.0f M weights/s quick, %.0f median, one thread\n", traits_of(to).name,
                    double(n) / t.quick / 1e6, double(n) / t.median / 1e6);
    }

    void packing(ElementType type) {
        const PackedLayout layout{type, 4096, 2048, kernels.tile_rows, kernels.unit_bytes};
        const OwnedMemory packed(layout.bytes());
        std::vector<uint8_t> rows(layout.bytes(), 1);
        const Times t = measure(40, 1, [&](int) { pack(layout, packed.data(), 0, layout.n_out, rows.data()); });
        std::printf("packing %s: %.2f GB/s, one thread\n", traits_of(type).name, double(layout.bytes()) / t.quick / 1e9);
    }

    // One text's token at `position` on n_caches caches, or n_rows tokens from there on.
    struct AttentionCase {
        static constexpr int kHeads = 32, kKvHeads = 8, kWidth = 64, kPage = 64;
        std::vector<float> qkv, out;
        std::vector<int32_t> positions, sequence, pages;
        std::deque<OwnedMemory> caches;  // keys and values in turn
        size_t bytes;
        ElementType type;

        AttentionCase(int n_rows, int position, ElementType cache_type, int n_caches, std::mt19937& random)
            : qkv(size_t(n_rows) * (kHeads + 2 * kKvHeads) * kWidth), out(size_t(n_rows) * kHeads * kWidth),
              positions(n_rows), sequence(n_rows, 0), pages((position + n_rows + kPage - 1) / kPage), type(cache_type) {
            for (float& v : qkv) v = float(int(random() % 2001) - 1000) / 1000;
            for (int i = 0; i < n_rows; i++) positions[i] = position + i;
            for (size_t i = 0; i < pages.size(); i++) pages[i] = int32_t(i);
            const size_t elements = pages.size() * kKvHeads * kPage * kWidth;
            bytes = bytes_of(type, elements);
            for (int i = 0; i < 2 * n_caches; i++) {
                caches.emplace_back(bytes);
                std::memset(caches.back().data(), 0x2C, bytes);  // small numbers in every type, and far from subnormal ones
            }
        }
        Attention at(int cache) {
            return {{out.data(), nullptr, nullptr, nullptr, kHeads * kWidth}, qkv.data(), positions.data(), sequence.data(), pages.data(), caches[2 * cache].data(),
                    caches[2 * cache + 1].data(), type, int(positions.size()), kHeads, kKvHeads, kWidth, kPage,
                    int(pages.size()), 0, kHeads / kKvHeads, 0};
        }
        double n_keys() const {  // of all KV heads that the first row sees
            return double(positions[0] + 1) * kKvHeads;
        }
    };

    // A step's attention, beside reading: keys and values in the second-level cache, and in memory. Everything is
    // measured in turn, so that a changing clock changes all of it.
    void attention_of_a_token(const char* name, ElementType type) {
        const int near_positions = 256 * pool.n_threads();
        AttentionCase near(1, near_positions - 1, type, 1, random), far(1, 8191, type, 6, random);
        const OwnedMemory workspace(std::max(ops.attention_workspace(near.at(0)), ops.attention_workspace(far.at(0))));
        constexpr size_t kBytes = size_t(128) << 20;
        const OwnedMemory memory(kBytes);
        std::memset(memory.data(), 1, kBytes);
        static volatile uint64_t sink;
        std::vector<double> cached, read, from_memory, ratio;
        for (int round = 0; round < 40; round++) {
            const double r = measure_once([&] { sink = ops.read_memory(memory.data(), kBytes); }) / double(kBytes);
            const double f = measure_once([&] {
                for (int i = 0; i < 6; i++) ops.attention(far.at(i), workspace.data());
            }) / 6;
            ops.attention(near.at(0), workspace.data());
            cached.push_back(measure_once([&] {
                for (int i = 0; i < 10; i++) ops.attention(near.at(0), workspace.data());
            }) / 10);
            read.push_back(r), from_memory.push_back(f), ratio.push_back(f / (r * 2 * double(far.bytes)));
        }
        const auto at = [](std::vector<double> v, double part) {
            std::sort(v.begin(), v.end());
            return v[size_t(part * double(v.size() - 1))];
        };
        const double near_ns = at(cached, 0.1) / near.n_keys() * 1e9, far_ns = at(from_memory, 0.1) / far.n_keys() * 1e9;
        const double n_bytes = 2 * double(far.bytes);
        std::printf("attention of a token, %s: from the cache %5.2f ns for a key and value, from memory %5.2f (%5.2f GB/s; "
                    "read %5.2f): %.2f times reading quick, %.2f median\n", name, near_ns, far_ns,
                    n_bytes / at(from_memory, 0.1) / 1e9, 1e-9 / at(read, 0.1),
                    at(from_memory, 0.1) / (at(read, 0.1) * n_bytes), at(ratio, 0.5));
    }

    void attention_of_rows(const char* name, int n_rows, int position, ElementType type) {
        AttentionCase c(n_rows, position, type, 1, random);
        const Attention a = c.at(0);
        const OwnedMemory workspace(ops.attention_workspace(a));
        const Times t = measure(10, 1, [&](int) { ops.attention(a, workspace.data()); });
        const double seen = double(n_rows) * (position + (n_rows + 1) / 2.0);
        std::printf("attention of %d rows from %d on, %s: %.1f us; %.1f Gop/s\n", n_rows, position, name, t.quick * 1e6,
                    4 * seen * a.n_heads * a.head_dim / t.quick / 1e9);
    }

    void candidates(int n_rows, int n, int n_candidates, float temperature) {
        std::vector<float> logits(size_t(n_rows) * n), temperatures(n_rows, temperature), largest(size_t(n_rows) * n_candidates);
        std::normal_distribution<float> normal(0, 3);
        for (float& v : logits) v = normal(random);
        std::vector<int32_t> ids(largest.size());
        std::vector<double> sums(size_t(n_rows) * 2);
        const TopCandidates c{logits.data(), temperatures.data(), n_rows, n, 0, n_candidates,
                              ids.data(), largest.data(), sums.data()};
        const OwnedMemory workspace(ops.candidates_workspace(c));
        const Times t = measure(200, 1, [&](int) { ops.top_candidates(c, workspace.data()); });
        std::printf("%d of %d logits, %d rows, temperature %.1f: %.1f us quick, %.1f us median\n", n_candidates, n, n_rows,
                    double(temperature), t.quick * 1e6, t.median * 1e6);
    }

    void rows() {
        const int n = 2048, f = 8192;
        std::vector<float> x(size_t(f) * 2, 0.5f), weight(n, 1.0f);
        Q80Rows narrow(1, n), wide(1, f);
        const RowsOut to_narrow{nullptr, narrow.quants, narrow.scales, narrow.sums, n};
        const RowsOut to_wide{nullptr, wide.quants, wide.scales, wide.sums, f};
        const Times norm = measure(500, 1, [&](int) { ops.rms_norm(to_narrow, x.data(), weight.data(), 1e-5f, 1); });
        const Times act = measure(500, 1, [&](int) { ops.silu_mul(to_wide, x.data(), Activation::silu, 1); });
        std::printf("rms_norm + quantise 2048: %.2f us; silu_mul + quantise 8192: %.2f us\n", norm.quick * 1e6, act.quick * 1e6);
    }
};

void run_all(Bench& bench, const std::string& only, const std::string& only_type) {
    const auto wanted = [&](const char* part) { return only.empty() || only == part; };
    std::vector<ElementType> types;
    for (int number = 0; number < kElementTypes; number++)
        if (bench.kernels.has_product(ElementType(number)) &&
            (only_type.empty() || only_type == traits_of(ElementType(number)).name))
            types.push_back(ElementType(number));
    if (wanted("rows")) bench.starting(), bench.rows();
    if (wanted("candidates")) {
        for (int n : {128256, 64128, 16032})
            for (int n_candidates : {1, 256}) bench.candidates(1, n, n_candidates, n_candidates == 1 ? 0.0f : 0.8f);
        bench.candidates(16, 128256, 256, 0.8f);
    }
    if (wanted("decode")) {
        for (ElementType type : types)
            for (const auto& s : {std::pair{2048, 2048}, {5632, 2048}, {2048, 5632}}) bench.matmul(type, s.first, s.second, 1);
    }
    if (wanted("prefill")) {
        for (ElementType type : types) {
            for (int n_rows : {2, 3, 4, 5, 8, 16, 33, 64, 128, 256})
                if (type == ElementType::q40 || !only_type.empty()) bench.matmul(type, 2048, 2048, n_rows);
            for (const auto& s : {std::pair{2048, 2048}, {5632, 2048}, {2048, 5632}, {16384, 2048}, {2048, 8192}})
                bench.matmul(type, s.first, s.second, 512);
        }
    }
    if (wanted("pack")) {
        bench.convert(ElementType::q40);
        bench.convert(ElementType::q80);
        for (ElementType type : types) bench.packing(type);
    }
    if (wanted("attention")) {
        const std::pair<const char*, ElementType> caches[] = {
            {"f16", ElementType::f16}, {"q80", ElementType::q80}, {"f32", ElementType::f32}};
        for (const auto& [name, type] : caches) bench.attention_of_a_token(name, type);
        for (const auto& [name, type] : caches) bench.attention_of_rows(name, 256, 1024, type);
    }
}

}  // namespace

int main(int argc, char** argv) {
    const KernelTable* tables[kMaxIsas];
    const int n_tables = usable_kernels(tables);
    const std::string isa = argc > 1 ? argv[1] : tables[0]->isa;
    const int n_threads = argc > 2 ? std::atoi(argv[2]) : 1;
    for (int i = 0; i < n_tables; i++) {
        if (isa != tables[i]->isa) continue;
        Bench bench(tables[i], n_threads);
        std::printf("%s, %d threads\n", tables[i]->isa, n_threads);
        run_all(bench, argc > 3 ? argv[3] : "", argc > 4 ? argv[4] : "");
        return 0;
    }
    std::fprintf(stderr, "no such instruction set here: %s\n", isa.c_str());
    return 2;
}

// The class that Python calls: checks arguments, then runs one operation with the GIL released.
#pragma once

#include <nanobind/nanobind.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <string>

#include "objects.h"
#include "ops.h"

namespace dllama {

class Compute {
public:
    Compute(const KernelTable* kernels, int n_threads) : ops_(kernels, n_threads) {}

    const KernelTable& kernels() const { return ops_.kernels(); }
    int n_threads() const { return ops_.n_threads(); }
    MatrixMemory& matrix_memory() { return matrix_memory_; }

    using Object = nanobind::handle;
    void matmul(Object out, const PackedMatrix& matrix, Object x, int n_rows);
    void quantize_rows(Object out, Object x, int n_rows);
    void rms_norm(Object out, Object x, Object weight, float eps, int n_rows);
    void silu_mul(Object out, Object gate_up, int n_rows, const std::string& activation);
    void add_bias(Object x, Object bias, int n_rows);
    void head_rms_norm(Object x, Object weight, float eps, int first_head, int n_heads, int n_rows);
    void rope_store(Object qkv, Object cos_sin, Object positions, Object sequence, Object page_table, Object k_cache,
                    Object v_cache, int n_heads, bool halves, int n_rows);
    void attention(Object out, Object qkv, Object positions, Object sequence, Object page_table, Object k_cache,
                   Object v_cache, int n_heads, int head_offset, int group, int window, int n_rows);
    void top_candidates(Object ids, Object largest, Object sums, Object logits, Object temperature, int first_id,
                        int n_rows);
    void encode_q80(Object out, Object x, int n_rows);
    void add_q80(Object x, Object parts, int n_rows, bool rounded);
    void add_f32(Object x, Object parts, int n_rows);
    void sum_q80(Object out, Object parts) const;
    uint64_t read_memory(Object memory);
    int64_t dot_peak(int64_t rounds);
    int64_t float_peak(int64_t rounds);
    double native_s() const { return native_s_; }
    double attention_s() const { return attention_s_; }

private:
    // Callers from several Python threads take turns. Returns the seconds that the work took.
    template <class Work>
    double run(const Work& work) {
        const nanobind::gil_scoped_release release;
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto start = std::chrono::steady_clock::now();
        work();
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        native_s_ += seconds;
        return seconds;
    }

    // Memory for an operation under way; grows to the largest asked for.
    uint8_t* workspace(size_t bytes);

    Ops ops_;
    MatrixMemory matrix_memory_;
    std::mutex mutex_;
    double native_s_ = 0;     // spent in operations so far
    double attention_s_ = 0;  // in attention alone
    std::unique_ptr<OwnedMemory> workspace_;
    size_t workspace_bytes_ = 0;
};

}  // namespace dllama

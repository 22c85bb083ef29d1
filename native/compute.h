// The class that Python calls: checks arguments, then runs one operation with the GIL released.
#pragma once

#include <nanobind/nanobind.h>

#include <chrono>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "objects.h"
#include "ops.h"

namespace dllama {

class Compute;

// Operations whose arguments were checked once, carried out one after another without Python in between.
class Program {
public:
    explicit Program(Compute& compute) : compute_(compute) {}
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    // The objects stay alive as long as this does; `operation` must not touch them.
    void add(std::initializer_list<nanobind::handle> objects, std::function<void()> operation) {
        for (nanobind::handle object : objects) objects_.push_back(nanobind::borrow(object));
        operations_.push_back(std::move(operation));
    }
    void run() const;
    size_t size() const { return operations_.size(); }

private:
    Compute& compute_;
    std::vector<nanobind::object> objects_;
    std::vector<std::function<void()>> operations_;
};

class Compute {
public:
    Compute(const KernelTable* kernels, int n_threads) : ops_(kernels, n_threads) {}

    const KernelTable& kernels() const { return ops_.kernels(); }
    int n_threads() const { return ops_.n_threads(); }
    MatrixMemory& matrix_memory() { return matrix_memory_; }

    using Object = nanobind::handle;
    // The operations that `call(*args)` asks for in this thread, checked and kept, not carried out.
    std::unique_ptr<Program> record(const nanobind::callable& call, const nanobind::args& args);

    void matmul(Object out, Object matrix, Object x, int n_rows, bool add = false, std::optional<int> first_column = {});
    void gated_matmul(Object out, Object matrix, Object x, Object scratch, int n_rows, const std::string& activation);
    void quantize_rows(Object out, Object x, int n_rows);
    void rms_norm(Object out, Object x, Object weight, float eps, int n_rows);
    void rms_norm_in_order(Object out, Object x, Object weight, float eps, int n_rows);
    void layer_norm(Object out, Object x, Object weight, Object bias, float eps, int n_rows);
    void silu_mul(Object out, Object gate_up, int n_rows, const std::string& activation);
    void add_bias(Object x, Object bias, int n_rows);
    void soft_cap(Object x, float scale, float cap, int n_rows);
    void clear(Object x, int n_rows);
    void head_rms_norm(Object x, Object weight, float eps, int first_head, int n_heads, int n_rows);
    void rope_store(Object qkv, Object cos_sin, Object positions, Object sequence, Object page_table, Object k_cache,
                    Object v_cache, int n_heads, int n_halves, int n_rows);
    void attention(Object out, Object qkv, Object positions, Object sequence, Object page_table, Object k_cache,
                   Object v_cache, int n_heads, int head_offset, int group, int window, int n_rows, Object sinks,
                   float soft_cap);
    void causal_conv(Object out, Object x, Object weights, Object state, Object positions, Object sequence,
                     Object page_table, int page_size, int n_rows);
    void delta_rule(Object out, Object qkv, Object gates, int first_gate, Object log_rate, Object dt_bias, Object state,
                    Object positions, Object sequence, Object page_table, int page_size, int head_offset, int group, int n_rows);
    void gated_norm(Object out, Object x, Object weight, float eps, Object gate, int first_column, int n_rows);
    void sigmoid_scale(Object out, Object x, Object gate, int n_rows);
    void sigmoid_mul(Object out, Object x, Object gate, int first_column, int n_rows);
    void top_candidates(Object ids, Object largest, Object sums, Object logits, Object temperature, int first_id,
                        int n_rows);
    void latent_store(Object rows, Object weight, float eps, Object cos_sin, Object positions, Object sequence,
                      Object page_table, Object cache, bool halves, int n_rows);
    void latent_queries(Object content, Object absorbed, Object queries, Object cos_sin, Object positions, int n_heads,
                        bool halves, int n_rows);
    void head_products(Object out, Object stack, Object x, int n_rows);
    void latent_attention(Object out, Object queries, Object positions, Object sequence, Object page_table, Object cache,
                          float scale, int n_rows);
    void route(Object routing, Object x, Object norm, float eps, Object weights, int n_rows, bool renormalised,
               bool sigmoid, Object choice_bias, int n_groups, int top_groups, int group_best, float scale,
               Object logit_bias);
    void experts_gated(Object out, Object stack, Object x, Object routing, int n_rows, const std::string& activation,
                       Object gate_bias, Object up_bias);
    void experts_down(Object out, Object stack, Object x, Object routing, int n_rows, bool add, Object bias);
    void encode_q80(Object out, Object x, int n_rows);
    void add_q80(Object x, Object parts, int n_rows, bool rounded);
    void add_norm_q80(Object out, Object x, Object parts, Object weight, float eps, int n_rows, bool rounded);
    void add_f32(Object x, Object parts, int n_rows);
    void sum_q80(Object out, Object parts) const;
    uint64_t read_memory(Object memory);
    int64_t dot_peak(int64_t rounds);
    int64_t float_peak(int64_t rounds);
    double native_s() const { return native_s_; }
    double attention_s() const { return attention_s_; }

private:
    friend class Program;

    // Carries `work` out now, or keeps it where this thread records. It must hold what it needs by value, and no Python
    // object but the memory of `objects`.
    template <class Work>
    void run(std::initializer_list<Object> objects, const Work& work) {
        if (recording_ && recorder_ == std::this_thread::get_id())
            recording_->add(objects, work);
        else
            run_now(work);
    }

    // Callers from several Python threads take turns.
    template <class Work>
    void run_now(const Work& work) {
        const nanobind::gil_scoped_release release;
        const std::lock_guard<std::mutex> lock(mutex_);
        native_s_ += seconds_of(work);
    }

    template <class Work>
    static double seconds_of(const Work& work) {
        const auto start = std::chrono::steady_clock::now();
        work();
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
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
    Program* recording_ = nullptr;
    std::thread::id recorder_;
};

inline void Program::run() const {
    compute_.run_now([&] {
        for (const auto& operation : operations_) operation();
    });
}

}  // namespace dllama

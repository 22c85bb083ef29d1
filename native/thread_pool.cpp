#include "thread_pool.h"

#include <chrono>

#include "relax.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace dllama {
namespace {

int n_processors() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    const unsigned n = std::thread::hardware_concurrency();
    return n ? int(n) : 1;
}

bool any_left(uint64_t tickets) { return uint32_t(tickets) < uint32_t(tickets >> 32); }

using Clock = std::chrono::steady_clock;

// The gap between two operations of a step is a few microseconds of Python; a wait for the network is longer,
// and then the processor is better left to others.
constexpr auto kSpin = std::chrono::microseconds(80);

}  // namespace

ThreadPool::ThreadPool(int n_threads) : crowded_(n_threads > n_processors()) {
    for (int thread = 1; thread < n_threads; thread++) workers_.emplace_back([this, thread] { serve(thread); });
}

ThreadPool::~ThreadPool() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

bool ThreadPool::draw(int thread) {
    if (!any_left(tickets_.load(std::memory_order_relaxed))) return false;
    const uint64_t ticket = tickets_.fetch_add(1, std::memory_order_acq_rel);
    if (!any_left(ticket)) return false;
    function_(work_, int(uint32_t(ticket)), thread);
    done_.fetch_add(1, std::memory_order_release);
    return true;
}

void ThreadPool::run_erased(int n_chunks, Function function, const void* work) {
    if (n_chunks <= 1 || workers_.empty()) {
        for (int chunk = 0; chunk < n_chunks; chunk++) function(work, chunk, 0);
        return;
    }
    function_ = function;
    work_ = work;
    done_.store(0, std::memory_order_relaxed);
    tickets_.store(uint64_t(n_chunks) << 32, std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_seq_cst) > 0) {
        { const std::lock_guard<std::mutex> lock(mutex_); }
        wake_.notify_all();
    }
    while (draw(0)) {}
    for (int spins = 0; done_.load(std::memory_order_acquire) < n_chunks; spins++)
        if (crowded_ || spins > 10000)
            std::this_thread::yield();
        else
            relax();
}

bool ThreadPool::wait_for_work() {
    if (!crowded_) {
        const auto end = Clock::now() + kSpin;
        do {
            for (int i = 0; i < 32; i++) {
                if (any_left(tickets_.load(std::memory_order_relaxed)) || stop_.load(std::memory_order_relaxed))
                    return !stop_;
                relax();
            }
        } while (Clock::now() < end);
    }
    std::unique_lock<std::mutex> lock(mutex_);
    sleeping_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [this] { return stop_ || any_left(tickets_.load(std::memory_order_seq_cst)); });
    sleeping_.fetch_sub(1, std::memory_order_relaxed);
    return !stop_;
}

void ThreadPool::serve(int thread) {
    while (wait_for_work())
        while (draw(thread)) {}
}

}  // namespace dllama

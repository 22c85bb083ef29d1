// Threads that carry out one operation after another, each in about a microsecond more than its work.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace dllama {

// One caller at a time. The caller takes part as thread 0. Work is n chunks that threads draw from one counter,
// so a slow core holds nobody back, and nobody waits for a thread that is still asleep.
class ThreadPool {
public:
    explicit ThreadPool(int n_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int n_threads() const { return int(workers_.size()) + 1; }

    // Calls work(chunk, thread) once for each chunk in [0, n_chunks); returns when all have been done.
    template <class Work>
    void run(int n_chunks, const Work& work) {
        run_erased(n_chunks, [](const void* w, int chunk, int thread) { (*static_cast<const Work*>(w))(chunk, thread); },
                   &work);
    }

private:
    using Function = void (*)(const void* work, int chunk, int thread);

    void run_erased(int n_chunks, Function function, const void* work);
    bool draw(int thread);
    void serve(int thread);
    bool wait_for_work();

    // High half: chunks of the operation; low half: the next one. Drawn with one fetch_add, so a drawn chunk
    // always belongs to the operation whose function and data are in place until that chunk is done.
    alignas(64) std::atomic<uint64_t> tickets_{0};
    alignas(64) std::atomic<int> done_{0};
    alignas(64) std::atomic<int> sleeping_{0};
    Function function_ = nullptr;
    const void* work_ = nullptr;
    std::atomic<bool> stop_{false};
    bool crowded_;  // more threads than processors: spinning would keep the others from working
    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> workers_;
};

}  // namespace dllama

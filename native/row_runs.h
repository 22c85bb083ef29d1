// The rows of a step in runs that threads keep: what a thread wrote of its rows in one operation, it finds in its own
// cache in the next.
#pragma once

#include <algorithm>
#include <atomic>

#include "thread_pool.h"

namespace dllama {

class RowRuns {
public:
    explicit RowRuns(int n_rows) : n_rows_(n_rows) {
        count_ = std::clamp((n_rows + kRows - 1) / kRows, 1, kMost);
        const int even = (n_rows + count_ - 1) / count_;
        rows_ = std::max(1, count_ > 1 ? (even + kTogether - 1) / kTogether * kTogether : even);
        count_ = std::max(1, (n_rows + rows_ - 1) / rows_);
    }

    int count() const { return count_; }
    int begin(int run) const { return run * rows_; }
    int end(int run) const { return std::min(n_rows_, begin(run) + rows_); }

    // Calls work(run, part, thread) once for each part in [0, n_parts(run)) of each run. A thread begins with the run that
    // is its own in every operation, and helps with others when nothing of it is left.
    template <class Parts, class Work>
    void share(ThreadPool& pool, const Parts& n_parts, const Work& work) const {
        if (count_ == 1) return pool.run(n_parts(0), [&](int part, int thread) { work(0, part, thread); });
        struct alignas(64) Counter {
            std::atomic<int> next{0};
            int end;
        } counters[kMost];
        for (int run = 0; run < count_; run++) counters[run].end = n_parts(run);
        pool.run(pool.n_threads(), [&](int, int thread) {
            const int own = int(int64_t(thread) * count_ / pool.n_threads());
            for (int i = 0; i < count_; i++) {
                const int run = (own + i) % count_;
                Counter& counter = counters[run];
                for (int part; (part = counter.next.fetch_add(1, std::memory_order_relaxed)) < counter.end;)
                    work(run, part, thread);
            }
        });
    }

private:
    // Activation rows of a matrix product that a thread takes at a time: their quants stay in the second-level cache, and
    // weights that a kernel unpacks serve as many rows as this.
    static constexpr int kRows = 128;
    static constexpr int kTogether = 16;  // rows that products take together: all runs but the last are multiples
    static constexpr int kMost = 16;

    int n_rows_, count_, rows_;
};

}  // namespace dllama

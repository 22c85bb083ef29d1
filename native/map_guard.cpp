#include "map_guard.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>

namespace dllama {
namespace {

constexpr int kSlots = 1024;  // files of the largest models, several times over
constexpr size_t kLineBytes = 1000;

struct Guarded {
    std::atomic<uintptr_t> start{0};  // 0: nobody's; set last and cleared first, so that the handler sees whole entries
    uintptr_t end = 0;
    size_t line_bytes = 0;
    char line[kLineBytes];
};

// A handler gets no argument of ours, so this is the one table of the process.
Guarded guarded[kSlots];
std::mutex changes;
struct sigaction former;
std::atomic<bool> is_installed{false};
std::atomic<bool> is_said{false};

// Calls nothing but what POSIX allows in a handler.
void on_bus_error(int, siginfo_t* info, void*) {
    const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
    for (Guarded& one : guarded) {
        const uintptr_t start = one.start.load(std::memory_order_acquire);
        if (start == 0 || at < start || at >= one.end) continue;
        while (is_said.exchange(true)) pause();  // another thread says it, and ends this one too
        const ssize_t written = write(STDERR_FILENO, one.line, one.line_bytes);
        (void)written;
        _exit(1);
    }
    sigaction(SIGBUS, &former, nullptr);  // not ours: the fault comes again, to whoever had it before
}

void install() {
    if (is_installed.exchange(true)) return;
    struct sigaction action;
    std::memset(&action, 0, sizeof action);
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &former);
}

}  // namespace

int guard_map(const void* start, size_t bytes, const char* line, size_t line_bytes) {
    const std::lock_guard<std::mutex> lock(changes);
    install();
    for (int slot = 0; slot < kSlots; slot++) {
        Guarded& one = guarded[slot];
        if (one.start.load(std::memory_order_relaxed) != 0) continue;
        const auto first = reinterpret_cast<uintptr_t>(start);
        one.end = first + bytes;
        one.line_bytes = std::min(line_bytes, kLineBytes);
        std::memcpy(one.line, line, one.line_bytes);
        if (one.line_bytes) one.line[one.line_bytes - 1] = '\n';
        one.start.store(first, std::memory_order_release);
        return slot;
    }
    return -1;
}

void release_map(int slot) {
    if (slot >= 0) guarded[slot].start.store(0, std::memory_order_release);
}

}  // namespace dllama

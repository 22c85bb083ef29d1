// The inner loop of fabric/tcp.py: moves bytes over many connected sockets at once, without a look at what they mean.
// It is native because a decoded token waits for two exchanges in every layer: the loop asks sockets again every half
// microsecond, and neither asks nor is asked for Python's lock while other threads compute.
#pragma once

#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dllama {

// A connection (non-blocking), what the running exchange has still to move over it, and what it has moved in all.
struct SocketLink {
    int fd = -1;
    std::vector<iovec> outgoing, incoming;  // from the first that is not through
    size_t n_out = 0, n_in = 0;             // how many of them are through
    uint64_t sent = 0, received = 0;
    int low_water = 1;                      // bytes that wake up who sleeps until something can be received
    bool waits = false;                     // nothing of what the exchange wants from it has come yet

    bool sends() const { return n_out < outgoing.size(); }
    bool receives() const { return n_in < incoming.size(); }
    bool busy() const { return sends() || receives(); }
    size_t to_send() const;
    size_t to_receive() const;
};

struct ExchangeState {
    enum Kind { done, idle, ended };
    Kind kind;
    int link;   // of the connection that ended
    int error;  // its errno; 0 where the peer closed it
};

// One exchange at a time: load() what it moves, then run() until it is through.
class SocketExchange {
public:
    explicit SocketExchange(size_t n_links) : links(n_links) {}

    std::vector<SocketLink> links;
    double wait_s = 0;  // of all exchanges: until something had come from everyone who owed bytes
    double wire_s = 0;  // and from then to the end

    void load(int link, void* data, size_t bytes, bool outgoing);
    // Forgets what is not through.
    void clear();
    // Moves bytes until all are through (done), a connection ends (ended), or nothing has moved for `patience_s` or a
    // signal came (idle: call again to go on). Asks again and again for `spin_s` after the last byte, then sleeps; at
    // once where there is much to move, which lasts longer than to be woken up, and while others may compute.
    ExchangeState run(double spin_s, double patience_s);
    // Seconds since the last byte moved, or since the exchange was loaded.
    double idle_s() const { return seconds_since(last_move_); }

private:
    using Clock = std::chrono::steady_clock;
    static double seconds_since(Clock::time_point start) {
        return std::chrono::duration<double>(Clock::now() - start).count();
    }
    bool move(ExchangeState& state);
    void count_time();

    std::vector<int> busy_;
    size_t bytes_ = 0;  // of the exchange, both ways
    int n_waiting_ = 0;
    Clock::time_point start_, last_move_, all_began_;
};

}  // namespace dllama

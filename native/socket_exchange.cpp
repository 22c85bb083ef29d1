#include "socket_exchange.h"

#include <poll.h>
#include <sched.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "relax.h"

namespace dllama {
namespace {

#if defined(MSG_NOSIGNAL)
constexpr int kFlags = MSG_DONTWAIT | MSG_NOSIGNAL;
#else
constexpr int kFlags = MSG_DONTWAIT;  // Python ignores SIGPIPE
#endif

constexpr size_t kMaxVector = 512;  // buffers of one sendmsg; the smallest IOV_MAX of our systems is 1024

// A socket that is asked all the time holds the lock that an arriving packet needs: with these pauses between, half a
// microsecond, an exchange of 4 kB on loopback takes 6.4 us instead of 9.0.
constexpr int kPauses = 32;

// A peer that has not answered by then may be waiting for this very core.
constexpr double kYieldAfter_s = 20e-6;

// Moving more than this takes longer than the 30 us or so in which a thread is woken up.
constexpr size_t kSpinBytes = 128 << 10;

// What has to have come before a sleeping thread is woken up: packets of 1500 bytes one by one would take a core from what
// is computed meanwhile, 10 us each.
constexpr size_t kWakeBytes = 64 << 10;

void pause() {
    for (int i = 0; i < kPauses; i++) relax();
}

// Where the system cannot, it wakes up earlier.
void set_low_water(SocketLink& link, size_t bytes) {
    const int wanted = int(std::min(bytes, kWakeBytes));
    if (wanted == link.low_water) return;
    link.low_water = wanted;
    setsockopt(link.fd, SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof wanted);
}

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

size_t bytes_of(const std::vector<iovec>& buffers, size_t first) {
    size_t bytes = 0;
    for (size_t i = first; i < buffers.size(); i++) bytes += buffers[i].iov_len;
    return bytes;
}

// Takes `bytes` off the buffers from *first on.
void advance(std::vector<iovec>& buffers, size_t* first, size_t bytes) {
    while (*first < buffers.size() && bytes >= buffers[*first].iov_len) bytes -= buffers[(*first)++].iov_len;
    if (bytes == 0) return;
    iovec& part = buffers[*first];
    part.iov_base = static_cast<char*>(part.iov_base) + bytes;
    part.iov_len -= bytes;
}

// Bytes handed to the system; 0: it takes none now; -1: see errno.
ssize_t push(SocketLink& link) {
    iovec* buffers = link.outgoing.data() + link.n_out;
    const size_t n = std::min(link.outgoing.size() - link.n_out, kMaxVector);
    ssize_t bytes;
    if (n == 1) {
        bytes = send(link.fd, buffers->iov_base, buffers->iov_len, kFlags);
    } else {
        msghdr message{};
        message.msg_iov = buffers;
        message.msg_iovlen = n;
        bytes = sendmsg(link.fd, &message, kFlags);
    }
    if (bytes < 0) return would_block(errno) ? 0 : -1;
    link.sent += uint64_t(bytes);
    advance(link.outgoing, &link.n_out, size_t(bytes));
    return bytes;
}

// Bytes that had come; 0: none yet; -1: see errno, 0 when the peer has closed the connection.
ssize_t pull(SocketLink& link) {
    const iovec& buffer = link.incoming[link.n_in];
    const ssize_t bytes = recv(link.fd, buffer.iov_base, buffer.iov_len, kFlags);
    if (bytes < 0) return would_block(errno) ? 0 : -1;
    if (bytes == 0) {
        errno = 0;
        return -1;
    }
    link.received += uint64_t(bytes);
    advance(link.incoming, &link.n_in, size_t(bytes));
    return bytes;
}

}  // namespace

size_t SocketLink::to_send() const { return bytes_of(outgoing, n_out); }
size_t SocketLink::to_receive() const { return bytes_of(incoming, n_in); }

void SocketExchange::load(int link, void* data, size_t bytes, bool outgoing) {
    if (bytes == 0) return;
    SocketLink& to = links[size_t(link)];
    if (busy_.empty()) start_ = last_move_ = all_began_ = Clock::now();
    if (!to.busy()) busy_.push_back(link);
    if (!outgoing && !to.receives()) {
        to.waits = true;
        n_waiting_++;
    }
    bytes_ += bytes;
    (outgoing ? to.outgoing : to.incoming).push_back({data, bytes});
}

void SocketExchange::clear() {
    for (SocketLink& link : links) {
        link.outgoing.clear();
        link.incoming.clear();
        link.n_out = link.n_in = 0;
        link.waits = false;
    }
    busy_.clear();
    bytes_ = 0;
    n_waiting_ = 0;
}

// Tries every busy link once, all sends first; whether anything moved or a connection ended.
bool SocketExchange::move(ExchangeState& state) {
    bool moved = false;
    const auto count = [&](int link, ssize_t bytes) {
        if (bytes < 0) state = {ExchangeState::ended, link, errno};
        moved |= bytes != 0;
    };
    for (const int index : busy_)
        if (links[size_t(index)].sends()) count(index, push(links[size_t(index)]));
    for (const int index : busy_) {
        SocketLink& link = links[size_t(index)];
        if (!link.receives()) continue;
        const ssize_t bytes = pull(link);
        count(index, bytes);
        if (bytes > 0 && link.waits) {
            link.waits = false;
            if (--n_waiting_ == 0) all_began_ = Clock::now();
        }
    }
    return moved;
}

void SocketExchange::count_time() {
    wait_s += std::chrono::duration<double>(all_began_ - start_).count();
    wire_s += seconds_since(all_began_);
}

ExchangeState SocketExchange::run(double spin_s, double patience_s) {
    ExchangeState state{ExchangeState::done, -1, 0};
    if (busy_.empty()) return state;
    if (bytes_ > kSpinBytes) spin_s = 0;
    std::vector<pollfd> polled;
    bool stands = true;  // the clock of this spell without progress has been started
    while (true) {
        if (move(state)) {
            if (state.kind == ExchangeState::ended) return state;
            busy_.erase(std::remove_if(busy_.begin(), busy_.end(), [&](int i) { return !links[size_t(i)].busy(); }),
                        busy_.end());
            stands = false;
            if (!busy_.empty()) continue;
        }
        if (busy_.empty()) break;
        if (!stands) last_move_ = Clock::now();
        stands = true;
        const double idle = idle_s();
        if (idle < std::min(spin_s, kYieldAfter_s)) {
            pause();
        } else if (idle < spin_s) {
            sched_yield();
        } else {
            polled.clear();
            for (const int index : busy_) {
                SocketLink& link = links[size_t(index)];
                if (link.receives()) set_low_water(link, link.to_receive());
                const int events = (link.sends() ? POLLOUT : 0) | (link.receives() ? POLLIN : 0);
                polled.push_back({link.fd, short(events), 0});
            }
            if (poll(polled.data(), nfds_t(polled.size()), int(patience_s * 1e3) + 1) <= 0)
                return {ExchangeState::idle, -1, 0};
        }
    }
    count_time();
    clear();
    return state;
}

}  // namespace dllama

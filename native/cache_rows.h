// Where the keys and values of a split lie, and how their elements become vectors of floats.
#pragma once

#include <type_traits>

#include "row_kernels.h"

namespace dllama {
namespace {

struct Q80Cell;  // stands for blocks of 34 bytes, as in a file

// Positions that are asked for before they are needed: at 5 ns for a key of 128 bytes, 64 of them cover the latency of
// memory three times over, and are a page of one KV head.
constexpr int kAhead = 64;

template <class S, class T>
struct CacheRow {
    const T* values;
    typename S::F load(int e) const { return load_one(values + e); }
    typename S::F load_some(int e, int n) const {
        T some[S::W] = {};
        std::memcpy(some, values + e, size_t(n) * sizeof(T));
        return load_one(some);
    }
    static typename S::F load_one(const float* p) { return S::load(p); }
    static typename S::F load_one(const uint16_t* p) { return S::load_half(p); }
};

// A key is whole blocks, and a vector lies within one: what is behind the last element of a value is of the key.
template <class S>
struct CacheRow<S, Q80Cell> {
    const uint8_t* blocks;
    const float* scales;
    typename S::F load(int e) const {
        const int block = e / kBlock;
        const auto* quants = reinterpret_cast<const int8_t*>(blocks + block * kQ80Bytes + 2 + e % kBlock);
        return S::mul(S::load_int8(quants), S::set1(scales[block]));
    }
    typename S::F load_some(int e, int) const { return load(e); }
};

// The rows of one KV head at positions [begin, end) of a split, in the order in which they are read: keys, values, and
// the keys of the next split as far as they are prefetched. A few rows after the last key or value may be read too.
template <class S, class T>
struct CacheRows {
    using Row = CacheRow<S, T>;

    // scales: room for 2 x kAttentionSplit x (E / 32) floats when T is Q80Cell.
    CacheRows(const Attention& a, int row, int kv_head, int split, int begin, int end, float* scales)
        : begin_(begin), n_(end - begin), n_blocks_(a.head_dim / kBlock), row_bytes_(bytes_of(a.head_dim)), scales_(scales) {
        const int first = split * kAttentionSplit + begin, last_seen = a.positions[row];
        locate(a, a.keys, row, kv_head, first, n_, order_);
        locate(a, a.values, row, kv_head, first, n_, order_ + n_);
        const int left = last_seen - (first + n_) + 1, ahead = left < kAhead ? (left < 0 ? 0 : left) : kAhead;
        locate(a, a.keys, row, kv_head, first + n_, ahead, order_ + 2 * n_);
        for (int i = ahead; i < kAhead; i++) order_[2 * n_ + i] = order_[0];
        if constexpr (std::is_same_v<T, Q80Cell>) decode_scales();
    }

    Row key(int position) const { return row_at(position - begin_); }
    Row value(int position) const { return row_at(n_ + position - begin_); }
    template <int HD>
    void prefetch_after_key(int position) const { prefetch<HD>(position - begin_ + kAhead); }
    template <int HD>
    void prefetch_after_value(int position) const { prefetch<HD>(n_ + position - begin_ + kAhead); }

private:
    static constexpr int bytes_of(int head_dim) {
        if constexpr (std::is_same_v<T, Q80Cell>)
            return head_dim / kBlock * kQ80Bytes;
        else
            return head_dim * int(sizeof(T));
    }

    Row row_at(int i) const {
        if constexpr (std::is_same_v<T, Q80Cell>)
            return {order_[i], scales_ + i * n_blocks_};
        else
            return {reinterpret_cast<const T*>(order_[i])};
    }

    template <int HD>
    void prefetch(int i) const {
        const int bytes = HD ? bytes_of(HD) : row_bytes_;
        UNROLL for (int byte = 0; byte < bytes; byte += 64) __builtin_prefetch(order_[i] + byte);
    }

    void locate(const Attention& a, const void* cache, int row, int kv_head, int first, int n, const uint8_t** out) {
        const int32_t* pages = a.page_table + size_t(a.sequence[row]) * a.max_pages;
        const size_t head_stride = size_t(a.page_size) * row_bytes_, page_stride = head_stride * a.n_cached_heads();
        const uint8_t* head = static_cast<const uint8_t*>(cache) + (kv_head % a.n_cached_heads()) * head_stride;
        for (int i = 0; i < n;) {
            const int position = first + i, slot = position % a.page_size;
            const uint8_t* p = head + size_t(pages[position / a.page_size]) * page_stride + size_t(slot) * row_bytes_;
            const int left = a.page_size - slot, end = left < n - i ? i + left : n;
            for (; i < end; i++, p += row_bytes_) out[i] = p;
        }
    }

    // The scales of all blocks, a vector of them at a time.
    void decode_scales() {
        uint16_t halves[S::W];
        int pending = 0;
        float* out = scales_;
        for (int i = 0; i < 2 * n_; i++)
            for (int b = 0; b < n_blocks_; b++) {
                std::memcpy(halves + pending, order_[i] + b * kQ80Bytes, 2);
                if (++pending < S::W) continue;
                S::store(out, S::load_half(halves));
                out += S::W;
                pending = 0;
            }
        if (pending) S::store(out, S::load_half(halves));
    }

    int begin_, n_, n_blocks_, row_bytes_;
    float* scales_;
    const uint8_t* order_[2 * kAttentionSplit + kAhead];
};

// A block of keys or values as float32, from position `begin` of a split on: what several quads read is converted once.
template <class S>
struct DecodedRows {
    using Row = CacheRow<S, float>;
    const float* values;
    int begin, width;

    Row key(int position) const { return {values + size_t(position - begin) * width}; }
    Row value(int position) const { return key(position); }
    template <int HD>
    void prefetch_after_key(int) const {}  // they are near
    template <int HD>
    void prefetch_after_value(int) const {}
};

// out = the elements of one row as float32; the bits that Row::load gives.
template <class S, class Row>
void decode_row(const Row& row, int head_dim, float* out) {
    int e = 0;
    UNROLL for (; e + S::W <= head_dim; e += S::W) S::store(out + e, row.load(e));
    if (e < head_dim) store_some<S>(out + e, row.load_some(e, head_dim - e), head_dim - e);
}

}  // namespace
}  // namespace dllama

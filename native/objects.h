// What Python holds: memory with a shape. The binding makes these and checks what goes into them.
#pragma once

#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "experts.h"
#include "packed_matrix.h"

namespace dllama {

class OwnedMemory {
public:
    explicit OwnedMemory(size_t bytes) : memory_(map_memory(bytes)) {
        if (bytes > 0 && !memory_.data) throw std::bad_alloc();
    }
    ~OwnedMemory() { unmap_memory(memory_); }
    OwnedMemory(const OwnedMemory&) = delete;
    OwnedMemory& operator=(const OwnedMemory&) = delete;
    uint8_t* data() const { return memory_.data; }

private:
    Memory memory_;
};

// Memory of one matrix; what it was cut from lives as long as one of its slices.
struct Slice {
    std::shared_ptr<OwnedMemory> owner;
    uint8_t* start;
    uint8_t* data() const { return start; }
};

// Cuts matrices from large pieces, so that those smaller than a huge page lie on huge pages too: at load each 4 kB
// page would be a fault of its own (a third of the time of loading), in use an address to look up.
class MatrixMemory {
public:
    // Zeros. Throws std::bad_alloc. A piece goes back to the system with its last matrix.
    Slice take(size_t bytes) {
        if (bytes > kPieceBytes / 2) return alone(bytes);
        const std::lock_guard<std::mutex> lock(mutex_);
        std::shared_ptr<OwnedMemory> piece = piece_.lock();
        if (!piece || used_ + bytes > kPieceBytes) {
            piece = std::make_shared<OwnedMemory>(kPieceBytes);
            piece_ = piece;
            used_ = 0;
        }
        uint8_t* start = piece->data() + used_;
        used_ += (bytes + kPage - 1) / kPage * kPage;
        return {std::move(piece), start};
    }

private:
    static constexpr size_t kPieceBytes = size_t(64) << 20, kPage = 4096;

    static Slice alone(size_t bytes) {
        auto memory = std::make_shared<OwnedMemory>(bytes);
        uint8_t* start = memory->data();
        return {std::move(memory), start};
    }

    std::mutex mutex_;
    std::weak_ptr<OwnedMemory> piece_;
    size_t used_ = 0;
};

struct PackedMatrix {
    PackedLayout layout;
    Slice memory;
};

// Matrices [n_out, n_in] of one shape, one after another.
struct PackedStack {
    PackedLayout layout;
    int n_matrices;
    Slice memory;

    uint8_t* matrix(int index) const { return memory.data() + size_t(index) * layout.bytes(); }
};

// Quants, scales and sums of activations, each aligned to a cache line.
struct Q80Rows {
    Q80Rows(int max_rows, int n)
        : max_rows(max_rows), n(n), memory(line(quant_bytes(max_rows, n)) + 2 * line(quant_bytes(max_rows, n) / 8)) {
        quants = reinterpret_cast<int8_t*>(memory.data());
        scales = reinterpret_cast<float*>(memory.data() + line(quant_bytes(max_rows, n)));
        sums = reinterpret_cast<int32_t*>(reinterpret_cast<uint8_t*>(scales) + line(quant_bytes(max_rows, n) / 8));
    }
    int max_rows, n;
    OwnedMemory memory;
    int8_t* quants;   // [max_rows, n]
    float* scales;    // [max_rows, n / 32]
    int32_t* sums;    // [max_rows, n / 32]

private:
    static size_t quant_bytes(int max_rows, int n) { return size_t(max_rows) * n; }
    static size_t line(size_t bytes) { return (bytes + 63) / 64 * 64; }
};

// Where the rows of a step go; written by the router.
struct RoutedRows {
    RoutedRows(int max_rows, int n_experts, int top_k)
        : max_rows(max_rows), logits(size_t(max_rows) * n_experts), ids(size_t(max_rows) * top_k),
          weights(size_t(max_rows) * top_k), first_slot(size_t(n_experts) + 1), slot_row(size_t(max_rows) * top_k),
          slot_weight(size_t(max_rows) * top_k), n_experts(n_experts), top_k(top_k) {}
    RoutedRows(const RoutedRows&) = delete;
    RoutedRows& operator=(const RoutedRows&) = delete;

    Routing routing() {
        return {logits.data(), ids.data(), weights.data(), first_slot.data(), slot_row.data(), slot_weight.data(),
                n_experts, top_k};
    }

    int max_rows, n_rows = 0;  // n_rows: those that the router last saw
    std::vector<float> logits;
    std::vector<int32_t> ids;
    std::vector<float> weights;
    std::vector<int32_t> first_slot, slot_row;
    std::vector<float> slot_weight;
    int n_experts, top_k;
};

}  // namespace dllama

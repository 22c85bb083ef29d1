// What Python holds: memory with a shape. The binding makes these and checks what goes into them.
#pragma once

#include <memory>
#include <new>

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

struct PackedMatrix {
    PackedLayout layout;
    OwnedMemory memory;
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

}  // namespace dllama

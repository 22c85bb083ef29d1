// What the comparisons of an instruction set with the scalar kernels share: guarded memory, numbers, a report.
#pragma once

#include <sys/mman.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "kernel_table.h"

namespace compare {

constexpr double kEps = 0x1p-23;  // twice the relative error of one float32 rounding

// Memory that ends where memory begins that nobody may touch. Regions are used again: an emulator is slow at mapping.
class Region {
public:
    static constexpr size_t kPage = 64 << 10;  // the largest page of any system that this runs on

    explicit Region(size_t bytes) : size_((bytes + kPage - 1) / kPage * kPage) {
        std::vector<uint8_t*>& unused = pool()[size_];
        if (unused.empty()) unused.push_back(map(size_));
        base_ = unused.back();
        unused.pop_back();
    }
    ~Region() { pool()[size_].push_back(base_); }
    Region(const Region&) = delete;
    Region& operator=(const Region&) = delete;
    uint8_t* end() const { return base_ + size_; }

private:
    static std::map<size_t, std::vector<uint8_t*>>& pool() {
        static std::map<size_t, std::vector<uint8_t*>> regions;
        return regions;
    }
    static uint8_t* map(size_t size) {
        void* base = mmap(nullptr, size + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
        if (base == MAP_FAILED || mprotect(static_cast<uint8_t*>(base) + size, kPage, PROT_NONE) != 0) std::abort();
        return static_cast<uint8_t*>(base);
    }
    size_t size_;
    uint8_t* base_;
};

// n elements at the end of a region, and that is all the alignment they have: reading or writing past them stops the
// program. What lies before them is checked by intact().
template <class T>
class Guarded {
public:
    explicit Guarded(size_t n)
        : n_(n), region_(n * sizeof(T) + kFront), data_(reinterpret_cast<T*>(region_.end() - n * sizeof(T))) {
        std::memset(reinterpret_cast<uint8_t*>(data_) - kFront, kMark, kFront);
    }

    operator T*() { return data_; }
    operator const T*() const { return data_; }
    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }
    size_t size() const { return n_; }
    void fill(T value) {
        for (size_t i = 0; i < n_; i++) data_[i] = value;
    }
    void copy(const Guarded& other) { std::memcpy(data_, other.data_, n_ * sizeof(T)); }
    bool intact() const {
        const uint8_t* front = reinterpret_cast<const uint8_t*>(data_) - kFront;
        for (size_t i = 0; i < kFront; i++)
            if (front[i] != kMark) return false;
        return true;
    }

private:
    static constexpr size_t kFront = 128;
    static constexpr uint8_t kMark = 0xA5;
    size_t n_;
    Region region_;
    T* data_;
};

// The same numbers for the same seed everywhere (Marsaglia's xorshift), without <random>'s time to compile.
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
    uint32_t bits() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return uint32_t(state_ >> 32);
    }
    int between(int low, int high) { return int(low + int64_t(bits() % uint32_t(high - low + 1))); }
    // Nearly normal: the sum of four uniform numbers has variance 4 / 12.
    float normal(float scale = 1) {
        float sum = -2;
        for (int i = 0; i < 4; i++) sum += float(bits() >> 8) * 0x1p-24f;
        return scale * (sum * 1.7320508f);
    }
    void fill_normal(Guarded<float>& to, float scale = 1) {
        for (size_t i = 0; i < to.size(); i++) to[i] = normal(scale);
    }

private:
    uint64_t state_;
};

class Report {
public:
    // The first failures are printed, all are counted.
    void check(bool good, const std::string& what) {
        n_checks_++;
        if (good) return;
        if (n_failures_++ < 20) std::printf("FAILED %s\n", what.c_str());
    }
    // |got - wanted| <= bound(i); what is not finite must be so in both.
    template <class Bound>
    void near(const float* got, const float* wanted, size_t n, Bound bound, const std::string& what) {
        for (size_t i = 0; i < n; i++) {
            const bool finite = std::isfinite(wanted[i]);
            const bool good = finite ? std::fabs(double(got[i]) - wanted[i]) <= bound(i) : !std::isfinite(got[i]);
            if (good) continue;
            check(false, what + at(i, got[i], wanted[i], finite ? bound(i) : 0));
            return;
        }
        check(true, what);
    }
    // Equal numbers (0 equals -0), or both NaN.
    template <class T>
    void equal(const T* got, const T* wanted, size_t n, const std::string& what) {
        for (size_t i = 0; i < n; i++) {
            if (got[i] == wanted[i] || (got[i] != got[i] && wanted[i] != wanted[i])) continue;
            check(false, what + at(i, double(got[i]), double(wanted[i]), 0));
            return;
        }
        check(true, what);
    }
    int n_checks() const { return n_checks_; }
    int n_failures() const { return n_failures_; }

private:
    static std::string at(size_t i, double got, double wanted, double bound) {
        char text[160];
        std::snprintf(text, sizeof text, " at %zu: got %.9g, wanted %.9g within %.3g", i, got, wanted, bound);
        return text;
    }
    int n_checks_ = 0, n_failures_ = 0;
};

// Comparisons of `kernels` with the scalar table, by concern.
void matmuls(const dllama::KernelTable& kernels, Report& report);
void rows(const dllama::KernelTable& kernels, Report& report);
void conversions(const dllama::KernelTable& kernels, Report& report);
void attentions(const dllama::KernelTable& kernels, Report& report);
void candidates(const dllama::KernelTable& kernels, Report& report);
void delta_nets(const dllama::KernelTable& kernels, Report& report);
void routers(const dllama::KernelTable& kernels, Report& report);
void quantizations(const dllama::KernelTable& k, Report& report);

}  // namespace compare

#include "piece_cuts.h"

#include <algorithm>
#include <cstring>

namespace dllama {
namespace {

constexpr uint64_t kBase = 0x9E3779B97F4A7C15u, kSpread = 0xD6E8FEB86659FD93u;  // odd

// Whether a character of UTF-8 begins with this byte.
bool begins_character(char byte) { return (uint8_t(byte) & 0xC0) != 0x80; }

// Pieces by their bytes. Hashes are polynomials in kBase, so that of any part follows from those of what ends where it begins and
// where it ends: a cut costs two lookups, and no more for a long piece.
class PieceTable {
public:
    explicit PieceTable(const Pieces& pieces) : pieces_(pieces), hashes_(size_t(pieces.n)) {
        while ((size_t(1) << bits_) < 2 * size_t(pieces.n)) bits_++;
        slots_.assign(size_t(1) << bits_, -1);
        for (int i = 0; i < pieces.n; i++) {
            uint64_t hash = 0;
            const char* at = pieces.text + pieces.begin(i);
            for (size_t j = 0; j < pieces.length(i); j++) hash = hash_with(hash, at[j]);
            hashes_[size_t(i)] = hash;
            size_t slot = slot_of(hash);
            while (slots_[slot] >= 0) slot = next(slot);
            slots_[slot] = i;
        }
    }

    static uint64_t hash_with(uint64_t hash, char byte) { return hash * kBase + uint8_t(byte) + 1; }

    // The piece of these bytes, or -1.
    int find(uint64_t hash, const char* bytes, size_t length) const {
        for (size_t slot = slot_of(hash); slots_[slot] >= 0; slot = next(slot)) {
            const int i = slots_[slot];
            if (hashes_[size_t(i)] == hash && pieces_.length(i) == length &&
                std::memcmp(pieces_.text + pieces_.begin(i), bytes, length) == 0)
                return i;
        }
        return -1;
    }

private:
    size_t slot_of(uint64_t hash) const {
        hash ^= hash >> 32;
        return size_t((hash * kSpread) >> (64 - bits_));
    }
    size_t next(size_t slot) const { return (slot + 1) & (slots_.size() - 1); }

    const Pieces& pieces_;
    int bits_ = 1;
    std::vector<uint64_t> hashes_;
    std::vector<int32_t> slots_;
};

}  // namespace

PieceCuts piece_cuts(const Pieces& pieces, int n_cut) {
    const PieceTable table(pieces);
    size_t longest = 0;
    for (int i = 0; i < n_cut; i++) longest = std::max(longest, pieces.length(i));
    std::vector<uint64_t> powers(longest + 1, 1), hashes(longest + 1, 0);  // hashes[j]: of the first j bytes
    for (size_t j = 1; j <= longest; j++) powers[j] = powers[j - 1] * kBase;
    PieceCuts cuts;
    for (int i = 0; i < n_cut; i++) {
        const char* piece = pieces.text + pieces.begin(i);
        const size_t length = pieces.length(i);
        for (size_t j = 0; j < length; j++) hashes[j + 1] = PieceTable::hash_with(hashes[j], piece[j]);
        for (size_t j = 1; j < length; j++) {
            if (!begins_character(piece[j])) continue;
            const int left = table.find(hashes[j], piece, j);
            if (left < 0) continue;
            const int right = table.find(hashes[length] - hashes[j] * powers[length - j], piece + j, length - j);
            if (right < 0) continue;
            cuts.left.push_back(left), cuts.right.push_back(right);
        }
    }
    return cuts;
}

}  // namespace dllama

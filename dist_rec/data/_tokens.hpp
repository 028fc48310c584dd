// Distinct tokens in order of first occurrence. An open-addressing table with linear probing holds pairs of half a hash
// and a number; ids are hashed a block at a time and their slots prefetched, so that cache misses overlap. Equal hashes
// are confirmed against the distinct tokens found so far: one number where all fields of a token fit 64 bits together.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

namespace {

constexpr int kBlock = 32;             // tokens whose slots are fetched ahead
constexpr int kLeastBits = 12;         // a table has at least 4096 slots
constexpr size_t kKeptSlots = 1 << 22; // a thread keeps its table for the next call up to this size (32 MiB)

struct Slot {
  uint32_t tag;    // low bits of the hash, whose high bits are the place
  uint32_t number; // of the distinct token, plus one; 0 in an empty slot
};

// Bijection of 64 bits (the finalizer of MurmurHash3), so that ids in arithmetic patterns do not pile up.
inline uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCDull;
  x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53ull;
  return x ^ (x >> 33);
}

class Table {
public:
  // Emptied, with room for as many tokens as the call before had: batches of a stream are alike, and growing costs.
  void clear() {
    bits_ = kLeastBits;
    while (full(before_)) bits_++;
    resize();
  }

  // At the end of a call.
  void leave(int64_t found) {
    before_ = found;
    if (capacity_ > kKeptSlots) slots_.reset(), capacity_ = 0;
  }

  uint64_t place(uint64_t hash) const { return hash >> (64 - bits_); }
  uint64_t next(uint64_t at) const { return (at + 1) & (size() - 1); }
  Slot &operator[](uint64_t at) { return slots_[at]; }
  bool full(int64_t found) const { return 2 * static_cast<uint64_t>(found) >= size(); }

  // Four times the slots, for `found` tokens, whose hashes `hash_of` gives.
  template <class HashOf> void grow(int64_t found, HashOf hash_of) {
    bits_ += 2;
    resize();
    for (int64_t number = 0; number < found; number++) {
      const uint64_t hash = hash_of(number);
      uint64_t at = place(hash);
      while (slots_[at].number) at = next(at);
      slots_[at] = {static_cast<uint32_t>(hash), static_cast<uint32_t>(number) + 1};
    }
  }

private:
  size_t size() const { return size_t{1} << bits_; }
  void resize() {
    if (capacity_ < size()) {
      slots_.reset(), capacity_ = 0; // so that a failed allocation leaves an empty table
      slots_.reset(new Slot[size()]);
      capacity_ = size();
    }
    std::memset(slots_.get(), 0, size() * sizeof(Slot));
  }

  std::unique_ptr<Slot[]> slots_;
  size_t capacity_ = 0;
  int64_t before_ = 0;
  int bits_ = kLeastBits;
};

// Integers of any width and sign, one per token.
struct Column {
  const char *data;
  int width; // bytes
  bool is_signed;

  // Calls `use(j, value)` for `members` tokens from `first` on, with the value as the column's own type.
  template <class Use> void each(int64_t first, int members, Use use) const {
    switch (width) {
    case 1:
      return is_signed ? read<int8_t>(first, members, use) : read<uint8_t>(first, members, use);
    case 2:
      return is_signed ? read<int16_t>(first, members, use) : read<uint16_t>(first, members, use);
    case 4:
      return is_signed ? read<int32_t>(first, members, use) : read<uint32_t>(first, members, use);
    default:
      return read<int64_t>(first, members, use);
    }
  }

private:
  template <class T, class Use> void read(int64_t first, int members, Use use) const {
    const T *from = reinterpret_cast<const T *>(data) + first;
    if (members == kBlock) { // a number of times that the compiler knows
      for (int j = 0; j < kBlock; j++) use(j, from[j]);
    } else {
      for (int j = 0; j < members; j++) use(j, from[j]);
    }
  }
};

// Tokens whose fields fill 64 bits at most: the fields side by side are the token.
class NarrowTokens {
public:
  NarrowTokens(const std::vector<Column> &columns, std::vector<int64_t> &kept) : columns_(columns), kept_(kept) {}

  void load(int64_t first, int members, uint64_t *hash) {
    std::memset(token_, 0, sizeof token_);
    int shift = 0;
    for (const Column &column : columns_) {
      column.each(first, members, [&](int j, auto id) {
        token_[j] |= static_cast<uint64_t>(static_cast<std::make_unsigned_t<decltype(id)>>(id)) << shift;
      });
      shift += 8 * column.width;
    }
    for (int j = 0; j < members; j++) hash[j] = mix(token_[j]);
  }
  uint64_t hash_of(int64_t number) const { return mix(static_cast<uint64_t>(kept_[number])); }
  bool same(int j, uint64_t number) const { return kept_[number] == static_cast<int64_t>(token_[j]); }
  void fetch(uint64_t number) const { __builtin_prefetch(kept_.data() + number); }
  void keep(int j) { kept_.push_back(static_cast<int64_t>(token_[j])); }

  void write(const std::vector<int64_t *> &unique) const {
    int shift = 0;
    for (size_t f = 0; f < columns_.size(); f++) {
      const int bits = 8 * columns_[f].width;
      for (size_t u = 0; u < kept_.size(); u++) {
        const uint64_t on_top = static_cast<uint64_t>(kept_[u]) << (64 - bits - shift);
        unique[f][u] = columns_[f].is_signed ? static_cast<int64_t>(on_top) >> (64 - bits)
                                             : static_cast<int64_t>(on_top >> (64 - bits));
      }
      shift += bits;
    }
  }

private:
  const std::vector<Column> &columns_;
  std::vector<int64_t> &kept_; // distinct tokens
  uint64_t token_[kBlock];
};

class WideTokens {
public:
  WideTokens(const std::vector<Column> &columns, std::vector<int64_t> &kept)
      : columns_(columns), kept_(kept), token_(kBlock * columns.size()) {}

  // Fields are weighted by odd numbers of their own, and added up: products that need not wait for each other.
  void load(int64_t first, int members, uint64_t *hash) {
    uint64_t sum[kBlock] = {}, weight = kFirstWeight;
    int64_t *field = token_.data();
    for (const Column &column : columns_) {
      column.each(first, members, [&](int j, auto id) {
        field[j] = static_cast<int64_t>(id);
        sum[j] += static_cast<uint64_t>(field[j]) * weight;
      });
      weight *= kNextWeight;
      field += kBlock;
    }
    for (int j = 0; j < members; j++) hash[j] = mix(sum[j]);
  }
  uint64_t hash_of(int64_t number) const {
    uint64_t sum = 0, weight = kFirstWeight;
    for (size_t f = 0; f < columns_.size(); f++, weight *= kNextWeight)
      sum += static_cast<uint64_t>(kept_[number * columns_.size() + f]) * weight;
    return mix(sum);
  }
  bool same(int j, uint64_t number) const {
    const int64_t *row = kept_.data() + number * columns_.size();
    for (size_t f = 0; f < columns_.size(); f++)
      if (token_[f * kBlock + j] != row[f]) return false;
    return true;
  }
  void fetch(uint64_t number) const { __builtin_prefetch(kept_.data() + number * columns_.size()); }
  void keep(int j) {
    for (size_t f = 0; f < columns_.size(); f++) kept_.push_back(token_[f * kBlock + j]);
  }

  void write(const std::vector<int64_t *> &unique) const {
    const size_t fields = columns_.size();
    for (size_t f = 0; f < fields; f++)
      for (size_t u = 0; u < kept_.size() / fields; u++) unique[f][u] = kept_[u * fields + f];
  }

private:
  static constexpr uint64_t kFirstWeight = 0x9E3779B97F4A7C15ull, kNextWeight = 0xD1342543DE82EF95ull;
  const std::vector<Column> &columns_;
  std::vector<int64_t> &kept_; // distinct tokens, field after field, for comparing without touching many columns
  std::vector<int64_t> token_; // of this block, column after column
};

template <class Tokens>
int64_t number_tokens(Tokens tokens, const std::vector<int64_t *> &unique, int64_t count, int32_t *inverse, Table &table) {
  int64_t found = 0;
  uint64_t hash[kBlock];
  for (int64_t first = 0; first < count; first += kBlock) {
    const int members = static_cast<int>(std::min<int64_t>(kBlock, count - first));
    while (table.full(found + members)) table.grow(found, [&](int64_t number) { return tokens.hash_of(number); });
    tokens.load(first, members, hash);
    for (int j = 0; j < members; j++) __builtin_prefetch(&table[table.place(hash[j])], 1);
    for (int j = 0; j < members; j++) {
      const Slot &slot = table[table.place(hash[j])];
      if (slot.number) tokens.fetch(slot.number - 1);
    }
    for (int j = 0; j < members; j++) {
      for (uint64_t at = table.place(hash[j]);; at = table.next(at)) {
        Slot &slot = table[at];
        if (!slot.number) {
          slot = {static_cast<uint32_t>(hash[j]), static_cast<uint32_t>(++found)};
          tokens.keep(j);
        } else if (slot.tag != static_cast<uint32_t>(hash[j]) || !tokens.same(j, slot.number - 1)) {
          continue;
        }
        inverse[first + j] = static_cast<int32_t>(slot.number - 1);
        break;
      }
    }
  }
  tokens.write(unique);
  return found;
}

int64_t number_all(const std::vector<Column> &columns, const std::vector<int64_t *> &unique, int64_t count,
                   int32_t *inverse) {
  struct Memory {
    Table table;
    std::vector<int64_t> kept;
  };
  // A thread keeps it for its next call. Behind a pointer: the compiler would look a variable of a thread up at every access.
  thread_local const std::unique_ptr<Memory> memory(new Memory);
  Table &table = memory->table;
  std::vector<int64_t> &kept = memory->kept;
  table.clear();
  kept.clear();
  int bytes = 0;
  for (const Column &column : columns) bytes += column.width;
  const int64_t found = bytes <= 8 ? number_tokens(NarrowTokens(columns, kept), unique, count, inverse, table)
                                   : number_tokens(WideTokens(columns, kept), unique, count, inverse, table);
  if (kept.capacity() > kKeptSlots) std::vector<int64_t>().swap(kept);
  table.leave(found);
  return found;
}

} // namespace

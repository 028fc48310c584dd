// The host's work on every event: distinct tokens by hashing, bit-packing of their index, and gathering the events of the
// rows of a batch. Imported as dist_rec.data._host; the wrappers that check and allocate are in dedup.py and gather.py.
// Every function works on caller's buffers and releases the GIL.
//
// Distinct tokens in order of first occurrence. An open-addressing table with linear probing holds pairs of half a hash and a number; ids
// are hashed a block at a time and their slots prefetched, so that cache misses overlap. Equal hashes are
// confirmed against the distinct tokens found so far: one number where all fields of a token fit 64 bits together.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

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

// Buffers of a call; released when it ends, whatever way it ends.
class Buffers {
public:
  ~Buffers() {
    for (Py_buffer &view : views_) PyBuffer_Release(&view);
  }
  // The memory of `object`, which must be contiguous, of `items` elements of `width` bytes; null with an exception set if not.
  void *open(PyObject *object, bool writable, Py_ssize_t width, Py_ssize_t items) {
    const Py_buffer *view = any(object, writable);
    if (!view) return nullptr;
    if (view->itemsize == width && view->len == width * items) return view->buf;
    PyErr_Format(PyExc_ValueError, "expected a buffer of %zd elements of %zd bytes, got %zd bytes in elements of %zd", items,
                 width, view->len, view->itemsize);
    return nullptr;
  }
  // The same for integers of any width up to 8 bytes; `column.data` is null with an exception set if they are none.
  Column column(PyObject *object, Py_ssize_t items) {
    const Py_buffer *view = any(object, false);
    if (!view) return {nullptr, 0, false};
    const char *kind = view->format && view->format[0] == '@' ? view->format + 1 : view->format;
    const bool is_signed = kind && std::strchr("bhilq", kind[0]), is_unsigned = kind && std::strchr("BHI", kind[0]);
    if (kind && kind[0] && !kind[1] && (is_signed || is_unsigned) && view->len == view->itemsize * items)
      return {static_cast<const char *>(view->buf), static_cast<int>(view->itemsize), is_signed};
    PyErr_Format(PyExc_ValueError, "expected a buffer of %zd integers up to int64, got %zd bytes of format '%s'", items,
                 view->len, view->format ? view->format : "B");
    return {nullptr, 0, false};
  }

private:
  const Py_buffer *any(PyObject *object, bool writable) {
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, (writable ? PyBUF_CONTIG : PyBUF_CONTIG_RO) | PyBUF_FORMAT)) return nullptr;
    views_.push_back(view);
    return &views_.back();
  }

  std::vector<Py_buffer> views_;
};

PyObject *unique_tokens(PyObject *, PyObject *args) {
  PyObject *columns, *results, *index;
  Py_ssize_t count;
  if (!PyArg_ParseTuple(args, "O!O!On", &PyTuple_Type, &columns, &PyTuple_Type, &results, &index, &count)) return nullptr;
  if (PyTuple_GET_SIZE(columns) == 0 || PyTuple_GET_SIZE(columns) != PyTuple_GET_SIZE(results) || count >= INT32_MAX) {
    PyErr_SetString(PyExc_ValueError, "expected as many result columns as columns, at least one, and less than 2^31 tokens");
    return nullptr;
  }
  Buffers buffers;
  std::vector<Column> ids;
  std::vector<int64_t *> unique;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(columns); i++) {
    ids.push_back(buffers.column(PyTuple_GET_ITEM(columns, i), count));
    if (!ids.back().data) return nullptr;
    unique.push_back(static_cast<int64_t *>(buffers.open(PyTuple_GET_ITEM(results, i), true, sizeof(int64_t), count)));
    if (!unique.back()) return nullptr;
  }
  int32_t *inverse = static_cast<int32_t *>(buffers.open(index, true, sizeof(int32_t), count));
  if (!inverse) return nullptr;
  int64_t found = -1;
  Py_BEGIN_ALLOW_THREADS;
  try {
    found = number_all(ids, unique, count, inverse);
  } catch (const std::bad_alloc &) {
  }
  Py_END_ALLOW_THREADS;
  return found < 0 ? PyErr_NoMemory() : PyLong_FromLongLong(found);
}

// Element i takes bits [i * bits, (i + 1) * bits) of a stream of 32-bit words, lowest bits first. `words` has one to spare.
PyObject *pack_bits(PyObject *, PyObject *args) {
  PyObject *index, *result;
  Py_ssize_t count, num_words;
  int bits;
  if (!PyArg_ParseTuple(args, "OnOni", &index, &count, &result, &num_words, &bits)) return nullptr;
  if (bits < 1 || bits > 32 || num_words != (count * bits + 31) / 32 + 1) {
    PyErr_SetString(PyExc_ValueError, "expected 1 to 32 bits and one more word than they fill");
    return nullptr;
  }
  Buffers buffers;
  const uint32_t *from = static_cast<uint32_t *>(buffers.open(index, false, sizeof(uint32_t), count));
  uint32_t *words = from ? static_cast<uint32_t *>(buffers.open(result, true, sizeof(uint32_t), num_words)) : nullptr;
  if (!words) return nullptr;
  Py_BEGIN_ALLOW_THREADS;
  uint64_t held = 0;
  int filled = 0;
  for (Py_ssize_t i = 0; i < count; i++) {
    held |= static_cast<uint64_t>(from[i]) << filled;
    filled += bits;
    if (filled >= 32) {
      *words++ = static_cast<uint32_t>(held);
      held >>= 32;
      filled -= 32;
    }
  }
  if (filled) *words++ = static_cast<uint32_t>(held);
  *words = 0;
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}

PyObject *unpack_bits(PyObject *, PyObject *args) {
  PyObject *packed, *result;
  Py_ssize_t count, num_words;
  int bits;
  if (!PyArg_ParseTuple(args, "OnOni", &packed, &num_words, &result, &count, &bits)) return nullptr;
  if (bits < 1 || bits > 32 || num_words != (count * bits + 31) / 32 + 1) {
    PyErr_SetString(PyExc_ValueError, "expected 1 to 32 bits and one more word than they fill");
    return nullptr;
  }
  Buffers buffers;
  const uint32_t *words = static_cast<uint32_t *>(buffers.open(packed, false, sizeof(uint32_t), num_words));
  uint32_t *to = words ? static_cast<uint32_t *>(buffers.open(result, true, sizeof(uint32_t), count)) : nullptr;
  if (!to) return nullptr;
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  Py_BEGIN_ALLOW_THREADS;
  for (Py_ssize_t i = 0; i < count; i++) {
    const uint64_t at = static_cast<uint64_t>(i) * bits;
    const uint32_t *word = words + (at >> 5);
    to[i] = static_cast<uint32_t>(((static_cast<uint64_t>(word[1]) << 32 | word[0]) >> (at & 31)) & mask);
  }
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}

// Ranges of values, one after the other.
struct Ranges {
  const int64_t *starts, *lengths;
  Py_ssize_t count;

  // Opened from two buffers of int64. False with an exception set if they are not `total` values of `items` that exist.
  bool open(Buffers &buffers, PyObject *starts_object, PyObject *lengths_object, Py_ssize_t items, Py_ssize_t total) {
    count = PyObject_Length(starts_object);
    if (count < 0) return false;
    starts = static_cast<int64_t *>(buffers.open(starts_object, false, sizeof(int64_t), count));
    lengths = starts ? static_cast<int64_t *>(buffers.open(lengths_object, false, sizeof(int64_t), count)) : nullptr;
    if (!lengths) return false;
    int64_t sum = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
      if (starts[i] < 0 || lengths[i] < 0 || lengths[i] > items || starts[i] > items - lengths[i]) {
        PyErr_Format(PyExc_ValueError, "expected ranges within %zd values, got %lld values from %lld on", items,
                     static_cast<long long>(lengths[i]), static_cast<long long>(starts[i]));
        return false;
      }
      sum += lengths[i];
    }
    if (sum == total) return true;
    PyErr_Format(PyExc_ValueError, "expected room for %lld values, got it for %zd", static_cast<long long>(sum), total);
    return false;
  }
};

PyObject *gather(PyObject *, PyObject *args) {
  PyObject *values, *starts, *lengths, *result;
  Py_ssize_t items, total, width;
  if (!PyArg_ParseTuple(args, "OnnOOOn", &values, &items, &width, &starts, &lengths, &result, &total)) return nullptr;
  Buffers buffers;
  const char *from = static_cast<char *>(buffers.open(values, false, width, items));
  char *to = from ? static_cast<char *>(buffers.open(result, true, width, total)) : nullptr;
  Ranges ranges;
  if (!to || !ranges.open(buffers, starts, lengths, items, total)) return nullptr;
  Py_BEGIN_ALLOW_THREADS;
  for (Py_ssize_t i = 0; i < ranges.count; i++) {
    std::memcpy(to, from + ranges.starts[i] * width, ranges.lengths[i] * width);
    to += ranges.lengths[i] * width;
  }
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}

PyObject *gather_ages(PyObject *, PyObject *args) {
  PyObject *times, *starts, *lengths, *now, *result;
  Py_ssize_t items, total;
  if (!PyArg_ParseTuple(args, "OnOOOOn", &times, &items, &starts, &lengths, &now, &result, &total)) return nullptr;
  Buffers buffers;
  const int64_t *from = static_cast<int64_t *>(buffers.open(times, false, sizeof(int64_t), items));
  int32_t *to = from ? static_cast<int32_t *>(buffers.open(result, true, sizeof(int32_t), total)) : nullptr;
  Ranges ranges;
  if (!to || !ranges.open(buffers, starts, lengths, items, total)) return nullptr;
  const int64_t *at = static_cast<int64_t *>(buffers.open(now, false, sizeof(int64_t), ranges.count));
  if (!at) return nullptr;
  Py_BEGIN_ALLOW_THREADS;
  for (Py_ssize_t i = 0; i < ranges.count; i++) {
    const int64_t *of = from + ranges.starts[i];
    for (int64_t j = 0; j < ranges.lengths[i]; j++) {
      const int64_t age = at[i] - of[j];
      *to++ = static_cast<int32_t>(std::min<int64_t>(std::max<int64_t>(age, 0), INT32_MAX));
    }
  }
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"unique_tokens", unique_tokens, METH_VARARGS,
     "unique_tokens(columns, unique, inverse, n) -> number of distinct tokens, written to the front of `unique`"},
    {"pack_bits", pack_bits, METH_VARARGS, "pack_bits(index, n, words, number of words, bits)"},
    {"unpack_bits", unpack_bits, METH_VARARGS, "unpack_bits(words, number of words, index, n, bits)"},
    {"gather", gather, METH_VARARGS, "gather(values, n, width, starts, lengths, result, n of the result)"},
    {"gather_ages", gather_ages, METH_VARARGS, "gather_ages(times, n, starts, lengths, now, result, n of the result)"},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_host", "Hashing, bit-packing and gathering on the host.", -1, methods,
                      nullptr,               nullptr, nullptr,                                nullptr};

} // namespace

PyMODINIT_FUNC PyInit__host() { return PyModule_Create(&module); }

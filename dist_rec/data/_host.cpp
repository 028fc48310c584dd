// Host side of dedup: distinct tokens by hashing, and bit-packing of their index. Imported as dist_rec.data._host; the
// wrappers that check and allocate are in dedup.py. Every function works on caller's buffers and releases the GIL.
//
// Distinct tokens in order of first occurrence. An open-addressing table with linear probing holds (hash, number) pairs; ids
// are hashed a block at a time and their slots prefetched, so that cache misses overlap. Equal hashes of tokens of
// several fields are confirmed against the distinct tokens found so far; with one field the hash is a bijection of the id.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace {

constexpr int kBlock = 32;             // tokens whose slots are fetched ahead
constexpr int kLeastBits = 12;         // a table has at least 4096 slots
constexpr size_t kKeptSlots = 1 << 22; // a thread keeps its table for the next call up to this size (64 MiB)

struct Slot {
  uint64_t hash;
  uint64_t number; // of the distinct token, plus one; 0 in an empty slot
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

  // Four times the slots; the pairs are put in again.
  void grow() {
    std::vector<Slot> pairs;
    pairs.reserve(size() / 2 + 1);
    for (size_t at = 0; at < size(); at++)
      if (slots_[at].number) pairs.push_back(slots_[at]);
    bits_ += 2;
    resize();
    for (const Slot &pair : pairs) {
      uint64_t at = place(pair.hash);
      while (slots_[at].number) at = next(at);
      slots_[at] = pair;
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

struct OneField {
  const int64_t *ids;
  int64_t *unique;
  uint64_t hash(int64_t i) const { return mix(static_cast<uint64_t>(ids[i])); }
  bool same(int64_t, uint64_t) const { return true; } // the hash says it all
  void fetch(uint64_t) const {}
  void keep(int64_t i, int64_t number) const { unique[number] = ids[i]; }
};

struct ManyFields {
  std::vector<const int64_t *> ids;
  std::vector<int64_t> *rows; // distinct tokens, field after field, for comparing without touching many columns
  int64_t fields() const { return static_cast<int64_t>(ids.size()); }
  // Fields are weighted by odd numbers of their own, and added up: products that need not wait for each other.
  uint64_t hash(int64_t i) const {
    uint64_t sum = 0, weight = 0x9E3779B97F4A7C15ull;
    for (const int64_t *column : ids) {
      sum += static_cast<uint64_t>(column[i]) * weight;
      weight *= 0xD1342543DE82EF95ull;
    }
    return mix(sum);
  }
  bool same(int64_t i, uint64_t number) const {
    const int64_t *row = rows->data() + number * fields();
    for (int64_t f = 0; f < fields(); f++)
      if (ids[f][i] != row[f]) return false;
    return true;
  }
  void fetch(uint64_t number) const { __builtin_prefetch(rows->data() + number * fields()); }
  void keep(int64_t i, int64_t) const {
    const size_t before = rows->size();
    rows->resize(before + ids.size());
    for (size_t f = 0; f < ids.size(); f++) (*rows)[before + f] = ids[f][i];
  }
};

template <class Tokens> int64_t number_tokens(const Tokens &tokens, int64_t count, int32_t *inverse, Table &table) {
  int64_t found = 0;
  uint64_t hash[kBlock];
  for (int64_t first = 0; first < count; first += kBlock) {
    const int members = static_cast<int>(std::min<int64_t>(kBlock, count - first));
    while (table.full(found + members)) table.grow();
    for (int j = 0; j < members; j++) {
      hash[j] = tokens.hash(first + j);
      __builtin_prefetch(&table[table.place(hash[j])], 1);
    }
    for (int j = 0; j < members; j++) {
      const Slot &slot = table[table.place(hash[j])];
      if (slot.number) tokens.fetch(slot.number - 1);
    }
    for (int j = 0; j < members; j++) {
      for (uint64_t at = table.place(hash[j]);; at = table.next(at)) {
        Slot &slot = table[at];
        if (!slot.number) {
          slot = {hash[j], static_cast<uint64_t>(found) + 1};
          tokens.keep(first + j, found++);
        } else if (slot.hash != hash[j] || !tokens.same(first + j, slot.number - 1)) {
          continue;
        }
        inverse[first + j] = static_cast<int32_t>(slot.number - 1);
        break;
      }
    }
  }
  return found;
}

int64_t number_all(const std::vector<const int64_t *> &ids, const std::vector<int64_t *> &unique, int64_t count,
                   int32_t *inverse) {
  thread_local Table table;
  table.clear();
  int64_t found;
  if (ids.size() == 1) {
    found = number_tokens(OneField{ids[0], unique[0]}, count, inverse, table);
  } else {
    thread_local std::vector<int64_t> rows; // kept for the next call, as the table is
    rows.clear();
    found = number_tokens(ManyFields{ids, &rows}, count, inverse, table);
    const size_t fields = ids.size();
    for (size_t f = 0; f < fields; f++)
      for (int64_t u = 0; u < found; u++) unique[f][u] = rows[u * fields + f];
    if (rows.capacity() > kKeptSlots) std::vector<int64_t>().swap(rows);
  }
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
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, writable ? PyBUF_CONTIG : PyBUF_CONTIG_RO)) return nullptr;
    views_.push_back(view);
    if (view.itemsize == width && view.len == width * items) return view.buf;
    PyErr_Format(PyExc_ValueError, "expected a buffer of %zd elements of %zd bytes, got %zd bytes in elements of %zd", items,
                 width, view.len, view.itemsize);
    return nullptr;
  }
  template <class T> bool open_all(PyObject *sequence, bool writable, Py_ssize_t items, std::vector<T *> &found) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(sequence); i++) {
      void *memory = open(PyTuple_GET_ITEM(sequence, i), writable, sizeof(T), items);
      if (!memory) return false;
      found.push_back(static_cast<T *>(memory));
    }
    return true;
  }

private:
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
  std::vector<const int64_t *> ids;
  std::vector<int64_t *> unique;
  if (!buffers.open_all(columns, false, count, ids) || !buffers.open_all(results, true, count, unique)) return nullptr;
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

PyMethodDef methods[] = {
    {"unique_tokens", unique_tokens, METH_VARARGS,
     "unique_tokens(columns, unique, inverse, n) -> number of distinct tokens, written to the front of `unique`"},
    {"pack_bits", pack_bits, METH_VARARGS, "pack_bits(index, n, words, number of words, bits)"},
    {"unpack_bits", unpack_bits, METH_VARARGS, "unpack_bits(words, number of words, index, n, bits)"},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_host", "Hashing and bit-packing on the host.", -1, methods,
                      nullptr,               nullptr, nullptr,                                nullptr};

} // namespace

PyMODINIT_FUNC PyInit__host() { return PyModule_Create(&module); }

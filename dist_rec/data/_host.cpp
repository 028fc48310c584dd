// The host's work on every event: distinct tokens by hashing (_tokens.hpp), bit-packing of their index, and gathering
// the events of the rows of a batch. Imported as dist_rec.data._host; the wrappers that check and allocate are in dedup.py and gather.py.
// Every function works on caller's buffers and releases the GIL.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_tokens.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace {

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

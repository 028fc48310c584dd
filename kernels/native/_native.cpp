// The kernels of a CPU, as functions of addresses. The wrappers (native.py of each operator) check shapes, dtypes and
// devices and allocate; nothing here does. Every function releases the GIL.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "attention.hpp"
#include "gather.hpp"
#include "jagged.hpp"
#include "slots.hpp"

namespace {

// The arguments of a call one after the other; `failed` after any that was no number.
class Arguments {
public:
  Arguments(PyObject *const *given, Py_ssize_t count) : given_(given), left_(count) {}
  int64_t number() {
    PyObject *next = take();
    const int64_t value = next ? PyLong_AsLongLong(next) : -1;
    failed |= value == -1 && PyErr_Occurred();
    return value;
  }
  double real() {
    PyObject *next = take();
    const double value = next ? PyFloat_AsDouble(next) : -1.0;
    failed |= value == -1.0 && PyErr_Occurred();
    return value;
  }
  template <typename T> T *address() { return reinterpret_cast<T *>(number()); }
  // An address, 0 for none, and whether its numbers are 64 bits wide.
  Index index() {
    const void *data = address<const void>();
    return {data, number() != 0};
  }
  // Whether every argument was a number and none is left.
  bool complete() {
    if (!failed && left_ > 0) {
      PyErr_Format(PyExc_TypeError, "%zd arguments too many", left_);
      failed = true;
    }
    return !failed;
  }
  bool failed = false;

private:
  PyObject *take() {
    if (left_-- > 0) return *given_++;
    if (!failed) PyErr_SetString(PyExc_TypeError, "too few arguments");
    failed = true;
    return nullptr;
  }
  PyObject *const *given_;
  Py_ssize_t left_;
};

// Runs `work` without the GIL: None, or null with an exception set.
template <typename Work> PyObject *released(const Work &work) {
  bool done = true;
  Py_BEGIN_ALLOW_THREADS;
  try {
    work();
  } catch (const std::bad_alloc &) {
    done = false;
  }
  Py_END_ALLOW_THREADS;
  if (!done) return PyErr_NoMemory();
  Py_RETURN_NONE;
}

Attention read_attention(Arguments &args) {
  Attention a;
  a.threads = args.number(), a.batch = args.number(), a.heads = args.number(), a.kv_heads = args.number();
  a.size = args.number(), a.q = args.address<const float>(), a.k = args.address<const float>();
  a.v = args.address<const float>(), a.k_row = args.number(), a.k_head = args.number();
  a.v_row = args.number(), a.v_head = args.number(), a.q_offsets = args.index(), a.kv_offsets = args.index();
  a.counts = args.index(), a.prefix_len = args.index(), a.positions = args.index();
  a.key_valid = args.address<const bool>(), a.causal = args.number() != 0, a.group_size = args.number();
  a.scale = static_cast<float>(args.real()), a.q_rows = args.number(), a.kv_rows = args.number();
  return a;
}

PyObject *attend(PyObject *, PyObject *const *given, Py_ssize_t count) {
  Arguments args(given, count);
  const Attention a = read_attention(args);
  float *out = args.address<float>(), *peak = args.address<float>(), *total = args.address<float>();
  if (!args.complete()) return nullptr;
  return released([&] { attention_forward(a, out, peak, total); });
}

PyObject *attend_backward(PyObject *, PyObject *const *given, Py_ssize_t count) {
  Arguments args(given, count);
  const Attention a = read_attention(args);
  Gradients g;
  g.out = args.address<const float>(), g.peak = args.address<const float>(), g.total = args.address<const float>();
  g.grad = args.address<const float>();
  g.dq = args.address<float>(), g.dk = args.address<float>(), g.dv = args.address<float>();
  g.dk_row = args.number(), g.dk_head = args.number(), g.dv_row = args.number(), g.dv_head = args.number();
  if (!args.complete()) return nullptr;
  return released([&] { attention_backward(a, g); });
}

// threads, gelu, N, D, tables, then of each table: its address, its rows, its index
Gather read_gather(Arguments &args) {
  Gather g;
  g.threads = args.number(), g.with_gelu = args.number() != 0, g.positions = args.number(), g.width = args.number();
  g.tables = args.number();
  if (!args.failed && (g.tables < 1 || g.tables > MOST_TABLES)) {
    PyErr_Format(PyExc_ValueError, "expected 1 to %d tables, got %lld", MOST_TABLES, static_cast<long long>(g.tables));
    args.failed = true;
  }
  if (args.failed) g.tables = 0;
  for (int64_t t = 0; t < g.tables; t++)
    g.table[t] = args.address<const float>(), g.rows[t] = args.number(), g.index[t] = args.index();
  return g;
}

PyObject *gather_rows(PyObject *, PyObject *const *given, Py_ssize_t count) {
  Arguments args(given, count);
  const Gather g = read_gather(args);
  float *out = args.address<float>();
  if (!args.complete()) return nullptr;
  const int64_t wrong = wrong_index(g);
  if (wrong >= 0) return PyLong_FromLongLong(wrong);
  PyObject *done = released([&] { gather(g, out); });
  if (!done) return nullptr;
  Py_DECREF(done);
  return PyLong_FromLongLong(wrong);
}

PyObject *gather_rows_backward(PyObject *, PyObject *const *given, Py_ssize_t count) {
  Arguments args(given, count);
  const Gather g = read_gather(args);
  const float *grad = args.address<const float>();
  float *sums[MOST_TABLES];
  for (int64_t t = 0; t < g.tables; t++) sums[t] = args.address<float>();
  if (!args.complete()) return nullptr;
  if (wrong_index(g) >= 0) {
    PyErr_SetString(PyExc_IndexError, "an index was changed between forward and backward, and lies outside of its table now");
    return nullptr;
  }
  return released([&] { gather_backward(g, grad, sums); });
}

PyObject *apply_gelu(PyObject *, PyObject *const *given, Py_ssize_t count) {
  Arguments args(given, count);
  const int64_t threads = args.number(), numbers = args.number();
  const float *x = args.address<const float>(), *grad = args.address<const float>();
  float *out = args.address<float>();
  if (!args.complete()) return nullptr;
  return released([&] {
    if (grad) gelu_backward_all(x, grad, out, numbers, threads);
    else gelu_all(x, out, numbers, threads);
  });
}

Slots read_slots(Arguments &args) {
  Slots s;
  s.threads = args.number(), s.groups = args.number(), s.slots = args.number(), s.heads = args.number();
  s.size = args.number(), s.qkv = args.address<const float>(), s.real = args.address<const bool>();
  s.scale = static_cast<float>(args.real());
  if (!args.failed && s.slots > LANES) {
    PyErr_Format(PyExc_ValueError, "expected at most %d slots, got %lld", LANES, static_cast<long long>(s.slots));
    args.failed = true;
  }
  return s;
}

PyObject *attend_slots(PyObject *, PyObject *const *given, Py_ssize_t count) {
  Arguments args(given, count);
  const Slots s = read_slots(args);
  float *out = args.address<float>();
  if (!args.complete()) return nullptr;
  return released([&] { slots_forward(s, out); });
}

PyObject *attend_slots_backward(PyObject *, PyObject *const *given, Py_ssize_t count) {
  Arguments args(given, count);
  const Slots s = read_slots(args);
  const float *grad = args.address<const float>();
  float *out = args.address<float>();
  if (!args.complete()) return nullptr;
  return released([&] { slots_backward(s, grad, out); });
}

PyObject *check_offsets(PyObject *, PyObject *const *given, Py_ssize_t count) {
  Arguments args(given, count);
  const Index offsets = args.index();
  const int64_t numbers = args.number(), total = args.number(), padded = args.number();
  if (!args.complete()) return nullptr;
  return PyBool_FromLong(are_offsets(offsets, numbers, total, padded != 0));
}

PyObject *write_range(PyObject *, PyObject *const *given, Py_ssize_t count) {
  Arguments args(given, count);
  const Index first = args.index(), offsets = args.index();
  const int64_t sequences = args.number(), step = args.number(), most = args.number(), wide = args.number();
  void *out = args.address<void>();
  if (!args.complete()) return nullptr;
  Py_BEGIN_ALLOW_THREADS;
  if (wide) jagged_range(first, offsets, sequences, step, most, static_cast<int64_t *>(out));
  else jagged_range(first, offsets, sequences, step, most, static_cast<int32_t *>(out));
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"attend", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(attend)), METH_FASTCALL, nullptr},
    {"attend_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(attend_backward)), METH_FASTCALL, nullptr},
    {"gather_rows", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(gather_rows)), METH_FASTCALL, nullptr},
    {"gather_rows_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(gather_rows_backward)), METH_FASTCALL, nullptr},
    {"gelu", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(apply_gelu)), METH_FASTCALL, nullptr},
    {"attend_slots", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(attend_slots)), METH_FASTCALL, nullptr},
    {"attend_slots_backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(attend_slots_backward)), METH_FASTCALL, nullptr},
    {"check_offsets", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(check_offsets)), METH_FASTCALL, nullptr},
    {"write_range", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(write_range)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr}};

#define QUOTED(name) #name
#define NAME_OF(name) QUOTED(name)
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native_" NAME_OF(VARIANT), nullptr, 0, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

#define JOINED(a, b) a##b
#define INIT(name) JOINED(PyInit__native_, name)
PyMODINIT_FUNC INIT(VARIANT)() {
  PyObject *made = PyModule_Create(&module);
  // The order of arguments; kernels/common/native.py has the same number.
  if (made && PyModule_AddIntConstant(made, "INTERFACE", 1)) {
    Py_DECREF(made);
    return nullptr;
  }
  return made;
}

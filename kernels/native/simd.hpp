// Vectors of 16 floats in the compiler's own terms: one register with AVX-512, two with AVX2, four else.

#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

constexpr int LANES = 16;
constexpr float INF = std::numeric_limits<float>::infinity();

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef float Quad __attribute__((vector_size(16)));

#define INLINE inline __attribute__((always_inline))

// Lanes of two vectors in a new order.
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
template <typename Vector> struct Order;
template <> struct Order<Floats> { typedef Ints type; };
template <> struct Order<Quad> { typedef int32_t type __attribute__((vector_size(16))); };
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, Order<std::decay_t<decltype(a)>>::type{__VA_ARGS__})
#endif

INLINE Floats load(const float *from) {
  Floats x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

INLINE void store(float *to, Floats x) { std::memcpy(to, &x, sizeof x); }

INLINE Floats all(float x) { return Floats{} + x; }

INLINE Floats pick(Ints condition, Floats yes, Floats no) { return condition ? yes : no; }

INLINE Floats largest(Floats a, Floats b) { return pick(a > b, a, b); }

INLINE Floats smallest(Floats a, Floats b) { return pick(a < b, a, b); }

// Lanes below `count`.
INLINE Ints first_lanes(int64_t count) {
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return lane < static_cast<int32_t>(count < LANES ? count : LANES);
}

// The first `count` floats, zeros behind them; reads nothing else. A whole vector, the usual case, calls nothing.
INLINE Floats load_first(const float *from, int64_t count) {
  if (__builtin_expect(count >= LANES, true)) return load(from);
  float x[LANES] = {};
  for (int64_t i = 0; i < count; i++) x[i] = from[i];
  return load(x);
}

INLINE void store_first(float *to, Floats x, int64_t count) {
  if (__builtin_expect(count >= LANES, true)) return store(to, x);
  float y[LANES];
  store(y, x);
  for (int64_t i = 0; i < count; i++) to[i] = y[i];
}

// One half is added to the other until one lane is left: always in the same order.
INLINE float sum(Floats x) {
  x += SHUFFLED(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  x += SHUFFLED(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  x += SHUFFLED(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  return x[0] + x[1];
}

INLINE float maximum(Floats x) {
  x = largest(x, SHUFFLED(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  x = largest(x, SHUFFLED(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  x = largest(x, SHUFFLED(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  return x[0] > x[1] ? x[0] : x[1];
}

INLINE float dot(const float *x, const float *y, int64_t size) {
  Floats total{};
  for (int64_t d = 0; d < size; d += LANES) total += load_first(x + d, size - d) * load_first(y + d, size - d);
  return sum(total);
}

// (rows, columns) with strides `from_row` and `to_row` -> (columns, rows), four by four.
INLINE void transpose(const float *from, int64_t from_row, int64_t rows, int64_t columns, float *to, int64_t to_row) {
  for (int64_t i = 0; i < rows; i += 4)
    for (int64_t j = 0; j < columns; j += 4) {
      if (i + 4 > rows || j + 4 > columns) {
        for (int64_t y = i; y < rows && y < i + 4; y++)
          for (int64_t x = j; x < columns && x < j + 4; x++) to[x * to_row + y] = from[y * from_row + x];
        continue;
      }
      Quad x[4];
      for (int y = 0; y < 4; y++) std::memcpy(&x[y], from + (i + y) * from_row + j, sizeof x[y]);
      const Quad low = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5), high = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7);
      const Quad low2 = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5), high2 = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);
      const Quad y[4] = {SHUFFLED(low, low2, 0, 1, 4, 5), SHUFFLED(low, low2, 2, 3, 6, 7),
                         SHUFFLED(high, high2, 0, 1, 4, 5), SHUFFLED(high, high2, 2, 3, 6, 7)};
      for (int z = 0; z < 4; z++) std::memcpy(to + (j + z) * to_row + i, &y[z], sizeof y[z]);
    }
}

// e^x within 1 ulp or so; 0 below -87. x = n ln 2 + r, e^r by its series, 2^n into the exponent.
INLINE Floats exponential(Floats x) {
  const float ROUND = 12582912.0f;  // adding 1.5 * 2^23 leaves n in the lowest bits
  const Ints tiny = x < -87.0f;
  x = pick(tiny, all(-87.0f), x);
  const Floats shifted = x * 1.44269504088896341f + ROUND, n = shifted - ROUND;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats y = r * 1.9841270e-4f + 1.3888889e-3f;
  y = y * r + 8.3333333e-3f;
  y = y * r + 4.1666667e-2f;
  y = y * r + 1.6666667e-1f;
  y = y * r + 0.5f;
  y = y * (r * r) + r + 1.0f;
  Ints bits, power;
  std::memcpy(&bits, &y, sizeof bits);
  std::memcpy(&power, &shifted, sizeof power);
  bits += power << 23;
  std::memcpy(&y, &bits, sizeof y);
  // The bits of a NaN must not take part in the sum.
  return pick(x == x, pick(tiny, Floats{}, y), x);
}

// As many of the threads as pay for being started, some 30 microseconds each.
INLINE int64_t worth(int64_t threads, int64_t vector_operations) {
  const int64_t useful = 1 + vector_operations / (1 << 16);
  return threads < useful ? threads : useful;
}

// Runs `work(i)` for all i below `count` on up to `threads` threads; each i on one thread.
template <typename Work> void in_parallel(int64_t count, int64_t threads, const Work &work) {
  threads = threads < count ? threads : count;
  if (threads <= 1) {
    for (int64_t i = 0; i < count; i++) work(i);
    return;
  }
  std::atomic<bool> failed{false};
  const auto share = [&](int64_t thread) {
    try {
      for (int64_t i = thread; i < count; i += threads) work(i);
    } catch (const std::bad_alloc &) {
      failed = true;
    }
  };
  std::vector<std::thread> others;
  others.reserve(static_cast<size_t>(threads));
  int64_t started = 1;
  try {
    for (; started < threads; started++) others.emplace_back(share, started);
  } catch (const std::system_error &) {  // no more threads to be had: their shares are done here
  }
  share(0);
  for (; started < threads; started++) share(started);
  for (std::thread &other : others) other.join();
  if (failed) throw std::bad_alloc();
}

// An index of int32 or int64.
struct Index {
  const void *data;
  bool wide;
  INLINE int64_t operator[](int64_t i) const {
    return wide ? static_cast<const int64_t *>(data)[i] : static_cast<const int32_t *>(data)[i];
  }
  explicit operator bool() const { return data != nullptr; }
};

// Rows gathered and added, with or without the GELU, fp32; and the gradient of all of them in one pass over the events.
// Work is split over threads by columns: every sum is added up by one thread, in the order of the events.
//
// Legend: N positions, D width, T tables.

#pragma once

#include "simd.hpp"

#include <algorithm>

// erf within 4 ulp: an odd rational function of x on [-3.83, 3.83], and 1 beyond.
INLINE Floats error_function(Floats x) {
  const float BOUND = 3.832506856900711f;
  const Ints above = x >= BOUND, below = x <= -BOUND;
  x = largest(smallest(x, all(BOUND)), all(-BOUND));
  const Floats x2 = x * x;
  Floats p = x2 * 0.00022905065861350646f + 0.0034082910107109506f;
  p = p * x2 + 0.050955695062380861f;
  p = p * x2 + 0.18520832239976145f;
  p = p * x2 + 1.128379143519084f;
  Floats q = x2 * -1.1791602954361697e-7f + 0.000023547966471313185f;
  q = q * x2 + 0.0010179625278914885f;
  q = q * x2 + 0.014070470171167667f;
  q = q * x2 + 0.11098505178285362f;
  q = q * x2 + 0.49746925110067538f;
  q = q * x2 + 1.0f;
  // Exactly: a rest would be multiplied by whatever is beyond.
  return pick(above, all(1.0f), pick(below, all(-1.0f), x * p / q));
}

INLINE Floats gelu(Floats x) { return 0.5f * x * (1.0f + error_function(x * 0.70710678118654752f)); }

INLINE Floats gelu_slope(Floats x) {
  const Floats bell = exponential(-0.5f * x * x) * 0.39894228040143268f;
  return 0.5f * (1.0f + error_function(x * 0.70710678118654752f)) + x * bell;
}

constexpr int MOST_TABLES = 5;
constexpr int64_t AHEAD = 8;  // positions

struct Gather {
  int64_t tables, positions, width;
  const float *table[MOST_TABLES];  // (K_t, D) contiguous
  Index index[MOST_TABLES];         // (N,)
  int64_t rows[MOST_TABLES];        // K_t
  bool with_gelu;
  int64_t threads;
};

// The first table with a number outside, or -1.
inline int64_t wrong_index(const Gather &g) {
  for (int64_t t = 0; t < g.tables; t++) {
    uint64_t most = 0;
    for (int64_t i = 0; i < g.positions; i++) most = std::max(most, static_cast<uint64_t>(g.index[t][i]));
    if (g.positions && most >= static_cast<uint64_t>(g.rows[t])) return t;
  }
  return -1;
}

INLINE Floats added(const Gather &g, int64_t i, int64_t d, int64_t width) {
  Floats total = load_first(g.table[0] + g.index[0][i] * g.width + d, width);
  for (int64_t t = 1; t < g.tables; t++) total += load_first(g.table[t] + g.index[t][i] * g.width + d, width);
  return total;
}

// Rows of the first table lie anywhere: what a later position needs is asked for early.
INLINE void ask_for(const Gather &g, const float *table, int64_t i) {
  if (!table || i >= g.positions) return;
  const char *row = reinterpret_cast<const char *>(table + g.index[0][i] * g.width);
  for (int64_t byte = 0; byte < g.width * 4; byte += 64) __builtin_prefetch(row + byte);
}

inline void gather(const Gather &g, float *out) {
  const int64_t slices = (g.width + LANES - 1) / LANES, per_task = 1024;
  in_parallel((g.positions + per_task - 1) / per_task, worth(g.threads, g.positions * slices), [&](int64_t task) {
    const int64_t stop = std::min((task + 1) * per_task, g.positions);
    for (int64_t i = task * per_task; i < stop; i++) {
      ask_for(g, g.table[0], i + AHEAD);
      for (int64_t slice = 0; slice < slices; slice++) {
        const int64_t d = slice * LANES, width = std::min<int64_t>(LANES, g.width - d);
        const Floats x = added(g, i, d, width);
        store_first(out + i * g.width + d, g.with_gelu ? gelu(x) : x, width);
      }
    }
  });
}

// `sums[t]` (K_t, D), zeros, or null where no gradient is wanted.
inline void gather_backward(const Gather &g, const float *grad, float *const *sums) {
  const int64_t slices = (g.width + LANES - 1) / LANES, threads = std::max<int64_t>(1, std::min(worth(g.threads, g.positions * slices), slices));
  in_parallel(threads, threads, [&](int64_t thread) {
    const int64_t first = slices * thread / threads, last = slices * (thread + 1) / threads;
    for (int64_t i = 0; i < g.positions; i++) {
      ask_for(g, g.with_gelu ? g.table[0] : nullptr, i + AHEAD);
      ask_for(g, sums[0], i + AHEAD);
      for (int64_t slice = first; slice < last; slice++) {
        const int64_t d = slice * LANES, width = std::min<int64_t>(LANES, g.width - d);
        Floats slope = load_first(grad + i * g.width + d, width);
        if (g.with_gelu) slope *= gelu_slope(added(g, i, d, width));
        for (int64_t t = 0; t < g.tables; t++) {
          if (!sums[t]) continue;
          float *to = sums[t] + g.index[t][i] * g.width + d;
          store_first(to, load_first(to, width) + slope, width);
        }
      }
    }
  });
}

inline void gelu_all(const float *x, float *out, int64_t count, int64_t threads) {
  const int64_t per_task = 1 << 15;
  in_parallel((count + per_task - 1) / per_task, threads, [&](int64_t task) {
    const int64_t stop = std::min((task + 1) * per_task, count);
    for (int64_t i = task * per_task; i < stop; i += LANES)
      store_first(out + i, gelu(load_first(x + i, stop - i)), stop - i);
  });
}

inline void gelu_backward_all(const float *x, const float *grad, float *out, int64_t count, int64_t threads) {
  const int64_t per_task = 1 << 15;
  in_parallel((count + per_task - 1) / per_task, threads, [&](int64_t task) {
    const int64_t stop = std::min((task + 1) * per_task, count);
    for (int64_t i = task * per_task; i < stop; i += LANES)
      store_first(out + i, load_first(grad + i, stop - i) * gelu_slope(load_first(x + i, stop - i)), stop - i);
  });
}

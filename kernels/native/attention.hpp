// Cross-causal attention, fp32: one task per request and key-value head. Keys go in blocks that stay in the first-level
// cache, transposed so that a vector holds one column of 16 keys; query rows go four at a time, so that what is loaded
// serves four. Lanes that a row does not see are cleared: its result depends neither on hidden keys nor on other requests.
//
// Legend: H query heads, H_kv key-value heads, D head size, m rows of one candidate's group.

#pragma once

#include "simd.hpp"

#include <algorithm>

struct Attention {
  int64_t batch, heads, kv_heads, size;  // size: D
  const float *q;                        // (sum_q, H, D) contiguous
  const float *k, *v;                    // (sum_kv, H_kv, D), columns contiguous
  int64_t k_row, k_head, v_row, v_head;  // strides in floats
  Index q_offsets, kv_offsets, counts, prefix_len, positions;
  const bool *key_valid;
  bool causal;
  int64_t group_size;
  float scale;
  int64_t threads, q_rows, kv_rows;  // rows of the buffers; those behind the last offset are padding
};

struct Gradients {
  const float *out, *peak, *total, *grad;  // like q, (sum_q, H) twice, like q
  float *dq, *dk, *dv;                     // dq like q; dk and dv with the strides below
  int64_t dk_row, dk_head, dv_row, dv_head;
};

// A request.
struct Rows {
  int64_t q_begin, q_count, kv_begin, kv_count, events, candidates, first_candidate;
};

// Keys of one row, in positions of its request: j < limit, and start <= j < stop.
struct Visible {
  int64_t limit = 0, start = 0, stop = 0;
};

inline Visible visible(const Attention &a, const Rows &rows, int64_t row) {
  if (!a.causal) return {rows.kv_count, 0, 0};
  const int64_t position = a.positions ? a.positions[rows.q_begin + row] : rows.kv_count - rows.q_count + row;
  const int64_t until = std::clamp<int64_t>(position, -1, rows.kv_count - 1) + 1;
  if (!a.counts || position < rows.events) return {until, 0, 0};
  const int64_t candidate = (position - rows.events) / a.group_size;
  if (candidate >= rows.candidates) return {};  // behind the last key; the caller refuses it
  const int64_t prefix = a.prefix_len ? a.prefix_len[rows.first_candidate + candidate] : rows.events;
  return {std::clamp<int64_t>(prefix, 0, rows.kv_count), rows.events + candidate * a.group_size, until};
}

constexpr int TILE = 4;  // rows
constexpr int PAIR = 2;  // vectors of keys at a time: eight sums hide the time that an addition takes
constexpr int UNIT = PAIR * LANES;
constexpr int64_t BLOCK = 512;  // keys that all rows meet before the next ones
constexpr int COLUMNS = 4;      // D goes in fours; columns behind D are zeros

struct Head {
  const Attention &a;
  const Rows &rows;
  const int64_t kv_head, group, size;  // size: D in whole fours
  const int64_t stride;                // of columns: not a power of two, or they would share a set of the cache
  std::vector<float> k, v, dk, dv;     // of a block, (D, stride)
  std::vector<float> scores;           // (TILE, stride)
  std::vector<Ints> shown;             // of a block, by vector: whether its keys are valid

  Head(const Attention &a, const Rows &rows, int64_t kv_head, bool backward)
      : a(a), rows(rows), kv_head(kv_head), group(a.heads / a.kv_heads),
        size((a.size + COLUMNS - 1) / COLUMNS * COLUMNS),
        stride((std::min(BLOCK, rows.kv_count) + UNIT - 1) / UNIT * UNIT + LANES) {
    k.resize(static_cast<size_t>(size * stride)), v.resize(k.size()), scores.resize(static_cast<size_t>(TILE * stride));
    if (backward) dk.resize(k.size()), dv.resize(k.size());
    if (a.key_valid) shown.resize(BLOCK / LANES);
  }

  // Keys (count, D) into columns; zeros up to a whole pair of vectors.
  void read_columns(const float *from, int64_t row, int64_t first, int64_t count, float *to) const {
    transpose(from + first * row, row, count, a.size, to, stride);
    for (int64_t d = 0; d < size; d++)
      for (int64_t j = count; j < (count + UNIT - 1) / UNIT * UNIT; j += LANES) store(to + d * stride + j, Floats{});
  }

  // Hidden keys may hold anything: they become zeros.
  void read_block(int64_t begin, int64_t count) {
    const int64_t first = rows.kv_begin + begin;
    read_columns(a.k + kv_head * a.k_head, a.k_row, first, count, k.data());
    read_columns(a.v + kv_head * a.v_head, a.v_row, first, count, v.data());
    if (!a.key_valid) return;
    for (int64_t j = 0; j < count; j++) {
      shown[j / LANES][j % LANES] = a.key_valid[first + j] ? -1 : 0;
      for (int64_t d = 0; d < size && !a.key_valid[first + j]; d++) k[d * stride + j] = v[d * stride + j] = 0.0f;
    }
  }

  // The part of the keys of a block that some row of a tile sees, in pairs of vectors: [0, events) and [own, stop).
  // Every row sees all keys of those below `full`.
  struct Walk {
    int64_t full, events, own, stop;
    Visible seen[TILE];
  };

  Walk walk(const Visible *all, int64_t count, int64_t begin, int64_t keys) const {
    Walk found{INT64_MAX, 0, INT64_MAX, 0, {}};
    for (int64_t r = 0; r < TILE; r++) {
      Visible &seen = found.seen[r];
      if (r < count) seen = all[r];
      seen.limit = std::clamp<int64_t>(seen.limit - begin, 0, keys);
      seen.start = std::clamp<int64_t>(seen.start - begin, 0, keys);
      seen.stop = std::clamp<int64_t>(seen.stop - begin, 0, keys);
      found.full = std::min(found.full, seen.limit);
      found.events = std::max(found.events, seen.limit);
      if (seen.start >= seen.stop) continue;
      found.own = std::min(found.own, seen.start), found.stop = std::max(found.stop, seen.stop);
    }
    found.full = a.key_valid ? 0 : found.full / UNIT;
    found.events = (found.events + UNIT - 1) / UNIT;
    found.stop = (found.stop + UNIT - 1) / UNIT;
    found.own = std::max(std::min(found.own, keys) / UNIT, found.events);
    return found;
  }

  // The next pair after `i`: from the events to the tile's own groups.
  static INLINE int64_t next(const Walk &w, int64_t i) { return ++i == w.events ? w.own : i; }
  static INLINE int64_t begin(const Walk &w) { return w.events ? 0 : w.own; }
  static INLINE bool more(const Walk &w, int64_t i) { return i < w.events || i < w.stop; }
  static INLINE bool nothing(const Walk &w) { return !more(w, begin(w)); }

  INLINE Ints seen_lanes(const Walk &w, int r, int64_t i, int u) const {
    const Visible &seen = w.seen[r];
    const Ints lane = Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + static_cast<int32_t>(i * UNIT + u * LANES);
    const Ints found = (lane < static_cast<int32_t>(seen.limit)) |
                       ((lane >= static_cast<int32_t>(seen.start)) & (lane < static_cast<int32_t>(seen.stop)));
    return a.key_valid ? found & shown[i * PAIR + u] : found;
  }

  // x (TILE, D) times a pair of vectors of keys.
  INLINE void dots(const float *x, const float *columns_of, int64_t i, Floats (&found)[PAIR][TILE]) const {
    for (int u = 0; u < PAIR; u++)
      for (int r = 0; r < TILE; r++) found[u][r] = Floats{};
    for (int64_t d = 0; d < size; d++) {
      Floats column[PAIR];
      for (int u = 0; u < PAIR; u++) column[u] = load(columns_of + d * stride + i * UNIT + u * LANES);
      for (int r = 0; r < TILE; r++)
        for (int u = 0; u < PAIR; u++) found[u][r] += x[r * size + d] * column[u];
    }
  }

  // out (TILE, D) += weights (TILE, keys) times the keys' columns.
  INLINE void weigh(const Walk &w, const std::vector<float> &from, float *out, int64_t count = TILE) const {
    for (int64_t d = 0; d < size; d += COLUMNS) {
      Floats total[TILE][COLUMNS] = {};
      for (int64_t i = begin(w); more(w, i); i = next(w, i))
        for (int u = 0; u < PAIR; u++) {
          Floats weight[TILE];
          for (int r = 0; r < TILE; r++) weight[r] = load(scores.data() + r * stride + i * UNIT + u * LANES);
          for (int c = 0; c < COLUMNS; c++) {
            const Floats column = load(from.data() + (d + c) * stride + i * UNIT + u * LANES);
            if (i < w.full)
              for (int r = 0; r < TILE; r++) total[r][c] += weight[r] * column;
            else  // the key of a weight of zero may be anything
              for (int r = 0; r < TILE; r++) total[r][c] += weight[r] * pick(weight[r] != 0.0f, column, Floats{});
          }
        }
      for (int64_t r = 0; r < count; r++)
        for (int c = 0; c < COLUMNS; c++) out[r * size + d + c] += sum(total[r][c]);
    }
  }

  // Place of a row of the tile in (sum_q, H).
  int64_t place(int64_t row) const { return (rows.q_begin + row / group) * a.heads + kv_head * group + row % group; }

  // The rows of a tile that see a key; zeros for the others, which may hold anything.
  void read_tile(const float *from, int64_t first, int64_t count, const Visible *seen, std::vector<float> &to) const {
    std::fill(to.begin(), to.end(), 0.0f);
    for (int64_t r = 0; r < count; r++)
      if (seen[r].limit > 0 || seen[r].start < seen[r].stop)
        std::copy_n(from + place(first + r) * a.size, a.size, to.data() + r * size);
  }

  INLINE float *scores_of(int r, int64_t i, int u) { return scores.data() + r * stride + i * UNIT + u * LANES; }

  // Per row, `peak` is the largest score and `total` the sum of e^(score - peak): 0 for a row that sees no key.
  void forward(float *out, float *peak, float *total) {
    const int64_t all = rows.q_count * group;
    std::vector<float> q(TILE * size), weighted(q.size()), totals(all), peaks(all, -INF), sums(all * size);
    const std::vector<Visible> seen = visible_of_all();
    for (int64_t first_key = 0; first_key < rows.kv_count; first_key += BLOCK) {
      const int64_t keys = std::min(BLOCK, rows.kv_count - first_key);
      read_block(first_key, keys);
      for (int64_t first = 0; first < all; first += TILE) {
        const int64_t count = std::min<int64_t>(TILE, all - first);
        const Walk w = walk(seen.data() + first, count, first_key, keys);
        if (nothing(w)) continue;
        read_tile(a.q, first, count, seen.data() + first, q);
        float now[TILE];
        score(w, q.data(), now);
        for (int r = 0; r < TILE; r++) {
          if (r < count && now[r] < peaks[first + r]) now[r] = peaks[first + r];
          if (now[r] == -INF) now[r] = 0.0f;  // no key is seen: every weight is e^-inf = 0
        }
        Floats part[TILE] = {};
        for (int64_t i = begin(w); more(w, i); i = next(w, i))
          for (int u = 0; u < PAIR; u++)
            for (int r = 0; r < TILE; r++) {
              const Floats p = exponential(load(scores_of(r, i, u)) - now[r]);
              store(scores_of(r, i, u), p);
              part[r] += p;
            }
        std::fill(weighted.begin(), weighted.end(), 0.0f);
        weigh(w, v, weighted.data());
        for (int64_t r = 0; r < count; r++) {
          const float more = sum(part[r]);
          if (more == 0.0f) continue;
          const float fade = totals[first + r] == 0.0f ? 0.0f : std::exp(peaks[first + r] - now[r]);
          peaks[first + r] = now[r];
          totals[first + r] = totals[first + r] * fade + more;
          for (int64_t d = 0; d < size; d += LANES) {
            float *to = sums.data() + (first + r) * size + d;
            const Floats added = load_first(weighted.data() + r * size + d, size - d);
            store_first(to, load_first(to, size - d) * fade + added, size - d);
          }
        }
      }
    }
    for (int64_t row = 0; row < all; row++) {
      const bool blind = totals[row] == 0.0f;
      peak[place(row)] = peaks[row], total[place(row)] = totals[row];
      float *to = out + place(row) * a.size;
      const float share = blind ? 0.0f : 1.0f / totals[row];
      for (int64_t d = 0; d < a.size; d += LANES)
        store_first(to + d, load_first(sums.data() + row * size + d, a.size - d) * share, a.size - d);
    }
  }

  // Scores of a tile, -inf where a key is hidden, and the largest of each row.
  INLINE void score(const Walk &w, const float *q, float *largest_of) {
    Floats most[TILE];
    for (Floats &x : most) x = ::all(-INF);
    for (int64_t i = begin(w); more(w, i); i = next(w, i)) {
      Floats s[PAIR][TILE];
      dots(q, k.data(), i, s);
      for (int u = 0; u < PAIR; u++)
        for (int r = 0; r < TILE; r++) {
          s[u][r] *= a.scale;
          if (i >= w.full) s[u][r] = pick(seen_lanes(w, r, i, u), s[u][r], ::all(-INF));
          store(scores_of(r, i, u), s[u][r]);
          most[r] = largest(most[r], s[u][r]);
        }
    }
    for (int r = 0; r < TILE; r++) largest_of[r] = maximum(most[r]);
  }

  std::vector<Visible> visible_of_all() const {
    std::vector<Visible> found(static_cast<size_t>(rows.q_count * group));
    for (size_t row = 0; row < found.size(); row++) found[row] = visible(a, rows, static_cast<int64_t>(row) / group);
    return found;
  }

  // What the weights of a row and their gradients need: share = 1 / total, delta = out * grad.
  struct RowState {
    float peak, share, delta;
  };

  void backward(const Gradients &g) {
    const int64_t all = rows.q_count * group;
    std::vector<float> q(TILE * size), grad(q.size()), dq(all * size), deltas(all);
    std::vector<Visible> seen = visible_of_all();
    for (int64_t row = 0; row < all; row++) {
      const float *out = g.out + place(row) * a.size, *of = g.grad + place(row) * a.size;
      deltas[row] = dot(out, of, a.size);
      if (g.total[place(row)] == 0.0f) seen[row] = {};  // no gradient, whatever the row holds
    }
    for (int64_t first_key = 0; first_key < rows.kv_count; first_key += BLOCK) {
      const int64_t keys = std::min(BLOCK, rows.kv_count - first_key);
      read_block(first_key, keys);
      std::fill(dk.begin(), dk.end(), 0.0f);
      std::fill(dv.begin(), dv.end(), 0.0f);
      for (int64_t first = 0; first < all; first += TILE) {
        const int64_t count = std::min<int64_t>(TILE, all - first);
        const Walk w = walk(seen.data() + first, count, first_key, keys);
        if (nothing(w)) continue;
        read_tile(a.q, first, count, seen.data() + first, q);
        read_tile(g.grad, first, count, seen.data() + first, grad);
        RowState state[TILE] = {};
        for (int64_t r = 0; r < count; r++) {
          const int64_t at = place(first + r);
          state[r] = {g.peak[at], g.total[at] == 0.0f ? 0.0f : 1.0f / g.total[at], deltas[first + r]};
        }
        for (int64_t i = begin(w); more(w, i); i = next(w, i)) weigh_back(w, i, q.data(), grad.data(), state);
        weigh(w, k, dq.data() + first * size, count);
      }
      const int64_t to = rows.kv_begin + first_key;
      transpose(dk.data(), stride, a.size, keys, g.dk + to * g.dk_row + kv_head * g.dk_head, g.dk_row);
      transpose(dv.data(), stride, a.size, keys, g.dv + to * g.dv_row + kv_head * g.dv_head, g.dv_row);
    }
    for (int64_t row = 0; row < all; row++) std::copy_n(dq.data() + row * size, a.size, g.dq + place(row) * a.size);
  }

  // A pair of vectors of keys of a tile: gradients of the scores into `scores`, of keys and values into the block.
  INLINE void weigh_back(const Walk &w, int64_t i, const float *q, const float *grad, const RowState *state) {
    Floats p[PAIR][TILE], ds[PAIR][TILE];
    dots(q, k.data(), i, p);
    dots(grad, v.data(), i, ds);
    for (int u = 0; u < PAIR; u++)
      for (int r = 0; r < TILE; r++) {
        p[u][r] = exponential(p[u][r] * a.scale - state[r].peak) * state[r].share;
        ds[u][r] = p[u][r] * (ds[u][r] - state[r].delta) * a.scale;
        if (i >= w.full) {
          const Ints seen = seen_lanes(w, r, i, u);
          p[u][r] = pick(seen, p[u][r], Floats{}), ds[u][r] = pick(seen, ds[u][r], Floats{});
        }
        store(scores_of(r, i, u), ds[u][r]);
      }
    for (int64_t d = 0; d < size; d++)
      for (int u = 0; u < PAIR; u++) {
        const int64_t at = d * stride + i * UNIT + u * LANES;
        Floats sum_k = load(dk.data() + at), sum_v = load(dv.data() + at);
        for (int r = 0; r < TILE; r++) sum_k += ds[u][r] * q[r * size + d], sum_v += p[u][r] * grad[r * size + d];
        store(dk.data() + at, sum_k), store(dv.data() + at, sum_v);
      }
  }
};

// Calls `run(rows, kv_head)` for every request and key-value head.
template <typename Run> void for_each_head(const Attention &a, const Run &run) {
  std::vector<Rows> requests;
  int64_t first_candidate = 0, operations = 0;
  for (int64_t b = 0; b < a.batch; b++) {
    const int64_t count = a.counts ? a.counts[b] : 0, kv_count = a.kv_offsets[b + 1] - a.kv_offsets[b];
    requests.push_back({a.q_offsets[b], a.q_offsets[b + 1] - a.q_offsets[b], a.kv_offsets[b], kv_count,
                        kv_count - count * a.group_size, count, first_candidate});
    first_candidate += count;
    operations += requests.back().q_count * kv_count * a.heads * a.size / LANES;
  }
  in_parallel(a.batch * a.kv_heads, worth(a.threads, operations), [&](int64_t i) { run(requests[i / a.kv_heads], i % a.kv_heads); });
}

// Rows behind the last offset.
inline void clear_tail(float *to, int64_t row, int64_t count, Index offsets, int64_t batch, int64_t rows) {
  for (int64_t i = offsets[batch]; i < rows; i++) std::fill_n(to + i * row, count, 0.0f);
}

inline void attention_forward(const Attention &a, float *out, float *peak, float *total) {
  const int64_t width = a.heads * a.size;
  clear_tail(out, width, width, a.q_offsets, a.batch, a.q_rows);
  for_each_head(a, [&](const Rows &rows, int64_t kv_head) { Head(a, rows, kv_head, false).forward(out, peak, total); });
}

inline void attention_backward(const Attention &a, const Gradients &g) {
  const int64_t width = a.heads * a.size, kv_width = a.kv_heads * a.size;
  clear_tail(g.dq, width, width, a.q_offsets, a.batch, a.q_rows);
  clear_tail(g.dk, g.dk_row, kv_width, a.kv_offsets, a.batch, a.kv_rows);
  clear_tail(g.dv, g.dv_row, kv_width, a.kv_offsets, a.batch, a.kv_rows);
  for_each_head(a, [&](const Rows &rows, int64_t kv_head) { Head(a, rows, kv_head, true).backward(g); });
}

// Attention among the few slots of a group, fp32: one task per run of groups, one vector for the weights of a row.
//
// Legend: M groups, K slots (up to 16), H heads, D head size.

#pragma once

#include "simd.hpp"

#include <algorithm>

struct Slots {
  int64_t groups, slots, heads, size;  // M, K, H, D
  const float *qkv;                    // (M, K, 3, H, D) contiguous
  const bool *real;                    // (M, K)
  float scale;
  int64_t threads;
};

// One head of one group: row i of q, k or v is `rows + i * stride`.
struct SlotHead {
  const float *q, *k, *v;
  int64_t stride;
  Ints real;
  bool any;
};

INLINE SlotHead slot_head(const Slots &s, int64_t group, int64_t head) {
  const int64_t width = s.heads * s.size;
  const float *q = s.qkv + group * s.slots * 3 * width + head * s.size;
  SlotHead found{q, q + width, q + 2 * width, 3 * width, Ints{}, false};
  for (int64_t j = 0; j < s.slots; j++)
    if (s.real[group * s.slots + j]) found.real[j] = -1, found.any = true;
  return found;
}

// The weights of row i over all slots.
INLINE Floats slot_weights(const Slots &s, const SlotHead &h, int64_t i) {
  Floats score = all(-INF);
  for (int64_t j = 0; j < s.slots; j++)
    if (h.real[j]) score[j] = dot(h.q + i * h.stride, h.k + j * h.stride, s.size) * s.scale;
  const Floats weight = pick(h.real, exponential(score - maximum(score)), Floats{});
  return weight / sum(weight);
}

// to (D) += weight * from (D)
INLINE void add_scaled(float weight, const float *from, float *to, int64_t size) {
  for (int64_t d = 0; d < size; d += LANES)
    store_first(to + d, load_first(to + d, size - d) + weight * load_first(from + d, size - d), size - d);
}

constexpr int64_t GROUPS_PER_TASK = 128;

template <typename Work> void for_each_slot_head(const Slots &s, const Work &work) {
  in_parallel((s.groups + GROUPS_PER_TASK - 1) / GROUPS_PER_TASK, s.threads, [&](int64_t task) {
    const int64_t stop = std::min((task + 1) * GROUPS_PER_TASK, s.groups);
    for (int64_t group = task * GROUPS_PER_TASK; group < stop; group++)
      for (int64_t head = 0; head < s.heads; head++) work(group, head, slot_head(s, group, head));
  });
}

// out (M, K, H, D), zeros
inline void slots_forward(const Slots &s, float *out) {
  for_each_slot_head(s, [&](int64_t group, int64_t head, const SlotHead &h) {
    for (int64_t i = 0; i < s.slots && h.any; i++) {
      const Floats weight = slot_weights(s, h, i);
      float *to = out + ((group * s.slots + i) * s.heads + head) * s.size;
      for (int64_t j = 0; j < s.slots; j++)
        if (h.real[j]) add_scaled(weight[j], h.v + j * h.stride, to, s.size);
    }
  });
}

// grad (M, K, H, D); out like qkv, zeros
inline void slots_backward(const Slots &s, const float *grad, float *out) {
  for_each_slot_head(s, [&](int64_t group, int64_t head, const SlotHead &h) {
    float *dq = out + (h.q - s.qkv), *dk = out + (h.k - s.qkv), *dv = out + (h.v - s.qkv);
    for (int64_t i = 0; i < s.slots && h.any; i++) {
      const float *of = grad + ((group * s.slots + i) * s.heads + head) * s.size;
      const Floats weight = slot_weights(s, h, i);
      Floats slope{};
      for (int64_t j = 0; j < s.slots; j++)
        if (h.real[j]) slope[j] = dot(of, h.v + j * h.stride, s.size);
      slope = weight * (slope - sum(weight * slope)) * s.scale;
      for (int64_t j = 0; j < s.slots; j++) {
        if (!h.real[j]) continue;
        add_scaled(slope[j], h.k + j * h.stride, dq + i * h.stride, s.size);
        add_scaled(slope[j], h.q + i * h.stride, dk + j * h.stride, s.size);
        add_scaled(weight[j], of, dv + j * h.stride, s.size);
      }
    }
  });
}

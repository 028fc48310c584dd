// Jagged layouts: what belongs to which sequence.

#pragma once

#include "simd.hpp"

#include <algorithm>

// Whether `offsets` (count,) rise from 0 to `total`, or with `padded` to at most that.
inline bool are_offsets(Index offsets, int64_t count, int64_t total, bool padded) {
  if (offsets[0] != 0) return false;
  for (int64_t b = 1; b < count; b++)
    if (offsets[b] < offsets[b - 1]) return false;
  return padded ? offsets[count - 1] <= total : offsets[count - 1] == total;
}

// Row i of sequence b: min(first[b] + step * i, most); without `first`, of zeros, or with step 0 of b.
template <typename To>
void jagged_range(Index first, Index offsets, int64_t sequences, int64_t step, int64_t most, To *out) {
  for (int64_t b = 0; b < sequences; b++) {
    int64_t value = first ? first[b] : step == 0 ? b : 0;
    for (int64_t i = offsets[b]; i < offsets[b + 1]; i++, value += step) out[i] = static_cast<To>(std::min(value, most));
  }
}

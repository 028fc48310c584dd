"""When the ages of events change what a model makes of them."""

import torch
from torch import Tensor

from dist_rec.models.layers.tokens import time_bucket
from dist_rec.serve.user_state import FOREVER

MOST_AGE = 2**31 - 1  # ages are clipped here


class BucketEnds:
    """The first age in seconds of every time bucket, as `time_bucket` has it."""

    def __init__(self, buckets: int) -> None:
        self.buckets = buckets
        about = torch.pow(2.0, torch.arange(1, buckets + 1, dtype=torch.float64) / 2) - 1
        self.next = torch.tensor([self._first(int(age), number + 1) for number, age in enumerate(about)])

    def left(self, ages: Tensor) -> int:
        """Seconds until the first of the events of ages (N,) int32 goes into its next bucket."""
        if len(ages) == 0:
            return FOREVER
        bucket = time_bucket(ages, self.buckets)
        ends = self.next[bucket.long()]
        left = torch.where((ends == FOREVER) | (ages == MOST_AGE), FOREVER, ends - ages)
        return int(left.min())

    def _first(self, about: int, bucket: int) -> int:
        """The first age in `bucket` or a later one; near powers of two, where fp32 rounds, it is tried."""
        if bucket >= self.buckets or about > MOST_AGE:
            return FOREVER
        reach = 2 + about // 2**20  # of the rounding of a large age to fp32
        ages = torch.arange(max(about - reach, 0), min(about + reach, MOST_AGE) + 1)
        inside = time_bucket(ages.int(), self.buckets) >= bucket
        return int(ages[inside][0])

"""An age leaves its bucket when `time_bucket` says so."""

import pytest
import torch

from dist_rec.models.layers.tokens import time_bucket
from dist_rec.serve.aging import MOST_AGE, BucketEnds
from dist_rec.serve.user_state import FOREVER


@pytest.mark.parametrize("buckets", [2, 7, 64, 100])
def test_the_bucket_changes_then_and_not_before(buckets: int) -> None:
    ends = BucketEnds(buckets)
    ages = torch.cat(
        [torch.arange(3000), torch.randint(0, MOST_AGE, (2000,), generator=torch.Generator().manual_seed(0))]
    )
    for age in ages.tolist():
        now = torch.tensor([age], dtype=torch.int32)
        left = ends.left(now)
        if left == FOREVER:
            assert time_bucket(torch.tensor([MOST_AGE], dtype=torch.int32), buckets) == time_bucket(now, buckets)
            continue
        before, after = (torch.tensor([age + left + by], dtype=torch.int32) for by in (-1, 0))
        assert time_bucket(before, buckets) == time_bucket(now, buckets)
        assert time_bucket(after, buckets) > time_bucket(now, buckets)


def test_the_first_of_several_events_decides() -> None:
    ends = BucketEnds(64)
    assert ends.left(torch.tensor([0, 10**6], dtype=torch.int32)) == 1
    assert ends.left(torch.empty(0, dtype=torch.int32)) == FOREVER

"""What requests have beside the ids of their context: numbers, and the time of the week.

Legend: B requests.
"""

import numpy as np
import torch
from torch import Tensor

from dist_rec.data.columns import REQUEST
from dist_rec.data.numbers import as_sent
from dist_rec.data.reading import Reading, narrow

WEEK = 604_800  # seconds


def request_values(reading: Reading) -> dict[str, Tensor]:
    """`number.request.<name>` (B,) float32, NaN where it is missing; `side.request.<name>` of numbers that are sent as
    buckets; `week.request` (B,) int32 second of the week from 0 on, which begins on Thursdays, if times are cyclic."""
    declared, found = reading.schema.request, {}
    sent = as_sent(declared.numbers)
    for name, number in declared.numbers.items():
        values = reading.left.some.scalars(name)
        if name in sent:
            found[f"number.{REQUEST}.{name}"] = torch.from_numpy(values)
        else:
            found[f"side.{REQUEST}.{name}"] = narrow(number.buckets_of(values), number.num_buckets or 0)
    if declared.cyclic:
        local = reading.now() + round(3600 * declared.utc_offset)
        found[f"week.{REQUEST}"] = torch.from_numpy((local % WEEK).astype(np.int32))
    return found


def plain_request_bytes(reading: Reading) -> int:
    """As KeyedJaggedTensors: 4 bytes of a number, 8 of a time, and 4 of length per request."""
    declared = reading.schema.request
    return len(reading.left.some) * (8 * len(declared.numbers) + 12 * declared.cyclic)

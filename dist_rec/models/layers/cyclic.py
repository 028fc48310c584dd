"""Time of day and of the week as a sine and a cosine each, so that the end of a day is beside its beginning."""

import math

import torch
from torch import Tensor

WEEK, DAY = 604_800, 86_400  # seconds
CYCLIC_COLUMNS = 4


def cyclic_columns(second_of_week: Tensor) -> Tensor:
    """(N,) integers -> (N, 4) float32: sine and cosine of the time of day, sine and cosine of the time of the week."""
    angles = [(second_of_week % period).float() * (2 * math.pi / period) for period in (DAY, WEEK)]
    return torch.stack([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


def week_before(second_of_week: Tensor, age: Tensor) -> Tensor:
    """(N,) int32 in [0, WEEK): the second of the week of what was `age` seconds, 0 to 2^31 - 1, before."""
    return (second_of_week - age).remainder(WEEK)

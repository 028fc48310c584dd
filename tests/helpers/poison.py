"""Memory that nobody has written reads as NaN, or as the largest integer, so that whoever reads it fails."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# Torch's own switch, torch.utils.deterministic.fill_uninitialized_memory, does nothing unless deterministic algorithms
# are on, and these change what is tested.
FUNCTIONS: tuple[tuple[Any, str], ...] = (
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (Tensor, "new_empty"),
    (Tensor, "new_empty_strided"),
)
_active = False


def is_active() -> bool:
    """Whether memory is filled at present."""
    return _active


@contextmanager
def filled_memory() -> Iterator[None]:
    """Replaces the functions of torch that give memory as it is, for calls from Python, until the end of the block.

    What C++ makes for itself stays as it is.
    """
    global _active
    assert not _active, "memory is filled already"
    before = {(owner, name): vars(owner).get(name) for owner, name in FUNCTIONS}
    for owner, name in FUNCTIONS:
        setattr(owner, name, _filling(getattr(owner, name)))
    _active = True
    try:
        yield
    finally:
        _active = False
        for (owner, name), own in before.items():
            if own is None:  # inherited
                delattr(owner, name)
            else:
                setattr(owner, name, own)


def _filling(make: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make)
    def filled(*args: Any, **kwargs: Any) -> Any:
        return _fill(make(*args, **kwargs))

    return filled


def _fill(found: Any) -> Any:
    """Fills a plain tensor in place. Fake, traced and sharded ones hold no memory of their own."""
    if (
        type(found) not in (Tensor, torch.nn.Parameter)
        or found.layout is not torch.strided
        or found.device.type == "meta"
    ):
        return found
    value = _value(found.dtype)
    if value is not None:
        found.data.fill_(value)  # by `data`: neither autograd nor the version counter hears of it
    return found


def _value(dtype: torch.dtype) -> float | int | None:
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    if dtype is torch.bool:
        return True
    try:
        return torch.iinfo(dtype).max
    except TypeError:  # quantized, and other types without a largest value
        return None

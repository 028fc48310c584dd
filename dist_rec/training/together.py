"""What every rank does by itself, or the first one for all, and what goes wrong there, known to all."""

import pickle
from collections.abc import Callable
from typing import TypeVar, cast

import torch.distributed as dist

T = TypeVar("T")


def from_all(make: Callable[[], T], group: dist.ProcessGroup) -> list[T]:
    """Calls `make` on every rank of a gloo group and returns what each rank made, by rank. Without this a rank that
    fails leaves the others waiting for it in the next collective.

    Every rank calls it; what is made can be pickled, and `make` has no collectives. Comm: one all-gather.

    Raises, on all ranks, what the first rank raised for which it went wrong; RuntimeError with its message if that
    cannot be pickled."""
    own: tuple[T | None, Exception | None]
    try:
        own = make(), None
    except Exception as error:
        own = None, error
    found: list[tuple[T, Exception | None]] = [None] * dist.get_world_size(group)  # pyright: ignore[reportAssignmentType]
    dist.all_gather_object(found, (own[0], _sent(own[1])), group=group)
    for rank, (_, error) in enumerate(found):
        if error is not None:  # that of this rank knows where it comes from
            raise (own[1] or error) if rank == dist.get_rank(group) else error
    return [made for made, _ in found]


def from_first(make: Callable[[], T], group: dist.ProcessGroup) -> T:
    """Calls `make` on rank 0 alone, and returns on all ranks what it made there. As `from_all`."""
    is_first = dist.get_rank(group) == 0
    return cast(T, from_all(lambda: make() if is_first else None, group)[0])


def _sent(error: Exception | None) -> Exception | None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the error does when it is made anew
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error

"""The end of a run after an error: one sentence, printed once, whichever ranks met the error."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from dist_rec.common.errors import RunError, Unmet
from dist_rec.common.made import NotOurs
from dist_rec.common.strict import ConfigError
from dist_rec.data.validate import DataError

EXIT = 2  # of a run that no restart mends: a wrong recipe, bad data, weights that diverged
BROKEN = 1  # of one that may go well the next time: a rank or a host was lost, memory or a disk was full; and of a bug
# What a rank hears when another one is gone (gloo, NCCL, the store).
GONE = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Socket closed",
    "remote process exited",
    "Connection refused",
    "failed to recv, got 0 bytes",
    "NCCL communicator was aborted",
)
FAILED = "dist_rec/failed"  # exit code and number of the rank that has said what ended the run


@contextmanager
def one_voice() -> Iterator[None]:
    """Around the work of a rank: an error that a user can do something about becomes one sentence, from the rank that
    met it first, and the same exit code on all of them. A bug keeps its traceback. Comm: only when it ends badly, over
    the job's store."""
    try:
        yield
    except Exception as error:
        said = sentence(error)
        if said is None:
            if not is_gone(error):
                raise
            said = "lost the connection to another rank, which has ended without a word (killed by the system?)"
        code = exit_code(error)
        if (other := _spoken(code)) is not None:
            raise SystemExit(other) from None
        print(f"error: {said}", file=sys.stderr, flush=True)
        raise SystemExit(code) from None


def exit_code(error: BaseException) -> int:
    """EXIT where the same would happen again, otherwise BROKEN."""
    mistake = isinstance(error, ConfigError | DataError | NotOurs | RunError) and not isinstance(error, Unmet)
    return EXIT if mistake else BROKEN


def sentence(error: BaseException) -> str | None:
    """The message for the user; None for a bug and for the end of another rank."""
    if isinstance(error, ConfigError | DataError | NotOurs | RunError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        smaller = "a smaller data.batch_size or data.batch_events"
        return f"{str(error).splitlines()[0]} Expected {smaller}, model.recompute, or more GPUs"
    if isinstance(error, MemoryError):
        smaller = "a smaller data.batch_size or data.batch_events, data.shuffle_window or data.workers"
        return f"out of memory on the host; expected {smaller}"
    if isinstance(error, OSError) and not is_gone(error):
        place = f"{error.filename}: " if error.filename else ""
        full = (
            "; expected free space there, or another folder (run.out, --out)"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else ""
        )
        return f"{place}{error.strerror or error}{full}"
    return None


def is_gone(error: BaseException) -> bool:
    """Whether the error is the end of another rank."""
    several = dist.is_initialized() and dist.get_world_size() > 1
    return several and any(sign in str(error) for sign in GONE)


def _spoken(code: int) -> int | None:
    """The exit code of another rank that has spoken; None where none has, so that this one speaks and ends with `code`,
    and where that cannot be known, since the rank that keeps the count is gone."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    try:
        own = f"{code} {dist.get_rank()}"
        found = dist.distributed_c10d._get_default_store().compare_set(FAILED, "", own).decode()
    except Exception:  # whatever a lost connection raises
        return None
    return None if found == own else int(found.split()[0])

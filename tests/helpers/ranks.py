"""Runs a function on several ranks, each a process of its own on this machine."""

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dist_rec.training.failure import GONE
from tests.helpers.poison import filled_memory, is_active

PATIENCE = timedelta(hours=1)  # of collectives: the parent, which knows who hangs, gives up first
GRACE_S = 5.0  # for the other ranks to notice that one has failed
# Ranks are forked from a server that has imported these once: importing them takes a rank seconds, its test a fraction
# of one.
PRELOADED = ("torch", "torch.distributed", "torchrec.distributed.model_parallel", "torchrec.distributed.train_pipeline")

# A forked process cannot use CUDA, for which a look of the server at the GPUs is enough.
_context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "forkserver")
_context.set_forkserver_preload(list(PRELOADED))


def run_ranks(
    fn: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 120.0, backend: str = "gloo"
) -> list[Any]:
    """Calls `fn(*args)` on every rank of an initialised group, gloo by default, and returns what each rank returned.

    `fn`, its arguments and its result must be picklable: a function at the top of a test file, tensors, plain values.
    Inside, `torch.distributed.get_rank()` and torchrun's environment variables say who is who. The ranks meet in a
    file instead of on a port, so tests that run side by side cannot take each other's.

    Raises:
        AssertionError: with the whole traceback of the rank that failed first, or the names of the ranks that hang.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = [
            _context.Process(
                target=_rank, args=(fn, args, (rank, world_size), folder, (is_active(), backend)), daemon=True
            )
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        try:
            hung = _wait(processes, timeout_s)
        finally:
            for process in processes:
                process.kill()
                process.join()
        _raise_first_failure(processes, hung, folder)
        return [pickle.loads((folder / f"{rank}.result").read_bytes()) for rank in range(world_size)]


def _rank(
    fn: Callable[..., Any], args: tuple[Any, ...], place: tuple[int, int], folder: Path, options: tuple[bool, str]
) -> None:
    """One rank, in its own process. `place`: its number and how many there are; `options`: whether memory is filled, as
    in the test, and the backend."""
    (rank, world_size), (filled, backend) = place, options
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size)
    )
    try:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        dist.init_process_group(
            backend, init_method=f"file://{folder}/store", rank=rank, world_size=world_size, timeout=PATIENCE
        )
        with filled_memory() if filled else nullcontext():
            result = pickle.dumps(fn(*args))
        dist.barrier()  # nobody leaves while another still needs it
        dist.destroy_process_group()
    except BaseException:
        # Under another name until complete: the parent must never read half a traceback.
        (folder / f"{rank}.partial").write_text(traceback.format_exc())
        (folder / f"{rank}.partial").rename(folder / f"{rank}.error")
        os._exit(1)
    (folder / f"{rank}.result").write_bytes(result)
    os._exit(0)  # threads that a test left behind must not keep the rank alive


def _wait(processes: Sequence[BaseProcess], timeout_s: float) -> list[int]:
    """Until all have ended, one has failed and the others had time to, or the time is over; the ranks that still
    run."""
    left, before = timeout_s, time.monotonic()
    while any(process.exitcode is None for process in processes) and left > 0:
        if any(process.exitcode for process in processes):
            left = min(left, GRACE_S)
        time.sleep(0.02)
        now = time.monotonic()
        # On a busy machine a second is worth less: limits are in seconds of a machine that is shared by nobody.
        left, before = left - (now - before) / _slowness(), now
    return [rank for rank, process in enumerate(processes) if process.exitcode is None]


def _slowness() -> float:
    """Processes that want to run per core, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def _raise_first_failure(processes: Sequence[BaseProcess], hung: Sequence[int], folder: Path) -> None:
    errors = sorted(folder.glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
    told = {path.stem: path.read_text() for path in errors}
    # A rank that is gone makes the others fail, often before this process hears of it: their errors are not the cause.
    causes = [rank for rank, text in told.items() if not any(sign in text.rpartition("\n  ")[2] for sign in GONE)]
    if causes:
        raise AssertionError(f"rank {causes[0]} of {len(processes)} failed first:\n{told[causes[0]]}")
    codes = {
        rank: process.exitcode for rank, process in enumerate(processes) if str(rank) not in told and rank not in hung
    }
    if codes := {rank: code for rank, code in codes.items() if code != 0}:
        raise AssertionError(f"ended without a Python error, as when native code crashes; exit code by rank: {codes}")
    if told:
        rank = next(iter(told))
        raise AssertionError(f"rank {rank} of {len(processes)} lost the connection to another rank:\n{told[rank]}")
    if hung:
        raise AssertionError(f"still running when the time was over: rank(s) {list(hung)} of {len(processes)}")

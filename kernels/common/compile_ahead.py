"""Triton kernels compiled before they are needed, several at a time, without running one."""

import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
import triton
from triton import JITFunction, knobs


@contextmanager
def compiling_ahead(workers: int, progress: Callable[[int, int], None]) -> Iterator[None]:
    """Inside, a launch starts to compile its kernel on one of `workers` threads, if it is not there yet, and runs
    nothing. The end waits for all of them and raises what went wrong in one.

    Instead of a kernel's results there are zeros: **every tensor that a launch is given is cleared**, so that indices
    made by kernels are valid for whoever reads them next. Call it with copies of whatever is worth keeping.

    `progress` is called with the kernels that are done and all that were started.
    """
    run = JITFunction.run
    done, lock = 0, threading.Lock()

    def count(_: Any) -> None:
        nonlocal done
        with lock:
            done += 1
            progress(done, len(mode.raw_futures))

    with ThreadPoolExecutor(workers) as executor, triton.AsyncCompileMode(executor) as mode:
        inside = contextvars.copy_context()  # autograd's threads do not know the mode

        @functools.wraps(run)
        def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> Any:
            for given in (*arguments, *named.values()):
                if isinstance(given, torch.Tensor) and 0 not in given.stride():  # an expanded one is no result
                    given.data.zero_()  # unseen by autograd, whose saved tensors they may be
            before = len(mode.raw_futures)
            kernel = inside.copy().run(run, self, *arguments, grid=grid, warmup=True, **named)
            for future in mode.raw_futures[before:]:
                future.add_done_callback(count)
            return kernel

        JITFunction.run = compile_only  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield
        finally:
            JITFunction.run = run


@contextmanager
def noticing_builds(say: Callable[[str], None]) -> Iterator[None]:
    """Inside, `say` gets the name of every kernel that is compiled or loaded from the cache on disk."""
    before = knobs.runtime.jit_post_compile_hook

    def hook(**known: Any) -> None:
        say(known["fn"].name)
        if before is not None:
            before(**known)

    knobs.runtime.jit_post_compile_hook = hook
    try:
        yield
    finally:
        knobs.runtime.jit_post_compile_hook = before

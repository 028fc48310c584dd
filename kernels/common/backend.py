"""Says once per process which implementation of an operator `auto` chose, and why."""

import functools
import logging

import torch

_log = logging.getLogger("dist_rec.kernels")


def log_choice(operator: str, backend: str, reason: str) -> None:
    """Logs a choice the first time it is made; silent while torch.compile traces, where a log call would break the graph."""
    if not torch.compiler.is_compiling():
        _log_once(operator, backend, reason)


@functools.cache
def _log_once(operator: str, backend: str, reason: str) -> None:
    _log.info("%s: %s (%s)", operator, backend, reason)

"""Says once per process which implementation of an operator `auto` chose, and why."""

import functools
import logging

_log = logging.getLogger("dist_rec.kernels")


@functools.cache
def log_choice(operator: str, backend: str, reason: str) -> None:
    """Logs a choice the first time it is made."""
    _log.info("%s: %s (%s)", operator, backend, reason)

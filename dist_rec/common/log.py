"""Logging of a many-rank run: rank 0 speaks, the others only warn."""

import logging
import sys


def setup_logging(rank: int) -> None:
    """Plain lines on stderr; call once, in the process's main module."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s [{rank}] %(name)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger("dist_rec")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(logging.INFO if rank == 0 else logging.WARNING)

"""Logging of a run with many ranks: rank 0 logs from INFO on, other ranks from WARNING on."""

import logging
import sys
import warnings


def setup_logging(rank: int) -> None:
    """Logs plain lines to stderr; call it once, in the process's main module."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s [{rank}] %(name)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger("dist_rec")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    _quiet_libraries()


def _quiet_libraries() -> None:
    """Hides warnings of libraries that a user of this program cannot act on. Errors stay."""
    for name in ("torchrec", "torch.fx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("torchdata", "torchrec", "torch.fx", "torch.utils.data", "torch.distributed"):
        for category in (UserWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=module.replace(".", r"\."))

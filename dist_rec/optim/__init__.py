"""Sparse rows updated immediately, dense parameters one step later. For TorchRec jobs of one's own:
`HybridOptimizer`."""

from dist_rec.optim.delayed import DelayedAllReduce
from dist_rec.optim.hybrid import HybridOptimizer

__all__ = ["DelayedAllReduce", "HybridOptimizer"]

"""The kernels' place; until they stand here, asking for them raises."""

from collections.abc import Sequence

from torch import Tensor

from dist_rec.kernels.gather_pool.checks import Index, Term
from dist_rec.kernels.unique_ids import Segments


def triton_expand_add(rows: Tensor, inverse: Index, terms: Sequence[Term], segments: Segments | None) -> Tensor:
    raise RuntimeError("gather_pool has no kernels yet; backend='torch' runs anywhere")


def triton_pool(rows: Tensor, inverse: Index, offsets: Tensor, mode: str, segments: Segments | None) -> Tensor:
    raise RuntimeError("gather_pool has no kernels yet; backend='torch' runs anywhere")

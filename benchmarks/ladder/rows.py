"""The rows of the ladder: one job each, as a configuration of few switches. Free of torch.

Row 0 is the honest plain job, rows 1 and 2 make it as strong as plain torch can be. From row 2 on, one part of dist_rec
at a time takes the place of a plain one, until the model is dist_rec's own; later rows stand on `LATE`.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Row:
    """- `per_candidate`: a request is repeated with its history for each of its candidates
    - `alike`: batches of requests of like length
    - `packed`: the token MLP runs on events and not on padding
    - `batch`: integers of a plain batch as int64 or int32; `unique`: a plain batch through `DedupLoader`, with tables
      in a `DedupEmbeddingCollection`; `packet`: the batch of dist_rec's reader, with its tables
    - `model`: the plain model, the plain model with dist_rec's `EventTokens`, or dist_rec's own
    - `update`: DDP and TorchRec's optimizers, or the `HybridOptimizer`
    - `optimizer`: AdamW by torch's default for the device, AdamW in one kernel, or what the recipe makes
    - `compiled`: layers that take tensors alone go through torch.compile
    - `recipe`: further settings of the model and the optimizer
    """

    name: str
    per_candidate: bool = False
    alike: bool = True
    packed: bool = True
    batch: Literal["int64", "int32", "unique", "packet"] = "int64"
    model: Literal["plain", "factorised", "dist_rec"] = "plain"
    update: Literal["ddp", "sync", "delayed"] = "ddp"
    optimizer: Literal["adamw", "fused", "recipe"] = "fused"
    compiled: bool = False
    recipe: tuple[str, ...] = ()


SHARED = Row("1 requests shared", alike=False, packed=False, optimizer="adamw")
STRONGEST = Row("2 sorted, packed tokens, fused AdamW")
UNIQUE = replace(STRONGEST, name="4 host dedup", batch="unique")
FACTORISED = replace(STRONGEST, name="5 factorised projection, packet", batch="packet", model="factorised")
JAGGED = replace(FACTORISED, name="6 jagged attention", model="dist_rec")
LATE = replace(JAGGED, name="7 hybrid optimizer, late", update="delayed")
PRODUCT = Row("dist_rec, sync", alike=False, batch="packet", model="dist_rec", update="sync", optimizer="recipe")
ROWS = {
    "0": replace(SHARED, name="0 a row per candidate", per_candidate=True),
    "1": SHARED,
    "2": STRONGEST,
    "2c": replace(STRONGEST, name="2 and torch.compile", compiled=True),
    "3": replace(STRONGEST, name="3 int32 ids", batch="int32"),
    "4": UNIQUE,
    "5": FACTORISED,
    "6": JAGGED,
    "7": LATE,
    "8": replace(LATE, name="8 recompute", recipe=("model.recompute=[{parts}]",)),
    "9": replace(LATE, name="9 torch.compile", compiled=True),
    "10": replace(LATE, name="10 bf16", recipe=("model.precision.tokens=bf16", "model.precision.layers=bf16")),
    "11": replace(LATE, name="11 Muon", optimizer="recipe", recipe=("optim.optimizer=muon",)),
    "sync": PRODUCT,
    "delayed": replace(PRODUCT, name="dist_rec, delayed", update="delayed"),
}
FIRST, STRONG = "1", "2"  # what ratios are taken against


def chosen(names: str) -> list[str]:
    """Keys of ROWS from "all" or "1,2,sync". Raises ValueError for an unknown one."""
    if names == "all":
        return list(ROWS)
    found = names.split(",")
    if unknown := [name for name in found if name not in ROWS]:
        raise ValueError(f"rows: no row {', '.join(unknown)}; expected all, or some of {', '.join(ROWS)}")
    return found

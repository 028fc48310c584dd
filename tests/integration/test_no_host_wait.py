"""No step of training reads a value from the device: on the meta device, where tensors have no values, it all runs.

What a GPU takes, the kernels and the bit-packed indices, runs here too, in the shapes that its operators promise.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dist_rec.common.choices import DenseUpdate, TeacherKind
from dist_rec.config import Config
from dist_rec.data.collate import collate
from dist_rec.data.schema import Schema
from dist_rec.data.targets import Targets
from dist_rec.kernels import cross_causal_attention, gather_pool, jagged_range, prefix_sum, slot_attention, unique_ids
from dist_rec.kernels.unique_ids import BitPackedIndex
from dist_rec.models.layers.loss import BinaryCrossEntropy, total_loss
from dist_rec.models.objective import Objective
from dist_rec.models.ranker import Ranker
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.optim.muon import BatchedMuon
from tests.data.feedback_rows import NOW, feedback_rows, feedback_schema
from tests.data.requests import make_rows, make_schema, make_table, seen_schema
from tests.models.batches import DIM, MODELS, Row, model_config, seen_row

META = torch.device("meta")
KERNELS = (cross_causal_attention, gather_pool, jagged_range, prefix_sum, slot_attention, unique_ids)
# Own prefixes of candidates need every event as a row and a causal encoder.
SEEN = {"tokens": {"position": "absolute"}}
FULL = {"merge": 1, "k": 0, "inner_trans": False, "globals": ["candidate"]}
LONGER = {
    "longer, queries " + queries: {"longer": {"queries": queries}} for queries in ("uniform", "mixed", "learnable")
}
VARIANTS: dict[str, tuple[Schema, dict[str, Any]]] = {
    **{name: (make_schema(), changes) for name, changes in (MODELS | LONGER).items()},
    "longer, all events": (make_schema(), {"longer": {"k": 0, "merge": 1, "inner_trans": False, "rotary": True}}),
    "longer, recompute": (make_schema(), {"recompute": ["tokens", "inner", "cross", "self"]}),
    "hyformer, merged": (
        make_schema(),
        MODELS["hyformer"]
        | {"hyformer": {"heads": 2, "merge_sequences": True, "rotary": True, "rankmixer_block": True}}
        | {"tokens": {"width": 24}},
    ),
    "hyformer, swiglu": (
        make_schema(),
        MODELS["hyformer"] | {"hyformer": {"heads": 2, "sequences": {"history": {"encoder": "swiglu"}}}},
    ),
    "longer, prefixes": (seen_schema(), SEEN | {"longer": FULL}),
    "sum_pooling, prefixes": (seen_schema(), SEEN | {"name": "sum_pooling"}),
    "din, prefixes": (seen_schema(), SEEN | {"name": "din"}),
}


@contextmanager
def kernels_chosen() -> Iterator[None]:
    """As on a GPU. Their launches are behind operators, of which the meta device runs the promise of shapes alone. It
    has no autocast."""
    with ExitStack() as patched:
        patched.enter_context(mock.patch.object(Ranker, "_cast", lambda *_: nullcontext()))
        for kernel in KERNELS:
            if hasattr(kernel, "choose"):
                patched.enter_context(mock.patch.object(kernel, "choose", lambda *_, **__: "triton"))
        yield


def rows_of(schema: Schema) -> list[Row]:
    if schema.candidate.visible_events:
        rng = np.random.default_rng(0)
        return [seen_row(rng, 5, [0, 3, 5]), seen_row(rng, 0, []), seen_row(rng, 2, [1])]
    return make_rows(7)


@pytest.mark.parametrize(("schema", "changes"), VARIANTS.values(), ids=VARIANTS)
def test_forward_loss_and_backward(schema: Schema, changes: dict[str, Any]) -> None:
    packed = collate(make_table(rows_of(schema), schema), schema)
    batch = packed.to(META)
    assert isinstance(batch.candidates.inverse, BitPackedIndex), "as on a GPU"
    dims = dict.fromkeys(schema.tables, DIM)
    ranker = Ranker(schema, model_config(**changes), dims).to(META)
    rows = looked_up(schema, packed.num_unique)
    with kernels_chosen():
        logits = ranker(rows, batch)
        loss = total_loss(
            BinaryCrossEntropy(BinaryCrossEntropy.Config()), logits, batch.labels, batch.candidates_per_rank
        )
        loss.backward()
    assert logits.shape == batch.labels.shape
    assert all(p.grad is not None for p in ranker.parameters()) and all(x.grad is not None for x in rows.values())


@pytest.mark.parametrize("immature", ["leave_out", "delayed_feedback_model"])
@pytest.mark.parametrize("kind", ["live", "ema", "frozen", "trust_region"])
@pytest.mark.parametrize("name", ["longer", "hyformer"])
def test_a_teacher(name: str, kind: TeacherKind, immature: str) -> None:
    """Twins beside their candidates and alone, both losses, and a copy that moves where an update was applied."""
    schema, targets = feedback_schema(), Targets(now=NOW, corrected=immature != "leave_out")
    packed = collate(make_table(feedback_rows(7), schema), schema, targets=targets)
    batch = packed.to(META)
    assert batch.feedback is not None and len(batch.feedback.lengths) > 3
    model = model_config(**MODELS[name], head={"immature": immature})
    distill = {"teacher": kind, "frozen_at": 1}
    config = Config.model_validate({"data": {"path": "unused"}, "model": model.model_dump(), "distill": distill})
    ranker = Ranker(schema, model, dict.fromkeys(schema.tables, DIM)).to(META)
    objective = Objective(schema, config, ranker, META)
    rows = looked_up(schema, packed.num_unique)
    with kernels_chosen():
        loss, logits, signals = objective(ranker(rows, batch), rows, batch)
        loss.backward()
        assert objective.teacher is not None
        objective.teacher.advance(ranker)
        objective.teacher.advance(ranker, torch.ones((), dtype=torch.bool, device=META))
    assert logits.shape == batch.labels.shape and signals.shape[1] == 2
    assert all(p.grad is not None for p in ranker.parameters()) and all(x.grad is not None for x in rows.values())


# Operators that add up by atomics on a GPU, or that torch calls non-deterministic there for floats.
ATOMIC = {"index_add", "index_add_", "scatter_add", "scatter_add_", "scatter_reduce", "index_reduce", "cumsum", "put_"}


class FloatOperators(TorchDispatchMode):
    """Names of the operators that got a float tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(x, Tensor) and x.is_floating_point() for x in tree_leaves((args, kwargs))):
            self.names.add(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("schema", "changes"), VARIANTS.values(), ids=VARIANTS)
def test_no_sum_depends_on_the_order_of_threads(schema: Schema, changes: dict[str, Any]) -> None:
    packed = collate(make_table(rows_of(schema), schema), schema)
    ranker = Ranker(schema, model_config(**changes), dict.fromkeys(schema.tables, DIM)).to(META)
    with kernels_chosen(), FloatOperators() as found:
        ranker(looked_up(schema, packed.num_unique), packed.to(META)).sum().backward()
    assert "dist_rec::gather_rows" in found.names and not found.names & ATOMIC


def looked_up(schema: Schema, num_unique: dict[str, int]) -> dict[str, Tensor]:
    """What the tables give: unique rows of every feature set."""
    sets = schema.layout.feature_sets.items()
    return {
        name: torch.empty(num_unique[of.keys[0]], DIM * len(of.keys), device=META, requires_grad=True)
        for name, of in sets
    }


READS: dict[str, Callable[[Tensor], Any]] = {
    "int": lambda x: int(x.sum()),
    "bool": lambda x: bool(x[0]),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "mask": lambda x: x[x > 0],
    "repeat": lambda x: x.repeat_interleave(x.long()),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_wait_would_be_noticed(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match=r"meta|Meta"):
        read(torch.zeros(3, device=META))


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "muon": lambda parameters: BatchedMuon(parameters, lr=0.1),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("update", ["sync", "delayed"])
def test_dense_updates(update: DenseUpdate, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> None:
    """Of the synchronous warm-up, of delayed updates and of the last one, with clipping, skipping and measuring."""
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 1, bias=False)).to(META)
    optimizer = HybridOptimizer(
        net, make, dense_update=update, warmup_sync_steps=2, clip_norm=1.0, health_every=1, lr_factor=lambda _: 0.5
    )
    for _ in range(4):
        optimizer.zero_grad()
        net(torch.zeros(5, 4, device=META)).sum().backward()
        optimizer.step()
    optimizer.flush()
    assert optimizer.steps == 4 and optimizer.health is not None
    with pytest.raises(RuntimeError, match="meta"):
        _ = optimizer.skipped  # a number that is on the device

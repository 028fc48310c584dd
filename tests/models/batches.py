"""Batches, embedding rows and candidates for the tests of the models."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dist_rec.data.batch import SequenceBatch
from dist_rec.data.collate import collate
from dist_rec.data.lengths import Lengths
from dist_rec.data.schema import Schema
from dist_rec.models.check import check_model
from dist_rec.models.config import ModelConfig
from dist_rec.models.features import FeatureColumns
from dist_rec.models.layers.jagged import CandidateView
from dist_rec.models.longer.config import LongerConfig
from dist_rec.models.protocol import ModelInputs
from dist_rec.models.ranker import Ranker
from tests.data.requests import make_schema, make_table

DIM = 8
# Every model on `make_schema()`, which has two sequences and three groups of one field: T = 5.
MODELS: dict[str, dict[str, Any]] = {
    "longer": {},
    "sum_pooling": {"name": "sum_pooling"},
    "din": {"name": "din"},
    "hyformer": {
        "name": "hyformer",
        "tokens": {"width": 20},
        "hyformer": {"heads": 2, "mixer_expansion": 2, "sequences": {"history": {"recent": 4}}},
    },
    "longer_rankmixer": {"interaction": "rankmixer", "rankmixer": {"width": 20, "expansion": 2}},
}
Row = dict[str, Any]


def model_config(**changes: Any) -> ModelConfig:
    """A small model; `changes` are those of ModelConfig, nested as in a recipe."""
    tree: dict[str, Any] = {
        "tokens": {"width": 8, "hidden": 12, "max_positions": 16, "time_dim": 4, "side_dim": 4},
        "longer": {"merge": 2, "k": 3, "heads": 2, "inner_heads": 2},
        "head": {"hidden": [16]},
    }
    for name, value in changes.items():
        tree[name] = {**tree.get(name, {}), **value} if isinstance(value, dict) else value
    return ModelConfig.model_validate(tree)


def longer_config(**changes: Any) -> LongerConfig:
    return model_config(longer=changes).section("longer")


def make_inputs(
    config: ModelConfig,
    sequences: Sequence[str] = ("history",),
    groups: dict[str, list[slice]] | None = None,
    candidate_groups: Sequence[int] = (),
) -> ModelInputs:
    """What a model is built from: candidates with features of width 6, context of width 5 (see `make_view`)."""
    columns = FeatureColumns(11, groups or {}, list(candidate_groups))
    return ModelInputs(config, tuple(sequences), columns, candidate_dim=6, context_dim=5)


def make_batch(rows: list[Row], schema: Schema | None = None) -> SequenceBatch:
    schema = schema or make_schema()
    return collate(make_table(rows, schema), schema).to(torch.device("cpu"))


class Tables(nn.Module):
    """Whole embedding tables on one device; rows of a batch are looked up as TokenEmbedding does."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(n, DIM)) for name in schema.tables for n in (schema.rows_of(name),)}
        )

    def forward(self, batch: SequenceBatch) -> dict[str, Tensor]:
        ids, layout = batch.unique.to_dict(), self.schema.layout
        return {
            name: torch.cat([self.weights[layout.tables[key]][ids[key].values()] for key in feature_set.keys], dim=1)
            for name, feature_set in layout.feature_sets.items()
        }


class Model(nn.Module):
    """Tables and ranker: batch -> logits."""

    def __init__(self, schema: Schema, config: ModelConfig) -> None:
        super().__init__()
        self.tables = Tables(schema)
        dims = dict.fromkeys(schema.tables, DIM)
        check_model(schema, config, dims)
        self.ranker = Ranker(schema, config, dims)

    def forward(self, batch: SequenceBatch) -> Tensor:
        return self.ranker(self.tables(batch), batch)

    def gradients(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Of the sum of squared logits, by parameter; a parameter outside the graph fails."""
        self.zero_grad(set_to_none=True)
        self(batch).square().sum().backward()
        missing = [name for name, p in self.named_parameters() if p.grad is None]
        assert not missing, f"not in the graph: {missing}"
        return {name: p.grad for name, p in self.named_parameters() if p.grad is not None}


def make_model(schema: Schema | None = None, **changes: Any) -> Model:
    torch.manual_seed(0)
    return Model(schema or make_schema(), model_config(**changes))


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """What autograd keeps for the backward of `forward()`."""
    total = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return total


def make_view(
    counts: list[int], prefix_len: list[int] | None = None, seed: int = 0, dtype: torch.dtype = torch.float64
) -> CandidateView:
    """Random candidates with features of width 6 and context of width 5."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(sum(counts), 6, generator=generator, dtype=dtype)
    context = torch.randn(len(counts), 5, generator=generator, dtype=dtype)
    limits = None if prefix_len is None else Lengths.of(prefix_len)
    return CandidateView(features, context, Lengths.of(counts), limits)


def seen_row(rng: np.random.Generator, events: int, seen: list[int]) -> Row:
    """A request of `seen_schema()` with one candidate per entry of `seen`."""
    return {
        "user": int(rng.integers(0, 100)),
        "history.item": rng.integers(0, 50, events).tolist(),
        "history.correct": rng.integers(0, 2, events).tolist(),
        "candidate.item": rng.integers(0, 50, len(seen)).tolist(),
        "candidate.correct": rng.integers(0, 2, len(seen)).tolist(),
        "candidate.visible_events": seen,
    }


def cut(row: Row, candidate: int) -> Row:
    """A request with only one of the candidates, and the history that this candidate sees."""
    limit = row["candidate.visible_events"][candidate]
    return {
        name: value
        if not isinstance(value, list)
        else value[:limit]
        if name.startswith("history")
        else [value[candidate]]
        for name, value in row.items()
    }


def one_candidate_each(rows: list[Row]) -> list[Row]:
    """Every candidate as a request of its own, with the whole history of the request it came from."""
    return [
        {name: [value[c]] if name.startswith("candidate") else value for name, value in row.items()}
        for row in rows
        for c in range(len(row["candidate.item"]))
    ]

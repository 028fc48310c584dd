"""Engines of small random models for the tests of serving."""

from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from dist_rec.data.attribute_store import AttributeStore
from dist_rec.data.collate import Collator
from dist_rec.data.schema import Schema
from dist_rec.models.halves import Halves
from dist_rec.serve.columns import serving_schema
from dist_rec.serve.engine import Engine
from dist_rec.serve.tables import PlainRows, Tables
from tests.data.requests import make_schema
from tests.models.batches import Model, make_model

# By name: changes of the recipe's model. Every strategy of queries and every encoder is there.
MODELS: dict[str, dict[str, Any]] = {
    "sum_pooling": {"name": "sum_pooling"},
    "din": {"name": "din"},
    "longer": {},
    "longer_plain": {"longer": {"merge": 1, "inner_trans": False, "k": 2}},
    "longer_all": {"longer": {"merge": 1, "inner_trans": False, "k": 0, "self_layers": 2}},
    "longer_cross_only": {"longer": {"self_layers": 0, "globals": ["user", "candidate", "cls"]}},
    "longer_globals": {"head": {"inputs": ["globals"]}, "longer": {"self_layers": 2}},
    "longer_mean": {"head": {"inputs": ["sequence_mean", "candidate"]}, "longer": {"self_layers": 2}},
    "longer_uniform": {"longer": {"queries": "uniform", "rotary": True, "merge": 2}, "tokens": {"position": "none"}},
    "longer_mixed": {"longer": {"queries": "mixed", "merge": 3, "heads": 2}, "tokens": {"position": "absolute"}},
    "longer_learnable": {"longer": {"queries": "learnable", "merge": 1, "rotary": True}},
    "longer_rotary": {"longer": {"rotary": True, "merge": 1}, "tokens": {"position": "none"}},
    "longer_rankmixer": {"interaction": "rankmixer", "rankmixer": {"width": 20, "expansion": 2}},
    "hyformer": {
        "name": "hyformer",
        "tokens": {"width": 20},
        "hyformer": {"heads": 2, "mixer_expansion": 2, "sequences": {"history": {"recent": 4}}},
    },
    "hyformer_each": {
        "name": "hyformer",
        "tokens": {"width": 20},
        "hyformer": {
            "heads": 2,
            "rotary": True,
            "encode_from": "input",
            "evolve_non_sequential": False,
            "sequences": {"history": {"encoder": "swiglu"}, "searches": {"encoder": "full"}},
        },
    },
    "hyformer_merged": {
        "name": "hyformer",
        "tokens": {"width": 20},
        "hyformer": {"heads": 2, "merge_sequences": True, "sequences": {"history": {"queries": 2}}},
    },
}


def make_engine(
    model: str | dict[str, Any] = "longer",
    schema: Schema | None = None,
    max_length: int | None = None,
    *,
    deterministic: bool = False,
    attributes: AttributeStore | None = None,
) -> tuple[Engine, Model]:
    """An engine, and the whole model with the same weights, which are large enough to make every part tell."""
    schema = serving_schema(schema or make_schema())
    whole = make_model(schema, **(MODELS[model] if isinstance(model, str) else model))
    with torch.no_grad():
        for parameter in whole.ranker.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    readers = {name: PlainRows(weight.detach()) for name, weight in whole.tables.weights.items()}
    collator = Collator(schema=schema, max_length=max_length, attributes=attributes)
    engine = Engine("v1", collator, Tables(readers, schema), Halves(whole.ranker), deterministic=deterministic)
    return engine, whole


@torch.no_grad()
def trained(model: Model, requests: pa.Table, max_length: int | None = None) -> Tensor:
    """(C, T) logits of the forward that training and evaluation run."""
    schema = model.ranker.schema
    batch = Collator(schema=schema, max_length=max_length)(requests).to(torch.device("cpu"))
    return model(batch)[:, : len(schema.candidate.labels)]

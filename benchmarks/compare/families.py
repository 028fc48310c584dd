"""The models of the comparison: for each a family of sizes, of which the one nearest to the reference is taken.

The reference is the data set's LONGER. A family is a list of model trees; matching looks at dense parameters or at forward
FLOPs of a request of mean lengths with one candidate. Embedding tables are the same for all.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from benchmarks.compare.sets import DataSet, Tree
from dist_rec.config import ConfigError, EmbeddingConfig, ModelConfig
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import table_dims
from dist_rec.models.cost import request_flops
from dist_rec.models.ranker import Ranker

Budget = Literal["parameters", "flops"]
WIDTHS = (*range(4, 32, 4), *range(32, 129, 8))
ENCODERS = ("full", "longer", "swiglu")
FAMILIES = (
    "LONGER",
    *(f"HyFormer, {encoder}" for encoder in ENCODERS),
    "RankMixer + sum pooling",
    "LONGER + RankMixer",
    "DIN",
    "sum pooling",
)


@dataclass(frozen=True)
class Sized:
    """A model of a family with its dense parameters and FLOPs."""

    tree: Tree
    parameters: int
    flops: int


def matched(family: str, data: DataSet, schema: Schema, lengths: dict[str, int], budget: Budget) -> Sized:
    """The size of a family whose parameters or FLOPs are nearest to the reference's, as a ratio."""
    reference = measured(next(_longer(data)), data, schema, lengths)
    if family == "LONGER":
        return reference
    target = getattr(reference, budget)
    sizes = [size for tree in _family(family, data, budget) if (size := _possible(tree, data, schema, lengths))]
    return min(sizes, key=lambda size: abs(math.log(getattr(size, budget) / target)))


def measured(tree: Tree, data: DataSet, schema: Schema, lengths: dict[str, int]) -> Sized:
    config = ModelConfig.model_validate(tree)
    embedding = EmbeddingConfig.model_validate(data.embedding)
    ranker = Ranker(schema, config, table_dims(schema, embedding))
    parameters = sum(p.numel() for p in ranker.parameters())
    return Sized(tree, parameters, sum(request_flops(ranker, lengths).values()))


def _possible(tree: Tree, data: DataSet, schema: Schema, lengths: dict[str, int]) -> Sized | None:
    try:
        return measured(tree, data, schema, lengths)
    except (ConfigError, ValueError):
        return None  # a width that the number of tokens or heads does not divide


def _family(family: str, data: DataSet, budget: Budget) -> Iterator[Tree]:
    name, _, encoder = family.partition(", ")
    makers = {"RankMixer + sum pooling": _pooled_mixer, "LONGER + RankMixer": _longer_mixer, "DIN": _din, "sum pooling": _pooling}
    if name == "HyFormer":
        return _hyformer(data, encoder)
    return makers[family](data, budget)


def _tree(data: DataSet, name: str, tokens: Tree, head: int | None = None, **settings: object) -> Tree:
    own = {"dropout": data.dropout}
    settings[name] = {**own, **settings.get(name, {})}  # type: ignore[dict-item]
    return {
        "name": name,
        "tokens": {**data.tokens, **tokens},
        "head": {"hidden": [head or data.head], "dropout": data.dropout},
        **settings,
    }


def _longer(data: DataSet) -> Iterator[Tree]:
    yield _tree(data, "longer", {}, longer=data.longer)


def _hyformer(data: DataSet, encoder: str) -> Iterator[Tree]:
    for width, mixer, ffn, head in product(WIDTHS, (1, 2, 4), (2, 4), (data.head // 2, data.head)):
        settings = {"encoder": encoder, "recent": 16 if data.folder == "three" else 32, "causal": data.sees_prefixes}
        sequences = {name: {**settings, "queries": count} for name, count in data.queries.items()}
        hyformer = {"sequences": sequences, "mixer_expansion": mixer, "ffn_expansion": ffn, **data.hyformer}
        yield _tree(data, "hyformer", {"width": width}, head, hyformer=hyformer)


def _pooled_mixer(data: DataSet, budget: Budget) -> Iterator[Tree]:
    # By parameters the mixer grows; by FLOPs the tokens do, of which there are many, before a mixer of middle width.
    widths = [data.tokens["width"]] if budget == "parameters" else range(16, 513, 8)
    mixers = product(WIDTHS, (2, 4), (2, 3)) if budget == "parameters" else product((40, 48, 56), (4,), (2,))
    for width, (mixer, expansion, layers) in product(widths, list(mixers)):
        yield _tree(
            data,
            "sum_pooling",
            {"width": width, "hidden": 2 * width},
            interaction="rankmixer",
            rankmixer={"width": mixer, "expansion": expansion, "layers": layers, "dropout": data.dropout},
        )


def _longer_mixer(data: DataSet, budget: Budget) -> Iterator[Tree]:
    del budget
    for width, mixer, expansion in product((8, 12, 16, 20, 24, 28, 32), WIDTHS, (1, 2, 4)):
        if width <= data.tokens["width"]:
            rankmixer = {"width": mixer, "expansion": expansion, "dropout": data.dropout}
            longer = {**data.longer, "dropout": data.dropout}
            yield _tree(data, "longer", {"width": width}, longer=longer, interaction="rankmixer", rankmixer=rankmixer)


def _din(data: DataSet, budget: Budget) -> Iterator[Tree]:
    if budget == "parameters":
        for head in range(64, 1025, 16):
            yield _tree(data, "din", {}, head, din={"hidden": data.tokens["width"]})
    else:
        for width in range(8, 513, 8):
            yield _tree(data, "din", {"width": width, "hidden": 2 * width}, din={"hidden": width})


def _pooling(data: DataSet, budget: Budget) -> Iterator[Tree]:
    if budget == "parameters":
        for head in range(64, 2049, 16):
            yield _tree(data, "sum_pooling", {}, head)
    else:
        for width in range(8, 769, 8):
            yield _tree(data, "sum_pooling", {"width": width, "hidden": 2 * width})

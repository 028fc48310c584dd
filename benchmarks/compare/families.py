"""The models of the comparison: for each a family of sizes, of which the one nearest to the reference is taken.

The reference is the data set's LONGER, the same at both budgets. A family is a list of model trees; matching looks at
dense parameters or at forward FLOPs of a request of mean lengths with one candidate. Embedding tables are the same for
all."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

from benchmarks.compare.sets import Budget, DataSet, Tree
from dist_rec.common.strict import ConfigError
from dist_rec.config import EmbeddingConfig
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import table_dims
from dist_rec.models.config import ModelConfig
from dist_rec.models.cost import request_flops
from dist_rec.models.ranker import Ranker

HEADS = 4
ENCODERS = ("full", "longer", "swiglu")
REFERENCE = "LONGER"
FAMILIES = (
    REFERENCE,
    *(f"HyFormer, {encoder}" for encoder in ENCODERS),
    "RankMixer + sum pooling",
    "LONGER + RankMixer",
    "DIN",
    "sum pooling",
)


def families(data: DataSet) -> list[str]:
    """Where candidates see prefixes, encoder longer would have to keep every event, and is the full one."""
    asked = data.models or FAMILIES
    return [family for family in asked if not (family == "HyFormer, longer" and data.sees_prefixes)]


@dataclass(frozen=True)
class Sized:
    """A model of a family with its dense parameters and FLOPs."""

    tree: Tree
    parameters: int
    flops: int


def matched(family: str, data: DataSet, schema: Schema, lengths: dict[str, int], budget: Budget) -> Sized:
    """The size of a family whose parameters or FLOPs are nearest to the reference's, as a ratio."""
    reference = measured(next(_longer(data)), data, schema, lengths)
    if family == REFERENCE:
        return reference
    if family == "LONGER + RankMixer":
        budget = "parameters"  # its FLOPs are the reference's, whatever the mixer
    target = getattr(reference, budget)
    sizes = [size for tree in _family(family, data, schema, budget) if (size := _possible(tree, data, schema, lengths))]
    return min(sizes, key=lambda size: abs(math.log(getattr(size, budget) / target)))


def measured(tree: Tree, data: DataSet, schema: Schema, lengths: dict[str, int]) -> Sized:
    config = ModelConfig.model_validate(tree)
    embedding = EmbeddingConfig.model_validate(data.embedding)
    with torch.device("meta"):  # sizes only
        ranker = Ranker(schema, config, table_dims(schema, embedding))
    parameters = sum(p.numel() for p in ranker.parameters())
    return Sized(tree, parameters, sum(request_flops(ranker, lengths).values()))


def _possible(tree: Tree, data: DataSet, schema: Schema, lengths: dict[str, int]) -> Sized | None:
    try:
        return measured(tree, data, schema, lengths)
    except (ConfigError, ValueError):
        return None  # a width that the number of tokens or heads does not divide


def _family(family: str, data: DataSet, schema: Schema, budget: Budget) -> Iterator[Tree]:
    features = len(schema.feature_groups)
    if family.startswith("HyFormer"):
        tokens = features + sum(data.queries.values())
        return _hyformer(data, family.removeprefix("HyFormer, "), _multiples(math.lcm(tokens, HEADS)))
    mixers = _multiples(features + len(schema.sequences))
    if family == "RankMixer + sum pooling":
        return _pooled_mixer(data, budget, mixers)
    if family == "LONGER + RankMixer":
        return _longer_mixer(data, mixers)
    return _din(data, budget) if family == "DIN" else _pooling(data, budget)


def _multiples(number: int) -> list[int]:
    """Widths that token mixing can cut: multiples of a number of tokens."""
    return list(range(number * -(-8 // number), 161, number))


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


def _hyformer(data: DataSet, encoder: str, widths: list[int]) -> Iterator[Tree]:
    for width, mixer, ffn in product(widths, (1, 2, 4), (2, 4)):
        settings = {"encoder": encoder, "recent": data.recent, "causal": data.sees_prefixes}
        sequences = {name: {**settings, "queries": count} for name, count in data.queries.items()}
        hyformer = {
            "heads": HEADS,
            "sequences": sequences,
            "mixer_expansion": mixer,
            "ffn_expansion": ffn,
            **data.hyformer,
        }
        yield _tree(data, "hyformer", {"width": width}, hyformer=hyformer)


def _pooled_mixer(data: DataSet, budget: Budget, mixers: list[int]) -> Iterator[Tree]:
    # By parameters the mixer grows; by FLOPs the tokens do, of which there are many, before a mixer of middle width.
    shapes = list(product(mixers, (2, 4), (2, 3))) if budget == "parameters" else [(min(mixers, key=_from_48), 4, 2)]
    widths = [data.tokens["width"]] if budget == "parameters" else list(range(16, 513, 8))
    for width, (mixer, expansion, layers) in product(widths, shapes):
        rankmixer = {"width": mixer, "expansion": expansion, "layers": layers, "dropout": data.dropout}
        tokens = {"width": width, "hidden": 2 * width}
        yield _tree(data, "sum_pooling", tokens, interaction="rankmixer", rankmixer=rankmixer)


def _from_48(width: int) -> int:
    return abs(width - 48)


def _longer_mixer(data: DataSet, mixers: list[int]) -> Iterator[Tree]:
    """The reference with a mixer in place of the summaries side by side, which make its head wide."""
    for mixer, expansion in product(mixers, (1, 2, 4)):
        rankmixer = {"width": mixer, "expansion": expansion, "dropout": data.dropout}
        yield _tree(data, "longer", {}, longer=data.longer, interaction="rankmixer", rankmixer=rankmixer)


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

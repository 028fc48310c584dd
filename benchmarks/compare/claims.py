"""Claims of the two papers as pairs of variants of one model."""

from dataclasses import dataclass
from typing import Any

from benchmarks.compare.sets import Tree


@dataclass(frozen=True)
class Claim:
    """`variants`: name -> changes of the model named `base`, group by group; the base itself is among the finals."""

    text: str
    base: str
    data: tuple[str, ...]
    variants: dict[str, dict[str, Any]]

    @staticmethod
    def changed(tree: Tree, change: dict[str, Any]) -> Tree:
        return {**tree, **{name: {**tree[name], **settings} for name, settings in change.items()}}


MOVIES = ("ml-100k", "ml-1m")
MERGED = {"sequences": {"clicks": {"encoder": "full", "queries": 4}}, "merge_sequences": True}
CLAIMS = (
    Claim(
        "merging tokens is not worse (LONGER, Table 2)",
        "LONGER",
        MOVIES,
        {"no merge": {"longer": {"merge": 1, "inner_trans": False, "k": 64}}},
    ),
    Claim(
        "InnerTrans helps a little (LONGER, Table 2)", "LONGER", MOVIES, {"no InnerTrans": {"longer": {"inner_trans": False}}}
    ),
    Claim(
        "recent queries beat uniform ones, and these learnable ones (LONGER, Table 2)",
        "LONGER",
        MOVIES,
        {"uniform": {"longer": {"queries": "uniform"}}, "learnable": {"longer": {"queries": "learnable"}}},
    ),
    Claim(
        "separate sequences beat merged ones (HyFormer, Table 2)",
        "HyFormer, full",
        ("three",),
        {"merged sequences, shared queries": {"hyformer": MERGED}},
    ),
    Claim(
        "queries that know the pooled sequences beat queries that do not (HyFormer, Table 2)",
        "HyFormer, longer",
        ("three", *MOVIES),
        {
            "queries without pooling": {"hyformer": {"query_inputs": ["non_sequential"]}},
            "queries from the candidate only": {"hyformer": {"query_inputs": ["candidate"]}},
        },
    ),
)

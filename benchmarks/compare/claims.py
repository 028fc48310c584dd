"""Claims of the two papers as pairs of variants of one model."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.compare.sets import Tree


@dataclass(frozen=True)
class Claim:
    """`variants`: name -> changes of the model named `base`, group by group, from its tree; the base is among the
    finals."""

    text: str
    base: str
    data: tuple[str, ...]
    variants: dict[str, Callable[[Tree], Tree]]


def changed(tree: Tree, variant: Callable[[Tree], Tree]) -> Tree:
    return {**tree, **{name: {**tree[name], **settings} for name, settings in variant(tree).items()}}


def _longer(**settings: object) -> Callable[[Tree], Tree]:
    return lambda _: {"longer": settings}


def _hyformer(**settings: object) -> Callable[[Tree], Tree]:
    return lambda _: {"hyformer": settings}


def _no_merge(tree: Tree) -> Tree:
    """As many events ask as before; layers are as wide as a token."""
    longer = tree["longer"]
    return {"longer": {"merge": 1, "inner_trans": False, "k": longer["k"] * longer["merge"]}}


MOVIES = ("ml-100k", "ml-1m")
MERGED: Tree = {"sequences": {"clicks": {"encoder": "full", "queries": 4}}, "merge_sequences": True}
CLAIMS = (
    Claim(
        "merging tokens is not worse (LONGER, Table 2)",
        "LONGER",
        MOVIES,
        {"no merge": _no_merge},
    ),
    Claim(
        "InnerTrans helps a little (LONGER, Table 2)", "LONGER", MOVIES, {"no InnerTrans": _longer(inner_trans=False)}
    ),
    Claim(
        "recent queries beat uniform ones, and these learnable ones (LONGER, Table 2)",
        "LONGER",
        MOVIES,
        {"uniform": _longer(queries="uniform"), "learnable": _longer(queries="learnable")},
    ),
    Claim(
        "separate sequences beat merged ones (HyFormer, Table 2)",
        "HyFormer, full",
        ("three",),
        {"merged sequences, shared queries": _hyformer(**MERGED)},
    ),
    Claim(
        "queries that know the pooled sequences beat queries that do not (HyFormer, Table 2)",
        "HyFormer, longer",
        ("three", *MOVIES),
        {
            "queries without pooling": _hyformer(query_inputs=["non_sequential"]),
            "queries from the candidate only": _hyformer(query_inputs=["candidate"]),
        },
    ),
)

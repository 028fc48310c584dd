"""Schemas, columns and checkpoints in the words of before 0.1.0: read all the same, and said once. Free of torch.

`dist-rec data migrate` (migrate.py) writes a dataset in today's words.
"""

import functools
import logging
from collections.abc import Collection, Sequence
from typing import Any

IN_FIELDS = {"static": "ids", "dynamic": "side"}  # of a sequence and of the candidate
IN_CANDIDATE = IN_FIELDS | {"seen": "visible_events", "truth": "oracle"}
IN_REQUEST = {"group": "grouping_key"}
AT_THE_TOP = {"groups": "feature_groups"}

_log = logging.getLogger("dist_rec.data")


def with_todays_words(tree: dict[str, Any], where: str) -> dict[str, Any]:
    """The tree of a schema; older keys are renamed, which is logged once for each `where`. Wrong trees stay wrong."""
    renamed = _renamed(tree, AT_THE_TOP)
    for key, words in (("request", IN_REQUEST), ("candidate", IN_CANDIDATE)):
        if isinstance(renamed.get(key), dict):
            renamed[key] = _renamed(renamed[key], words)
    if isinstance(sequences := renamed.get("sequences"), list):
        renamed["sequences"] = [_renamed(each, IN_FIELDS) if isinstance(each, dict) else each for each in sequences]
    if renamed != tree:
        _say_once(where)
    return renamed


def older_column(name: str) -> str:
    """How a column was called: `candidate.seen`, `candidate.<label>.truth`; other names are the same."""
    if name == "candidate.visible_events":
        return "candidate.seen"
    return (
        name.removesuffix(".oracle") + ".truth" if name.startswith("candidate.") and name.endswith(".oracle") else name
    )


def stored_names(names: Sequence[str], found: Collection[str]) -> list[str]:
    """How each of these columns is called in a file with the columns `found`: as today, or as it was called before."""
    return [older if name not in found and (older := older_column(name)) in found else name for name in names]


def recipe_with_todays_words(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe in a checkpoint; options that were removed are left out."""
    model, optim = dict(recipe.get("model", {})), dict(recipe.get("optim", {}))
    if isinstance(model.get("tokens"), dict):
        model["tokens"] = _renamed(model["tokens"], {"dynamic_dim": "side_dim"})
    optim.pop("compensation", None)
    kind = optim.pop("staleness", None)
    if kind is not None:
        optim["correction"] = "none" if kind == "compensate" else kind
    return recipe | {"model": model, "optim": optim}


def _renamed(tree: dict[str, Any], words: dict[str, str]) -> dict[str, Any]:
    return {words.get(key, key) if words.get(key) not in tree else key: value for key, value in tree.items()}


@functools.cache
def _say_once(where: str) -> None:
    _log.warning(
        "%s: written in words of before 0.1.0, which are still read; `dist-rec data migrate` rewrites them", where
    )

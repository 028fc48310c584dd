"""Reads schemas, columns and checkpoints from before 0.1.0, which used other words. Does not import torch.

`dist-rec data migrate` (migrate.py) rewrites a dataset in today's words."""

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
    """The tree of a schema with older keys renamed, which is logged once per `where`. Wrong trees stay wrong."""
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
    """The older name of a column: `candidate.seen`, `candidate.<label>.truth`; other names are unchanged."""
    if name == "candidate.visible_events":
        return "candidate.seen"
    if name.startswith("candidate.") and name.endswith(".oracle"):
        return name.removesuffix(".oracle") + ".truth"
    return name


def stored_names(names: Sequence[str], found: Collection[str]) -> list[str]:
    """Each of these columns' name in a file with the columns `found`: today's name, or the older one."""
    return [older if name not in found and (older := older_column(name)) in found else name for name in names]


def recipe_with_todays_words(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe in a checkpoint, without options that no longer exist."""
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
    said = "%s: written in words of before 0.1.0, which are still read; `dist-rec data migrate` rewrites them"
    _log.warning(said, where)

"""Weights by the names that a recipe knows: `tables.<table>`, wherever the table lies, and `model.<name>` of the rest;
and which weights of a checkpoint go to which weights of a new run."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from dist_rec.embedding.rows import table_of
from dist_rec.run_config import InitConfig

TABLES = "tables."


@dataclass(frozen=True)
class Entry:
    """- `key` in a state dict of a model, `shape` of the whole"""

    key: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Matched:
    """- `taken`: name now -> entry of the checkpoint
    - `fresh`: names that are left out
    - `missing`: names that are neither
    - `unused`: names of the checkpoint, as they are there, that nothing takes
    - `problems`: patterns that do nothing, as sentences
    """

    taken: dict[str, Entry]
    fresh: list[str]
    missing: list[str]
    unused: list[str]
    problems: list[str]


def name_of(key: str) -> str:
    """The name of a weight, by its key in a state dict of a model."""
    table = table_of(key)
    return f"model.{key}" if table is None else f"{TABLES}{table}"


def named(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def idle(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The patterns that match none of the names."""
    names = list(names)
    return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]


def match(init: InitConfig, saved: Mapping[str, Entry], now: Iterable[str]) -> Matched:
    """Which entry of a checkpoint, by their names there, goes to each name of a new run."""
    now = list(now)
    became = {name: renamed(name, init.rename) for name in saved}
    problems = [
        f"init.rename: nothing in the checkpoint is called {before}"
        for before in init.rename
        if not any(_fits(before, name) for name in saved)
    ]
    sources: dict[str, str] = {}
    for name, after in became.items():
        if after in sources:
            problems.append(f"init.rename: both {sources[after]} and {name} of the checkpoint would be called {after}")
        sources[after] = name
    problems += [
        f"init.rename: {name} of the checkpoint would be called {after}, which the model does not have"
        for name, after in became.items()
        if name != after and after not in now
    ]
    problems += [f"init.leave_out: no weight of the model fits {pattern}" for pattern in idle(init.leave_out, now)]
    fresh = [name for name in now if named(name, init.leave_out)]
    wanted = [name for name in now if not named(name, init.leave_out)]
    taken = {name: saved[sources[name]] for name in wanted if name in sources}
    used = {sources[name] for name in taken}
    return Matched(
        taken=taken,
        fresh=fresh,
        missing=[name for name in wanted if name not in sources],
        unused=[name for name in saved if name not in used],
        problems=problems,
    )


def renamed(name: str, patterns: Mapping[str, str]) -> str:
    """The name after the first pattern that fits it: what a `*` stood for stands in the place of the same `*`."""
    for before, after in patterns.items():
        if (found := _fits(before, name)) is not None:
            first, *rest = after.split("*")
            return first + "".join(f"{text}{words}" for text, words in zip(found.groups(), rest, strict=True))
    return name


def _fits(pattern: str, name: str) -> re.Match[str] | None:
    return re.fullmatch("(.*)".join(map(re.escape, pattern.split("*"))), name)

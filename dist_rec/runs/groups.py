"""Runs whose recipes differ in the seed alone are one group, and what differs between groups."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from dist_rec.runs.read import Run, Values

# What says where a run writes and who hears it; and its seed.
NOT_OF_GROUP = ("run.seed", "run.seeds", "run.out", "run.name", "run.listeners*")
NOTHING = "-"


@dataclass(frozen=True)
class Group:
    """- `letter`: A for the first
    - `runs`: at least one; a run without a readable recipe is alone
    """

    letter: str
    runs: list[Run]

    def by_seed(self) -> dict[int, Run]:
        """Of every seed the finished run that started last: of one seed there is no second sample."""
        finished = [run for run in self.runs if run.state == "finished" and run.seed is not None]
        finished.sort(key=lambda run: 0.0 if run.about is None else run.about.started.timestamp())
        return {run.seed: run for run in finished if run.seed is not None}

    def notes(self) -> list[str]:
        """Which of its runs do not count in a mean over seeds, and what they do not share though their recipe does."""
        counted = [run.name for run in self.by_seed().values()]
        early = [run.name for run in self.runs if run.state != "finished"]
        again = [run.name for run in self.runs if run.name not in (*counted, *early)]
        commits = {run.about.commit for run in self.runs if run.about is not None}
        notes = [f"not counted, for they have not finished: {', '.join(early)}"] if early else []
        notes += [f"not counted, for a later run has their seed: {', '.join(again)}"] if again else []
        notes += [f"runs of several commits: {', '.join(sorted(commits))}"] if len(commits) > 1 else []
        return [f"{self.letter}: {note}" for note in notes]

    def values(self, place: tuple[str, str], metric: str) -> dict[int, float]:
        """By seed, where it is defined."""
        found: dict[int, Values] = {seed: run.metrics.get(place, {}) for seed, run in self.by_seed().items()}
        return {seed: of[metric] for seed, of in sorted(found.items()) if metric in of}


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """In the order of their first runs."""
    by_key: dict[str, list[Run]] = {}
    for run in runs:
        by_key.setdefault(_json(_settings(run)) if run.recipe else run.name, []).append(run)
    return [Group(_letter(number), of) for number, of in enumerate(by_key.values())]


def differing(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Setting -> its value in each group, as JSON, of those that are not the same in all; groups without a recipe have
    none."""
    settings = [_settings(group.runs[0]) for group in groups]
    names = list(dict.fromkeys(name for of in settings for name in of))
    values = {name: [_json(of[name]) if name in of else NOTHING for of in settings] for name in names}
    return {name: of for name, of in values.items() if len({at for at, known in zip(of, settings) if known}) > 1}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)  # a recipe that is no recipe any more may hold dates


def _settings(run: Run) -> dict[str, Any]:
    return {
        name: value
        for name, value in run.recipe.items()
        if not any(fnmatchcase(name, pattern) for pattern in NOT_OF_GROUP)
    }


def _letter(number: int) -> str:
    """A to Z, then A1 to Z1."""
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")

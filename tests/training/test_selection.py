"""Which weights are chosen and when a run stops, and that a run which goes on chooses and stops as if nothing had
happened."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config, load_config
from dist_rec.training.loop import RunResult
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.ranks import Ranks
from dist_rec.training.selection import Selection, SelectionState, check_selection
from dist_rec.training.study import run_study
from tests.helpers.ranks import run_ranks
from tests.training.runs import (
    assert_same_weights,
    make_config,
    rows,
    run,
    saved_weights,
    these_ranks,
    write_dataset,
    write_inverted,
)


def _selection(**changes: Any) -> Selection:
    return Selection(make_config(Path("data"), Path("out"), run=changes))


def _metrics(auc: float, logloss: float) -> dict[str, TaskMetrics]:
    """Of two tasks; the second one is always better, and counts for nothing."""
    first = TaskMetrics(auc, auc, logloss, 1.0, 1.0, candidates=4, label_rate=0.5)
    return {"click": first, "buy": TaskMetrics(1.0, 1.0, 0.0, 0.0, 1.0, candidates=4, label_rate=0.5)}


def test_with_a_filter_what_it_keeps_decides() -> None:
    """Candidates that it acts on are not what the run is for."""
    selection = _selection(select_best="auc")
    better, worse = _metrics(0.6, 0.5)["click"], _metrics(0.5, 0.6)["click"]
    assert selection.is_better({"click": replace(worse, strata={"retain": better})})
    assert not selection.is_better({"click": replace(better, strata={"retain": worse})})


def test_the_last_weights_are_chosen_where_nothing_selects() -> None:
    selection = _selection()
    assert not selection.is_better(_metrics(0.6, 0.5)) and not selection.is_better(_metrics(0.5, 0.6))
    assert selection.state.valid == _metrics(0.5, 0.6)
    assert not (selection.keeps_best or selection.has_best or selection.is_exhausted)


@pytest.mark.parametrize(
    ("by", "better"), [("auc", [True, True, False, False]), ("logloss", [True, False, True, False])]
)
def test_the_first_task_selects_and_equal_is_not_better(by: str, better: list[bool]) -> None:
    selection = _selection(select_best=by)
    seen = [_metrics(0.6, 0.5), _metrics(0.7, 0.6), _metrics(0.5, 0.4), _metrics(0.7, 0.4)]
    assert [selection.is_better(metrics) for metrics in seen] == better
    assert selection.state.best == {"auc": 0.7, "logloss": -0.4}[by]


def test_patience_counts_validations_since_the_best() -> None:
    selection = _selection(select_best="auc", patience=2)
    exhausted = []
    for auc in (0.6, 0.5, 0.7, 0.7, 0.6):
        selection.is_better(_metrics(auc, 0.5))
        exhausted.append(selection.is_exhausted)
    assert exhausted == [False, False, False, False, True]


def test_a_first_score_of_nan_is_better_than_nothing_and_worse_than_any() -> None:
    selection = _selection(select_best="auc")
    assert selection.is_better(_metrics(math.nan, 0.5)) and selection.has_best
    assert selection.state.best == -math.inf
    assert not selection.is_better(_metrics(math.nan, 0.5))
    assert selection.is_better(_metrics(0.1, 0.5))


def test_the_state_comes_back_from_json() -> None:
    selection = _selection(select_best="auc")
    selection.is_better(_metrics(0.6, 0.5))
    assert SelectionState.model_validate_json(selection.state.model_dump_json()) == selection.state


def test_a_recipe_that_cannot_select_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run\.select_best=auc needs data\.valid, got none"):
        check_selection(make_config(Path("data"), Path("out"), data={"valid": []}, run={"select_best": "auc"}))
    changes: dict[str, Any] = {"optim": {"accumulation_steps": 2}, "checkpoint": {"every_steps": 3}}
    with pytest.raises(ConfigError, match=r"every_steps=3 must be a multiple of optim\.accumulation_steps=2"):
        check_selection(make_config(Path("data"), Path("out"), **changes))


# What a run that goes on shares with the one that was not interrupted.

EVERY = 2  # steps between two checkpoints, and between two validations in most cases
CASES: dict[str, dict[str, Any]] = {
    "auc": {"select_best": "auc", "eval_every": 2},
    "auc, patience": {"select_best": "auc", "eval_every": 2, "patience": 3},
    "logloss": {"select_best": "logloss", "eval_every": 3},
    "logloss, patience": {"select_best": "logloss", "eval_every": 1, "patience": 5},
}


@dataclass(frozen=True)
class Outcome:
    """How a run ended, on one rank, and what it left: its folder below `config.run.out`."""

    result: RunResult
    config: Config
    folder: str


def _case_config(data: Path, out: Path, case: str, ranks: int) -> Config:
    """Twelve steps, in which scores get worse from some step on."""
    changes: dict[str, Any] = {
        "data": {"batch_size": 16 // ranks},
        "optim": {"lr": 0.02, "clip_norm": None},
        "embedding": {"lr": 0.3},
        "model": {"longer": {"dropout": 0.2}},
        "run": {"max_steps": 12, "epochs": 2, **CASES[case]},
        "checkpoint": {"every_steps": EVERY},
    }
    return make_config(data, out, **changes)


def _resume_everywhere(data: Path, out: Path, cases: Sequence[str]) -> dict[str, dict[str, Outcome]]:
    """Each case once as a whole, and from each checkpoint at which there is something left to train."""
    ranks = these_ranks()
    found: dict[str, dict[str, Outcome]] = {}
    for case in cases:
        config = _case_config(data, out, case, ranks.world_size)
        whole = run(config, ranks, f"{case}/whole")
        found[case] = {"whole": Outcome(whole, config, f"{case}/whole")}
        for step in range(EVERY, whole.steps, EVERY):
            folder = f"{case}/from-{step}"
            resumed = run(config, ranks, folder, resume=out / case / "whole" / "checkpoints" / f"step-{step}")
            found[case][f"from-{step}"] = Outcome(resumed, config, folder)
    return found


FOLDS = {"a": [8, 8, 8], "b": [6, 9], "c": [7, 9]}
STUDY = {"run": {"seeds": [3, 4], "epochs": 3, "eval_every": 1, "select_best": "auc", "patience": 2}}


def _resume_members(data: Path, out: Path) -> dict[str, list[Outcome]]:
    """A study of two seeds and three folds, and every run of it again, by its own recipe, from one of its
    checkpoints."""
    ranks = these_ranks()
    checkpoint = {"every_steps": 1}
    config = make_config(data, out, data={"folds": list(FOLDS), "batch_size": 4}, checkpoint=checkpoint, **STUDY)
    study = run_study(config, ranks)
    found: dict[str, list[Outcome]] = {}
    for number, (name, result) in enumerate(study.runs.items()):
        folder = study.folder / name
        own = load_config(folder / "recipe.yaml")
        step = 1 + number % max(result.steps - 1, 1)
        again = run(own, ranks, f"again/{name}", resume=folder / "checkpoints" / f"step-{step}")
        found[name] = [Outcome(result, own, f"tiny/{name}"), Outcome(again, own, f"again/{name}")]
    return found


# Ranks, and cases: one that patience ends and one that the steps end.
TWO = ["auc, patience", "logloss"]
WORLDS = [(1, TWO), *(pytest.param(world, marks=pytest.mark.slow) for world in ((1, list(CASES)), (2, TWO)))]


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"{world[0]}-ranks")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, dict[str, Outcome]]]:
    out = tmp_path_factory.mktemp("cases")
    ranks, cases = request.param
    return run_ranks(_resume_everywhere, ranks, write_inverted(out / "data"), out, cases)


@pytest.fixture(
    scope="module",
    params=[pytest.param(ranks, marks=pytest.mark.slow) for ranks in (1, 2)],
    ids=lambda ranks: f"{ranks}-ranks",
)
def members(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Outcome]]]:
    out = tmp_path_factory.mktemp("members")
    return run_ranks(_resume_members, request.param, write_dataset(out / "data", FOLDS), out)


def _assert_same_end(resumed: Outcome, whole: Outcome) -> None:
    """The same step, metrics and validations, and the chosen weights bit for bit."""
    assert resumed.result.steps == whole.result.steps
    assert resumed.result.valid == whole.result.valid and resumed.result.test == whole.result.test
    ends = [rows(outcome.config, outcome.folder, "valid") for outcome in (resumed, whole)]
    assert ends[0] == ends[1][len(ends[1]) - len(ends[0]) :]
    assert rows(resumed.config, resumed.folder, "test") == rows(whole.config, whole.folder, "test")
    chosen = [saved_weights(outcome.config, outcome.folder, "best") for outcome in (resumed, whole)]
    assert_same_weights(*chosen)


def test_a_run_that_goes_on_chooses_and_stops_as_if_uninterrupted(
    outcomes: list[dict[str, dict[str, Outcome]]],
) -> None:
    for case, of in (pair for rank in outcomes for pair in rank.items()):
        whole, *resumed = of.values()
        assert resumed, "it ended before its first checkpoint"
        assert (whole.result.steps < 12) == ("patience" in case), "the premise: patience ends it, or the steps"
        for outcome in resumed:
            _assert_same_end(outcome, whole)


def test_the_best_weights_come_before_some_checkpoint_and_after_another(
    outcomes: list[dict[str, dict[str, Outcome]]],
) -> None:
    """Or the runs that go on would never have to know them, or never choose."""
    best = set()
    for case, of in outcomes[0].items():
        whole = of["whole"]
        scores = [row["auc" if "auc" in case else "logloss"] for row in rows(whole.config, whole.folder, "valid")[::2]]
        step = rows(whole.config, whole.folder, "valid")[::2][scores.index((max if "auc" in case else min)(scores))][
            "step"
        ]
        best.add((case, step))
    steps = {step for _, step in best}
    assert min(steps) < 12 - EVERY and max(steps) > EVERY, best


def test_every_run_of_a_study_goes_on_by_its_own_recipe(members: list[dict[str, list[Outcome]]]) -> None:
    for rank in members:
        assert list(rank) == [f"seed-{seed}/{fold}" for seed in (3, 4) for fold in FOLDS]
        for whole, again in rank.values():
            _assert_same_end(again, whole)
    valid = [result.result.valid["click"].auc for result, _ in members[0].values()]
    assert len(set(valid)) > 3, "seeds and folds are different runs"


def test_a_run_that_lost_its_patience_does_not_go_on(tmp_path: Path, alone: Ranks) -> None:
    """Its last checkpoint was saved after the validation that ended it; training on would end at another step."""
    data = write_inverted(tmp_path / "data")
    config = _case_config(data, tmp_path, "auc, patience", 1)
    whole = run(config, alone, "whole")
    last = tmp_path / "whole" / "checkpoints" / f"step-{whole.steps}"
    with pytest.raises(ConfigError, match=rf"had ended after step {whole.steps}, since run\.patience=3 validations"):
        run(config, alone, "resumed", resume=last)
    shutil.rmtree(tmp_path / "resumed")
    patient = config.model_copy(update={"run": config.run.model_copy(update={"patience": 4})})
    assert run(patient, alone, "resumed", resume=last).steps > whole.steps

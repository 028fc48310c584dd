"""Nothing leaks from the future, or from a label into its own prediction, in a log with a label for every event.

The data is like `data import assist` writes it: a row is a learner, every event is also a candidate that sees the
events before it, and earlier answers stand in the history as the dynamic field `correct`. An answer is correct with
probability `sigmoid(ability - difficulty)`, so what can be known with and without the history is known too."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from dist_rec.config import Config, ParallelConfig
from dist_rec.data.writer import write_schema, write_split
from dist_rec.models.longer.model import Longer
from dist_rec.training.checkpoint import load_checkpoint
from dist_rec.training.loop import RunResult
from dist_rec.training.ranks import Ranks, start_ranks
from tests.data.requests import make_table, seen_schema
from tests.models.batches import Row, make_batch
from tests.training.runs import fresh, run

ITEMS = 50
LEARNERS = {"train": 160, "valid": 10, "test": 60}


@dataclass(frozen=True)
class Log:
    """Rows of each split, and how far the test answers can be foretold by their probability, and by their item
    alone."""

    rows: dict[str, list[Row]]
    best_auc: float
    no_history_auc: float


def _make_log(seed: int = 0) -> Log:
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0.0, 0.7, ITEMS)
    rows: dict[str, list[Row]] = {}
    truth: list[NDArray] = []
    for split, learners in LEARNERS.items():
        rows[split] = []
        for user in range(learners):
            length = int(rng.integers(20, 41))
            item = rng.integers(0, ITEMS, length)
            p = 1 / (1 + np.exp(-(rng.normal(0.0, 2.0) - difficulty[item])))
            correct = (rng.random(length) < p).astype(int)
            rows[split].append(_row(user, item, correct, correct))
            truth += [p] if split == "test" else []
    label = np.concatenate([row["candidate.correct"] for row in rows["test"]])
    items = np.concatenate([row["candidate.item"] for row in rows["test"]])
    return Log(rows, roc_auc_score(label, np.concatenate(truth)), roc_auc_score(label, -difficulty[items]))


def _row(user: int, item: NDArray, history: NDArray, label: NDArray) -> Row:
    return {
        "user": user,
        "history.item": item.tolist(),
        "history.correct": history.tolist(),
        "candidate.item": item.tolist(),
        "candidate.correct": label.tolist(),
        "candidate.visible_events": list(range(len(item))),
    }


def _shuffled_history(rows: list[Row]) -> list[Row]:
    """The answers in all histories dealt out anew among all learners; the labels stay."""
    rng = np.random.default_rng(1)
    answers = rng.permutation(np.concatenate([row["history.correct"] for row in rows]))
    parts = np.split(answers, np.cumsum([len(row["history.correct"]) for row in rows])[:-1])
    return [{**row, "history.correct": part.tolist()} for row, part in zip(rows, parts, strict=True)]


def _write(folder: Path, rows: dict[str, list[Row]]) -> Path:
    write_schema(folder, seen_schema())
    for split, members in rows.items():
        write_split(folder / split, make_table(members, seen_schema()), seen_schema(), rows_per_group=16)
    return folder


def _config(data: Path, out: Path) -> Config:
    """The recipe of statics2011, smaller."""
    return Config.model_validate(
        {
            "data": {"path": str(data), "batch_size": 8, "eval_batch_size": 16, "workers": 0},
            "model": {
                "tokens": {"width": 16, "hidden": 32, "position": "none"},
                "longer": {
                    "merge": 1,
                    "inner_trans": False,
                    "k": 0,
                    "globals": ["candidate"],
                    "heads": 2,
                    "rotary": True,
                },
                "head": {"hidden": [32], "inputs": ["globals", "sequence_mean", "candidate"]},
            },
            "embedding": {"dim": 16, "lr": 0.05},
            "optim": {"lr": 0.005, "warmup_steps": 5},
            "run": {"out": str(out), "epochs": 5},
        }
    )


@dataclass(frozen=True)
class Trained:
    log: Log
    ranks: Ranks
    result: RunResult
    model: nn.Module


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    out, log = tmp_path_factory.mktemp("leaks"), _make_log()
    config = _config(_write(out / "data", log.rows), out)
    with start_ranks(ParallelConfig()) as ranks:
        result = run(config, ranks)
        model, _ = fresh(config, ranks)
        load_checkpoint(out / "run" / "checkpoints" / "last", model, None, ranks)
        yield Trained(log, ranks, result, model.eval())


def _predict(model: nn.Module, rows: list[Row]) -> Tensor:
    """(candidates of the first row,) logits."""
    with torch.no_grad():
        _, (_, logits, _) = model(make_batch(rows, seen_schema()))
    return logits[: len(rows[0]["candidate.item"]), 0]


def _sequence_states(model: nn.Module, rows: list[Row]) -> Tensor:
    """Last layer's event rows of the whole batch, request after request."""
    (encoder,) = (module for module in model.modules() if isinstance(module, Longer))
    normed: list[Tensor] = []
    hook = encoder.norm.register_forward_pre_hook(lambda _, inputs: normed.append(inputs[0]))
    _predict(model, rows)
    hook.remove()
    _, states = normed  # the rows of the candidates come first
    return states


def _until(row: Row, cut: int) -> Row:
    """Every event and candidate from `cut` on removed."""
    return {name: value[:cut] if isinstance(value, list) else value for name, value in row.items()}


def _other_future(row: Row, cut: int) -> Row:
    """Every event and candidate from `cut` on replaced by another item with the opposite answer."""
    changed = dict(row)
    for name in ("history", "candidate"):
        changed[f"{name}.item"] = [
            *row[f"{name}.item"][:cut],
            *((item + 1) % ITEMS for item in row[f"{name}.item"][cut:]),
        ]
        changed[f"{name}.correct"] = [
            *row[f"{name}.correct"][:cut],
            *(1 - label for label in row[f"{name}.correct"][cut:]),
        ]
    return changed


def _companion() -> Row:
    """A longer request that holds every item."""
    return _row(999, np.arange(ITEMS), np.arange(ITEMS) % 2, np.zeros(ITEMS, dtype=int))


CUTS = (1, 2, 7, 15, 19)
SIMD_FLOATS = 16  # of the widest registers in use


@pytest.mark.parametrize("removed", [SIMD_FLOATS, 2 * SIMD_FLOATS])
def test_removing_the_future_changes_no_bit_before_it(trained: Trained, removed: int) -> None:
    """Two things here do not change the model, only keep the order in which its sums are added up:

    - A longer request stands behind in the batch. Attention pads keys to the longest request, and torch's fused kernel
      and MKL's matrix products treat the last keys and rows otherwise than the first.
    - The number of removed events is a multiple of the vector width. A candidate's own key stands behind the events, so
      it moves; by a multiple it stays in its lane of a register.
    """
    rows = [row for row in trained.log.rows["test"] if len(row["history.item"]) > removed]
    assert len(rows) >= 10
    for row in rows:
        cut = len(row["history.item"]) - removed
        whole, before = (_predict(trained.model, [part, _companion()]) for part in (row, _until(row, cut)))
        assert torch.equal(whole[:cut], before)


@pytest.mark.parametrize("cut", CUTS)
def test_the_states_of_events_do_not_change_by_a_bit_whatever_follows(trained: Trained, cut: int) -> None:
    for row in trained.log.rows["test"][:20]:
        whole, before = (_sequence_states(trained.model, [part, _companion()]) for part in (row, _until(row, cut)))
        assert torch.equal(whole[:cut], before[:cut])


@pytest.mark.parametrize("cut", CUTS)
def test_another_future_changes_no_bit_before_it(trained: Trained, cut: int) -> None:
    for row in trained.log.rows["test"][:20]:
        whole, changed = (_predict(trained.model, [part, _companion()]) for part in (row, _other_future(row, cut)))
        assert torch.equal(whole[:cut], changed[:cut])
        assert not torch.equal(whole[cut:], changed[cut:]), "the premise: what follows does look different"


@pytest.mark.parametrize("cut", CUTS)
def test_alone_in_a_batch_only_rounding_changes(trained: Trained, cut: int) -> None:
    """Without the longer request sums are added up in another order: a few units in the last place of float32."""
    for row in trained.log.rows["test"][:20]:
        whole, before = (_predict(trained.model, [part]) for part in (row, _until(row, cut)))
        torch.testing.assert_close(whole[:cut], before, rtol=0, atol=5e-6)


def test_history_helps_and_not_more_than_the_truth_allows(trained: Trained) -> None:
    """A label that leaked into its own prediction would beat the probability that it was drawn with."""
    reached = trained.result.test["correct"].auc
    assert trained.log.no_history_auc + 0.1 < reached < trained.log.best_auc


def test_shuffled_history_labels_are_worth_nothing(trained: Trained, tmp_path: Path) -> None:
    """Trained and tested anew with them, the model comes down to what the items alone tell."""
    rows = {split: _shuffled_history(members) for split, members in trained.log.rows.items()}
    config = _config(_write(tmp_path / "data", rows), tmp_path)
    reached = run(config, trained.ranks).test["correct"].auc
    assert reached == pytest.approx(trained.log.no_history_auc, abs=0.03)

"""Metrics against scikit-learn, and gathered over ranks."""

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss
from torch import Tensor

from dist_rec.training.metrics import Metric, gather_rows, task_metrics
from tests.helpers.ranks import run_ranks

# Few distinct scores make ties; wide ones would all be 1.0 behind a sigmoid.
SCORES = st.one_of(st.sampled_from([-1.0, 0.0, 0.25, 2.0]), st.floats(-1e4, 1e4, width=32))
CANDIDATES = st.lists(st.tuples(SCORES, st.integers(0, 1), st.integers(0, 5)), max_size=60)
EXACT = 1e-12  # float64 sums in another order


def _columns(candidates: list[tuple[float, int, int]]) -> tuple[NDArray, NDArray, NDArray]:
    scores, labels, groups = np.array(candidates).reshape(-1, 3).T
    return scores, labels, groups.astype(np.int64)


def _both_classes(labels: NDArray) -> bool:
    return 0 < labels.sum() < len(labels)


@settings(deadline=None, max_examples=100)
@given(CANDIDATES)
def test_task_metrics_by_their_definitions(candidates: list[tuple[float, int, int]]) -> None:
    logits, labels, groups = _columns(candidates)
    assume(_both_classes(labels))
    logits = np.clip(logits, -15.0, 15.0)  # beyond, 1 - p loses its digits
    got = task_metrics(*(torch.from_numpy(column) for column in (logits, labels, groups)), oracle=None)
    p = 1 / (1 + np.exp(-logits))
    expected = log_loss(labels, p, labels=[0, 1])
    assert got.logloss == pytest.approx(expected, rel=1e-6)
    assert got.ne == pytest.approx(
        expected / log_loss(labels, np.full(len(labels), labels.mean()), labels=[0, 1]), rel=1e-6
    )
    assert got.calibration == pytest.approx(p.sum() / labels.sum())
    assert (got.candidates, got.label_rate, got.best_auc) == (len(labels), labels.mean(), None)


def test_always_predicting_the_label_rate_has_an_ne_of_one_and_is_calibrated() -> None:
    labels = torch.tensor([1.0, 0.0, 0.0, 0.0])
    rate = torch.full((4,), 0.25, dtype=torch.float64)
    got = task_metrics(torch.logit(rate), labels, torch.arange(4), oracle=None)
    assert (got.ne, got.calibration, got.auc) == (pytest.approx(1.0), pytest.approx(1.0), 0.5)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_a_logloss_but_no_auc(label: float) -> None:
    got = task_metrics(torch.zeros(3), torch.full((3,), label), torch.zeros(3, dtype=torch.int64), oracle=torch.rand(3))
    assert got.logloss == pytest.approx(math.log(2))
    assert all(math.isnan(value) for value in (got.auc, got.grouped_auc, got.ne, got.best_auc or 0.0))
    assert got.calibration == pytest.approx(0.5) if label else math.isnan(got.calibration)


def test_no_candidate_at_all() -> None:
    got = asdict(task_metrics(torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.int64), oracle=torch.zeros(0)))
    assert got.pop("candidates") == 0 and got.pop("own") == got.pop("strata") == {}
    assert all(math.isnan(value) for value in got.values())


def test_candidates_without_a_label_play_no_part() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50), torch.randint(0, 2, (50,)).float()
    groups, truth, defined = torch.randint(0, 4, (50,)), torch.rand(50), torch.rand(50) < 0.6
    got = task_metrics(logits, labels.masked_fill(~defined, torch.nan), groups, truth)
    assert got == task_metrics(logits[defined], labels[defined], groups[defined], truth[defined])
    none = task_metrics(logits, torch.full((50,), torch.nan), groups, truth)
    assert none.candidates == 0 and math.isnan(none.auc) and none.best_auc is not None and math.isnan(none.best_auc)


def test_best_auc_is_that_of_the_truth() -> None:
    labels, truth = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.1, 0.9, 0.8, 0.7])
    assert task_metrics(torch.randn(4), labels, torch.zeros(4), truth).best_auc == 0.75


class Accuracy(Metric):
    def __call__(self, logits: NDArray[np.float64], labels: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
        return float(((logits > 0) == labels).mean()) + len(set(groups.tolist()))


def test_metrics_of_ones_own_see_what_is_defined() -> None:
    labels = torch.tensor([1.0, 0.0, torch.nan, 0.0])
    logits, groups = torch.tensor([2.0, 1.0, 5.0, -1.0]), torch.tensor([7, 7, 8, 9])
    got = task_metrics(logits, labels, groups, None, [Accuracy(Accuracy.Config())])
    assert got.own == {"Accuracy": pytest.approx(2 / 3 + 2)}


def _rows_of(rank: int, sizes: list[int]) -> Tensor:
    start = sum(sizes[:rank])
    return torch.arange(start * 3, (start + sizes[rank]) * 3, dtype=torch.float32).view(-1, 3)


def _gather_parts(cases: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
    rank, group = dist.get_rank(), dist.group.WORLD
    assert group is not None
    return [
        (gather_rows(_rows_of(rank, sizes), group), gather_rows(_rows_of(rank, sizes)[:, 0].long(), group))
        for sizes in cases
    ]


def test_rows_of_uneven_and_empty_ranks_arrive_in_rank_order() -> None:
    cases = [[3, 5], [0, 4], [4, 0], [0, 0], [2, 2]]
    for gathered in run_ranks(_gather_parts, 2, cases):
        for sizes, (rows, ids) in zip(cases, gathered, strict=True):
            whole = torch.arange(sum(sizes) * 3, dtype=torch.float32).view(-1, 3)
            assert torch.equal(rows, whole)
            assert torch.equal(ids, whole[:, 0].long())

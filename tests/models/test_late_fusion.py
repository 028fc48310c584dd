"""Models that summarise each sequence for itself, and how their summaries reach the head."""

from typing import Any

import numpy as np
import pytest
import torch

from dist_rec.models.late_fusion import LateFusion
from dist_rec.models.longer.model import Longer
from tests.data.requests import make_row
from tests.models.batches import Model, make_batch, make_model, saved_bytes

RANKMIXER: dict[str, Any] = {"interaction": "rankmixer", "rankmixer": {"width": 20, "expansion": 2}}
NAMES = ("longer", "din", "sum_pooling")
SUMMARY = {"longer": 3 * 16, "din": 8, "sum_pooling": 8}  # LONGER: two globals and the mean, 2 merged tokens of width 8


def _rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [make_row(rng, user, 8) for user in range(5)]


def _body(model: Model) -> LateFusion:
    assert isinstance(model.ranker.body, LateFusion)
    return model.ranker.body


def _inside(model: Model, rows: list[dict[str, Any]]) -> tuple[list[torch.Tensor], list[torch.Tensor], Any]:
    """What the body gives, each encoder's summary by itself, and the candidates."""
    batch = make_batch(rows)
    looked_up, body = model.tables(batch), _body(model)
    view = model.ranker.candidates(looked_up, batch)
    sequences = model.ranker.sequences(looked_up, batch, view)
    assert not sequences.pools
    own = [
        body.encoders[name](sequences.tokens[name], sequences.lengths[name], view) for name in ("history", "searches")
    ]
    return body(sequences, view), own, view


@pytest.mark.parametrize("name", NAMES)
def test_without_rankmixer_the_head_sees_the_summaries_side_by_side(name: str) -> None:
    model = make_model(name=name)
    got, own, _ = _inside(model, _rows())
    assert len(got) == len(own) == 2 and all(torch.equal(mine, theirs) for mine, theirs in zip(got, own))
    assert sum(part.shape[1] for part in got) == _body(model).width == 2 * SUMMARY[name]
    assert model.ranker.head.mlps[0][0].in_features == 2 * SUMMARY[name] + 16 + 8


@pytest.mark.parametrize("name", NAMES)
def test_rankmixer_mixes_the_summaries_with_the_features(name: str) -> None:
    model = make_model(name=name, **RANKMIXER)
    got, own, view = _inside(model, _rows())
    mixer = _body(model).mixer
    assert mixer is not None and [summary.shape[1] for summary in own] == [SUMMARY[name]] * 2
    assert len(got) == 1 and torch.equal(got[0], mixer(own, view).flatten(1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("inputs", "width"),
    [
        (None, 5 * 20),
        (["mixed_mean"], 20),
        (["mixed_mean", "candidate"], 20 + 16),
        (["context", "mixed", "mixed_mean"], 128),
    ],
)
def test_the_head_is_as_wide_as_its_inputs(name: str, inputs: list[str] | None, width: int) -> None:
    """T = 2 sequences + 3 groups of one field each."""
    model, rows = make_model(name=name, **RANKMIXER, head={"inputs": inputs}), _rows()
    logits = model(make_batch(rows))
    assert model.ranker.head.mlps[0][0].in_features == width
    torch.testing.assert_close(logits, torch.cat([model(make_batch([row])) for row in rows]), rtol=0.0, atol=2e-6)
    assert all(gradient.any() for gradient in model.gradients(make_batch(rows)).values())


def test_rankmixer_is_given_all_that_longer_has() -> None:
    """Without it, only what the head asks for is computed."""
    encoders = {
        "mixed": make_model(**RANKMIXER),
        "mean": make_model(head={"inputs": ["sequence_mean"]}),
        "globals": make_model(head={"inputs": ["globals"]}),
    }
    found = {}
    for kind, model in encoders.items():
        encoder = _body(model).encoders["history"]
        assert isinstance(encoder, Longer)
        found[kind] = (encoder.with_globals, encoder.sequence_mean, encoder.width)
    assert found == {"mixed": (True, True, 48), "mean": (False, True, 16), "globals": (True, False, 32)}


@pytest.mark.parametrize("name", NAMES)
def test_recomputing_the_mixer_saves_memory_and_changes_nothing(name: str) -> None:
    batch = make_batch(_rows())
    plain, again = (make_model(name=name, recompute=parts, **RANKMIXER) for parts in ([], ["mixer"]))
    assert saved_bytes(lambda: again(batch)) < saved_bytes(lambda: plain(batch))
    assert torch.equal(plain(batch), again(batch))
    first, second = plain.gradients(batch), again.gradients(batch)
    assert all(torch.equal(second[name], gradient) for name, gradient in first.items())


def test_slices_of_the_features_instead_of_groups() -> None:
    """24 columns in 6 slices of 4: T = 8."""
    model = make_model(name="sum_pooling", **{**RANKMIXER, "rankmixer": {"width": 16}}, non_sequential={"split": 6})
    assert model.ranker.head.mlps[0][0].in_features == 8 * 16
    assert all(gradient.any() for gradient in model.gradients(make_batch(_rows())).values())

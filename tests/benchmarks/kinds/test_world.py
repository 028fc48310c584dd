from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.kinds.world import DAY, KINDS, Truth, WorldConfig, money, standard, write_world
from dist_rec.data.columns import ragged_values, scalar_values

WORLD = WorldConfig(train=100, valid=20, test=3_000, items=2_000, new=1_000)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("kinds") / "world"
    return folder, write_world(folder, WORLD)


def test_terms_have_one_spread_and_are_independent(world: tuple[Path, Truth]) -> None:
    terms = np.stack([world[1].terms[name] for name in ("category", *KINDS)])
    assert np.abs(np.corrcoef(terms) - np.eye(6)).max() < 0.06
    assert np.allclose(terms.std(axis=1), 1, atol=0.15)


def test_every_kind_adds_to_the_best_auc(world: tuple[Path, Truth]) -> None:
    truth = world[1]
    none, everything = truth.best_auc(()), truth.best_auc(tuple(KINDS))
    alone = [truth.best_auc((kind,)) for kind in KINDS]
    assert 0.57 < none < min(alone) - 0.02 and max(alone) + 0.05 < everything < 0.9


def test_columns_tell_the_terms(world: tuple[Path, Truth]) -> None:
    folder, truth = world
    test = pq.read_table(folder / "test")
    price = np.log(ragged_values(test, "candidate.price").values)
    middle = np.abs(price - np.median(price)) < 0.2
    assert truth.terms["price"][middle].min() > truth.terms["price"][~middle].max() - 0.2, "a bump"
    paid = np.log(ragged_values(test, "history.paid").values).reshape(-1, WORLD.length)[:, -4:].mean(axis=1)
    assert np.corrcoef(np.repeat(paid, WORLD.candidates), truth.terms["paid"])[0, 1] > 0.999
    hour = scalar_values(test, "time") % DAY / 3600
    assert abs(hour[truth.terms["hour"][:: WORLD.candidates].argmax()] - 20) < 0.1
    assert (ragged_values(test, "candidate.click").values == truth.labels).all()


def test_items_of_the_test_are_new(world: tuple[Path, Truth]) -> None:
    shown = {
        split: ragged_values(pq.read_table(world[0] / split), "candidate.item").values for split in ("train", "test")
    }
    assert shown["train"].max() < 1_000 <= shown["test"].min()


def test_standard_and_money() -> None:
    values = standard(np.array([1.0, 2.0, 6.0]))
    assert values.mean() == pytest.approx(0) and values.std() == pytest.approx(1)
    assert money(np.zeros(1))[0] == pytest.approx(20.1, abs=0.1)

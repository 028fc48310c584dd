"""Labels that are noisy in a known way: by event, with the shares that were asked for."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.filtering.data import NOISE, SYNTHETIC, Domain, labels_of, make_synthetic, threshold, users_to_remove
from benchmarks.filtering.policy import NoisyOptions
from dist_rec.data.columns import ragged_values


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Domain]:
    folder = tmp_path_factory.mktemp("made") / "data"
    return folder, make_synthetic(folder, SYNTHETIC.model_copy(update={"requests": 1_000}), seed=0)


@pytest.mark.parametrize("flip", [0.0, 0.2])
def test_decisions_are_turned_round_as_often_as_asked(made: tuple[Path, Domain], flip: float) -> None:
    folder, domain = made
    _, truth, filtered = labels_of(folder, domain, NoisyOptions(domain=domain.values, flip=flip))
    for kind in (True, False):
        assert (filtered != truth)[truth == kind].mean() == pytest.approx(flip, abs=0.05)


def test_an_event_is_decided_alike_in_every_request(made: tuple[Path, Domain]) -> None:
    folder, domain = made
    options = NoisyOptions(domain=domain.values, flip=0.5)
    _, _, filtered = labels_of(folder, domain, options)
    rows = pq.read_table(folder / "train")
    user, lengths = rows.column("user").to_numpy(), ragged_values(rows, "history.item").lengths
    parts = np.split(filtered, np.cumsum(lengths)[:-1])
    compared = 0
    for key in np.unique(user):
        shorter, *longer = sorted((parts[i] for i in np.flatnonzero(user == key)), key=len)
        compared += len(longer)
        # A shorter history of a user begins every longer one.
        assert all(np.array_equal(of[: len(shorter)], shorter) for of in longer)
    assert compared > 100
    other = labels_of(folder, domain, options.model_copy(update={"seed": 1}))[2]
    assert 0.4 < (other != filtered).mean() < 0.6, "another seed, other events"


@pytest.mark.parametrize("share", [0.03, 0.2, 0.5])
def test_a_threshold_filters_its_share(made: tuple[Path, Domain], share: float) -> None:
    folder, domain = made
    _, truth, _ = labels_of(folder, domain, NoisyOptions(domain=domain.values))
    options = NoisyOptions(domain=domain.values, noise=NOISE, above=threshold(float(truth.mean()), share))
    assert labels_of(folder, domain, options)[2].mean() == pytest.approx(share, abs=0.02)


def test_whole_users_with_the_most_of_the_domain_go_first(made: tuple[Path, Domain]) -> None:
    folder, domain = made
    options = NoisyOptions(domain=domain.values)
    user, truth, _ = labels_of(folder, domain, options)
    gone = np.isin(user, users_to_remove(folder, domain, options, 0.2))
    assert 0.1 < gone.mean() <= 0.2
    shares = {key: truth[user == key].mean() for key in np.unique(user)}
    least = min(shares[key] for key in np.unique(user[gone]))
    assert least >= max(shares[key] for key in np.unique(user[~gone])) - 1e-9

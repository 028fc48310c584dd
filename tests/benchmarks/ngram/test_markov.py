"""The Markov data: probabilities that belong to what is drawn, and a file that the reader takes."""

from pathlib import Path

import numpy as np

from benchmarks.ngram.markov import EXPONENT, MarkovConfig, _drawn, probability, write_markov
from dist_rec.common.auc import auc
from dist_rec.data.inspect import inspect_dataset
from dist_rec.data.synthetic.parts import zipf_cdf


def test_events_are_drawn_with_their_probability() -> None:
    """One context, drawn 200,000 times."""
    cdf = zipf_cdf(24, EXPONENT)
    before = np.tile([3, 1, 4, 1], (200_000, 1))
    drawn = np.bincount(_drawn(before, cdf, np.random.default_rng(0)), minlength=24) / len(before)
    expected = probability(before[:24], np.arange(24), np.diff(cdf, prepend=0.0))
    assert abs(expected.sum() - 1) < 1e-9
    np.testing.assert_allclose(drawn, expected, atol=4e-3)


def test_what_comes_next_depends_on_three_events() -> None:
    cdf = zipf_cdf(24, EXPONENT)
    q = np.diff(cdf, prepend=0.0)
    base, older, oldest = ([9, 3, 1, 4], [9, 7, 1, 4], [8, 3, 1, 4])
    p, with_older, with_oldest = (probability(np.tile(of, (24, 1)), np.arange(24), q) for of in (base, older, oldest))
    assert not np.allclose(p, with_older) and np.allclose(p, with_oldest)


def test_writes_a_dataset_with_its_truth(tmp_path: Path) -> None:
    write_markov(tmp_path, MarkovConfig(requests=400))
    report = inspect_dataset(tmp_path)
    assert {split.name: (split.rows, split.candidates) for split in report.splits} == {
        "train": (400, 3200),
        "valid": (100, 800),
        "test": (100, 800),
    }
    assert all(split.label_rate["next"] == 0.5 for split in report.splits)
    labels = np.tile([1, 0], 50)
    assert auc(labels + 0.0, labels) == 1.0

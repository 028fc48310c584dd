import pytest

from benchmarks.ngram import cost


def test_a_page_at_toy_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("REQUESTS", 100), ("BATCHES", 2), ("ROUNDS", 1)):
        monkeypatch.setattr(cost, name, value)
    monkeypatch.setattr(cost, "SPEC", cost.SPEC | {"rows": 50})
    first = [line.split(" | ")[0].removeprefix("| ") for line in cost.page() if line.startswith("| ")]
    assert first == ["n-grams of", *cost.FORMS]

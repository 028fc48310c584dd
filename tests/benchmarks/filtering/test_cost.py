import pytest

from benchmarks.filtering import cost


def test_a_page_at_toy_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("REQUESTS", 100), ("BATCHES", 2), ("ROUNDS", 1)):
        monkeypatch.setattr(cost, name, value)
    first = [line.split(" | ")[0].removeprefix("| ") for line in cost.page() if line.startswith("| ")]
    assert first == ["rules", *cost.RULES, "action", "none", "mask", "hide", "keymask", "drop"]

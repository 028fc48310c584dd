"""Forms of the recipe are timed in turns."""

from collections import Counter

from benchmarks.forms import in_turns


def test_every_form_runs_as_often_and_the_first_round_does_not_count() -> None:
    called: Counter[str] = Counter()
    found = in_turns({name: lambda name=name: called.update([name]) for name in ("a", "b")}, 7)
    assert called == {"a": 8, "b": 8}
    assert {name: len(times) for name, times in found.items()} == {"a": 7, "b": 7}

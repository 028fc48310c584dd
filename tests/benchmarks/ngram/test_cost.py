"""Forms of the recipe are timed in turns."""

from collections import Counter

from benchmarks.ngram import cost


def test_every_form_runs_as_often_and_the_first_round_does_not_count() -> None:
    called: Counter[str] = Counter()
    found = cost._in_turns({name: lambda name=name: called.update([name]) for name in ("a", "b")})
    assert called == {"a": cost.ROUNDS + 1, "b": cost.ROUNDS + 1}
    assert {name: len(times) for name, times in found.items()} == {"a": cost.ROUNDS, "b": cost.ROUNDS}

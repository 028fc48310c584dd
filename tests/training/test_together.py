"""What goes wrong on one rank is known to all."""

import pytest
import torch.distributed as dist

from dist_rec.common.strict import ConfigError
from dist_rec.training.together import from_all, from_first
from tests.helpers.ranks import run_ranks


class _Odd(Exception):
    """Cannot be made anew from what is pickled of it."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def _make(wrong: dict[int, Exception]) -> list[int] | str:
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)

    def own() -> int:
        if (error := wrong.get(dist.get_rank())) is not None:
            raise error
        return 10 * dist.get_rank()

    try:
        return from_all(own, group)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def test_what_ranks_made_is_there_on_all() -> None:
    assert run_ranks(_make, 2, {}) == [[0, 10], [0, 10]]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({1: ConfigError("no such key")}, "ConfigError: no such key"),
        ({0: OSError(28, "full", "there"), 1: ConfigError("later")}, "OSError: [Errno 28] full: 'there'"),
    ],
)
def test_all_raise_what_the_first_rank_raised(wrong: dict[int, Exception], told: str) -> None:
    assert run_ranks(_make, 2, wrong) == [told, told]


def _odd() -> str:
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)

    def own() -> None:
        if dist.get_rank() == 1:
            raise _Odd("more", "words")

    try:
        from_all(own, group)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_an_error_that_cannot_be_sent_is_told() -> None:
    assert run_ranks(_odd, 2) == ["RuntimeError: _Odd: more words", "_Odd: more words"]


def _first(error: Exception | None) -> list[int] | str:
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    called: list[int] = []

    def make() -> int:
        called.append(dist.get_rank())
        if error is not None:
            raise error
        return 7

    try:
        return [from_first(make, group), len(called)]
    except OSError as came:
        return f"{came.filename}: {came.strerror}"


def test_what_the_first_rank_makes_alone_is_there_on_all() -> None:
    assert run_ranks(_first, 2, None) == [[7, 1], [7, 0]]


def test_what_the_first_rank_cannot_make_all_raise() -> None:
    assert run_ranks(_first, 2, OSError(13, "Permission denied", "there")) == ["there: Permission denied"] * 2

import pytest

from dist_rec.data.build.config import EventsConfig
from dist_rec.data.build.fields import IdConfig, NumberConfig, TimeConfig, seconds


@pytest.mark.parametrize(
    ("said", "meant"), [("7d", 604_800), ("36h", 129_600), ("90 m", 5400), ("2w", 1_209_600), (5, 5)]
)
def test_durations(said: str | int, meant: int) -> None:
    assert seconds(said) == meant
    of = {"source": "events", "user": "u", "time": "t", "ids": {"item": "i"}, "delay": said}
    assert EventsConfig.model_validate(of).delay == meant


def test_what_is_no_duration() -> None:
    with pytest.raises(
        ValueError, match=r"expected seconds, or a number with s, m, h, d or w such as 7d, got '7 days'"
    ):
        seconds("7 days")


def test_a_time_has_a_known_unit() -> None:
    with pytest.raises(ValueError, match="Input should be 'auto', 's', 'ms', 'us' or 'ns'"):
        TimeConfig.model_validate({"column": "t", "unit": "h"})


def test_bare_names_are_columns() -> None:
    assert IdConfig.model_validate("item") == IdConfig(column="item")
    assert NumberConfig.model_validate("price") == NumberConfig(column="price", encoding="piecewise", bins=16)

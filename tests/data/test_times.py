import pytest

from dist_rec.data.times import Span, mixed_units, other_unit, outlier

NOW = 1_700_000_000


@pytest.mark.parametrize("scale", [1_000, 1_000_000, 1_000_000_000])
@pytest.mark.parametrize("seconds", [4 * 10**8, NOW, 4 * 10**9])
def test_other_units_are_recognised_over_a_century(seconds: int, scale: int) -> None:
    unit = {1_000: "milliseconds", 1_000_000: "microseconds", 1_000_000_000: "nanoseconds"}[scale]
    assert other_unit(seconds * scale) == f"{seconds * scale}, which looks like {unit}"
    assert other_unit(-seconds * scale) == f"{-seconds * scale}, which looks like {unit}"


@pytest.mark.parametrize("value", [0, -1, 19_700, NOW, 4 * 10**9, -NOW, 10**11 - 1])
def test_seconds_and_counts_are_fine(value: int) -> None:
    assert other_unit(value) is None


def test_outlier() -> None:
    assert [outlier(Span(*span)) for span in ((-5, 3), (-3, 5), (1, 2), (-2, -1))] == [-5, 5, 2, -2]


@pytest.mark.parametrize(
    ("request_span", "events", "mixed"),
    [
        ((NOW, NOW + 9), (NOW - 9, NOW), False),
        ((NOW, NOW + 9), (19_000, 19_700), True),  # days
        ((NOW, NOW + 9), (27_000_000, 28_000_000), True),  # minutes
        ((19_700, 19_700), (NOW - 9, NOW), True),
        ((1_000, 1_000), (0, 999), False),
        ((19_700, 19_900), (19_000, 19_700), False),
        ((NOW, NOW), (0, 0), False),  # not known
        ((NOW, NOW), (-1, -1), False),
        ((NOW, NOW), (0, NOW), False),
    ],
)
def test_request_and_events_count_in_one_unit(
    request_span: tuple[int, int], events: tuple[int, int], mixed: bool
) -> None:
    assert (mixed_units(Span(*request_span), Span(*events)) is not None) is mixed

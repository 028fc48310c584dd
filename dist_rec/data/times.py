"""Guesses from their size whether times are in seconds: 10^11 seconds since 1970 are reached in the year 5138.

Small numbers that only count (days, steps) are fine as long as request and events use one unit.
"""

from dataclasses import dataclass

EXPECTED = "a time in seconds since 1970, or a count of your own (divide other units, or write timestamps)"
UNITS = ((10**17, "nanoseconds"), (10**14, "microseconds"), (10**11, "milliseconds"))
EPOCH_FROM = 3 * 10**8  # seconds since 1970 of the year 1979
COUNT_BELOW = 10**8  # 1973 in seconds; days, hours and minutes since 1970 stay below


@dataclass(frozen=True)
class Span:
    """Lowest and highest value of a column, or of a part of it."""

    low: int
    high: int


def other_unit(value: int) -> str | None:
    """The unit that a time seems to have; None if it can be in seconds."""
    return next((f"{value}, which looks like {unit}" for limit, unit in UNITS if abs(value) >= limit), None)


def outlier(span: Span) -> int:
    """The value of a span that is farthest from 0."""
    return span.high if span.high >= -span.low else span.low


def mixed_units(request: Span, events: Span) -> str | None:
    """The values that show two units, one of them seconds since 1970; None if the units can be equal.

    Events at 0 or below do not count: unknown times are written like that."""
    if events.high <= 0:
        return None
    if request.low >= EPOCH_FROM and events.high < COUNT_BELOW:
        return f"at most {events.high} beside request times from {request.low} on"
    if events.low >= EPOCH_FROM and request.high < COUNT_BELOW:
        return f"times from {events.low} on beside request times of at most {request.high}"
    return None

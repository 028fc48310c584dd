"""Whether times are in seconds, told by their size: no times of these days in seconds reach 10^11 (the year 5138).

Small numbers that only count (days, steps) are fine as long as request and events count alike.
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
    """What a time looks like that cannot be in seconds; None if it can be."""
    return next((f"{value}, which looks like {unit}" for limit, unit in UNITS if abs(value) >= limit), None)


def outlier(span: Span) -> int:
    """The value of a span that is farthest from 0."""
    return span.high if span.high >= -span.low else span.low


def mixed_units(request: Span, events: Span) -> str | None:
    """What shows that request and events do not count in one unit; None if nothing does.

    One side is then in seconds since 1970 and the other side is not. Events at 0 or below have no say: it is what
    unknown times are written as."""
    if events.high <= 0:
        return None
    if request.low >= EPOCH_FROM and events.high < COUNT_BELOW:
        return f"at most {events.high} beside request times from {request.low} on"
    if events.low >= EPOCH_FROM and request.high < COUNT_BELOW:
        return f"times from {events.low} on beside request times of at most {request.high}"
    return None

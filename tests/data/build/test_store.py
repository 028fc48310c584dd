import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.data.build.store import Sorted, events_before


@given(
    histories=st.lists(st.lists(st.integers(-5, 5), max_size=9), min_size=1, max_size=4),
    asked=st.lists(st.tuples(st.integers(0, 3), st.integers(-6, 6)), max_size=9),
)
def test_events_before_a_moment(histories: list[list[int]], asked: list[tuple[int, int]]) -> None:
    times = [sorted(history) for history in histories]
    offsets = np.cumsum([0, *map(len, times)])
    store = Sorted(offsets, np.array([time for history in times for time in history], np.int64), {}, {})
    users = np.array([user % len(times) for user, _ in asked], np.int64)
    moments = np.array([moment for _, moment in asked], np.int64)
    wanted = [sum(time < moment for time in times[user]) for user, moment in zip(users, moments, strict=True)]
    assert events_before(store, users, moments).tolist() == wanted

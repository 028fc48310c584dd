"""Scores of a service are those of whole histories, whatever was kept, sent, or asked together."""

from typing import Any

import numpy as np
import pytest
import torch

from dist_rec.serve.cache import StateCache
from dist_rec.serve.disk_store import DiskStore
from dist_rec.serve.request_rows import Limits, Refused
from dist_rec.serve.service import Answer, Result, Service, origin_of
from dist_rec.serve.user_states import UserStates
from tests.data.kind_rows import kind_rows, kinds_schema, kinds_store
from tests.serve.engines import make_engine
from tests.serve.exports import (
    EVENTS,
    Request,
    close,
    events_of,
    make_requests,
    table_of,
    whole_scores,
    without_events,
)

FIRST = {"history": "item", "searches": "query"}


def make_service(
    model: str = "longer", memory: int = 10**7, store: Any = None, limits: Limits | None = None, **options: Any
) -> Service:
    max_length = options.pop("max_length", None)
    engine, _ = make_engine(model, max_length=max_length)
    return Service(engine, UserStates(StateCache(memory), store), limits, **options)


def ask(service: Service, *requests: Request) -> list[Result]:
    """Each in a body of its own."""
    found = service.handle([[service.reader.request(request)] for request in requests])
    return [of if isinstance(of, Refused) else of[0] for of in found]


def right(service: Service, found: Result, whole: Request) -> bool:
    assert isinstance(found, Answer), found
    return found.user == str(whole["user"]) and close(found.scores, whole_scores(service.engine, whole))


def later(request: Request, more: Request, seconds: int = 0) -> tuple[Request, Request]:
    """A request after more events, which happen from its time on: with the whole history, and with the new events."""
    now = request["time"]
    new = {**events_of(more), "history.time": [now + place for place in range(len(more["history.time"]))]}
    time = now + len(more["history.time"]) + seconds
    whole = {**more, "user": request["user"], "time": time, **{name: request[name] + new[name] for name in EVENTS}}
    return whole, {**without_events(whole), "new_events": new}


@pytest.mark.parametrize("model", ["longer", "longer_mixed", "hyformer", "din"])
def test_whole_kept_and_new(model: str) -> None:
    service = make_service(model)
    requests = make_requests(4)
    for turn in range(2):
        found = ask(service, *requests)
        assert all(right(service, of, whole) for of, whole in zip(found, requests, strict=True))
        assert {of.cached for of in found if isinstance(of, Answer)} == {bool(turn)}
    found = ask(service, *[without_events(request) for request in requests])
    assert all(right(service, of, whole) for of, whole in zip(found, requests, strict=True))
    pairs = [later(request, more) for request, more in zip(requests, make_requests(4, seed=1), strict=True)]
    found = ask(service, *[new for _, new in pairs])
    assert all(right(service, of, whole) for of, (whole, _) in zip(found, pairs, strict=True))
    found = ask(service, *[without_events(whole) for whole, _ in pairs])
    assert all(right(service, of, whole) and of.cached for of, (whole, _) in zip(found, pairs, strict=True))  # type: ignore[union-attr]


def test_a_whole_history_uses_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    service = make_service()
    one = make_requests(1)[0]
    ask(service, one)
    given: list[Any] = []
    encode = service.engine.encode
    monkeypatch.setattr(service.engine, "encode", lambda of, before=None: given.append(before) or encode(of, before))
    whole, _ = later(one, make_requests(1, seed=1)[0])
    assert right(service, ask(service, whole)[0], whole)
    assert given[0][0] is not None
    given.clear()
    (found,) = ask(service, whole)
    assert isinstance(found, Answer) and found.cached and not given, "nothing is computed again"


def test_all_that_is_missing_is_computed_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    service = make_service()
    requests = make_requests(6)
    ask(service, *requests[:4])
    calls: list[int] = []
    encode = service.engine.encode
    monkeypatch.setattr(
        service.engine, "encode", lambda of, before=None: calls.append(of.num_rows) or encode(of, before)
    )
    more = make_requests(6, seed=1)
    wholes = [later(request, of) for request, of in zip(requests, more, strict=True)]
    asked = [wholes[0][1], wholes[1][0], without_events({**requests[2], "time": 10**6}), without_events(requests[3])]
    found = ask(service, *asked, *requests[4:])
    assert calls == [5]
    expected = [wholes[0][0], wholes[1][0], {**requests[2], "time": 10**6}, *requests[3:]]
    assert all(right(service, of, whole) for of, whole in zip(found, expected, strict=True))


def test_requests_of_one_user_are_done_in_their_order() -> None:
    service = make_service()
    one, *more = make_requests(4)
    first, new = later(one, more[0])
    second, newer = later(first, more[1])
    asked = [one, new, without_events(first), newer, without_events(second), first, without_events(first)]
    expected = [one, first, first, second, second, first, first]
    found = ask(service, *asked)
    assert all(right(service, of, whole) for of, whole in zip(found, expected, strict=True))
    assert right(service, ask(service, without_events(first))[0], first)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("model", "memory", "disk"), [("longer", 10**7, False), ("hyformer", 3000, True)])
def test_any_requests_in_any_order(seed: int, model: str, memory: int, disk: bool, tmp_path: Any) -> None:
    store = DiskStore(tmp_path, 10**7) if disk else None
    service = make_service(model, memory, store)
    rng = np.random.default_rng(seed)
    known: dict[int, Request] = {}
    for _ in range(12):
        asked: list[Request] = []
        expected: list[Request | None] = []
        for more in make_requests(int(rng.integers(1, 8)), int(rng.integers(10**6))):
            user, kind = int(rng.integers(4)), rng.integers(4)
            before = known.get(user)
            if kind == 0 or (before is None and kind == 1):
                whole = {**more, "user": user, "time": 1000 if before is None else before["time"]}
                asked.append(whole)
            elif kind == 1 and before is not None:
                whole, new = later(before, more, int(rng.integers(0, 10**4)))
                asked.append(new)
            else:
                wanted = {
                    **more,
                    "user": user,
                    "time": 0 if before is None else before["time"] + int(rng.integers(10**3)),
                }
                whole = None if before is None else {**wanted, **events_of(before)}
                asked.append(without_events(wanted))
            expected.append(whole)
            if whole is not None:
                known[user] = whole
        for of, whole in zip(ask(service, *asked), expected, strict=True):
            if whole is None:
                assert isinstance(of, Refused) and of.history_needed
            else:
                assert right(service, of, whole)


def test_a_user_whose_history_is_needed_does_not_hinder_others() -> None:
    service = make_service()
    requests = make_requests(3)
    rows = [service.reader.request(of) for of in (requests[0], without_events(requests[1]), requests[2])]
    (found,) = service.handle([rows])
    assert isinstance(found, list)
    assert right(service, found[0], requests[0]) and right(service, found[2], requests[2])
    assert isinstance(found[1], Refused) and found[1].history_needed


def test_a_malformed_body_is_refused_whole_and_changes_nothing() -> None:
    service = make_service()
    requests = make_requests(4)
    reader = service.reader
    wrong = [reader.request(requests[0]), reader.request({**requests[1], "candidate.kind": [77] * 2})]
    found = service.handle([[reader.request(requests[2])], wrong, [reader.request(requests[3])], []])
    assert isinstance(found[1], Refused) and found[1].place.startswith("requests[1].candidate")
    assert right(service, found[0][0], requests[2]) and right(service, found[2][0], requests[3])  # type: ignore[index]
    assert found[3] == []
    assert isinstance(ask(service, without_events(requests[0]))[0], Refused), "it was not kept"


@pytest.mark.parametrize(
    ("new", "time", "place"),
    [
        ({"history.time": [10]}, 2000, "history.time"),  # before the newest that is kept
        ({"history.time": [1500]}, 1400, "history.time"),  # after the request
        (None, 1, "time"),  # a request before what is kept
    ],
)
def test_times_that_do_not_go_together(new: dict[str, Any] | None, time: int, place: str) -> None:
    service = make_service()
    one = {**make_requests(1)[0], "time": 1000}
    one["history.time"] = [500 + place for place in range(len(one["history.time"]))]
    ask(service, one)
    events = {name: [1] for name in EVENTS if name.startswith("history")}
    more = {} if new is None else {"new_events": {**events, **new}}
    (found,) = ask(service, {**without_events(one), "time": time, **more})
    assert isinstance(found, Refused) and found.place.endswith(place) and not found.history_needed
    assert right(service, ask(service, without_events(one))[0], one), "what is kept stays as it was"


def test_stale_seconds() -> None:
    service = make_service(stale_seconds=10**6)
    one = make_requests(1)[0]
    ask(service, one)
    old = {**one, "time": one["time"] + 10**5}
    (found,) = ask(service, without_events(old))
    assert isinstance(found, Answer) and found.cached and close(found.scores, whole_scores(service.engine, one))
    exact = make_service()
    ask(exact, one)
    assert right(exact, ask(exact, without_events(old))[0], old)


def test_events_without_a_request_and_forgetting() -> None:
    service = make_service()
    one, more = make_requests(2)
    reader = service.reader
    assert service.user_key("7") == "7"
    (found,) = service.handle([[reader.appended(one["user"], events_of(one), None, whole=True)]])
    assert isinstance(found, list) and isinstance(found[0], Answer) and not found[0].scores
    assert found[0].events == {"history": len(one["history.item"]), "searches": len(one["searches.query"])}
    assert right(service, ask(service, without_events(one))[0], one)
    whole, new = later(one, more)
    service.handle([[reader.appended(one["user"], new["new_events"], None, whole=False)]])
    assert right(service, ask(service, without_events(whole))[0], whole)
    service.forget([service.user_key(str(one["user"]))])
    (gone,) = ask(service, without_events(whole))
    assert isinstance(gone, Refused) and gone.history_needed
    for user in ("x", "1.5", "-1", "1000", "9" * 50, "1_0", " 7", "+7", "\uff17", "0" * 64 + "7", ""):
        with pytest.raises(Refused):
            service.user_key(user)


@pytest.mark.parametrize("max_length", [None, 3])
def test_new_events_with_their_place_are_appended_once(max_length: int | None, tmp_path: Any) -> None:
    service = make_service(store=DiskStore(tmp_path, 10**7), max_length=max_length)
    one, more, other = make_requests(3)
    (found,) = ask(service, one)
    assert isinstance(found, Answer)
    whole, new = later(one, more)
    new["after"] = found.events
    first, twice = ask(service, new, new)
    third = ask(service, new)[0]
    service.states.cache.delete([found.user])  # the store knows it as well
    fourth = ask(service, new)[0]
    for of in (first, twice, third, fourth):
        assert right(service, of, whole) and isinstance(of, Answer)
        assert of.events == {name: len(whole[f"{name}.{column}"]) for name, column in FIRST.items()}
    after = first.events  # type: ignore[union-attr]
    whole_then, newer = later(whole, other)
    assert right(service, ask(service, {**newer, "after": after})[0], whole_then)
    (late,) = ask(service, new)
    assert isinstance(late, Refused) and late.place == "after" and late.history_needed
    assert right(service, ask(service, without_events(whole_then))[0], whole_then), "it changed nothing"
    assert right(service, ask(service, whole)[0], whole), "a whole history starts anew"
    assert right(service, ask(service, {**newer, "after": after})[0], whole_then)


def test_a_whole_history_counts_anew_where_the_model_reads_the_same() -> None:
    service = make_service(max_length=2)
    one = make_requests(1)[0]
    ask(service, one)
    newest = {**one, **events_of(one, slice(-2, None))}
    (found,) = ask(service, newest)
    assert isinstance(found, Answer) and found.cached and found.events == {"history": 2, "searches": 2}
    new = {**without_events(one), "new_events": {"searches.query": [1]}, "after": {"searches": 2}}
    for _ in range(2):
        (found,) = ask(service, new)
        assert isinstance(found, Answer) and found.events == {"history": 2, "searches": 3}


def test_events_without_a_time_come_after_those_that_are_kept() -> None:
    service = make_service()
    one = make_requests(1)[0]
    ask(service, one)
    reader = service.reader
    for events, count in (({}, 0), ({"searches.query": [3]}, 1)):  # these have no times
        (found,) = service.handle([[reader.appended(one["user"], events, None, whole=False)]])
        assert isinstance(found, list) and isinstance(found[0], Answer), found
        assert found[0].events["searches"] == len(one["searches.query"]) + count and found[0].cached is (count == 0)
    whole = {**one, "searches.query": [*one["searches.query"], 3]}
    assert right(service, ask(service, without_events(whole))[0], whole)


def test_a_missing_number_makes_no_history_another_one() -> None:
    engine, _ = make_engine("longer", kinds_schema(), attributes=kinds_store(kinds_schema()))
    service = Service(engine, UserStates(StateCache(10**7)))
    names = {*service.reader.events, *service.reader.others}
    rows = [row for row in kind_rows(30) if len(row["history.item"]) > 3 and len(row["candidate.item"])]
    asked = [{name: of for name, of in row.items() if name in names} for row in rows]
    missing = [None in of["history.price"] or any(price != price for price in of["history.price"]) for of in asked]
    assert any(missing)
    for cached in (False, True):
        assert {of.cached for of in ask(service, *asked) if isinstance(of, Answer)} == {cached}


def test_histories_grow_to_their_limit() -> None:
    service = make_service(limits=Limits(events=8))
    one = make_requests(1, longest=6)[0]
    ask(service, one)
    new = {"searches.query": [1] * 8}
    (found,) = ask(service, {**without_events(one), "new_events": new})
    assert isinstance(found, Refused) and found.expected.startswith("at most 8 events")
    cut = make_service(limits=Limits(events=8), max_length=4)
    ask(cut, one)
    (found,) = ask(cut, {**without_events(one), "new_events": new})
    whole = {**one, "searches.query": one["searches.query"] + new["searches.query"]}
    assert right(cut, found, whole)


def test_an_exception_leaves_states_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    service = make_service()
    one, more = make_requests(2)
    ask(service, one)
    whole, new = later(one, more)
    with monkeypatch.context() as patched:
        patched.setattr(service.engine, "score", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ask(service, new)
    assert right(service, ask(service, new)[0], whole)


def test_another_version_makes_its_own_states_of_the_same_events() -> None:
    one = make_requests(1)[0]
    states = UserStates(StateCache(10**7))
    services = []
    for version in ("v1", "v2"):
        torch.manual_seed(len(services))
        engine, _ = make_engine()
        engine.version = engine._encoder.__dict__["version"] = version
        services.append(Service(engine, states))
    assert right(services[0], ask(services[0], one)[0], one)
    (found,) = ask(services[1], without_events(one))
    assert right(services[1], found, one) and isinstance(found, Answer) and not found.cached
    whole, new = later(one, make_requests(1, seed=1)[0])
    assert right(services[1], ask(services[1], new)[0], whole)
    assert right(services[0], ask(services[0], without_events(whole))[0], whole), "back to the one before"


def test_origins_differ_where_events_are_read_differently() -> None:
    engine, _ = make_engine()
    assert origin_of(engine) == origin_of(make_engine("din")[0])
    assert origin_of(engine) != origin_of(make_engine(max_length=5)[0])


def test_nothing_is_asked() -> None:
    service = make_service()
    assert service.handle([]) == [] and service.handle([[], []]) == [[], []]
    no_candidates = {**make_requests(1)[0], "candidate.item": [], "candidate.kind": []}
    (found,) = ask(service, no_candidates)
    assert isinstance(found, Answer) and found.scores == {"click": [], "buy": []}
    assert table_of([no_candidates]).num_rows == 1

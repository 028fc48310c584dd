import copy
import gc
import pickle
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data import ahead
from dist_rec.data.dedup_loader import DedupLoader
from dist_rec.data.unique_features import UniqueFeatures
from tests.data.test_unique_features import features_of

FEATURES = features_of({"item": [[7, 8], [7]], "kind": [[0, 1], [0]]})
LABEL = torch.ones(2)


@dataclass
class _Data:
    features: KeyedJaggedTensor
    label: Tensor


class _Named(NamedTuple):
    label: Tensor
    features: KeyedJaggedTensor


class _Plain:
    def __init__(self) -> None:
        self.parts = {"features": FEATURES, "label": LABEL}
        self.note = "kept"


def _threads() -> int:
    return sum(thread.name == "DedupLoader" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("batch", "inside"),
    [
        (FEATURES, lambda b: b),
        ((LABEL, FEATURES), lambda b: b[1]),
        ([FEATURES, LABEL], lambda b: b[0]),
        ({"x": {"y": FEATURES}, "label": LABEL}, lambda b: b["x"]["y"]),
        (_Data(FEATURES, LABEL), lambda b: b.features),
        (_Named(LABEL, FEATURES), lambda b: b.features),
        (_Plain(), lambda b: b.parts["features"]),
    ],
    ids=["bare", "tuple", "list", "dict", "dataclass", "namedtuple", "object"],
)
def test_finds_features_wherever_they_are(batch: Any, inside: Any) -> None:
    before = inside(batch)
    (found,) = DedupLoader([batch])
    assert type(found) is (UniqueFeatures if batch is FEATURES else type(batch))
    assert isinstance(inside(found), UniqueFeatures) and inside(batch) is before, (
        "the loader's own batch stays as it is"
    )
    assert inside(found).ids_of("item").tolist() == [7, 8]


@dataclass(frozen=True)
class _Awkward:
    features: KeyedJaggedTensor
    names: list[str] = field(init=False, default_factory=list)
    kind: type = _Data


def test_fields_that_cannot_be_set_and_types_are_left_alone() -> None:
    batch = _Awkward(FEATURES)
    (found,) = DedupLoader([batch])
    assert isinstance(found.features, UniqueFeatures) and batch.features is FEATURES
    assert found.names is batch.names and found.kind is _Data


def test_everything_else_is_passed_on() -> None:
    (found,) = DedupLoader([_Data(FEATURES, LABEL)])
    assert found.label is LABEL
    (twin,) = DedupLoader([_Plain()])
    assert twin.note == "kept" and twin.parts["label"] is LABEL


def test_order_and_number_of_batches() -> None:
    loader = DedupLoader([features_of({"a": [[i]]}) for i in range(20)], prefetch=3)
    assert len(loader) == 20
    for _ in range(2):
        assert [batch.ids_of("a").item() for batch in loader] == [*range(20)]
    assert _threads() == 0


def test_feature_sets_and_table_sizes() -> None:
    (found,) = DedupLoader([FEATURES], [["item", "kind"]], num_embeddings={"item": 10**6})
    assert [of.keys for of in found.feature_sets] == [("item", "kind")] and found.tensors[
        "ids.item"
    ].dtype == torch.int32


def test_sets_of_several_tensors_in_a_batch() -> None:
    (left, right) = next(
        iter(DedupLoader([(FEATURES, features_of({"user": [[1], [1]]}))], [["item", "kind"], ["user"]]))
    )
    assert [of.keys for of in left.feature_sets] == [("item", "kind")] and [of.keys for of in right.feature_sets] == [
        ("user",)
    ]


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        (LABEL, {}, "expected a batch that holds a KeyedJaggedTensor with keys, got Tensor"),
        ({"label": LABEL}, {}, "got dict"),
        (FEATURES, {"feature_sets": [["itme"]]}, "feature_sets: no key 'itme' in the batch; there are: item, kind"),
        (FEATURES, {"num_embeddings": {"itme": 5}}, "num_embeddings: no key 'itme' in the batch"),
    ],
)
def test_errors_reach_the_consumer(batch: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(DedupLoader([batch], **options))
    assert _threads() == 0


def test_an_error_of_the_loader_comes_after_its_batches() -> None:
    def failing() -> Iterator[KeyedJaggedTensor]:
        yield FEATURES
        raise OSError("the disk is gone")

    batches = iter(DedupLoader(failing()))
    assert isinstance(next(batches), UniqueFeatures)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_leaving_early_stops_the_thread() -> None:
    taken: list[int] = []

    def endless() -> Iterator[KeyedJaggedTensor]:
        for i in range(10**9):
            taken.append(i)
            yield FEATURES

    batches = iter(DedupLoader(endless(), prefetch=2))
    next(batches)
    assert _threads() == 1
    batches.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    assert _threads() == 0 and len(taken) < 10


def test_leaving_early_does_not_wait_for_a_loader_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "STOP_S", 0.05)
    go_on = threading.Event()

    def hanging() -> Iterator[KeyedJaggedTensor]:
        yield FEATURES
        go_on.wait(30)

    batches = iter(DedupLoader(hanging()))
    next(batches)
    batches.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    assert _threads() == 1 and not go_on.is_set()
    go_on.set()
    deadline = time.monotonic() + 10
    while _threads() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert _threads() == 0


def test_works_ahead_in_a_thread_of_its_own() -> None:
    made_by: list[str] = []

    def batches() -> Iterator[KeyedJaggedTensor]:
        for _ in range(5):
            made_by.append(threading.current_thread().name)
            yield FEATURES

    stream = iter(DedupLoader(batches(), prefetch=2))
    next(stream)
    deadline = time.monotonic() + 10
    while len(made_by) < 4 and time.monotonic() < deadline:  # one is out, two wait, one has no room yet
        time.sleep(0.001)
    time.sleep(0.02)
    assert made_by == ["DedupLoader"] * 4
    assert len(list(stream)) == 4


def _weighted(key: str) -> KeyedJaggedTensor:
    return KeyedJaggedTensor([key], torch.tensor([1, 1]), torch.tensor([0.5, 2.0]), lengths=torch.tensor([1, 1]))


def _varying(*keys: str) -> KeyedJaggedTensor:
    ids, lengths = torch.arange(1 + len(keys)), torch.ones(1 + len(keys), dtype=torch.int64)
    return KeyedJaggedTensor(
        list(keys), ids, lengths=lengths, stride_per_key_per_rank=[[2], *([[1]] * (len(keys) - 1))]
    )


def test_what_cannot_be_deduplicated_stays_beside_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    empty = KeyedJaggedTensor([], torch.zeros(0, dtype=torch.int64), lengths=torch.zeros(0, dtype=torch.int64))
    twice = KeyedJaggedTensor(["t", "t"], torch.tensor([1, 2]), lengths=torch.tensor([1, 1]))
    batch = {"f": FEATURES, "w": _weighted("w"), "v": _varying("x", "y"), "t": twice, "none": empty}
    for found in DedupLoader([batch, batch]):
        assert isinstance(found["f"], UniqueFeatures) and all(
            found[name] is batch[name] for name in ("w", "v", "t", "none")
        )
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 3, "each kind once, not once per batch"
    assert any(text.startswith("w: left as they are") and "weights" in text for text in texts)
    assert any(text.startswith("t, t: left as they are") and "a key more than once (t)" in text for text in texts)
    assert any(text.startswith("x, y: left as they are") and "a stride per key ([2, 1])" in text for text in texts)


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        (_weighted("w"), {}, "got KeyedJaggedTensor; w: features have weights"),
        ([_varying("x", "y")], {}, r"got list; x, y: features have a stride per key \(\[2, 1\]\)"),
        (
            KeyedJaggedTensor(["t", "t"], torch.ones(2).long(), lengths=torch.tensor([1, 1])),
            {},
            "t, t: features have a key more than once",
        ),
        ([FEATURES, _weighted("w")], {"feature_sets": [["item", "w"]]}, "no key 'w' in the features"),
        (
            [FEATURES, _weighted("w")],
            {"num_embeddings": {"w": 5}},
            "no key 'w' in the batch.*; 'w' stays as it is: .*weights",
        ),
        (
            [UniqueFeatures.of(FEATURES), 3],
            {},
            "got UniqueFeatures: the batch is deduplicated already; wrap the loader once",
        ),
        (FEATURES.to(torch.device("meta")), {}, "expected features in host memory"),
    ],
)
def test_nothing_to_deduplicate_says_why(batch: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(DedupLoader([batch], **options))


def test_a_loader_is_wrapped_once() -> None:
    with pytest.raises(ValueError, match="expected a loader of plain batches, got a DedupLoader; wrap the loader once"):
        DedupLoader(DedupLoader([FEATURES]))


def test_features_met_twice_are_deduplicated_once() -> None:
    (found,) = DedupLoader([{"a": FEATURES, "b": [FEATURES]}])
    assert found["a"] is found["b"][0]


def test_an_error_is_raised_once_and_the_loader_can_be_iterated_again() -> None:
    class Flaky:
        passes = 0

        def __iter__(self) -> Iterator[KeyedJaggedTensor]:
            self.passes += 1
            yield FEATURES
            if self.passes == 1:
                raise OSError("the disk is gone")

    loader = DedupLoader(Flaky())
    batches = iter(loader)
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert list(batches) == [] and len(list(loader)) == len(list(loader)) == 1 and _threads() == 0


def test_a_loader_that_was_left_ends_without_the_garbage_collector() -> None:
    """Workers of a loader that is found in a cycle take ten seconds to end."""
    loader = DedupLoader(_Left([FEATURES, FEATURES]))
    inner = weakref.ref(loader.loader)
    batches = iter(loader)
    next(batches)
    gc.disable()
    try:
        batches.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator
        del loader, batches
        assert inner() is None
    finally:
        gc.enable()


class _Left(list):
    """A list that can be referred to weakly."""


def test_a_copy_has_not_begun() -> None:
    loader = DedupLoader([FEATURES])
    batches = iter(loader)
    next(batches)
    for twin in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert len(list(twin)) == 1
        assert isinstance(twin.deduplicate(FEATURES), UniqueFeatures)


def test_prefetch_must_be_positive() -> None:
    with pytest.raises(ValueError, match="prefetch must be at least 1, got 0"):
        DedupLoader([], prefetch=0)

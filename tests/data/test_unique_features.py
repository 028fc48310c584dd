import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from dist_rec.data.unique_features import UniqueFeatures
from dist_rec.kernels.unique_ids import BitPackedIndex, unpack_index

CPU = torch.device("cpu")
HUGE = 2**62


def features_of(lists: dict[str, list[list[int]]], dtype: torch.dtype = torch.int64) -> KeyedJaggedTensor:
    """One list of ids per key and sample."""
    lengths = [len(ids) for samples in lists.values() for ids in samples]
    values = [i for samples in lists.values() for ids in samples for i in ids]
    return KeyedJaggedTensor(
        list(lists), torch.tensor(values, dtype=dtype), lengths=torch.tensor(lengths, dtype=torch.int32)
    )


SAMPLES = st.lists(st.lists(st.integers(HUGE, HUGE + 2) | st.integers(0, 5), max_size=6), min_size=3, max_size=3)


def _rebuilt(unique: UniqueFeatures, key: str) -> Tensor:
    inverse = unique.inverse_of(key)
    return unique.ids_of(key)[(unpack_index(inverse) if isinstance(inverse, BitPackedIndex) else inverse).long()]


# What each public method of a KeyedJaggedTensor is asked; `plain` gives a list of tensors and values to compare.
ASKED: dict[str, Callable[[Any], Any]] = {
    "keys": lambda f: f.keys(),
    "stride": lambda f: f.stride(),
    "stride_per_key": lambda f: f.stride_per_key(),
    "stride_per_key_per_rank": lambda f: f.stride_per_key_per_rank(),
    "variable_stride_per_key": lambda f: f.variable_stride_per_key(),
    "device": lambda f: f.device(),
    "values": lambda f: f.values(),
    "lengths": lambda f: f.lengths(),
    "lengths_or_none": lambda f: f.lengths_or_none(),
    "offsets": lambda f: f.offsets(),
    "offsets_or_none": lambda f: (f.offsets(), f.offsets_or_none()),
    "weights_or_none": lambda f: f.weights_or_none(),
    "inverse_indices_or_none": lambda f: f.inverse_indices_or_none(),
    "length_per_key": lambda f: f.length_per_key(),
    "length_per_key_or_none": lambda f: (f.length_per_key(), f.length_per_key_or_none()),
    "offset_per_key": lambda f: f.offset_per_key(),
    "offset_per_key_or_none": lambda f: (f.offset_per_key(), f.offset_per_key_or_none()),
    "lengths_offset_per_key": lambda f: f.lengths_offset_per_key(),
    "index_per_key": lambda f: f.index_per_key(),
    "size_in_bytes": lambda f: f.size_in_bytes(),
    "getitem": lambda f: f["b"],
    "to_dict": lambda f: f.to_dict(),
    "split": lambda f: f.split([1, 2]),
    "permute": lambda f: f.permute([2, 0, 0]),
    "flatten_lengths": lambda f: f.flatten_lengths(),
    "sync": lambda f: f.sync().length_per_key(),
    "unsync": lambda f: f.unsync().keys(),
    "dist_labels": lambda f: f.dist_labels(),
    "dist_splits": lambda f: f.dist_splits([2, 1]),
    "dist_tensors": lambda f: f.dist_tensors(),
    "concat": lambda f: KeyedJaggedTensor.concat([f, features_of({"z": [[5], [], []]})]),
    "concat of the object": lambda f: f.concat([f, features_of({"z": [[5], [], []]})]),
    "empty_like": lambda f: KeyedJaggedTensor.empty_like(f).keys(),
    "to": lambda f: f.to(CPU, non_blocking=True, dtype=torch.float32)["a"],
    "to_padded_dense": lambda f: f["a"].to_padded_dense(3),
    "str of a key": lambda f: str(f["a"]),
}
MADE_OTHERWISE = {"pin_memory", "record_stream"}  # need a GPU, or have a test of their own
NOT_ANSWERED = {"weights", "inverse_indices"}  # raise, as those of features without them do
OF_THE_CLASS = {"empty", "from_jt_dict", "from_lengths_sync", "from_offsets_sync", "dist_init"}
NOT_THE_SAME = {"copy_", "clear_storage"}


def _flat(answer: Any) -> list[Any]:
    """Tensors as (dtype, list), whatever holds them."""
    if isinstance(answer, Tensor):
        return [answer.dtype, answer.tolist()]
    if isinstance(answer, KeyedJaggedTensor):
        return [
            answer.keys(),
            *_flat(answer.values()),
            *_flat(answer.lengths()),
            answer.stride(),
            answer.length_per_key(),
        ]
    if isinstance(answer, JaggedTensor):
        return [*_flat(answer.values()), *_flat(answer.lengths()), *_flat(answer.offsets()), answer.weights_or_none()]
    if isinstance(answer, UniqueFeatures):
        return _flat(answer.plain)
    if isinstance(answer, dict):
        return [list(answer), *(_flat(item) for item in answer.values())]
    return [_flat(item) for item in answer] if isinstance(answer, list | tuple) else [answer]


@pytest.mark.parametrize("values", [torch.int32, torch.int64])
@pytest.mark.parametrize("lengths", [torch.int32, torch.int64])
def test_answers_as_what_it_stands_for(values: torch.dtype, lengths: torch.dtype) -> None:
    ids = [[4, 4, 9], [], [4]], [[1], [70_000], [1]], [[], [], [2]]

    def plain() -> KeyedJaggedTensor:
        made = features_of(dict(zip("bac", ids, strict=True)), values)
        return KeyedJaggedTensor(made.keys(), made.values(), lengths=made.lengths().to(lengths))

    for make in (UniqueFeatures.of, UniqueFeatures.on_device):
        for name, ask in ASKED.items():  # every question is the first
            assert _flat(ask(make(plain()))) == _flat(ask(plain())), name
    for name in ("weights", "inverse_indices"):
        with pytest.raises((AssertionError, ValueError)):
            getattr(UniqueFeatures.of(plain()), name)()


def test_looking_leaves_nothing_in_the_features() -> None:
    """What `to_dict` keeps would stay in host memory when the features move."""
    features = KeyedJaggedTensor(["a", "b"], torch.tensor([3, 1, 3]), lengths=torch.tensor([1, 1, 1, 0]))
    assert UniqueFeatures.of(features).num_unique == UniqueFeatures.on_device(features).num_unique == {"a": 2, "b": 1}
    assert features._jt_dict is None


def test_nothing_public_is_missing() -> None:
    public = {name for name in dir(KeyedJaggedTensor) if not name.startswith("_")}
    named = {name.split(" ")[0] for name in ASKED} | MADE_OTHERWISE | NOT_ANSWERED | OF_THE_CLASS | NOT_THE_SAME
    assert public <= named, public - named
    unique = UniqueFeatures.of(features_of({"a": [[1]]}))
    assert all(hasattr(unique, name) for name in public)


def test_a_collection_of_keys() -> None:
    unique = UniqueFeatures.of(features_of({"b": [[4, 4], [1]], "a": [[], [2]]}))
    assert list(unique) == ["b", "a"] and len(unique) == 2 and "a" in unique and "x" not in unique and unique
    assert repr(unique) == "UniqueFeatures(2 samples on cpu; b: 3 values, 2 distinct, a: 1 values, 1 distinct)"
    with pytest.raises(KeyError, match="no key 'x' in the features; there are: b, a"):
        unique["x"]
    with pytest.raises(
        AttributeError, match="neither UniqueFeatures nor the KeyedJaggedTensor it stands for has 'nonsense'"
    ):
        _ = unique.nonsense
    with pytest.raises(TypeError, match="cannot be written to"):
        unique.copy_(features_of({"a": [[1]]}))


@pytest.mark.parametrize("lists", [{"a": [[3, 3, 70_000], [2]]}, {"a": [[HUGE, HUGE]], "b": [[1]]}, {"a": [[], []]}])
def test_what_is_handed_out_shares_no_memory(lists: dict[str, list[list[int]]]) -> None:
    """Pipelines free the memory of features that they have sent."""
    plain = features_of(lists)
    for unique in (UniqueFeatures.of(plain), UniqueFeatures.on_device(plain)):
        expected = {key: _rebuilt(unique, key) for key in lists}
        unique.deduplicated.offsets()
        unique.deduplicated.clear_storage()
        unique.plain.offsets()
        unique.plain.clear_storage()
        for key, ids in expected.items():
            assert torch.equal(_rebuilt(unique, key), ids) and unique.lengths_of(key).tolist() == [
                len(of) for of in lists[key]
            ]
        unique.clear_storage()
        assert torch.equal(unique.values(), plain.values()) and torch.equal(unique.lengths(), plain.lengths())


def test_copies_are_whole_and_carry_no_repetitions() -> None:
    plain = features_of({"a": [[1, 1], []], "b": [[], [5]]})
    for unique in (UniqueFeatures.of(plain), UniqueFeatures.on_device(plain)):
        small = len(pickle.dumps(unique))
        assert torch.equal(unique.values(), plain.values()) and unique.deduplicated.stride() == 1
        assert len(pickle.dumps(unique)) == small
        for twin in (copy.copy(unique), copy.deepcopy(unique), pickle.loads(pickle.dumps(unique)), unique.to(CPU)):
            assert twin.keys() == ["a", "b"] and torch.equal(twin.values(), plain.values())


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefghij"), SAMPLES, min_size=1))
def test_rebuilds_the_features(lists: dict[str, list[list[int]]]) -> None:
    features = features_of(lists)
    for unique in (UniqueFeatures.of(features), UniqueFeatures.on_device(features)):
        for key, jagged in features.to_dict().items():
            assert torch.equal(_rebuilt(unique, key), jagged.values())
            assert torch.equal(unique.lengths_of(key), jagged.lengths()) and torch.equal(
                unique.offsets_of(key), jagged.offsets()
            )
            ids = unique.deduplicated[key].values()
            assert torch.equal(ids, unique.ids_of(key)) and len(set(ids.tolist())) == len(ids)
        assert unique.deduplicated.stride() == 1 and unique.deduplicated.keys() == list(lists)
        assert torch.equal(unique.values(), features.values()) and torch.equal(unique.offsets(), features.offsets())
        assert unique.plain_bytes == features.values().nbytes + features.lengths().nbytes


def test_keys_of_a_feature_set_share_an_index() -> None:
    features = features_of({"item": [[7, 8], [7]], "user": [[1], [1]], "kind": [[0, 1], [0]]})
    unique = UniqueFeatures.of(features, [["item", "kind"]])
    assert unique.deduplicated.keys() == ["item", "user", "kind"]
    assert unique.ids_of("item").tolist() == [7, 8] and unique.ids_of("kind").tolist() == [0, 1]
    assert unique.inverse_of("item") is unique.inverse_of("kind") and [of.keys for of in unique.feature_sets] == [
        ("item", "kind"),
        ("user",),
    ]
    for key, jagged in features.to_dict().items():
        assert torch.equal(_rebuilt(unique, key), jagged.values())


def test_tokens_of_several_keys_are_told_apart() -> None:
    unique = UniqueFeatures.of(features_of({"item": [[7, 7, 7]], "kind": [[0, 1, 0]]}), [["item", "kind"]])
    assert unique.ids_of("item").tolist() == [7, 7] and unique.ids_of("kind").tolist() == [0, 1]


def test_one_buffer_as_narrow_as_the_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    features = features_of({"small": [[3, 200]], "large": [[70_000]], "huge": [[HUGE]]})
    unique = UniqueFeatures.of(features)
    types = {key: unique.tensors[f"ids.{key}"].dtype for key in ("small", "large", "huge")}
    assert types == {"small": torch.uint8, "large": torch.int32, "huge": torch.int64}
    declared = UniqueFeatures.of(features, num_embeddings={"small": 10**6})
    assert declared.tensors["ids.small"].dtype == torch.int32 and declared.ids_of("small").tolist() == [3, 200]
    moved: list[int] = []
    plain = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda self, *a, **k: moved.append(self.nbytes) or plain(self, *a, **k))
    there = unique.to(torch.device("meta"), non_blocking=True)
    assert moved == [unique.nbytes]
    inverse = there.inverse_of("small")
    assert isinstance(inverse, BitPackedIndex) and inverse.words.is_meta and there.deduplicated.values().is_meta


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_moves_and_pickles_whole(dtype: torch.dtype) -> None:
    features = features_of({"a": [[1, 1], []], "b": [[], [5]]}, dtype)
    for unique in (UniqueFeatures.of(features), UniqueFeatures.on_device(features)):
        for twin in (unique.to(CPU), pickle.loads(pickle.dumps(unique))):
            assert all(torch.equal(_rebuilt(twin, key), jagged.values()) for key, jagged in features.to_dict().items())
            assert torch.equal(twin.deduplicated.values(), unique.deduplicated.values())


def test_lengths_keep_their_type() -> None:
    features = KeyedJaggedTensor(["a"], torch.tensor([4, 4]), lengths=torch.tensor([2, 0]))
    assert UniqueFeatures.of(features).lengths_of("a").dtype == torch.int64


def test_nothing_at_all() -> None:
    for unique in (
        UniqueFeatures.of(features_of({"a": [[], []]})),
        UniqueFeatures.on_device(features_of({"a": [[], []]})),
    ):
        assert len(unique.inverse_of("a")) == 0 and unique.lengths_of("a").tolist() == [0, 0]
        assert unique.deduplicated.stride() == 1 and unique.deduplicated.lengths().tolist() == [0]


def test_segments_say_where_ids_stand() -> None:
    unique = UniqueFeatures.on_device(features_of({"a": [[9, 4, 9, 9]]}))
    segments = unique.segments_of("a")
    assert segments is not None and segments.order.tolist() == [1, 0, 2, 3] and segments.offsets.tolist() == [0, 1, 4]
    assert UniqueFeatures.of(features_of({"a": [[1]]})).segments_of("a") is None


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([["a", "x"]], "no key 'x' in the features; there are: a, b"),
        ([["a"], ["a"]], "expected every key in one set, got 'a' more than once"),
        ([[]], "needs at least one key"),
        ([["a", "b"]], "sample 1 has 0 values of 'a' and 2 of 'b'"),
    ],
)
def test_wrong_feature_sets(sets: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UniqueFeatures.of(features_of({"a": [[1], []], "b": [[1], [2, 3]]}), sets)


def test_ids_beyond_their_table() -> None:
    with pytest.raises(ValueError, match="a: expected ids from 0 to 9, got 10"):
        UniqueFeatures.of(features_of({"a": [[3, 10]]}), num_embeddings={"a": 10})
    with pytest.raises(ValueError, match="a: expected ids from 0 to 9, got -1"):
        UniqueFeatures.of(features_of({"a": [[3, -1]]}), num_embeddings={"a": 10})


@pytest.mark.parametrize("make", [UniqueFeatures.of, UniqueFeatures.on_device])
def test_refuses_weights_and_strides_per_key(make: Any) -> None:
    weighted = KeyedJaggedTensor(["a"], torch.tensor([1]), torch.tensor([0.5]), lengths=torch.tensor([1]))
    with pytest.raises(ValueError, match="features have weights"):
        make(weighted)
    varying = KeyedJaggedTensor(
        ["a", "b"], torch.tensor([1, 2, 3]), lengths=torch.tensor([1, 1, 1]), stride_per_key_per_rank=[[1], [2]]
    )
    with pytest.raises(ValueError, match=r"a stride per key \(\[1, 2\]\)"):
        make(varying)


@pytest.mark.parametrize("make", [UniqueFeatures.of, UniqueFeatures.on_device])
def test_refuses_a_key_that_is_there_twice(make: Any) -> None:
    twice = KeyedJaggedTensor(["a", "b", "a"], torch.tensor([1, 2, 3]), lengths=torch.tensor([1, 1, 1]))
    with pytest.raises(ValueError, match=r"features have a key more than once \(a\), .*; expected every key once"):
        make(twice)


@pytest.mark.parametrize("make", [UniqueFeatures.of, UniqueFeatures.on_device])
def test_refuses_values_that_are_no_ids(make: Any) -> None:
    with pytest.raises(ValueError, match=r"expected ids as values, int32 or int64, got torch.float32"):
        make(KeyedJaggedTensor(["a"], torch.ones(1), lengths=torch.tensor([1])))


def test_refuses_features_on_a_device() -> None:
    with pytest.raises(ValueError, match="expected features in host memory, got them on meta; deduplicate before"):
        UniqueFeatures.of(features_of({"a": [[1]]}).to(torch.device("meta")))


def test_every_tensor_lives_as_long_as_a_stream_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments are made on the stream that deduplicates and read by another's backward."""
    recorded: list[int] = []
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: recorded.append(id(self)))
    unique = UniqueFeatures.on_device(features_of({"a": [[9, 4, 9]], "b": [[1]]}))
    unique.record_stream(torch.Stream(device="cpu"))
    assert unique.segments is not None
    made = [*unique.tensors.values(), *(x for of in unique.segments.values() for x in (of.order, of.offsets))]
    assert sorted(recorded) == sorted(map(id, made))
    sent = UniqueFeatures.of(features_of({"a": [[9]]}))
    recorded.clear()
    sent.record_stream(torch.Stream(device="cpu"))
    assert len(recorded) == 1, "one buffer"
    made = [sent.deduplicated.values(), sent.deduplicated.lengths(), sent.values(), sent.plain.lengths()]
    recorded.clear()
    sent.record_stream(torch.Stream(device="cpu"))
    assert set(map(id, made)) <= set(recorded), "and what was made of it"

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data.unique_features import UniqueFeatures
from dist_rec.kernels.unique_ids import PackedIndex, unpack_index

CPU = torch.device("cpu")
HUGE = 2**62


def features_of(lists: dict[str, list[list[int]]], dtype: torch.dtype = torch.int64) -> KeyedJaggedTensor:
    """One list of ids per key and sample."""
    lengths = [len(ids) for samples in lists.values() for ids in samples]
    values = [i for samples in lists.values() for ids in samples for i in ids]
    return KeyedJaggedTensor(list(lists), torch.tensor(values, dtype=dtype), lengths=torch.tensor(lengths, dtype=torch.int32))


SAMPLES = st.lists(st.lists(st.integers(HUGE, HUGE + 2) | st.integers(0, 5), max_size=6), min_size=3, max_size=3)


def _rebuilt(unique: UniqueFeatures, key: str) -> Tensor:
    inverse = unique.inverse(key)
    return unique.ids(key)[(unpack_index(inverse) if isinstance(inverse, PackedIndex) else inverse).long()]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefghij"), SAMPLES, min_size=1))
def test_rebuilds_the_features(lists: dict[str, list[list[int]]]) -> None:
    features = features_of(lists)
    for unique in (UniqueFeatures.of(features), UniqueFeatures.on_device(features)):
        for key, jagged in features.to_dict().items():
            assert torch.equal(_rebuilt(unique, key), jagged.values())
            assert torch.equal(unique.lengths(key), jagged.lengths()) and torch.equal(unique.offsets(key), jagged.offsets())
            ids = unique.deduplicated[key].values()
            assert torch.equal(ids, unique.ids(key)) and len(set(ids.tolist())) == len(ids)
        assert unique.deduplicated.stride() == 1 and unique.deduplicated.keys() == list(lists)
        assert unique.plain_bytes == features.values().nbytes + features.lengths().nbytes


def test_keys_of_a_token_set_share_an_index() -> None:
    features = features_of({"item": [[7, 8], [7]], "user": [[1], [1]], "kind": [[0, 1], [0]]})
    unique = UniqueFeatures.of(features, [["item", "kind"]])
    assert unique.deduplicated.keys() == ["item", "user", "kind"]
    assert unique.ids("item").tolist() == [7, 8] and unique.ids("kind").tolist() == [0, 1]
    assert unique.inverse("item") is unique.inverse("kind") and [of.keys for of in unique.sets] == [("item", "kind"), ("user",)]
    for key, jagged in features.to_dict().items():
        assert torch.equal(_rebuilt(unique, key), jagged.values())


def test_tokens_of_several_keys_are_told_apart() -> None:
    unique = UniqueFeatures.of(features_of({"item": [[7, 7, 7]], "kind": [[0, 1, 0]]}), [["item", "kind"]])
    assert unique.ids("item").tolist() == [7, 7] and unique.ids("kind").tolist() == [0, 1]


def test_one_buffer_as_narrow_as_the_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    features = features_of({"small": [[3, 200]], "large": [[70_000]], "huge": [[HUGE]]})
    unique = UniqueFeatures.of(features)
    types = {key: unique.tensors[f"ids.{key}"].dtype for key in ("small", "large", "huge")}
    assert types == {"small": torch.uint8, "large": torch.int32, "huge": torch.int64}
    declared = UniqueFeatures.of(features, num_embeddings={"small": 10**6})
    assert declared.tensors["ids.small"].dtype == torch.int32 and declared.ids("small").tolist() == [3, 200]
    moved: list[int] = []
    plain = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda self, *a, **k: moved.append(self.nbytes) or plain(self, *a, **k))
    there = unique.to(torch.device("meta"), non_blocking=True)
    assert moved == [unique.nbytes]
    inverse = there.inverse("small")
    assert isinstance(inverse, PackedIndex) and inverse.words.is_meta and there.deduplicated.values().is_meta


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_moves_and_pickles_whole(dtype: torch.dtype) -> None:
    features = features_of({"a": [[1, 1], []], "b": [[], [5]]}, dtype)
    for unique in (UniqueFeatures.of(features), UniqueFeatures.on_device(features)):
        for twin in (unique.to(CPU), pickle.loads(pickle.dumps(unique))):
            assert all(torch.equal(_rebuilt(twin, key), jagged.values()) for key, jagged in features.to_dict().items())
            assert torch.equal(twin.deduplicated.values(), unique.deduplicated.values())


def test_lengths_keep_their_type() -> None:
    features = KeyedJaggedTensor(["a"], torch.tensor([4, 4]), lengths=torch.tensor([2, 0]))
    assert UniqueFeatures.of(features).lengths("a").dtype == torch.int64


def test_nothing_at_all() -> None:
    for unique in (UniqueFeatures.of(features_of({"a": [[], []]})), UniqueFeatures.on_device(features_of({"a": [[], []]}))):
        assert len(unique.inverse("a")) == 0 and unique.lengths("a").tolist() == [0, 0]
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
        ([["a"], ["a"]], "key 'a' stands in them more than once"),
        ([[]], "needs at least one key"),
        ([["a", "b"]], "sample 1 has 0 values of 'a' and 2 of 'b'"),
    ],
)
def test_wrong_token_sets(sets: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UniqueFeatures.of(features_of({"a": [[1], []], "b": [[1], [2, 3]]}), sets)


def test_ids_beyond_their_table() -> None:
    with pytest.raises(ValueError, match="a: expected ids from 0 to 9, got 10"):
        UniqueFeatures.of(features_of({"a": [[3, 10]]}), num_embeddings={"a": 10})
    with pytest.raises(ValueError, match="a: expected ids from 0 to 9, got -1"):
        UniqueFeatures.of(features_of({"a": [[3, -1]]}), num_embeddings={"a": 10})


@pytest.mark.parametrize("make", [UniqueFeatures.of, UniqueFeatures.on_device])
def test_refuses_weights_and_strides_per_key(make) -> None:
    weighted = KeyedJaggedTensor(["a"], torch.tensor([1]), torch.tensor([0.5]), lengths=torch.tensor([1]))
    with pytest.raises(ValueError, match="features have weights"):
        make(weighted)
    varying = KeyedJaggedTensor(
        ["a", "b"], torch.tensor([1, 2, 3]), lengths=torch.tensor([1, 1, 1]), stride_per_key_per_rank=[[1], [2]]
    )
    with pytest.raises(ValueError, match=r"a stride per key \(\[1, 2\]\)"):
        make(varying)


def test_every_tensor_lives_as_long_as_a_stream_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments are made on the stream that deduplicates and read by another's backward."""
    recorded: list[int] = []
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: recorded.append(id(self)))
    unique = UniqueFeatures.on_device(features_of({"a": [[9, 4, 9]], "b": [[1]]}))
    unique.record_stream(torch.Stream(device="cpu"))
    assert isinstance(unique.tensors, dict) and unique.segments is not None
    held = [*unique.tensors.values(), *(x for of in unique.segments.values() for x in (of.order, of.offsets))]
    assert sorted(recorded) == sorted(map(id, held))
    packet = UniqueFeatures.of(features_of({"a": [[9]]}))
    recorded.clear()
    packet.record_stream(torch.Stream(device="cpu"))
    assert len(recorded) == 1, "one buffer"

"""Deduplicated ids, packed and opened; over whole batches: test_host_batch.py and test_unique_features.py."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.data.dedup import every_token
from dist_rec.data.layout import FeatureSet
from dist_rec.data.transfer_buffer import TransferBuffer
from dist_rec.data.unique_tokens import (
    SAMPLES_ON_GPU,
    UniqueTokens,
    deduplicate,
    remapped,
    samples_of,
    spread,
    together,
)
from dist_rec.kernels.unique_ids import BitPackedIndex

ITEMS, USERS = FeatureSet("items", ("item", "kind")), FeatureSet("users", ("user",))
OWNERS = {"users": USERS, "history": ITEMS, "candidate": ITEMS}
SIZES = {"item": 70_000, "user": None, "kind": 300}
COLUMNS = {
    "users": [np.array([7, 7, 9])],
    "history": [np.array([5, 5, 5]), np.array([1, 2, 1])],
    "candidate": [np.array([6, 5]), np.array([0, 2])],
}


def _tokens() -> UniqueTokens:
    return deduplicate(COLUMNS, OWNERS, SIZES)


def _in_one_buffer(tokens: UniqueTokens) -> UniqueTokens:
    return replace(
        tokens, tensors=TransferBuffer.of({"before": torch.ones(3), **tokens.tensors, "behind": torch.ones(1)})
    )


def _rebuilt(tokens: UniqueTokens, key: str, owner: str) -> list[int]:
    inverse = tokens.inverse(owner)
    assert isinstance(inverse, Tensor)
    return tokens.ids_of(key)[inverse.long()].tolist()


def test_owners_of_one_set_share_their_tokens() -> None:
    for tokens in (_tokens(), _in_one_buffer(_tokens()), pickle.loads(pickle.dumps(_in_one_buffer(_tokens())))):
        assert tokens.ids_of("item").tolist() == [5, 5, 6] and tokens.ids_of("kind").tolist() == [1, 2, 0]
        assert tokens.num_unique == {"item": 3, "user": 2, "kind": 3}, "in the order of the sizes"
        assert tokens.counts == {"users": 3, "history": 3, "candidate": 2}
        assert tokens.bits == {"users": 1, "history": 2, "candidate": 2}
        for owner, columns in COLUMNS.items():
            for key, column in zip(OWNERS[owner].keys, columns, strict=True):
                assert _rebuilt(tokens, key, owner) == column.tolist()


def test_each_id_is_as_small_as_its_table_allows() -> None:
    types = {name: tensor.dtype for name, tensor in _tokens().tensors.items() if name.startswith("ids.")}
    assert types == {"ids.item": torch.int32, "ids.kind": torch.int16, "ids.user": torch.uint8}
    assert list(_tokens().tensors)[-1] == "unique" and _tokens().tensors["unique"].dtype == torch.int32


def test_what_is_looked_up() -> None:
    """Its lengths are in memory of their own, which a pipeline may free."""
    tokens = _in_one_buffer(_tokens())
    unique = tokens.deduplicated
    assert unique.keys() == ["item", "user", "kind"] and unique.stride() == 1 and unique.length_per_key() == [3, 2, 3]
    assert unique.values().tolist() == [5, 5, 6, 7, 9, 1, 2, 0] and unique.values().dtype == torch.int64
    unique.lengths().zero_()
    assert tokens.tensors["unique"].tolist() == [3, 2, 3]


@given(st.lists(st.integers(0, 300), min_size=1, max_size=5), st.integers(1, 70))
def test_ids_are_spread_over_samples(counts: list[int], samples: int) -> None:
    """All of them, and evenly: no sample has more than the key with most ids needs."""
    lengths = spread(torch.tensor(counts, dtype=torch.int32), samples, max(counts))
    assert lengths.dtype == torch.int32 and len(lengths) == samples * len(counts)
    assert lengths.view(len(counts), samples).sum(1).tolist() == counts
    assert lengths.min() >= 0 and lengths.max() <= -(-max(counts) // samples)


def test_a_gpu_gets_as_many_samples_whatever_the_batch() -> None:
    assert samples_of(torch.device("cuda", 0)) == SAMPLES_ON_GPU > samples_of(torch.device("cpu")) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=40), st.integers(0, 40))
def test_any_split_among_owners_comes_back(rows: list[tuple[int, int]], cut: int) -> None:
    columns = [np.array([row[field] for row in rows], dtype=np.int64) for field in range(2)]
    parts = {"a": [of[:cut] for of in columns], "b": [of[cut:] for of in columns]}
    tokens = deduplicate(parts, dict.fromkeys(parts, ITEMS), {"item": 4, "kind": 3})
    for owner, part in parts.items():
        assert all(_rebuilt(tokens, key, owner) == of.tolist() for key, of in zip(ITEMS.keys, part, strict=True))
    assert tokens.num_unique["item"] == len(set(rows))


def test_without_dedup_every_element_is_a_token() -> None:
    tokens = deduplicate(COLUMNS, OWNERS, SIZES, every_token)
    assert tokens.ids_of("user").tolist() == [7, 7, 9] and tokens.num_unique["item"] == 5


@pytest.mark.parametrize("wrong", [-1, 70_000])
def test_ids_beyond_their_table(wrong: int) -> None:
    columns = COLUMNS | {"candidate": [np.array([6, wrong]), np.array([0, 2])]}
    with pytest.raises(ValueError, match=f"item: expected ids from 0 to 69999, got {wrong}"):
        deduplicate(columns, OWNERS, SIZES)


def test_one_copy_moves_a_buffer_and_one_each_what_is_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has the part of a GPU: nothing on it can be read, so opening tokens there cannot wait for it."""
    apart, together = _tokens(), _in_one_buffer(_tokens())
    moved: list[int] = []
    plain = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda self, *a, **k: moved.append(self.nbytes) or plain(self, *a, **k))
    there = together.to(torch.device("meta"), non_blocking=True)
    assert moved == [together.nbytes] and isinstance(there.tensors, TransferBuffer)
    inverse = there.inverse("history")
    assert isinstance(inverse, BitPackedIndex) and inverse.words.is_meta and there.deduplicated.values().is_meta
    moved.clear()
    apart.to(torch.device("meta"))
    assert len(moved) == len(apart.tensors) and sum(moved) == apart.nbytes < together.nbytes


def test_an_index_without_bits_is_given_as_it_is() -> None:
    index = torch.tensor([0, 1, 0], dtype=torch.int32)
    tokens = UniqueTokens({"ids.a": torch.tensor([3, 4]), "inverse.a": index}, {"a": 2}, bits={}, counts={"a": 3})
    assert tokens.inverse("a") is index


def test_every_tensor_lives_as_long_as_a_stream_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[int] = []
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: recorded.append(id(self)))
    apart, together = _tokens(), _in_one_buffer(_tokens())
    apart.record_stream(torch.Stream(device="cpu"))
    assert sorted(recorded) == sorted(map(id, apart.tensors.values()))
    recorded.clear()
    together.record_stream(torch.Stream(device="cpu"))
    assert isinstance(together.tensors, TransferBuffer) and recorded == [id(together.tensors.buffer)]


def test_together() -> None:
    """Owners and keys of two calls, with one list of their sizes, the last."""
    first, more = (FeatureSet(name, (f"{name}.a",)) for name in ("x", "y"))
    columns = {"one": [np.array([3, 3, 4])], "two": [np.array([7, 8])]}
    both = deduplicate(columns, {"one": first, "two": more}, {"x.a": 9, "y.a": 9})
    found = together(*(deduplicate(columns, {o: s}, {s.keys[0]: 9}) for o, s in (("one", first), ("two", more))))
    assert list(found.tensors)[-1] == "unique" and found.counts == both.counts and found.bits == both.bits
    assert found.num_unique == both.num_unique == {"x.a": 2, "y.a": 2}
    assert all(torch.equal(found.tensors[name], both.tensors[name]) for name in both.tensors)


def test_ids_become_rows_after_they_are_distinct() -> None:
    feature_set = FeatureSet("x", ("x.a", "x.b"))
    columns = {"one": [np.array([300, -7, 300]), np.array([1, 2, 1])]}
    raw = deduplicate(columns, {"one": feature_set}, {"x.a": None, "x.b": 9})
    found = remapped(raw, {"x.a": lambda ids: ids % 4}, {"x.a": 4, "x.b": 9})
    assert raw.ids_of("x.a").tolist() == [300, -7] and found.ids_of("x.a").tolist() == [0, 1]
    assert found.tensors["ids.x.a"].dtype == torch.uint8
    assert list(found.tensors) == list(raw.tensors) and found.num_unique == raw.num_unique
    assert all(found.tensors[name] is raw.tensors[name] for name in raw.tensors if name != "ids.x.a")
    with pytest.raises(ValueError, match=r"x\.a: expected ids from 0 to 3, got -7"):
        remapped(raw, {"x.a": lambda ids: ids}, {"x.a": 4})

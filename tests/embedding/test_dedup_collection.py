"""One process, unsharded: the wrapped collection against the same one alone. Sharded:
integration/test_dedup_sharded.py."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data.unique_features import UniqueFeatures
from dist_rec.embedding.dedup_collection import DedupEmbeddingBagCollection, DedupEmbeddingCollection, Where
from tests.data.test_unique_features import features_of

ROWS, STEPS = 12, 3
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "row-wise Adagrad": lambda p: RowWiseAdagrad(p, lr=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
}
Lists = dict[str, list[list[int]]]


def _hashed(lists: Lists) -> KeyedJaggedTensor:
    """Raw ids of any size, brought into the tables as a user's own hash would."""
    return features_of({key: [[i * 31 % ROWS for i in ids] for ids in samples] for key, samples in lists.items()})


def _lists(tables: int) -> st.SearchStrategy[Lists]:
    ids = st.integers(2**62, 2**62 + 30) | st.integers(0, 3) | st.just(5)
    samples = st.lists(st.lists(ids, max_size=6), min_size=4, max_size=4)
    return st.fixed_dictionaries({f"f{i}": samples for i in range(tables)})


def _sequences(tables: int, **options: Any) -> EmbeddingCollection:
    """The last table also looks up the first key, so that one key has two embeddings."""
    keys = [[f"f{i}"] for i in range(tables)]
    keys[-1] = sorted({*keys[-1], "f0"})
    configs = [
        EmbeddingConfig(name=f"t{i}", num_embeddings=ROWS, embedding_dim=4, feature_names=keys[i])
        for i in range(tables)
    ]
    return EmbeddingCollection(tables=configs, device=torch.device("cpu"), **options)


def _bags(tables: int) -> EmbeddingBagCollection:
    """Two row widths, both poolings, and one key with two embeddings of different widths."""
    keys = [[f"f{i}"] for i in range(tables)]
    keys[-1] = sorted({*keys[-1], "f0"})
    poolings = [PoolingType.SUM, PoolingType.MEAN]
    configs = [
        EmbeddingBagConfig(
            name=f"t{i}",
            num_embeddings=ROWS,
            embedding_dim=4 + 4 * (i % 2),
            feature_names=keys[i],
            pooling=poolings[i // 2 % 2],
        )
        for i in range(tables)
    ]
    return EmbeddingBagCollection(tables=configs, device=torch.device("cpu"))


def _unique(features: KeyedJaggedTensor, dedup: Where) -> UniqueFeatures | KeyedJaggedTensor:
    return UniqueFeatures.of(features) if dedup == "host" else features


@settings(deadline=None, max_examples=25)
@given(lists=_lists(10), dedup=st.sampled_from(["host", "device"]))
def test_sequences_are_the_same_bits(lists: Lists, dedup: Where) -> None:
    plain, features = _sequences(10, need_indices=True), _hashed(lists)
    wrapped = DedupEmbeddingCollection(copy.deepcopy(plain), dedup)
    expected, got = plain(features), wrapped(_unique(features, dedup))
    assert list(got) == list(expected)
    for name, jagged in expected.items():
        assert torch.equal(got[name].values(), jagged.values()), name
        assert torch.equal(got[name].lengths(), jagged.lengths()) and torch.equal(got[name].offsets(), jagged.offsets())
        assert torch.equal(got[name].weights(), jagged.weights()), "the ids, with need_indices"


@settings(deadline=None, max_examples=25)
@given(lists=_lists(10), dedup=st.sampled_from(["host", "device"]))
def test_bags_are_the_same_bits(lists: Lists, dedup: Where) -> None:
    plain, features = _bags(10), _hashed(lists)
    wrapped = DedupEmbeddingBagCollection(copy.deepcopy(plain), dedup)
    expected, got = plain(features), wrapped(_unique(features, dedup))
    assert got.keys() == expected.keys() and got.length_per_key() == expected.length_per_key()
    assert torch.equal(got.values(), expected.values())


def _loss(out: Any, weight: Tensor) -> Tensor:
    """Something that gives every value a gradient of its own."""
    values = out.values() if hasattr(out, "length_per_key") else torch.cat([jagged.values() for jagged in out.values()])
    return (values * weight[: values.numel()].view_as(values)).sum() + values.square().sum()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dedup", ["host", "device"])
@pytest.mark.parametrize("pooled", [False, True])
@settings(deadline=None, max_examples=5)
@given(steps=st.lists(_lists(3), min_size=STEPS, max_size=STEPS))
def test_tables_after_three_steps(pooled: bool, dedup: Where, optimizer: str, steps: list[Lists]) -> None:
    torch.manual_seed(0)
    plain = _bags(3) if pooled else _sequences(3)
    wrap: Any = DedupEmbeddingBagCollection if pooled else DedupEmbeddingCollection
    wrapped = wrap(copy.deepcopy(plain), dedup)
    optimizers = [OPTIMIZERS[optimizer](model.parameters()) for model in (plain, wrapped)]
    weight = torch.randn(10_000)
    for lists in steps:
        features = _hashed(lists)
        for model, of_model, given_features in zip((plain, wrapped), optimizers, (features, _unique(features, dedup))):
            of_model.zero_grad()
            _loss(model(given_features), weight).backward()
            of_model.step()
    expected, got = plain.state_dict(), wrapped.state_dict()
    for name, table in expected.items():
        torch.testing.assert_close(got[name], table, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pooled", [False, True])
def test_state_has_the_names_of_the_wrapped_collection(pooled: bool) -> None:
    plain = _bags(3) if pooled else _sequences(3)
    wrap: Any = DedupEmbeddingBagCollection if pooled else DedupEmbeddingCollection
    model = torch.nn.ModuleDict({"ec": wrap(copy.deepcopy(plain))})
    old = torch.nn.ModuleDict({"ec": plain})
    assert model.state_dict().keys() == old.state_dict().keys()
    other = torch.nn.ModuleDict({"ec": _bags(3) if pooled else _sequences(3)}).state_dict()
    assert not all(torch.equal(other[name], table) for name, table in model.state_dict().items())
    result = model.load_state_dict(other, strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    assert all(torch.equal(other[name], table) for name, table in model.state_dict().items())
    old.load_state_dict(model.state_dict(), strict=True)
    missing = {name: table for name, table in other.items() if ".t1." not in name}
    with pytest.raises(RuntimeError, match=r"Missing key.*t1"):
        model.load_state_dict(missing, strict=True)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*ec\.nonsense"):
        model.load_state_dict(other | {"ec.nonsense": torch.zeros(1)}, strict=True)


@pytest.mark.parametrize("pooled", [False, True])
def test_parameters_are_taken_over(pooled: bool) -> None:
    plain = _bags(3) if pooled else _sequences(3)
    wrap: Any = DedupEmbeddingBagCollection if pooled else DedupEmbeddingCollection
    assert {id(p) for p in plain.parameters()} == {id(p) for p in wrap(plain).parameters()}


def test_what_the_wrapped_collection_answers() -> None:
    for device in (torch.device("cpu"), torch.device("meta")):
        rows = EmbeddingCollection(tables=_sequences(3).embedding_configs(), device=device, need_indices=True)
        new = DedupEmbeddingCollection(rows)
        for ask in ("embedding_configs", "embedding_names_by_table", "embedding_dim", "need_indices"):
            assert getattr(new, ask)() == getattr(rows, ask)(), ask
        assert new.device == device and list(new.embeddings) == list(rows.embeddings)
        assert all(new.embeddings[name] is table for name, table in rows.embeddings.items())
        bags = EmbeddingBagCollection(tables=_bags(3).embedding_bag_configs(), device=device)
        wrapped = DedupEmbeddingBagCollection(bags)
        assert wrapped.embedding_bag_configs() == bags.embedding_bag_configs() and wrapped.is_weighted() is False
        assert wrapped.device == device and list(wrapped.embedding_bags) == list(bags.embedding_bags)
        assert all(wrapped.embedding_bags[name].weight is table.weight for name, table in bags.embedding_bags.items())


@pytest.mark.parametrize("wrap", [DedupEmbeddingCollection, DedupEmbeddingBagCollection])
def test_tables_can_be_drawn_anew(wrap: Any) -> None:
    wrapped = wrap(_sequences(2) if wrap is DedupEmbeddingCollection else _bags(2))
    before = [p.detach().clone() for p in wrapped.parameters()]
    wrapped.reset_parameters()
    assert not any(torch.equal(p, old) for p, old in zip(wrapped.parameters(), before))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_ids_beside_the_rows_keep_their_type(dtype: torch.dtype) -> None:
    plain = _sequences(2, need_indices=True)
    features = features_of({"f0": [[3, 3], [1]], "f1": [[], [2]]}, dtype)
    expected = plain(features)
    for dedup in ("host", "device"):
        got = DedupEmbeddingCollection(plain, dedup)(_unique(features, dedup))
        for name, jagged in expected.items():
            assert got[name].weights().dtype == jagged.weights().dtype == dtype
            assert torch.equal(got[name].weights(), jagged.weights()) and torch.equal(
                got[name].values(), jagged.values()
            )


@pytest.mark.parametrize("wrap", [DedupEmbeddingCollection, DedupEmbeddingBagCollection])
def test_plain_features_where_deduplicated_ones_are_expected(wrap: Any) -> None:
    wrapped = wrap(_sequences(2) if wrap is DedupEmbeddingCollection else _bags(2))
    with pytest.raises(
        TypeError, match=r"expected UniqueFeatures, got a KeyedJaggedTensor; wrap the loader in DedupLoader"
    ):
        wrapped(features_of({"f0": [[1]], "f1": [[1]]}))


def test_what_cannot_be_deduplicated() -> None:
    config = EmbeddingBagConfig(name="t", num_embeddings=4, embedding_dim=4, feature_names=["f"])
    with pytest.raises(ValueError, match="weights belong to single values"):
        DedupEmbeddingBagCollection(EmbeddingBagCollection(tables=[config], is_weighted=True))
    with pytest.raises(ValueError, match=r"dedup must be 'host' .* or 'device', got 'gpu'"):
        DedupEmbeddingCollection(_sequences(1), dedup="gpu")  # pyright: ignore[reportArgumentType]

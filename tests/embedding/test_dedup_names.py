"""Names before sharding; after it: integration/test_names_after_sharding.py."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingCollection

from dist_rec.data.unique_features import UniqueFeatures
from dist_rec.embedding.dedup_names import Renamed
from tests.integration.jobs import bags, collections_of, features, sequences, wrapped

MADE = {"sequences": sequences, "bags": bags}


class _Around(nn.Module):
    def __init__(self, collection: nn.Module) -> None:
        super().__init__()
        self.arch = nn.ModuleDict({"ec": collection, "out": nn.Linear(2, 1)})


@pytest.mark.parametrize("dedup", ["host", "device"])
@pytest.mark.parametrize("kind", MADE)
def test_names_and_their_order_are_those_of_the_wrapped_collection(kind: str, dedup: str) -> None:
    for around in (lambda collection: collection, _Around):
        plain, new = around(MADE[kind]()), around(wrapped(MADE[kind](), dedup))
        for listing in ("named_parameters", "named_buffers"):
            expected = [(name, value.shape) for name, value in getattr(plain, listing)(prefix="model")]
            assert [(name, value.shape) for name, value in getattr(new, listing)(prefix="model")] == expected
        assert list(new.state_dict()) == list(plain.state_dict()) == list(dict(new.named_parameters()))
        assert [p.shape for p in new.parameters()] == [p.shape for p in plain.parameters()]
        assert all(new.get_parameter(name) is p for name, p in new.named_parameters())


@pytest.mark.parametrize("kind", MADE)
def test_collections_inside_keep_their_paths(kind: str) -> None:
    """By which a plan names them and a pipeline finds them."""
    around = _Around(wrapped(MADE[kind](), "host"))
    places = (
        {"arch.ec.collection"} if kind == "sequences" else {"arch.ec.collections.dim_8", "arch.ec.collections.dim_16"}
    )
    assert set(collections_of(around)) == places
    assert all(isinstance(around.get_submodule(place), EmbeddingCollection) for place in places)
    children = around.arch["ec"].named_children()
    assert "embeddings" not in dict(children) and len(list(around.modules())) == len(set(around.modules()))


@pytest.mark.parametrize("kind", MADE)
def test_whoever_goes_by_name_finds_the_table(kind: str) -> None:
    new = wrapped(MADE[kind](), "host")
    unique = UniqueFeatures.of(features(0))
    found = new(unique)
    doubled = {name: 2 * p.detach() for name, p in new.named_parameters()}
    replaced = torch.func.functional_call(new, doubled, (unique,))
    values = (
        (lambda out: out.values()) if kind == "bags" else (lambda out: torch.cat([of.values() for of in out.values()]))
    )
    assert torch.allclose(values(replaced), 2 * values(found)) and torch.equal(values(new(unique)), values(found))
    frozen = [p.requires_grad_(False) for name, p in new.named_parameters() if ".t1." in name]
    assert len(frozen) == 1
    tables = new.embedding_bags if kind == "bags" else new.embeddings
    assert list(tables) == ["t0", "t1", "t2"] and tables["t1"].weight is frozen[0]


@pytest.mark.parametrize("kind", MADE)
def test_a_torch_optimizer_numbers_the_tables_alike(kind: str) -> None:
    """Its state dict knows parameters by their place only."""
    plain, new = MADE[kind](), wrapped(MADE[kind](), "host")
    states = []
    for module in (plain, new):
        optimizer = torch.optim.Adagrad(module.parameters(), lr=0.1)
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, parameter.numel())
        optimizer.step()
        states.append(optimizer.state_dict()["state"])
    assert all(torch.equal(states[0][i]["sum"], states[1][i]["sum"]) for i in range(3))


@pytest.mark.parametrize("kind", MADE)
def test_a_deep_copy_is_on_its_own(kind: str) -> None:
    new = _Around(wrapped(MADE[kind](), "host"))
    twin = copy.deepcopy(new)
    assert list(dict(twin.named_parameters())) == list(dict(new.named_parameters()))
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in new.parameters()}


def test_both_ways() -> None:
    names = Renamed("embedding_bags", {"t.": "x", "t1": "collections.dim_8"})
    pairs = {
        "collections.dim_8.embeddings.t1.weight": "embedding_bags.t1.weight",
        "collections.dim_8.embeddings.t1": "embedding_bags.t1",
        "unique.weight": "unique.weight",
    }
    for inner, outer in pairs.items():
        assert names.outer(inner) == outer and names.inner(outer) == inner
    assert names.inner("embedding_bags.other.weight") == "embedding_bags.other.weight", (
        "left for load_state_dict to complain of"
    )
    assert names.outer("collections.dim_80.embeddings.t1") == "collections.dim_80.embeddings.t1"


def test_nothing_sharded_has_an_empty_fused_optimizer() -> None:
    optimizer: Any = wrapped(bags(), "host").fused_optimizer
    assert not optimizer.params and optimizer.state_dict() == {"state": {}}
    optimizer.step()


def _complaints(collection: nn.Module) -> list[Any]:
    """Of loading states that do not fit, before sharding: keys, and the text of errors."""
    around = nn.ModuleDict({"ec": collection})
    lacking = around.state_dict()
    (first, _, last) = lacking
    moved = lacking.pop(last)
    lacking[last.replace("t2", "new")] = moved
    loaded = around.load_state_dict(lacking, strict=False)
    wrong = around.state_dict() | {first: torch.ones(1, 1)}
    found: list[Any] = [set(loaded.missing_keys), set(loaded.unexpected_keys)]
    for state in (lacking, wrong):
        with pytest.raises(RuntimeError) as error:
            around.load_state_dict(state)
        found.append(set(str(error.value).split("\n\t")[1:]))
    return found


@pytest.mark.parametrize("dedup", ["host", "device"])
@pytest.mark.parametrize("kind", MADE)
def test_what_does_not_fit_is_named_as_by_the_wrapped_collection(kind: str, dedup: str) -> None:
    found = _complaints(wrapped(MADE[kind](), dedup))
    assert found == _complaints(MADE[kind]())
    assert all(found) and "size mismatch" in str(found[3])

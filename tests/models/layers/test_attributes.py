"""Widened rows against each id's attributes encoded one by one, with gradients."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dist_rec.data.attributes import AttributeField
from dist_rec.data.collate import Collator
from dist_rec.data.numbers import NumberField
from dist_rec.models.config import TokenConfig
from dist_rec.models.features import widened
from dist_rec.models.layers.attributes import Attributes
from dist_rec.models.layers.numbers import NumberColumns
from tests.data.kind_rows import attribute_arrays, kind_rows, kinds_batch, kinds_schema, kinds_table
from tests.data.requests import make_schema

CPU = torch.device("cpu")
DIMS = {"item": 8, "kind": 4, "user": 6, "query": 4, "genre": 5}
CONFIG = TokenConfig(side_dim=3, vector_dim=2)
ARRAYS = attribute_arrays()


def _tables() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = kinds_schema(hidden=True).tables
    return {
        name: torch.randn(sizes[name] + 1, dim, generator=generator, dtype=torch.float64).requires_grad_()
        for name, dim in DIMS.items()
    }


def _encoded(module: Attributes, of: AttributeField, table: str, name: str, value: object) -> Tensor:
    """(A,) of one id."""
    encoders = module.encode[table]
    assert isinstance(encoders, nn.ModuleDict)
    encode = encoders[name]
    if of.vector is not None:
        assert isinstance(encode, nn.Linear)
        return encode.weight @ torch.tensor(np.asarray(value, np.float64))
    field = of.number
    assert isinstance(field, NumberField)
    if isinstance(encode, nn.Embedding):
        return encode.weight[int(field.buckets_of(np.array([value]))[0])]
    weight = encode.get_parameter("weight.weight")
    return weight @ NumberColumns(field).double()(torch.tensor([value]))[0]


@pytest.mark.parametrize("hidden", [False, True])
def test_rows_of_every_key(hidden: bool) -> None:
    schema = kinds_schema(hidden=hidden)
    batch = kinds_batch(kind_rows(20), schema).to(CPU)
    torch.manual_seed(0)
    module, tables = Attributes(schema, DIMS, CONFIG).double(), _tables()
    layout = schema.layout
    ids = {key: batch.unique[key].values() for key in layout.tables}
    rows = {
        name: torch.cat([tables[layout.tables[key]][ids[key]] for key in of.keys], dim=1)
        for name, of in layout.feature_sets.items()
    }
    got = module(rows, batch)
    expected = {}
    for name, of in layout.feature_sets.items():
        lines = []
        for u in range(len(ids[of.keys[0]])):
            parts = []
            for key in of.keys:
                table, one = layout.tables[key], int(ids[key][u])
                parts.append(tables[table][one])
                for attribute, declared in schema.attributes.get(table, {}).items() if name in module.sets else ():
                    value = ARRAYS[table][attribute][one]
                    if declared.list is None:
                        parts.append(_encoded(module, declared, table, attribute, value))
                        continue
                    listed = tables[declared.list][torch.as_tensor(np.asarray(value, np.int64))]
                    parts.append(listed.sum(0) / (max(len(listed), 1) if declared.pool == "mean" else 1))
            lines.append(torch.cat(parts))
        expected[name] = torch.stack(lines)
    weights = {name: torch.randn_like(of) for name, of in expected.items()}
    leaves = [*tables.values(), *module.parameters()]
    gradients = []
    for found in (got, expected):
        loss = torch.stack([(found[name] * weights[name]).sum() for name in expected]).sum()
        gradients.append(torch.autograd.grad(loss, leaves))
    for name, truth in expected.items():
        torch.testing.assert_close(got[name], truth, rtol=0, atol=1e-6)
    for mine, theirs in zip(*gradients, strict=True):
        assert theirs.any()
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    widths = widened(schema, DIMS, CONFIG)
    assert widths == {**DIMS, "item": 8 + 3 + 3 + 2 + 5 + 6, "user": 6 + 3}
    assert got["history"].shape[1] == widths["item"] + widths["kind"] and got["context"].shape[1] == widths["user"]


def test_hidden_has_zeros_and_missing_numbers() -> None:
    schema = kinds_schema(hidden=True)
    module = Attributes(schema, DIMS, CONFIG)
    batch = Collator(schema)(kinds_table(kind_rows(5), schema)).to(CPU)
    rows = {"history": torch.zeros(len(batch.unique["history.item"].values()), 12)}
    lists = {f"history.item.{name}": torch.zeros(0, DIMS[of]) for name, of in (("genres", "genre"), ("makers", "user"))}
    context = {"context": torch.zeros(len(batch.unique["context.user"].values()), 6)}
    out = module({**rows, **lists, **context}, batch)["history"]
    items = module.encode["item"]
    assert isinstance(items, nn.ModuleDict)
    assert torch.equal(out[0, 8:11], items["year"].get_parameter("weight.weight")[:, -1])
    assert torch.equal(out[0, 11:14], items["shelf"].get_parameter("weight")[4]) and not out[:, 14:].any()


def test_no_ids_leave_zero_gradients() -> None:
    schema = kinds_schema()
    module, batch = Attributes(schema, DIMS, CONFIG), Collator(schema).empty().to(CPU)
    dims = {n: sum(DIMS[schema.layout.tables[k]] for k in of.keys) for n, of in schema.layout.feature_sets.items()}
    rows = {name: torch.zeros(0, dim, requires_grad=True) for name, dim in dims.items()}
    out = module(rows, batch)
    torch.cat([out["history"].flatten(), out["context"].flatten()]).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_encodings_belong_to_the_table() -> None:
    """Two fields of one table share them; a table that no field uses has none."""
    tree = {"attributes": {"item": {"title": {"vector": 6}}, "query": {"n": {"vector": 2}}}}
    context = ["user", {"name": "last", "table": "item"}]
    module = Attributes(make_schema(**tree, context=context, sequences=[{"name": "h", "ids": ["item"]}]), DIMS, CONFIG)
    assert list(module.state_dict()) == ["encode.item.title.weight"]
    assert module.tables == {"context.last": "item", "h.item": "item", "candidate.item": "item"}

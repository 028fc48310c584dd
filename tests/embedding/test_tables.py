import pytest
import torch

from dist_rec.config import ConfigError, EmbeddingConfig
from dist_rec.embedding.tables import build_collection, build_replicated, is_replicated, row_dims, table_dim
from tests.data.requests import make_schema

CPU = torch.device("cpu")


def _config(**tables: object) -> EmbeddingConfig:
    return EmbeddingConfig.model_validate({"dim": 8, "init_scale": 0.3, "tables": tables})


def test_tables_are_declared_from_the_schema() -> None:
    collection = build_collection(make_schema(), _config())
    tables = {table.name: table for table in collection.embedding_configs()}
    assert {name: (t.num_embeddings, t.embedding_dim) for name, t in tables.items()} == {
        "user": (1000, 8),
        "item": (50, 8),
        "kind": (5, 8),
        "query": (9, 8),
    }
    assert tables["item"].feature_names == ["history.item"] and tables["user"].feature_names == ["context.user"]
    assert all((t.weight_init_min, t.weight_init_max) == (-0.3, 0.3) for t in tables.values())
    assert all(p.device.type == "meta" for p in collection.parameters())


def test_fields_may_share_a_table() -> None:
    """A second sequence with other fields over the same items."""
    clicked = {"name": "clicks", "static": [{"name": "clicked", "table": "item"}]}
    schema = make_schema(sequences=[{"name": "history", "static": ["item", "kind"]}, clicked])
    tables = {table.name: table for table in build_collection(schema, _config()).embedding_configs()}
    assert tables["item"].feature_names == ["history.item", "clicks.clicked"] and "query" not in tables


def test_row_widths() -> None:
    config = _config(kind={"dim": 4})
    assert table_dim(config, "kind") == 4 and table_dim(config, "item") == 8
    assert row_dims(make_schema(), config) == {"context": 8, "history": 12, "searches": 8}


def test_replicated_tables_are_plain_embeddings() -> None:
    config = _config(kind={"sharding": ["data_parallel"], "dim": 4}, user={"sharding": ["row_wise"]})
    assert is_replicated(config, "kind") and not is_replicated(config, "user") and not is_replicated(config, "item")
    replicated = build_replicated(make_schema(), config, CPU)
    (kind,) = replicated.parameters()
    assert list(replicated) == ["kind"] and kind.shape == (5, 4) and 0.1 < kind.abs().max() <= 0.3
    assert "kind" not in {table.name for table in build_collection(make_schema(), config).embedding_configs()}


def test_an_override_must_name_a_table_that_is_used() -> None:
    with pytest.raises(ConfigError, match=r"embedding.tables.itm: no field uses this table; used: user, item, kind, query"):
        build_collection(make_schema(), _config(itm={"dim": 4}))


def test_some_table_must_be_sharded() -> None:
    every = {name: {"sharding": ["data_parallel"]} for name in ("user", "item", "kind", "query")}
    with pytest.raises(ConfigError, match="every table is data_parallel; at least one must be sharded"):
        build_collection(make_schema(), _config(**every))


def test_sharded_tables_have_one_width() -> None:
    with pytest.raises(ConfigError, match=r"sharded tables must have one width, got .*'item': 8, 'kind': 4"):
        build_collection(make_schema(), _config(kind={"dim": 4}))
    everything = {name: {"dim": 4} for name in ("user", "item", "kind", "query")}
    assert {t.embedding_dim for t in build_collection(make_schema(), _config(**everything)).embedding_configs()} == {4}

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingConfig as TorchrecConfig

from dist_rec.common.strict import ConfigError
from dist_rec.config import EmbeddingConfig
from dist_rec.embedding.tables import build_collections, build_replicated, table_dims
from tests.data.ngram.schemas import ngram_schema
from tests.data.open_rows import open_schema
from tests.data.requests import make_schema

CPU = torch.device("cpu")


def _config(**tables: object) -> EmbeddingConfig:
    return EmbeddingConfig.model_validate({"dim": 8, "init_scale": 0.3, "tables": tables})


def _declared(collections: nn.ModuleDict) -> dict[str, TorchrecConfig]:
    return {table.name: table for collection in collections.values() for table in collection.embedding_configs()}


def test_tables_are_declared_from_the_schema() -> None:
    collections = build_collections(make_schema(), _config())
    tables = _declared(collections)
    assert {name: (t.num_embeddings, t.embedding_dim) for name, t in tables.items()} == {
        "user": (1000, 8),
        "item": (50, 8),
        "kind": (5, 8),
        "query": (9, 8),
    }
    assert tables["item"].feature_names == ["history.item"] and tables["user"].feature_names == ["context.user"]
    assert all((t.weight_init_min, t.weight_init_max) == (-0.3, 0.3) for t in tables.values())
    assert all(p.device.type == "meta" for p in collections.parameters())


def test_fields_may_share_a_table() -> None:
    """A second sequence with other fields over the same items."""
    clicked = {"name": "clicks", "ids": [{"name": "clicked", "table": "item"}]}
    schema = make_schema(sequences=[{"name": "history", "ids": ["item", "kind"]}, clicked])
    tables = _declared(build_collections(schema, _config()))
    assert tables["item"].feature_names == ["history.item", "clicks.clicked"] and "query" not in tables


def test_row_widths() -> None:
    config = _config(kind={"dim": 4})
    assert config.dim_of("kind") == 4 and config.dim_of("item") == 8
    schema = make_schema()
    assert table_dims(schema, config) == {table: 4 if table == "kind" else 8 for table in schema.tables}


def test_replicated_tables_are_plain_embeddings() -> None:
    config = _config(kind={"sharding": ["data_parallel"], "dim": 4}, user={"sharding": ["row_wise"]})
    assert config.is_replicated("kind") and not config.is_replicated("user") and not config.is_replicated("item")
    replicated = build_replicated(make_schema(), config, CPU)
    (kind,) = replicated.parameters()
    assert list(replicated) == ["kind"] and kind.shape == (5, 4) and 0.1 < kind.abs().max() <= 0.3
    assert "kind" not in _declared(build_collections(make_schema(), config))


def test_an_override_must_name_a_table_that_is_used() -> None:
    with pytest.raises(
        ConfigError, match=r"embedding.tables.itm: no field uses this table; used: user, item, kind, query"
    ):
        build_collections(make_schema(), _config(itm={"dim": 4}))


def test_some_table_must_be_sharded() -> None:
    every = {name: {"sharding": ["data_parallel"]} for name in ("user", "item", "kind", "query")}
    with pytest.raises(ConfigError, match="every table is data_parallel; at least one must be sharded"):
        build_collections(make_schema(), _config(**every))


def test_n_grams_have_a_collection_of_their_own() -> None:
    """Also where another table is as wide as theirs."""
    schema, config = ngram_schema(("item",)), _config(kind={"dim": 4})
    collections = build_collections(schema, config)
    assert table_dims(schema, config)["history_item_ngram"] == 4
    assert {name: {t.name for t in c.embedding_configs()} for name, c in collections.items()} == {
        "dim_8": {"user", "item", "query"},
        "dim_4": {"kind"},
        "history_item_ngram": {"history_item_ngram"},
    }
    table = _declared(collections)["history_item_ngram"]
    assert (table.num_embeddings, table.embedding_dim) == (41 + 67, 4)
    assert table.feature_names == ["history.item.ngram"] and table.weight_init_max == 0.3


@pytest.mark.parametrize("override", [{"dim": 8}, {"sharding": ["data_parallel"]}, {"rows": 8}, {"ids": "hashed"}])
def test_what_a_table_of_n_grams_may_not_be(override: dict[str, object]) -> None:
    with pytest.raises(
        ConfigError, match=r"embedding.tables.history_item_ngram: .* expected no dim, no rows, no ids and no"
    ):
        build_collections(ngram_schema(("item",)), _config(history_item_ngram=override))
    build_collections(ngram_schema(("item",)), _config(history_item_ngram={"sharding": ["table_wise"]}))


def test_n_grams_need_a_width_that_splits() -> None:
    with pytest.raises(ConfigError, match=r"n-grams of history.item, embedding.tables.item.dim: .* multiple of 8"):
        table_dims(ngram_schema(("item",)), _config(item={"dim": 12}))


def test_tables_of_one_width_stand_together() -> None:
    collections = build_collections(make_schema(), _config(kind={"dim": 4}))
    assert {name: {t.name for t in c.embedding_configs()} for name, c in collections.items()} == {
        "dim_8": {"user", "item", "query"},
        "dim_4": {"kind"},
    }


@pytest.mark.parametrize(
    ("kind", "table", "message"),
    [
        ("range", {"eviction": {}}, "eviction and admission are of tables with ids: dynamic, got ids: range"),
        ("hashed", {"admission": {"count": 2}}, "are of tables with ids: dynamic, got ids: hashed"),
        ("dynamic", {"sharding": ["table_wise"]}, r"expected sharding: \[row_wise\] or none, got \['table_wise'\]"),
        ("dynamic", {"sharding": ["data_parallel"]}, r"expected sharding: \[row_wise\] or none"),
        ("dynamic", {"kernel": ["fused_uvm_caching"]}, "expected ids: hashed, or no uvm kernel"),
    ],
)
def test_what_a_kind_of_ids_does_not_allow(kind: str, table: dict[str, object], message: str) -> None:
    schema = make_schema() if kind == "range" else open_schema(kind)
    with pytest.raises(ConfigError, match=f"embedding.tables.item: .*{message}"):
        build_collections(schema, _config(item=table))


def test_a_dynamic_table_has_its_extra_rows() -> None:
    tables = _declared(build_collections(open_schema("dynamic", rows=600), _config(item={"admission": {"count": 2}})))
    assert tables["item"].num_embeddings == 602 and tables["kind"].num_embeddings == 5

"""Tables on two ranks, sharded every way, against the same tables on one."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig as TorchRecTable
from torchrec.modules.embedding_modules import EmbeddingCollection

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config, EmbeddingConfig
from dist_rec.embedding.plan import fuse_optimizer, make_plan
from dist_rec.models.build import build_model
from tests.data.requests import make_rows, make_schema
from tests.embedding.sharded import CPU, Trained, initial_table, sharded_config, train, whole_tables
from tests.helpers.ranks import run_ranks

TABLES = ("item", "kind", "user", "query")
ROWS = make_rows(12)
SPREAD = [[ROWS[:7], ROWS[7:]]]
ONE_SIDED = [[ROWS, []]]  # the second rank has no data
SHARDINGS = ("row_wise", "table_wise", "column_wise", "data_parallel")


def _config(sharding: str) -> Config:
    """All tables sharded one way; of data-parallel ones, `item` and `user`. Columns are cut at a width of 128."""
    names = TABLES if sharding != "data_parallel" else ("item", "user")
    tables = {name: {"sharding": [sharding]} for name in names}
    if sharding == "column_wise":
        # Row-wise Adagrad averages over the columns of a shard, so cut columns would be another optimizer.
        return sharded_config(tables=tables, dim=256, optimizer="sgd", lr=0.1)
    return sharded_config(tables=tables, lr=0.1)


def _step_every_way() -> dict[tuple[str, bool], Trained]:
    found = {}
    for sharding in SHARDINGS:
        for one_sided in (False, True):
            steps = ONE_SIDED if one_sided else SPREAD
            found[sharding, one_sided] = train(_config(sharding), steps, "sync")
    return found


@pytest.fixture(scope="module")
def one_rank() -> list[dict[tuple[str, bool], Trained]]:
    return run_ranks(_step_every_way, 1)


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[tuple[str, bool], Trained]]:
    return run_ranks(_step_every_way, 2)


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_two_ranks_do_the_step_of_one(
    one_rank: list[dict[tuple[str, bool], Trained]],
    two_ranks: list[dict[tuple[str, bool], Trained]],
    sharding: str,
    one_sided: bool,
) -> None:
    """Same loss, same dense parameters, same rows afterwards; also if one rank has an empty batch."""
    config = _config(sharding)
    single, ranks = one_rank[0][sharding, one_sided], [rank[sharding, one_sided] for rank in two_ranks]
    assert sum(rank.losses[0] for rank in ranks) / 2 == pytest.approx(single.losses[0], abs=1e-6)
    for rank in ranks:
        for name, expected in single.dense.items():
            torch.testing.assert_close(
                rank.dense[name], expected, rtol=0.0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
    expected_tables, tables = whole_tables([single], config), whole_tables(ranks, config)
    assert set(tables) == (set(TABLES) if sharding != "data_parallel" else {"kind", "query"})
    for name, expected in expected_tables.items():
        torch.testing.assert_close(tables[name], expected, rtol=0.0, atol=1e-6)
        assert not torch.equal(expected, initial_table(name, config)), "the step changed no row"


def test_constraints_are_followed(two_ranks: list[dict[tuple[str, bool], Trained]]) -> None:
    def shards(sharding: str, table: str) -> list[tuple[int, ...]]:
        pieces = [piece for rank in two_ranks for piece in rank[sharding, False].shards[table]]
        return [tuple(piece.values.shape) for piece in pieces]

    assert shards("row_wise", "item") == [(25, 8), (25, 8)]
    assert shards("table_wise", "item") == [(50, 8)]
    assert shards("column_wise", "item") == [(50, 128), (50, 128)]
    assert "embedding.replicated.item.weight" in two_ranks[1]["data_parallel", False].dense


def test_tables_that_fit_nowhere_are_an_error() -> None:
    config = sharded_config()
    model = build_model(make_schema(tables=dict.fromkeys(TABLES, 2**31 - 1)), config, CPU)
    with pytest.raises(ConfigError, match=r"no sharding plan fits 1 rank\(s\) of cpu"):
        make_plan(model, config.embedding, CPU, 1, 8)


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """As the planner sees one of 80 GB."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 10**9))
    return torch.device("cuda")


def test_a_cached_table_is_planned_for_a_gpu_and_plain_without_one(a_gpu: torch.device) -> None:
    config = sharded_config(tables={"item": {"kernel": ["fused_uvm_caching"], "cache_fraction": 0.5}})
    model = build_model(make_schema(), config, CPU)
    kernels = []
    for device in (CPU, a_gpu):
        plan = make_plan(model, config.embedding, device, 1, 8).plan
        (found,) = [tables["item"] for tables in plan.values() if "item" in tables]  # pyright: ignore[reportOperatorIssue, reportIndexIssue]
        kernels.append(found)
    plain, cached = kernels
    assert plain.compute_kernel == "fused" and plain.cache_params is None
    assert cached.compute_kernel == "fused_uvm_caching"
    assert cached.cache_params.load_factor == 0.5 and cached.cache_params.prefetch_pipeline


@pytest.mark.parametrize(("rows", "kernel"), [(10**8, "fused"), (2 * 10**8, None)])
def test_a_table_is_in_the_memory_of_the_gpu_or_refused(a_gpu: torch.device, rows: int, kernel: str | None) -> None:
    """Of 51 and 102 GB, on a GPU of 80: without a word in the recipe no table goes to host memory."""
    config = EmbeddingConfig(dim=128)
    table = TorchRecTable(name="item", num_embeddings=rows, embedding_dim=128, feature_names=["item"])
    model = nn.ModuleDict({"rows": EmbeddingCollection(tables=[table], device=torch.device("meta"))})
    fuse_optimizer(model, config, a_gpu)
    if kernel is None:
        with pytest.raises(
            ConfigError, match=r"no sharding plan fits 1 rank\(s\) of cuda; .*kernel=\[fused_uvm_caching\]"
        ):
            make_plan(model, config, a_gpu, 1, 64)
        return
    (tables,) = make_plan(model, config, a_gpu, 1, 64).plan.values()
    assert tables["item"].compute_kernel == kernel  # pyright: ignore[reportIndexIssue]


def test_adam_is_refused_on_cpu() -> None:
    config = sharded_config(optimizer="adam")
    model = build_model(make_schema(), config, CPU)
    with pytest.raises(ConfigError, match=r"embedding.optimizer=adam: FBGEMM has no fused Adam on CPU"):
        fuse_optimizer(model.embedding.collections, config.embedding, CPU)


def _with_and_without_decay() -> list[dict[str, Tensor]]:
    configs = [sharded_config(weight_decay=decay, lr=0.1) for decay in (0.0, 0.5)]
    return [whole_tables([train(config, [[ROWS]], "sync")], config) for config in configs]


def test_weight_decay_shrinks_the_rows_of_a_step() -> None:
    (tables,) = run_ranks(_with_and_without_decay, 1)
    plain, decayed = tables[0]["item"], tables[1]["item"]
    before = initial_table("item", sharded_config())
    looked_up = sorted({i for row in ROWS for column in ("history.item", "candidate.item") for i in row[column]})
    others = sorted(set(range(len(before))) - set(looked_up))
    assert others and not torch.equal(plain, before)
    torch.testing.assert_close(
        decayed[looked_up], plain[looked_up] - 0.1 * 0.5 * before[looked_up], rtol=0.0, atol=1e-6
    )
    assert torch.equal(decayed[others], before[others])


def test_weight_decay_is_refused_where_nothing_applies_it() -> None:
    config = sharded_config(optimizer="sgd", weight_decay=0.1)
    model = build_model(make_schema(), config, CPU)
    with pytest.raises(ConfigError, match="FBGEMM decays rows with rowwise_adagrad only, got sgd"):
        fuse_optimizer(model.embedding.collections, config.embedding, CPU)

"""Training with n-grams of events: ranks, dedup, the place of the hash, hidden events, rows that do not occur."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_rec.config import Config, EmbeddingConfig
from dist_rec.data.collate import collate
from dist_rec.data.schema import Schema
from dist_rec.embedding.plan import default_sharders, make_plan
from dist_rec.embedding.tables import table_dims
from dist_rec.models.build import build_model
from dist_rec.models.features import FeatureColumns
from dist_rec.models.ranker import Ranker
from dist_rec.training.pipeline import make_optimizer, plan_model, shard_model
from dist_rec.training.splits import dataset_schema
from tests.data.ngram.schemas import SPEC, ngram_schema
from tests.data.requests import make_rows, make_table
from tests.helpers.ranks import run_ranks
from tests.models.batches import MODELS, model_config
from tests.training.runs import make_config, run, these_ranks, write_dataset

CPU = torch.device("cpu")
TABLE = "history_kind_ngram"
STEPS, REQUESTS = 6, 8


def recipe(out: str, **changes: Any) -> Config:
    """Of a dataset that needs no files: rows are made by the tests."""
    data = {"ngram": {"history.kind": SPEC | {"gap_seconds": 400}}, **changes.pop("data", {})}
    return make_config(Path(out), Path(out), data=data, **changes)


def rows_of(step: int) -> list[dict[str, Any]]:
    return make_rows(REQUESTS, seed=step)


def trained(config: Config, schema: Schema, hash_ngrams: bool) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of every step, and this rank's rows of the table of n-grams at the end."""
    ranks = these_ranks()
    torch.manual_seed(0)
    model, plan = plan_model(schema, config, ranks)
    dmp = shard_model(model, plan, config, ranks)
    start_alike(dmp)
    optimizer = make_optimizer(dmp, config.optim, STEPS, ranks)
    losses = []
    for step in range(STEPS):
        every = rows_of(step)
        mine = every[ranks.rank :: ranks.world_size]
        batch = collate(make_table(mine, schema), schema, dedup=config.data.dedup, hash_ngrams=hash_ngrams)
        batch.set_candidates_per_rank([sum(len(row["candidate.item"]) for row in every) / ranks.world_size])
        optimizer.zero_grad()
        loss, _ = dmp(batch.to(CPU))
        loss.backward()
        optimizer.step()
        (total,) = ranks.total(float(loss))
        losses.append(total / ranks.world_size)
    return losses, table_of(dmp)


def start_alike(dmp: torch.nn.Module) -> None:
    """The same rows on any number of ranks."""
    for name, value in dmp.state_dict().items():
        if hasattr(value, "local_shards"):
            generator = torch.Generator().manual_seed(sum(map(ord, name)))
            whole = 0.1 * torch.randn(tuple(value.size()), generator=generator)
            for piece in value.local_shards():
                row, column = piece.metadata.shard_offsets
                height, width = piece.tensor.shape
                piece.tensor.detach().copy_(whole[row : row + height, column : column + width])


def table_of(dmp: torch.nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, value in dmp.state_dict().items():
        if hasattr(value, "local_shards") and TABLE in name:
            found[name] = torch.cat([piece.tensor.detach().clone() for piece in value.local_shards()])
    return found


def job(out: str, dedup: bool, hash_ngrams: bool, weight_decay: float = 0.0) -> tuple[list[float], dict[str, Tensor]]:
    config = recipe(
        out,
        data={"dedup": dedup},
        optim={"dense_update": "sync"},
        embedding={"weight_decay": weight_decay, "tables": {n: {"sharding": ["row_wise"]} for n in ("item", "kind")}},
    )
    return trained(config, ngram_schema(("kind",), gap_seconds=400), hash_ngrams)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], dict[str, Tensor]]:
    return run_ranks(job, 1, str(tmp_path_factory.mktemp("out")), True, True)[0]


@pytest.mark.parametrize(("dedup", "hash_ngrams"), [(False, True), (True, False), (False, False)])
def test_dedup_and_the_place_of_the_hash_change_nothing(
    tmp_path: Path, alone: tuple[list[float], dict[str, Tensor]], dedup: bool, hash_ngrams: bool
) -> None:
    losses, rows = run_ranks(job, 1, str(tmp_path), dedup, hash_ngrams)[0]
    torch.testing.assert_close(losses, alone[0], rtol=1e-6, atol=1e-6)
    for name, expected in alone[1].items():
        torch.testing.assert_close(rows[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hash_ngrams", [True, False])
def test_two_ranks_learn_what_one_learns(
    tmp_path: Path, alone: tuple[list[float], dict[str, Tensor]], hash_ngrams: bool
) -> None:
    (losses, first), (also, second) = run_ranks(job, 2, str(tmp_path), True, hash_ngrams)
    assert losses == also
    torch.testing.assert_close(losses, alone[0], rtol=1e-5, atol=1e-6)
    for name, expected in alone[1].items():
        torch.testing.assert_close(torch.cat([first[name], second[name]]), expected, rtol=1e-5, atol=1e-5)


def test_rows_that_do_not_occur_stay_to_the_bit(tmp_path: Path) -> None:
    """Also with weight decay, which is of rows that a step touches."""
    _, rows = run_ranks(job, 1, str(tmp_path), True, True, 0.1)[0]
    schema = ngram_schema(("kind",), gap_seconds=400)
    seen = torch.zeros(sum(SPEC["rows"]), dtype=torch.bool)
    for step in range(STEPS):
        seen[collate(make_table(rows_of(step), schema), schema).ids_of("history.kind.ngram")] = True
    ((name, after),) = rows.items()
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    changed = torch.ne(after, 0.1 * torch.randn(after.shape, generator=generator)).any(1)
    assert bool(changed[seen].any()) and not bool(changed[~seen].any()) and 0 < int(seen.sum()) < len(seen)


def test_a_hidden_event_hides_from_n_grams() -> None:
    """Another id in its place changes nothing in the batch, and events after it are as after a start."""
    schema = ngram_schema(("item",), hidden=True)
    size, of = schema.tables["item"], schema.layout.ngrams["history.item.ngram"]
    assert of.hidden == size and schema.layout.sizes["history.item"] == size + 1
    rows = make_rows(1)
    rows[0]["history.item"] = [3, size, 4, 5]
    for name in ("kind", "action", "page", "time"):
        rows[0][f"history.{name}"] = [0] * 4
    start = [dict(rows[0])]
    for name in ("item", "kind", "action", "page", "time"):
        start[0][f"history.{name}"] = rows[0][f"history.{name}"][2:]
    made = []
    for given in (rows, start):
        batch = collate(make_table(given, schema), schema)
        inverse = batch.inverse("history.item.ngram")
        assert isinstance(inverse, Tensor)
        made.append(batch.ids_of("history.item.ngram")[inverse.long()].view(-1, of.spec.tables))
    assert torch.equal(made[0][2:], made[1])


def test_a_run_from_one_recipe_resumes_and_logs(tmp_path: Path) -> None:
    """Two ranks, a delayed update, hashing on the device by force."""
    data = write_dataset(tmp_path / "data")
    said = run_ranks(_run_and_resume, 2, str(data), str(tmp_path))
    assert said[0] == said[1]


def _run_and_resume(data: str, out: str) -> list[float]:
    spec = SPEC | {"candidate_bigram": True}
    config = make_config(
        Path(data),
        Path(out),
        data={"ngram": {"history.item": spec}, "hash_ngrams": "device"},
        checkpoint={"every_steps": 2},
        run={"epochs": 2},
    )
    ranks = these_ranks()
    whole = run(config, ranks, "whole")
    again = run(config, ranks, "again", resume=Path(out) / "whole" / "checkpoints" / "step-2")
    assert whole.test["click"].auc == again.test["click"].auc
    log = (Path(out) / "whole" / "metrics.jsonl").read_text()
    assert "ngram.history.item.2.rows_per_event" in log and "ngram.history.item.3.dedup" in log
    return [whole.test["click"].auc]


@pytest.mark.parametrize("model", ["longer", "hyformer"])
def test_n_grams_of_candidates_are_features_of_theirs(model: str) -> None:
    """A candidate's n-gram changes with the newest event, and only the features of its own group are wider."""
    schema = ngram_schema(("kind",), candidate_bigram=True)
    config = model_config(**MODELS[model])
    dims = table_dims(schema, EmbeddingConfig(dim=8))
    columns = FeatureColumns.of(schema, dims, config.tokens.side_dim)
    assert [of.stop - of.start for of in columns.groups["candidate.kind"]] == [8, 8]
    assert [of.stop - of.start for of in columns.groups["candidate.item"]] == [8]
    rows = make_rows(6)
    for row in rows:
        row["history.item"], row["history.kind"] = [1, 1, 1], [0, 1, 2]
        row["history.action"], row["history.page"], row["history.time"] = [0] * 3, [0] * 3, [0, 0, 0]
    batch = collate(make_table(rows, schema), schema).to(CPU)
    inverse = batch.candidates.ngrams["history.kind.ngram.candidate"]
    assert isinstance(inverse, Tensor) and len(inverse) == 2 * batch.num_candidates
    ranker = Ranker(schema, config, dims)
    looked_up = {
        name: torch.randn(
            len(batch.unique[of.keys[0]].values()), sum(dims[schema.layout.tables[key]] for key in of.keys)
        ).requires_grad_()
        for name, of in schema.layout.feature_sets.items()
    }
    view = ranker.candidates(looked_up, batch)
    of_ngrams = columns.groups["candidate.kind"][1]
    context = sum(dims[field.table] for field in schema.context)
    own = view.features[:, of_ngrams.start - context : of_ngrams.stop - context]
    expected = looked_up["history.kind.ngram.candidate"][inverse.long()].view(batch.num_candidates, 8)
    assert torch.equal(own, expected)
    ranker(looked_up, batch).sum().backward()
    grad = looked_up["history.kind.ngram.candidate"].grad
    assert grad is not None and bool(grad.abs().sum() > 0)


def test_the_table_is_row_wise_in_a_collection_of_its_own(tmp_path: Path) -> None:
    config = recipe(str(tmp_path))
    model = build_model(ngram_schema(("kind",)), config, CPU)
    assert set(model.embedding.collections) == {"dim_8", TABLE}
    plan = make_plan(model, config.embedding, CPU, 2, REQUESTS)
    ((path, tables),) = [(path, of) for path, of in plan.plan.items() if TABLE in path]
    assert path == f"embedding.collections.{TABLE}"
    table: Any = tables
    assert table[TABLE].sharding_type == "row_wise"
    assert default_sharders(config.embedding, CPU)


def test_one_place_reads_the_declaration(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    config = make_config(data, tmp_path, data={"ngram": {"history.item": SPEC}})
    assert list(dataset_schema(config).layout.ngrams) == ["history.item.ngram"]
    assert not dataset_schema(make_config(data, tmp_path)).layout.ngrams

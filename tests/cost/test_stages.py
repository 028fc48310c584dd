"""Counts against formulas, and counts of a few requests against those of all."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dist_rec.config import Config
from dist_rec.cost.ledger import Operator
from dist_rec.cost.requests import Described, described
from dist_rec.cost.stages import STAGES, StepCount, count_on_cpu, count_on_gpu, grown
from dist_rec.cost.steps import TrainingSteps
from dist_rec.embedding.tables import table_dims
from dist_rec.models.cost import dense_params, request_flops
from dist_rec.models.ranker import Ranker
from tests.data.requests import make_schema
from tests.helpers.devices import one_rank
from tests.training.runs import make_config

# Ids of one table as large as the batch has tokens, so that none has to occur twice.
SCHEMA = make_schema(tables={"item": 10_000, "kind": 5, "user": 1000, "query": 10_000})
LENGTH, REQUESTS = 64, 6


def _config(**model: Any) -> Config:
    return make_config(Path("nowhere"), Path("nowhere"), model=model, optim={"optimizer": "adamw"})


def _requests(count: int = REQUESTS, **changes: Any) -> Any:
    return described(SCHEMA, count, None, Described.model_validate({"length": LENGTH, "duplicates": 0.0} | changes))


def _by_stage(count: StepCount, name: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for each in count.operators:
        found[each.stage] += getattr(each, name) if name else 1
    return found


MODELS = {
    "longer": {"longer": {"merge": 1, "inner_trans": False, "k": 5, "heads": 2}},
    "merged": {"longer": {"merge": 4, "k": 3, "heads": 2, "inner_heads": 2}},
    "hyformer": {"name": "hyformer", "tokens": {"width": 20}, "hyformer": {"heads": 2}},
}


@pytest.mark.parametrize("name", MODELS)
def test_forward_flops_are_those_of_the_formulas(name: str) -> None:
    """The formula is of one request; positions, times and slots of a merged group are not in both counts."""
    config, requests = _config(**MODELS[name]), _requests()
    found = count_on_gpu(config, SCHEMA, requests.batch(SCHEMA), half=True)
    ranker = Ranker(SCHEMA, config.model, table_dims(SCHEMA, config.embedding))
    lengths = {sequence.name: LENGTH for sequence in SCHEMA.sequences}
    formula = REQUESTS * sum(request_flops(ranker, lengths).values())
    forward = _by_stage(found, "flops")
    counted = sum(forward[stage] for stage in ("tokens", "layers", "ffn", "head"))
    assert counted == pytest.approx(formula, rel=0.1)
    assert 1.8 * counted < forward["backward"] < 2.5 * counted
    assert found.dense == sum(dense_params(ranker).values())


def test_flops_of_n_grams_are_in_both() -> None:
    fields = ["item", {"name": "kind", "ngram": {"rows": 99, "heads": 1}}]
    changes = {"tables": SCHEMA.tables, "sequences": [{"name": "history", "ids": fields}]}
    config, schema = _config(**MODELS["longer"]), make_schema(**changes)
    requests = described(schema, REQUESTS, None, Described.model_validate({"length": LENGTH, "duplicates": 0.0}))
    found = count_on_gpu(config, schema, requests.batch(schema), half=True)
    ranker = Ranker(schema, config.model, table_dims(schema, config.embedding))
    forward = _by_stage(found, "flops")
    assert forward["tokens"] == pytest.approx(REQUESTS * request_flops(ranker, {"history": LENGTH})["tokens"], rel=0.1)


def test_scores_of_a_correction_of_delay_are_no_logits() -> None:
    schema = make_schema(candidate=SCHEMA.candidate.model_dump() | {"delayed": {"buy": {"horizon": 100}}})
    plain, corrected = _config(), _config(head={"immature": "delayed_feedback_model"})
    batch = described(schema, REQUESTS, None, Described(length=LENGTH)).batch(schema)
    found, more = (count_on_gpu(config, schema, batch, half=True) for config in (plain, corrected))
    ranker = Ranker(schema, corrected.model, table_dims(schema, corrected.embedding))
    assert more.dense == sum(dense_params(ranker).values()) > found.dense


def test_bf16_halves_the_bytes_of_layers() -> None:
    config, batch = _config(tokens={"width": 32, "hidden": 64}), _requests(64).batch(SCHEMA)
    half, full = (_by_stage(count_on_gpu(config, SCHEMA, batch, half=half), "nbytes") for half in (True, False))
    assert 0.4 < half["layers"] / full["layers"] < 0.75


def test_bytes_are_linear_in_the_requests() -> None:
    config = _config()
    small, large = (
        _by_stage(count_on_gpu(config, SCHEMA, _requests(n).batch(SCHEMA), half=True), "nbytes") for n in (100, 200)
    )
    for stage in ("tokens", "layers", "ffn"):
        assert large[stage] / small[stage] == pytest.approx(2, rel=0.1), stage


def test_a_few_requests_tell_the_operators_of_all() -> None:
    config, requests = _config(), _requests(16)
    with one_rank("cpu") as ranks:
        found = count_on_cpu(config, SCHEMA, requests, ranks)
        every = TrainingSteps.of(config, SCHEMA, ranks).count(requests.batch(SCHEMA), {}).operators
    ours = [each for each in found.operators if each.name != "update"]
    assert len(ours) == pytest.approx(len(every), rel=0.02)
    for name in ("nbytes", "flops"):
        assert sum(getattr(each, name) for each in ours) == pytest.approx(
            sum(getattr(each, name) for each in every), rel=0.05
        )
    assert {each.stage for each in found.operators} == set(STAGES)


def _operator(nbytes: int, name: str = "mm") -> Operator:
    return Operator("layers", name, "matmul", nbytes, 10 * nbytes, 8, False)


def test_paired_operators_grow_by_themselves() -> None:
    """From 1 and 2 to 8 requests: 6 times the difference more."""
    small, large = [_operator(5), _operator(100)], [_operator(5), _operator(150)]
    assert grown(small, large, 6) == [_operator(5), _operator(150 + 6 * 50)]


def test_unpaired_operators_grow_by_their_sums() -> None:
    found = grown([_operator(100)], [_operator(50), _operator(150)], 6)
    assert [each.nbytes for each in found] == [50 * 4, 150 * 4]

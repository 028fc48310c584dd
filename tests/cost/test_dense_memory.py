"""What the dense part takes, against what torch holds, and how it grows."""

import pytest

from dist_rec.config import OptimConfig
from dist_rec.cost.dense_memory import dense_memory, in_flight_bytes
from dist_rec.embedding.tables import table_dims
from dist_rec.models.cost import dense_params
from dist_rec.models.ranker import Ranker
from tests.cost.clusters import SCHEMA, batch_of, config_of


def _ranker() -> Ranker:
    return Ranker(SCHEMA, config_of().model, table_dims(SCHEMA, config_of().embedding))


@pytest.mark.parametrize("on_gpu", [True, False])
def test_weights_and_the_state_of_adamw(on_gpu: bool) -> None:
    found = dense_memory(config_of(), SCHEMA, batch_of(config_of()), on_gpu=on_gpu)
    weights = 4 * sum(dense_params(_ranker()).values())
    assert found.weights == found.gradients == weights
    assert found.state == 2 * weights + 4 * found.parameters, "two moments and a count of steps"
    assert found.in_flight == 2 * weights, "a step of delay has two"


def test_replicated_tables_are_dense() -> None:
    replicated = {"tables": {"kind": {"sharding": ["data_parallel"]}}}
    batch = batch_of(config_of())
    plain, more = (
        dense_memory(of, SCHEMA, batch, on_gpu=True) for of in (config_of(), config_of(embedding=replicated))
    )
    assert more.weights - plain.weights == 4 * 50 * 8
    assert more.state - plain.state == 2 * 4 * 50 * 8 + 4


@pytest.mark.parametrize("on_gpu", [True, False])
def test_activations_grow_with_the_events(on_gpu: bool) -> None:
    config = config_of()
    found = [
        dense_memory(config, SCHEMA, batch_of(config, length=length), on_gpu=on_gpu).activations
        for length in (1000, 2000)
    ]
    assert found[1] / found[0] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_what_is_not_trained_has_neither_gradient_nor_state(on_gpu: bool) -> None:
    replicated = {"tables": {"kind": {"sharding": ["data_parallel"]}}}
    init = {"checkpoint": "nowhere", "freeze": ["model.ranker.body.*", "tables.kind"]}
    trained, frozen = (
        dense_memory(of, SCHEMA, batch_of(of), on_gpu=on_gpu)
        for of in (config_of(embedding=replicated), config_of(embedding=replicated, init=init))
    )
    body = sum(p.nbytes for p in _ranker().body.parameters())
    assert frozen.weights == trained.weights == trained.gradients
    assert trained.gradients - frozen.gradients == body + 4 * 50 * 8
    assert frozen.parameters < trained.parameters and frozen.in_flight == 2 * frozen.gradients
    assert frozen.state == 2 * frozen.gradients + 4 * frozen.parameters


@pytest.mark.parametrize("on_gpu", [True, False])
def test_gradients_that_are_added_up_are_there_with_the_activations(on_gpu: bool) -> None:
    once, twice = (
        dense_memory(of, SCHEMA, batch_of(of, length=1000), on_gpu=on_gpu)
        for of in (config_of(), config_of(optim={"accumulation_steps": 2}))
    )
    more = twice.activations - once.activations
    assert 0.5 * once.gradients < more <= once.gradients + 512 * once.parameters, "at the start of the backward"


def test_recompute_keeps_fewer() -> None:
    changes = {"longer": {"merge": 1, "inner_trans": False}}
    kept, again = (config_of(model={**changes, "recompute": parts}) for parts in ([], ["tokens"]))
    batch = batch_of(kept, length=2000)
    fewer = dense_memory(again, SCHEMA, batch, on_gpu=True).activations
    assert fewer < dense_memory(kept, SCHEMA, batch, on_gpu=True).activations


@pytest.mark.parametrize(
    ("options", "bytes_"),
    [({"dense_update": "delayed"}, 200), ({"dense_update": "sync"}, 100), ({"compress": "bf16"}, 300)],
)
def test_buffers_of_gradients(options: dict[str, str], bytes_: int) -> None:
    assert in_flight_bytes(OptimConfig.model_validate(options), 100) == bytes_

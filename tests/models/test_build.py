from dataclasses import replace

import pytest
import torch

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.models.build import build_model
from dist_rec.models.layers.loss import total_loss
from tests.data.requests import make_rows, make_schema
from tests.models.batches import make_batch, model_config

CPU = torch.device("cpu")


def _config(**changes: object) -> Config:
    return Config.model_validate(
        {"data": {"path": "x"}, "model": model_config().model_dump(), "embedding": {"dim": 8}, **changes}
    )


def test_sharded_tables_wait_on_meta_and_the_rest_is_here() -> None:
    model = build_model(make_schema(), _config(), CPU)
    assert {p.device.type for p in model.embedding.collections.parameters()} == {"meta"}
    assert {p.device.type for p in model.ranker.parameters()} == {"cpu"}
    assert next(iter(model.children())) is model.embedding, "the pipeline looks for the lookup first"


def test_forward_gives_the_loss_and_detached_outputs() -> None:
    model, batch = build_model(make_schema(), _config(), CPU), make_batch(make_rows(6))
    model.embedding.collections.to_empty(device="cpu")
    for table in model.embedding.collections.parameters():
        torch.nn.init.normal_(table.data)
    loss, (reported, logits, signals) = model(batch)
    assert loss.requires_grad and not reported.requires_grad and not logits.requires_grad
    assert logits.shape == batch.labels.shape and logits.dtype == torch.float32 and not len(signals)
    assert torch.equal(reported, loss) and torch.equal(
        loss, total_loss(model.objective.label_loss.loss, logits, batch.labels, batch.candidates_per_rank)
    )
    halved = model(replace(batch, candidates_per_rank=2 * batch.candidates_per_rank))[0]
    torch.testing.assert_close(2 * halved, loss)


def test_tasks_are_weighed_as_the_recipe_says_and_checkpoints_do_not_know() -> None:
    config = _config(model=model_config(head={"task_weights": {"buy": 0.5}}).model_dump())
    model = build_model(make_schema(), config, CPU)
    assert model.objective.task_weights.tolist() == [1.0, 0.5]
    assert not any(name.startswith("objective") for name in model.state_dict())
    assert build_model(make_schema(), _config(), CPU).objective.task_weights.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding": {"tables": {"itm": {"dim": 8}}}}, "embedding.tables.itm: no field uses this table"),
        ({"model": model_config(head={"inputs": ["context"]}).model_dump()}, "model.head.inputs"),
        (
            {"model": model_config(head={"task_weights": {"bye": 2.0}}).model_dump()},
            "model.head.task_weights.bye: no such task; the schema's are: click, buy",
        ),
    ],
)
def test_what_cannot_work_is_a_config_error(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(make_schema(), _config(**changes), CPU)

"""A checkpoint's model: logits of an evaluation, and what its head was given."""

from pathlib import Path

import pytest
import torch

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.collate import collate
from dist_rec.predict.scorer import Scorer
from dist_rec.training.evaluate import served_model, served_schema
from dist_rec.training.ranks import Ranks
from tests.data.requests import make_rows, make_table


def test_logits_are_the_models_and_features_are_what_its_head_reads(config: Config, last: Path, alone: Ranks) -> None:
    schema = served_schema(config, last)
    scorer = Scorer(schema, config, last, alone)
    batch = collate(make_table(make_rows(7)), schema)
    model, called = served_model(schema, config, last, alone)
    called.eval()
    with torch.no_grad():
        _, (_, logits, _) = called(batch.to(alone.device))
        found = scorer(batch, embeddings=True)
        assert torch.equal(found.logits, logits)
        assert found.features is not None and found.features.shape == (len(logits), scorer.width)
        assert torch.equal(model.ranker.head(found.features).float(), logits)
    assert scorer(batch).features is None


def test_it_has_no_gradients_and_no_dropout(data: Path, config: Config, last: Path, alone: Ranks) -> None:
    with_dropout = config.model_copy(
        update={"model": config.model.model_validate(config.model.model_dump() | {"longer": _longer(config, 0.5)})}
    )
    schema = served_schema(with_dropout, last)
    scorer = Scorer(schema, with_dropout, last, alone)
    batch = collate(make_table(make_rows(7)), schema)
    first, second = scorer(batch).logits, scorer(batch).logits
    assert torch.equal(first, second) and not first.requires_grad


def _longer(config: Config, dropout: float) -> dict[str, object]:
    return config.model.section("longer").model_dump() | {"dropout": dropout}


def test_weights_of_another_model_are_refused(config: Config, last: Path, alone: Ranks) -> None:
    schema = served_schema(config, last)
    wider = config.model_copy(update={"embedding": config.embedding.model_copy(update={"dim": 16})})
    with pytest.raises(ConfigError, match="does not fit this model"):
        Scorer(schema, wider, last, alone)

import pytest
import torch

from benchmarks.ladder.plain_ranker import plain_loss, plain_tables
from dist_rec.common.strict import Strict
from dist_rec.models.layers.loss import BinaryCrossEntropy, total_loss
from tests.helpers.ladder import Both, some_requests


@pytest.mark.parametrize(("model", "merge"), [("longer", 1), ("longer", 4), ("hyformer", 1)])
def test_with_tokens_of_dist_rec_the_logits_stay(model: str, merge: int) -> None:
    got, expected = Both(model, 2, merge, factorised=True).logits([30, 0, 5])
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)


def test_the_loss_is_that_of_dist_rec() -> None:
    logits, labels = torch.randn(6, 2), torch.randint(0, 2, (6, 2)).float()
    labels[2, 1] = torch.nan
    expected = total_loss(BinaryCrossEntropy(Strict()), logits, labels, torch.tensor(6.0))
    torch.testing.assert_close(plain_loss(logits, labels), expected)


def test_every_table_has_the_features_of_all_its_fields() -> None:
    _, schema, config = some_requests("longer", 3)
    features = {table.name: table.feature_names for table in plain_tables(schema, config).embedding_configs()}
    assert features == {
        "item": ["history.item", "candidate.item"],
        "category": ["history.category", "candidate.category"],
        "user": ["context.user"],
        "segment": ["context.segment"],
    }

import torch

from dist_rec.data.batch import RequestValues
from dist_rec.models.layers.cyclic import cyclic_columns
from dist_rec.models.layers.request_features import RequestFeatures
from tests.data.kind_rows import kinds_schema
from tests.data.requests import make_schema

WIDTH = 3


def _values(count: int) -> RequestValues:
    return RequestValues(
        side={"of_rank": torch.arange(count).remainder(5).to(torch.uint8)},
        numbers={name: torch.linspace(-2, 4, count) for name in ("of_price", "of_stay")},
        week=torch.arange(count, dtype=torch.int32) * 1_000,
    )


def test_features_stand_in_the_order_of_the_schema() -> None:
    features, values = RequestFeatures(kinds_schema(), WIDTH), _values(6)
    out = features(values)
    assert out.shape == (6, features.width) == (6, 4 * WIDTH) and features.time is not None
    parts = out.split(WIDTH, dim=1)
    price, stay, rank = features.numbers.values()
    assert torch.equal(parts[0], price(values.numbers["of_price"]))
    assert torch.equal(parts[1], stay(values.numbers["of_stay"]))
    assert torch.equal(parts[2], rank(values.side["of_rank"].int()))
    assert values.week is not None and torch.equal(parts[3], features.time(cyclic_columns(values.week)))


def test_every_weight_has_a_gradient_without_requests_too() -> None:
    for count in (0, 6):
        features = RequestFeatures(kinds_schema(), WIDTH)
        features(_values(count)).square().sum().backward()
        assert all((p.grad is not None) and (count == 0 or p.grad.any()) for p in features.parameters())


def test_times_alone() -> None:
    schema = make_schema(request={"grouping_key": "user", "time": "time", "cyclic": True})
    features = RequestFeatures(schema, WIDTH)
    assert features(_values(2)).shape == (2, WIDTH) and features.width == WIDTH and not features.numbers

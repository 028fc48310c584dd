import json
import random
from collections.abc import Iterator

import pytest
import torch

from dist_rec.common.seed import random_state, restore_random_state, seed_everything


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def _draw() -> tuple[float, float]:
    return random.random(), torch.rand(()).item()


def test_same_seed_same_numbers() -> None:
    drawn = []
    for seed in (1, 1, 2):
        seed_everything(seed, deterministic=False)
        drawn.append(_draw())
    assert drawn[0] == drawn[1] and drawn[0][0] != drawn[2][0] and drawn[0][1] != drawn[2][1]


def test_deterministic_is_a_switch() -> None:
    seed_everything(0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    seed_everything(0, deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_random_state_goes_on_where_it_was() -> None:
    torch.manual_seed(3)
    torch.rand(5)
    state = json.loads(json.dumps(random_state()))
    expected = torch.rand(7)
    torch.manual_seed(4)
    restore_random_state(state)
    assert torch.equal(torch.rand(7), expected)

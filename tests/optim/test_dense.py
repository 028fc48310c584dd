import pytest
import torch
from torch import nn

from dist_rec.optim.dense import DenseOptimizers


def _net() -> dict[str, nn.Parameter]:
    net = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Linear(2, 1))
    return dict(net.named_parameters())


def _adamw(p: list) -> torch.optim.Optimizer:
    return torch.optim.AdamW(p, lr=0.1, weight_decay=0.5)


def test_groups_by_name_the_first_fitting_pattern_wins() -> None:
    parameters = _net()
    dense = DenseOptimizers(parameters, _adamw, [("bias$", {"weight_decay": 0.0}), ("^1", {"lr": 0.01}), ("^2", {"lr": 0.02})])
    names = {id(p): name for name, p in parameters.items()}
    found = [(sorted(names[id(p)] for p in g["params"]), g["lr"], g["weight_decay"]) for g in dense.groups]
    assert found == [
        (["0.bias", "1.bias", "2.bias"], 0.1, 0.0),
        (["1.weight"], 0.01, 0.5),
        (["2.weight"], 0.02, 0.5),
        (["0.weight"], 0.1, 0.5),
    ]


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"param_groups: 'norm' fits none of the 6 parameters left, such as 0.weight"):
        DenseOptimizers(_net(), _adamw, [("norm", {})])


def test_several_optimizers_share_the_parameters() -> None:
    parameters = _net()

    def both(p: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD([x for x in p if x.ndim == 2], lr=0.1), _adamw([x for x in p if x.ndim == 1])]

    dense = DenseOptimizers(parameters, both)
    assert [group["lr"] for group in dense.groups] == [0.1, 0.1] and len(dense.optimizers) == 2
    with pytest.raises(ValueError, match=r"no optimizer has 0.bias, 1.weight, 1.bias"):
        DenseOptimizers(parameters, lambda p: [torch.optim.SGD([x for x in p if x.ndim == 2], lr=0.1)])
    with pytest.raises(ValueError, match="a parameter is in two optimizers"):
        DenseOptimizers(parameters, lambda p: [torch.optim.SGD(p, lr=0.1), torch.optim.SGD(p[:1], lr=0.1)])


def test_state_exists_before_the_first_gradient_and_changes_no_weight() -> None:
    parameters = _net()
    dense = DenseOptimizers(parameters, _adamw)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    parameters["0.weight"].grad = torch.ones(2, 3)
    assert dense.state_of("0.weight") == {}
    dense.init_state()
    assert set(dense.state_of("2.bias")) == {"step", "exp_avg", "exp_avg_sq"}
    assert not any(value.any() for name in parameters for value in dense.state_of(name).values())
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())
    assert dense.groups[0]["lr"] == 0.1 and (parameters["0.weight"].grad == 1).all() and parameters["2.bias"].grad is None


def test_parameters_join_the_first_optimizer() -> None:
    dense = DenseOptimizers(_net(), _adamw, [("bias$", {"lr": 0.2})])
    new = nn.Parameter(torch.zeros(3))
    assert dense.add({"new": new}, {"lr": 0.3}) == 2
    assert dense.groups[2]["params"] == [new] and dense.groups[2]["lr"] == 0.3

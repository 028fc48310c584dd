import copy

import pytest
import torch
from torch import nn

from dist_rec.optim.dense import DenseOptimizers, filled, present


def _net() -> dict[str, nn.Parameter]:
    net = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Linear(2, 1))
    return dict(net.named_parameters())


def _adamw(p: list) -> torch.optim.Optimizer:
    return torch.optim.AdamW(p, lr=0.1, weight_decay=0.5)


def test_groups_by_name_the_first_fitting_pattern_wins() -> None:
    parameters = _net()
    dense = DenseOptimizers(
        parameters, _adamw, [("bias$", {"weight_decay": 0.0}), ("^1", {"lr": 0.01}), ("^2", {"lr": 0.02})]
    )
    names = {id(p): name for name, p in parameters.items()}
    found = [(sorted(names[id(p)] for p in g["params"]), g["lr"], g["weight_decay"]) for g in dense.groups]
    assert found == [
        (["0.bias", "1.bias", "2.bias"], 0.1, 0.0),
        (["1.weight"], 0.01, 0.5),
        (["2.weight"], 0.02, 0.5),
        (["0.weight"], 0.1, 0.5),
    ]


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"param_groups: 'norm' fits none of the 6 parameters left, e.g. 0.weight"):
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


KINDS = {
    "adamw": _adamw,
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "dampened": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.9),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def _step(dense: DenseOptimizers, step: int, without: str = "") -> None:
    generator = torch.Generator().manual_seed(step)
    for name, p in dense.parameters.items():
        p.grad = None if name == without else torch.randn(p.shape, generator=generator)
    dense.step()


@pytest.mark.parametrize("kind", KINDS)
def test_saving_early_changes_nothing_and_loading_goes_on_bitwise(kind: str) -> None:
    """`1.bias` has no gradient before step 5, so its state does not exist when it is saved."""
    runs = []
    for _ in range(3):
        torch.manual_seed(0)
        runs.append(DenseOptimizers(_net(), KINDS[kind]))
    plain, saving, resumed = runs
    keys = [_keys(saving.state_dict())]
    for step in range(8):
        if step == 3:
            saved = copy.deepcopy((saving.state_dict(), {n: p.detach() for n, p in saving.parameters.items()}))
        for dense in (plain, saving):
            _step(dense, step, "1.bias" if step < 5 else "")
        keys.append(_keys(saving.state_dict()))
    assert all(found == keys[0] for found in keys), "DCP needs to know them before it loads"
    _step(resumed, 99)  # a state that must not stay
    for name, p in resumed.parameters.items():
        p.data.copy_(saved[1][name])
    resumed.load_state_dict(saved[0])
    for step in range(3, 8):
        _step(resumed, step, "1.bias" if step < 5 else "")
    for name, p in plain.parameters.items():
        assert torch.equal(p, saving.parameters[name]) and torch.equal(p, resumed.parameters[name]), name


def _keys(tree: object) -> object:
    return {name: _keys(value) for name, value in tree.items()} if isinstance(tree, dict) else None


def test_parameters_join_the_first_optimizer() -> None:
    dense = DenseOptimizers(_net(), _adamw, [("bias$", {"lr": 0.2})])
    new = nn.Parameter(torch.zeros(3))
    assert dense.add({"new": new}, {"lr": 0.3}) == 2
    assert dense.groups[2]["params"] == [new] and dense.groups[2]["lr"] == 0.3
    assert set(dense.state_dict()["state"]["new"]) == {"step", "exp_avg", "exp_avg_sq"}


def test_filled_has_all_keys_and_present_returns_what_existed() -> None:
    like = {"a": nn.Parameter(torch.ones(2)), "b": nn.Parameter(torch.ones(3, dtype=torch.float64))}
    values = {"a": torch.tensor([3.0, 4.0])}
    saved = filled(values, like)
    values["a"].zero_()
    assert saved.keys() == like.keys() and filled({}, like).keys() == like.keys()
    assert saved["b"]["value"].tolist() == [0, 0, 0] and saved["b"]["value"].dtype == torch.float64
    back = present(saved)
    assert list(back) == ["a"] and back["a"].tolist() == [3.0, 4.0], "a copy of what it was when saved"
    back["a"].zero_()
    assert saved["a"]["value"].tolist() == [3.0, 4.0]


def test_the_state_of_rows_becomes_zeros_and_that_of_others_stays() -> None:
    parameters = {"table": nn.Parameter(torch.ones(4, 3)), "other": nn.Parameter(torch.ones(4, 3))}
    dense = DenseOptimizers(parameters, lambda p: torch.optim.AdamW(p, lr=0.1))
    dense.reset_rows({"table": torch.tensor([1])})  # no state yet
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    dense.step()
    before = dense.state_dict()["state"]
    before = {name: {key: value.clone() for key, value in state.items()} for name, state in before.items()}
    dense.reset_rows({"table": torch.tensor([1, 3])})
    after = dense.state_dict()["state"]
    for key in ("exp_avg", "exp_avg_sq"):
        assert not after["table"][key][[1, 3]].any() and after["table"][key][[0, 2]].all()
        assert torch.equal(after["other"][key], before["other"][key])
    assert torch.equal(after["table"]["step"], before["table"]["step"])

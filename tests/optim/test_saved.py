"""The state in its three forms."""

from typing import Any

import pytest
import torch

from dist_rec.optim.saved import Beside, ByParameter, Params, Slot, gathered, rates_by_name, rates_of_groups, spread
from tests.optim.trajectories import Run, run_step, start


def _tree(correction: Any = "none") -> dict[str, Any]:
    net, optimizer = start(Run("adamw", correction=correction))
    for step in (1, 2):
        run_step(net, optimizer, step)
    return optimizer.state_dict()


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return torch.equal(a, b)


@pytest.mark.parametrize("correction", ["none", "extrapolate", "error_feedback"])
def test_by_parameter_and_back(correction: str) -> None:
    tree = _tree(correction)
    assert _same(gathered(spread(tree)), tree)


def test_state_is_put_together_when_asked_for() -> None:
    made = []

    def make() -> dict[str, Slot]:
        made.append(1)
        return {"a": Slot(x=1)}

    dense, fused = {"a": torch.ones(1)}, torch.ones(2)
    beside = Beside()
    state = ByParameter({fused: {"sum": 2}}, dense, make, beside)
    assert len(state) == 2 and list(state) == [fused, dense["a"]] and dense["a"] in state and not made
    assert state[fused] == {"sum": 2} and not made
    assert state[dense["a"]] == {"x": 1} == state[dense["a"]] and len(made) == 1
    for change in (lambda: state.update({dense["a"]: {}}), lambda: state.pop(fused)):
        with pytest.raises(TypeError):
            change()
    Params({}, beside)["__warmup"] = place = torch.empty(0)
    assert place in state and state[place]["warmup"].tolist() == [0, 0] and Params({}, beside) == {"__warmup": place}
    state[place] = {"warmup": torch.tensor([3, 1])}
    other = Beside()
    other.add("__warmup", place)
    other.load_state_dict(beside.state_dict())
    assert other.state[place]["warmup"].tolist() == [3, 1]


def test_rates_are_those_of_the_parameters_groups() -> None:
    a, b, c = (torch.ones(1) for _ in range(3))
    names = {a: "a", b: "b", c: "c"}
    saved = rates_by_name([{"params": [a, b], "lr": 0.1}, {"params": [c], "lr": 0.2}], names)
    assert rates_of_groups([{"params": [c]}, {"params": [a]}, {"params": [b]}], names, saved) == [0.2, 0.1, 0.1]
    with pytest.raises(ValueError, match=r"other parameter groups.*b 0.1, c 0.2"):
        rates_of_groups([{"params": [b, c]}], names, saved)

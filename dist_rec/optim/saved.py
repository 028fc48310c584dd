"""The state of a `HybridOptimizer` in three forms: its own tree; by parameter, as TorchRec's optimizers collect and
load state; and the form of TorchRec's own optimizers, to continue with another optimizer.

The tree: `dense` (see `DenseOptimizers`); `fused` (TorchRec's form); by parameter name `in_flight`, `rates` and, if
kept, `last` and `residual`; `counters`, int64: steps, applied, skipped, and whether a gradient is in flight; `beside`,
if not empty, see `Beside`.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

Tree = dict[str, Any]
ALWAYS = ("dense", "fused", "in_flight", "counters", "rates")
BY_NAME = ("in_flight", "rates", "last", "residual")
EARLIER = ("scales", "withheld", "computed_at")  # parts that only earlier versions saved
OURS = "hybrid"  # key of what a parameter's slot holds besides the tensors of its optimizer


class Slot(dict[str, Any]):
    """One parameter's part of the state; a class, because plain dicts cannot be weakly referenced."""


def spread(tree: Tree) -> dict[str, Slot]:
    """The tree by parameter name, without `fused` and `beside`. Every slot has its own reference to `counters`."""
    return {
        name: Slot(
            {
                **tree["dense"]["state"][name],
                OURS: {
                    "counters": tree["counters"],
                    "exists": tree["dense"]["exists"][name]["exists"],
                    **{part: tree[part][name] for part in BY_NAME if name in tree.get(part, {})},
                },
            }
        )
        for name in tree["dense"]["state"]
    }


def gathered(slots: Mapping[str, Mapping[str, Any]]) -> Tree:
    """The inverse of `spread`."""
    tree: Tree = {"dense": {"state": {}, "exists": {}}, "fused": {}}
    for name, slot in slots.items():
        ours = slot[OURS]
        tree["dense"]["state"][name] = {key: value for key, value in slot.items() if key != OURS}
        tree["dense"]["exists"][name] = {"exists": ours["exists"]}
        tree["counters"] = ours["counters"]
        for part in BY_NAME:
            if part in ours:
                tree.setdefault(part, {})[name] = ours[part]
    return tree


@dataclass
class Beside:
    """State that an optimizer around this one stores in it: TorchRec's `WarmupOptimizer` adds an empty parameter, whose
    state is its position in the warm-up. The state exists from the beginning, so that state dicts have the same keys at
    any time."""

    params: dict[str, Tensor] = field(default_factory=dict)
    state: dict[Tensor, dict[str, Tensor]] = field(default_factory=dict)

    def add(self, name: str, parameter: Tensor) -> None:
        self.params[name] = parameter
        self.state[parameter] = {"warmup": torch.zeros(2, dtype=torch.int64)}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {name: dict(self.state[parameter]) for name, parameter in self.params.items()}

    def load_state_dict(self, saved: Mapping[str, Mapping[str, Tensor]]) -> None:
        for name, state in saved.items():
            self.state[self.params[name]] = {key: value.clone() for key, value in state.items()}


class Params(dict[str, Any]):
    """`optimizer.params`, by name; a parameter that is assigned to it is stored in `beside`."""

    def __init__(self, params: Mapping[str, Any], beside: Beside) -> None:
        super().__init__({**params, **beside.params})
        self._beside = beside

    def __setitem__(self, name: str, parameter: Any) -> None:
        super().__setitem__(name, parameter)
        self._beside.add(name, parameter)


class ByParameter(MutableMapping[Any, Any]):
    """`optimizer.state`: parameter -> state, read-only except for `beside`. The slots of dense parameters are made when
    the first one is read."""

    def __init__(
        self,
        fused: Mapping[Any, Any],
        dense: Mapping[str, Tensor],
        slots: Callable[[], Mapping[str, Slot]],
        beside: Beside,
    ) -> None:
        self._fused, self._dense, self._make = fused, {p: name for name, p in dense.items()}, slots
        self._beside = beside.state
        self._made: Mapping[str, Slot] | None = None

    def __getitem__(self, parameter: Any) -> Any:
        if parameter not in self._dense:
            return self._beside[parameter] if parameter in self._beside else self._fused[parameter]
        if self._made is None:
            self._made = self._make()
        return self._made[self._dense[parameter]]

    def __setitem__(self, parameter: Any, state: Any) -> None:
        if parameter not in self._beside:
            raise TypeError("the state of a HybridOptimizer's own parameters is set by load_state_dict, not one by one")
        self._beside[parameter] = state

    def __delitem__(self, parameter: Any) -> None:
        raise TypeError("the state of a HybridOptimizer cannot be deleted")

    def __contains__(self, parameter: object) -> bool:
        return any(parameter in part for part in (self._dense, self._beside, self._fused))

    def __iter__(self) -> Iterator[Any]:
        for part in (self._fused, self._dense, self._beside):
            yield from part

    def __len__(self) -> int:
        return len(self._fused) + len(self._dense) + len(self._beside)


def rates_by_name(groups: Sequence[Mapping[str, Any]], names: Mapping[Any, str]) -> dict[str, Tensor]:
    """The learning rate of every parameter, by name, () float64."""
    rates = {names[p]: float(group["lr"]) for group in groups for p in group["params"]}
    return {name: torch.tensor(rate, dtype=torch.float64) for name, rate in rates.items()}


def rates_of_groups(
    groups: Sequence[Mapping[str, Any]], names: Mapping[Any, str], saved: Mapping[str, Tensor]
) -> list[float]:
    """The learning rate of every group, from `saved` rates by name. Raises ValueError if they differ within a group."""
    rates = []
    for group in groups:
        found = {float(saved[names[p]]): names[p] for p in group["params"]}
        if len(found) > 1:
            told = ", ".join(f"{name} {rate}" for rate, name in found.items())
            raise ValueError(f"the state is of other parameter groups: rates of one group were different: {told}")
        rates += found
    return rates


def is_stock(state: Mapping[str, Any]) -> bool:
    """Whether the state comes from TorchRec's `KeyedOptimizer`s or from a torch optimizer."""
    return "state" in state and "dense" not in state


def to_stock(tree: Tree) -> dict[str, Any]:
    """The form of TorchRec's optimizers. Loses counters, rates and histories."""
    return {"state": {**tree["fused"].get("state", {}), **tree["dense"]["state"], **tree.get("beside", {})}}


def from_stock(state: Mapping[str, Any], own: Tree) -> Tree:
    """A tree from the form of TorchRec's optimizers, with no gradient in flight and counters of zero, for the optimizer
    whose tree is `own`. Raises ValueError for missing or unknown names, or a state by parameter number."""
    saved, fused, dense = state["state"], own["fused"].get("state", {}), own["dense"]["state"]
    if not isinstance(saved, Mapping) or not all(isinstance(name, str) for name in saved):
        raise ValueError(
            "expected a state by parameter name, as TorchRec's KeyedOptimizer has it, got that of a torch optimizer, "
            "by number; wrap that optimizer in KeyedOptimizerWrapper before it is saved"
        )
    if missing := [name for name in fused if name not in saved]:
        some = ", ".join(missing[:3])
        raise ValueError(f"the state has nothing of the fused optimizer of {some}; it has {_some(saved)}")
    if unknown := [name for name in saved if name not in {**fused, **dense, **own.get("beside", {})}]:
        some = ", ".join(unknown[:3])
        raise ValueError(f"the state is of other parameters: {some} unknown here; here are {_some(dense)}")
    if dense and not fused and not any(saved.get(name) for name in dense):
        raise ValueError("the state has nothing of any parameter; expected one that was saved after a step")
    return {
        "dense": {
            "state": {name: saved.get(name) or like for name, like in dense.items()},
            "exists": {name: {"exists": torch.tensor(bool(saved.get(name)))} for name in dense},
        },
        "fused": {"state": {name: saved[name] for name in fused}} if own["fused"] else {},
        "in_flight": {
            name: {"value": torch.zeros_like(entry["value"]), "there": torch.tensor(False)}
            for name, entry in own["in_flight"].items()
        },
        "rates": own["rates"],
        "beside": {name: saved.get(name) or like for name, like in own.get("beside", {}).items()},
        "counters": torch.zeros_like(own["counters"]),
    } | ({"last": own["last"]} if "last" in own else {})


def check_tree(tree: Mapping[str, Any], own: Tree) -> None:
    """Raises ValueError unless `tree` has the parts, names, states, types and shapes of an optimizer's `own` tree."""
    if earlier := [part for part in EARLIER if part in tree]:
        raise ValueError(
            f"the state was saved by an earlier version, which also kept {' and '.join(earlier)}; expected a "
            "state_dict of this version, which cannot use them"
        )
    if missing := [part for part in ALWAYS if part not in tree]:
        raise ValueError(
            f"expected the state_dict of a HybridOptimizer, or of TorchRec's KeyedOptimizer, got {_some(tree)}; there "
            f"is no {', '.join(missing)}"
        )
    _check_like("of other parameters", "in_flight", tree["in_flight"], own["in_flight"])
    for part in ("counters", "rates"):
        _check_like("damaged", part, tree[part], own[part])
    if "last" in own:
        if "last" not in tree:
            raise ValueError("the state is of another correction: it has no 'last', which this optimizer needs")
        _check_like("damaged", "last", tree["last"], own["last"])
    if tree.get("residual"):
        _check_like("damaged", "residual", tree["residual"], {name: g["value"] for name, g in own["in_flight"].items()})
    _check_like("damaged", "dense.exists", tree["dense"]["exists"], own["dense"]["exists"])
    for name, mine in own["dense"]["state"].items():
        if tree["dense"]["exists"][name]["exists"]:
            _check_like("of another dense optimizer", name, tree["dense"]["state"].get(name), mine)
    _check_like("of another optimizer around this one", "beside", tree.get("beside", {}), own.get("beside", {}))
    _check_like("of other tables", "fused", tree["fused"].get("state", {}), own["fused"].get("state", {}))


def _check_like(kind: str, what: str, found: Any, expected: Any) -> None:
    """Raises ValueError unless `found` has the keys, types and shapes of `expected`, at every depth."""
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping):
            raise ValueError(f"the state is {kind}: expected {what} by name, got {type(found).__name__}")
        if differing := found.keys() ^ expected.keys():
            raise ValueError(
                f"the state is {kind}: {', '.join(sorted(map(str, differing))[:3])} of {what} in one of the two only; "
                f"saved were {_some(found)}, here are {_some(expected)}"
            )
        for key, value in expected.items():
            _check_like(kind, f"{what}.{key}", found[key], value)
    elif isinstance(expected, Tensor):
        if type(found) is not type(expected) and not (isinstance(found, Tensor) and isinstance(expected, Tensor)):
            raise ValueError(
                f"the state is {kind}: expected {type(expected).__name__} as {what}, got {type(found).__name__}"
            )
        if _size(found) != _size(expected):
            raise ValueError(f"the state is {kind}: {what} has the shape {_size(found)}, expected {_size(expected)}")


def _size(tensor: Tensor) -> tuple[int, ...]:
    # `ShardedTensor.shape` would print a warning.
    return tuple(tensor.metadata().size if isinstance(tensor, ShardedTensor) else tensor.shape)


def _some(names: Mapping[str, Any]) -> str:
    shown = ", ".join(list(names)[:4]) or "nothing"
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"

"""The dense side: torch optimizers over named parameters, with parameter groups chosen by name and a state keyed by name."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ParamGroups = Sequence[tuple[str, Mapping[str, Any]]]
DenseFactory = Callable[[list[Any]], torch.optim.Optimizer | Sequence[torch.optim.Optimizer]]


class DenseOptimizers:
    """One torch optimizer or several (Muon takes matrices only) that share the parameters among them.

    Args:
        make: called with the list of parameters, or with torch's list of group dicts where `param_groups` are given; called
            again for a state dict while some state does not exist yet, with zeros in the parameters' place.
        param_groups: (pattern, options): parameters in whose name `re.search` finds the pattern get the options, the first
            fitting one; those that fit none get the optimizer's defaults.

    Raises:
        ValueError: if a pattern fits no parameter, or the optimizers leave out a parameter or share one.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], make: DenseFactory, param_groups: ParamGroups = ()) -> None:
        self.parameters = dict(parameters)
        self._make, self._param_groups = make, param_groups
        self.optimizers = self._made(self.parameters)
        self._joined: dict[int, list[tuple[list[str], dict[str, Any]]]] = defaultdict(list)
        self._check()

    def _made(self, parameters: Mapping[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
        groups = self._param_groups
        made = self._make(_grouped(parameters, groups) if groups else list(parameters.values()))
        return [made] if isinstance(made, torch.optim.Optimizer) else list(made)

    def _check(self) -> None:
        taken = [p for group in self.groups for p in group["params"]]
        names = {p: name for name, p in self.parameters.items()}
        left = [name for p, name in names.items() if not any(p is t for t in taken)]
        if left:
            raise ValueError(
                f"dense: no optimizer has {', '.join(left[:3])} ({len(left)} parameters); expected every one in one"
            )
        if len({id(p) for p in taken}) < len(taken) or len(taken) > len(names):
            raise ValueError(
                "dense: a parameter is in two optimizers, or in one that was not asked for it; expected one for each"
            )

    @property
    def groups(self) -> list[dict[str, Any]]:
        """All parameter groups, live: torch's schedulers may set their learning rates."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def add(self, parameters: Mapping[str, nn.Parameter], options: Mapping[str, Any], optimizer: int = 0) -> int:
        """A new group of one of the optimizers; its place among all groups. Nothing is changed if the optimizer refuses."""
        self.optimizers[optimizer].add_param_group({"params": list(parameters.values()), **options})
        self.parameters |= parameters
        self._joined[optimizer].append((list(parameters), dict(options)))
        return sum(len(o.param_groups) for o in self.optimizers[: optimizer + 1]) - 1

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def state_of(self, name: str) -> dict[str, Tensor]:
        """The tensors that the optimizer keeps for one parameter."""
        parameter = self.parameters[name]
        return _tensors([o.state[parameter] for o in self.optimizers if parameter in o.state])

    def state_dict(self) -> dict[str, dict[str, dict[str, Tensor]]]:
        """`state`: by parameter all tensors that its optimizer will ever keep, zeros where it keeps none yet; `exists`: by
        parameter whether it does. The keys are the same at any time, as DCP needs them to load."""
        states = {name: self.state_of(name) for name in self.parameters}
        missing = [name for name, state in states.items() if not state]
        like = self._template() if missing else {}
        exists = {name: {"exists": torch.tensor(bool(state))} for name, state in states.items()}
        return {"state": states | {name: like[name] for name in missing}, "exists": exists}

    def load_state_dict(self, saved: Mapping[str, Mapping[str, Mapping[str, Tensor]]]) -> None:
        for optimizer in self.optimizers:
            for parameter in [p for group in optimizer.param_groups for p in group["params"]]:
                name = self.names[parameter]
                if not saved["exists"][name]["exists"]:
                    optimizer.state.pop(parameter, None)
                    continue
                state = optimizer.state[parameter]
                for key, value in saved["state"][name].items():
                    if isinstance(state.get(key), Tensor):
                        state[key].copy_(value)
                    else:
                        state[key] = value.clone()

    @property
    def names(self) -> dict[nn.Parameter, str]:
        return {p: name for name, p in self.parameters.items()}

    def _template(self) -> dict[str, dict[str, Tensor]]:
        """Zeros of the shapes that the state of every parameter will have: found with optimizers of the same kind that make a
        step on zeros. Memory, for this moment: parameters, gradients and states once more."""
        joined = {name for groups in self._joined.values() for names, _ in groups for name in names}
        hollow = {name: nn.Parameter(torch.zeros_like(p.data)) for name, p in self.parameters.items()}
        optimizers = self._made({name: p for name, p in hollow.items() if name not in joined})
        for index, groups in self._joined.items():
            for names, options in groups:
                optimizers[index].add_param_group({"params": [hollow[name] for name in names], **options})
        for parameter in hollow.values():
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
        states = {name: [o.state[p] for o in optimizers if p in o.state] for name, p in hollow.items()}
        return {name: {k: torch.zeros_like(v) for k, v in _tensors(found).items()} for name, found in states.items()}


def _tensors(states: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {key: value for state in states for key, value in state.items() if isinstance(value, Tensor)}


def _grouped(parameters: Mapping[str, nn.Parameter], param_groups: ParamGroups) -> list[dict[str, Any]]:
    left = dict(parameters)
    groups: list[dict[str, Any]] = []
    for pattern, options in param_groups:
        fitting = {name: p for name, p in left.items() if re.search(pattern, name)}
        if not fitting:
            raise ValueError(
                f"param_groups: {pattern!r} fits none of the {len(left)} parameters left, such as {next(iter(left), None)}"
            )
        groups.append({"params": list(fitting.values()), **options})
        left = {name: p for name, p in left.items() if name not in fitting}
    return groups + ([{"params": list(left.values())}] if left else [])

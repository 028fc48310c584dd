"""The dense side: torch optimizers over named parameters, with parameter groups chosen by name and a state keyed by name."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ParamGroups = Sequence[tuple[str, Mapping[str, Any]]]
DenseFactory = Callable[[list[Any]], torch.optim.Optimizer | Sequence[torch.optim.Optimizer]]


class DenseOptimizers:
    """One torch optimizer or several (Muon takes matrices only) that share the parameters among them.

    Args:
        make: called with the list of parameters, or with torch's list of group dicts where `param_groups` are given.
        param_groups: (pattern, options): parameters in whose name `re.search` finds the pattern get the options, the first
            fitting one; those that fit none get the optimizer's defaults.

    Raises:
        ValueError: if a pattern fits no parameter, or the optimizers leave out a parameter or share one.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], make: DenseFactory, param_groups: ParamGroups = ()) -> None:
        self.parameters = dict(parameters)
        made = make(_grouped(self.parameters, param_groups) if param_groups else list(self.parameters.values()))
        self.optimizers = [made] if isinstance(made, torch.optim.Optimizer) else list(made)
        self._check()

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

    def add(self, parameters: Mapping[str, nn.Parameter], options: Mapping[str, Any]) -> int:
        """A new group of the first optimizer; its place among all groups."""
        self.parameters |= parameters
        self.optimizers[0].add_param_group({"params": list(parameters.values()), **options})
        self._check()
        return len(self.optimizers[0].param_groups) - 1

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def state_of(self, name: str) -> dict[str, Tensor]:
        """The tensors that the optimizer keeps for one parameter."""
        parameter = self.parameters[name]
        states = [o.state[parameter] for o in self.optimizers if parameter in o.state]
        return {key: value for state in states for key, value in state.items() if isinstance(value, Tensor)}

    def init_state(self) -> None:
        """Makes the optimizers create the state of every parameter (they do so with its first gradient), so that a state dict
        has the same keys at any time. A step of zero gradients at learning rate zero changes no weight."""
        without = {name for name in self.parameters if not self.state_of(name)}
        if not without:
            return
        gradients = {name: p.grad for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.grad = torch.zeros_like(parameter) if name in without else None
        rates = [group["lr"] for group in self.groups]
        for group in self.groups:
            group["lr"] = 0.0
        self.step()
        for group, rate in zip(self.groups, rates, strict=True):
            group["lr"] = rate
        for name, parameter in self.parameters.items():
            for value in self.state_of(name).values() if name in without else ():
                value.zero_()
            parameter.grad = gradients[name]


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

"""Torch optimizers over named parameters: parameter groups are chosen by name, and the state is keyed by name."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dist_rec.optim.step_if import step_if

ParamGroups = Sequence[tuple[str, Mapping[str, Any]]]
DenseFactory = Callable[[list[Any]], torch.optim.Optimizer | Sequence[torch.optim.Optimizer]]


class DenseOptimizers:
    """One torch optimizer or several (Muon takes matrices only) that divide the parameters among them.

    Args:
        parameters: name -> parameter.
        make: called with the list of parameters, or with torch's list of group dicts if `param_groups` are given.
            Called again for a state dict while some state does not exist yet, with zeros of the same shapes.
        param_groups: (pattern, options): a parameter gets the options of the first pattern that `re.search` finds in
            its name; a parameter that matches none gets the optimizer's defaults.

    Raises:
        ValueError: if a pattern matches no parameter, or a parameter is in no optimizer or in two.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], make: DenseFactory, param_groups: ParamGroups = ()
    ) -> None:
        self.parameters = dict(parameters)
        self._make, self._param_groups = make, param_groups
        self.optimizers = self._build(self.parameters)
        self._added: dict[int, list[tuple[list[str], dict[str, Any]]]] = defaultdict(list)
        self._check()

    def _build(self, parameters: Mapping[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
        groups = self._param_groups
        made = self._make(_grouped(parameters, groups) if groups else list(parameters.values()))
        return [made] if isinstance(made, torch.optim.Optimizer) else list(made)

    def _check(self) -> None:
        owned = [p for group in self.groups for p in group["params"]]
        missing = [name for name, p in self.parameters.items() if not any(p is other for other in owned)]
        if missing:
            some = ", ".join(missing[:3])
            raise ValueError(f"dense: no optimizer has {some} ({len(missing)} parameters); expected each in one")
        if len({id(p) for p in owned}) < len(owned) or len(owned) > len(self.parameters):
            raise ValueError(
                "dense: a parameter is in two optimizers, or in one that was not given it; expected one each"
            )

    @property
    def groups(self) -> list[dict[str, Any]]:
        """All parameter groups, not copies: torch's schedulers may set their learning rates."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def add(self, parameters: Mapping[str, nn.Parameter], options: Mapping[str, Any], optimizer: int = 0) -> int:
        """Adds a group to one of the optimizers and returns its index in `groups`. Changes nothing if the optimizer
        raises."""
        self.optimizers[optimizer].add_param_group({"params": list(parameters.values()), **options})
        self.parameters |= parameters
        self._added[optimizer].append((list(parameters), dict(options)))
        return sum(len(o.param_groups) for o in self.optimizers[: optimizer + 1]) - 1

    def step(self, wanted: Tensor | None = None) -> None:
        """`wanted`: () bool on the device of the parameters that says whether there is a step; None for yes."""
        for optimizer in self.optimizers:
            if wanted is None:
                optimizer.step()
            else:
                step_if(optimizer, wanted)

    def state_dict(self) -> dict[str, dict[str, dict[str, Tensor]]]:
        """The same keys at any time, which DCP requires for loading.

        `state`: parameter name -> all tensors that its optimizer keeps or will keep, zeros while they do not exist.
        `exists`: parameter name -> {"exists": () bool}, whether they exist.
        """
        states = _states(self.parameters, self.optimizers)
        missing = [name for name, state in states.items() if not state]
        template = self._template() if missing else {}
        exists = {name: {"exists": torch.tensor(bool(state))} for name, state in states.items()}
        return {"state": states | {name: template[name] for name in missing}, "exists": exists}

    def load_state_dict(self, saved: Mapping[str, Mapping[str, Mapping[str, Tensor]]]) -> None:
        """Copies the tensors of a `state_dict` of the same parameters and optimizers."""
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

    @torch.no_grad()
    def reset_rows(self, rows: Mapping[str, Tensor]) -> None:
        """Sets the state of rows, (n,) int64 by parameter name, to zeros: every tensor with one entry per row."""
        for optimizer in self.optimizers:
            for name, of_parameter in rows.items():
                parameter = self.parameters[name]
                for value in optimizer.state[parameter].values() if parameter in optimizer.state else ():
                    if isinstance(value, Tensor) and value.ndim and len(value) == len(parameter):
                        value[of_parameter.to(value.device)] = 0

    @property
    def names(self) -> dict[nn.Parameter, str]:
        return {p: name for name, p in self.parameters.items()}

    def _template(self) -> dict[str, dict[str, Tensor]]:
        """Zeros in the shapes that the state of every parameter will have. Memory, temporarily: a second copy of
        parameters, gradients and states."""
        # DCP's get_optimizer_state_dict creates missing states by a step of the optimizer itself with zero gradients.
        # Such a step would change the run: NAdam's product of momenta would be one factor ahead, and SGD's first
        # momentum buffer, which must be the whole first gradient, would already be zero under dampening. So new
        # optimizers on zeros make the step here.
        later = {name for groups in self._added.values() for names, _ in groups for name in names}
        template = {name: nn.Parameter(torch.zeros_like(p.data)) for name, p in self.parameters.items()}
        optimizers = self._build({name: p for name, p in template.items() if name not in later})
        for index, groups in self._added.items():
            for names, options in groups:
                optimizers[index].add_param_group({"params": [template[name] for name in names], **options})
        for parameter in template.values():
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
        states = _states(template, optimizers)
        return {name: {key: torch.zeros_like(value) for key, value in state.items()} for name, state in states.items()}


def filled(values: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A state dict with the keys of `like`, whichever of `values` exist: `value`, a copy or zeros, and `there`, a ()
    bool.

    Copies, because the values may be changed in place before the state is written.
    """
    return {
        name: {
            "value": values[name].clone() if name in values else torch.zeros_like(tensor.detach()),
            "there": torch.tensor(name in values),
        }
        for name, tensor in like.items()
    }


def present(saved: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Copies of the values that existed when `filled` made the state dict."""
    return {name: entry["value"].clone() for name, entry in saved.items() if entry["there"]}


def _states(
    parameters: Mapping[str, nn.Parameter], optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, dict[str, Tensor]]:
    """By parameter name, the tensors that its optimizer keeps; empty if there are none yet."""
    states = {name: [o.state[p] for o in optimizers if p in o.state] for name, p in parameters.items()}
    return {
        name: {key: value for state in found for key, value in state.items() if isinstance(value, Tensor)}
        for name, found in states.items()
    }


def _grouped(parameters: Mapping[str, nn.Parameter], param_groups: ParamGroups) -> list[dict[str, Any]]:
    """Torch's list of group dicts: one group per pattern, and one for the parameters that match none."""
    left = dict(parameters)
    groups: list[dict[str, Any]] = []
    for pattern, options in param_groups:
        fitting = {name: p for name, p in left.items() if re.search(pattern, name)}
        if not fitting:
            raise ValueError(
                f"param_groups: {pattern!r} fits none of the {len(left)} parameters left, e.g. {next(iter(left), None)}"
            )
        groups.append({"params": list(fitting.values()), **options})
        left = {name: p for name, p in left.items() if name not in fitting}
    return groups + ([{"params": list(left.values())}] if left else [])

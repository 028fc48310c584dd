"""The hybrid optimizer: sparse rows now, dense parameters one step late.

Sparse rows are updated by FBGEMM inside the backward of step k (`W_k = W_{k-1} + g_k`). For the dense parameters this
class starts the all-reduce of `g_k` at the end of step k and waits for it at the end of step k + 1:
`W_k = W_{k-1} + g_{k-1}` (HyFormer, arXiv 2601.12681, section 3.8). The first step applies nothing, not even a zero
gradient, since that would decay weights and advance bias correction.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.optim.keyed import KeyedOptimizer
from torchrec.optim.optimizers import in_backward_optimizer_filter

from dist_rec.optim.delayed import GradientInFlight, broadcast_parameters

DenseUpdate = Literal["sync", "delayed"]


class HybridOptimizer(torch.optim.Optimizer):
    """Drives the dense parameters of a DistributedModelParallel; its fused sparse optimizer needs no driving.

    Args:
        dmp: the sharded model. For `delayed` (and for `sync` without DDP) build it with `init_data_parallel=False`.
        dense: makes a torch optimizer from a list of parameters.
        dense_update: `sync` applies `g_k` in step k, `delayed` in step k + 1.
        warmup_sync_steps: with `delayed`, this many first steps wait for their own gradient.
        clip_norm: largest norm of the reduced dense gradient.
        lr_factor: applied dense updates so far -> factor of the learning rate of the next one. Without it the learning
            rates are left alone, so that a torch scheduler may set them.
        group: process group of the all-reduce; a group of its own never queues behind TorchRec's all-to-alls.

    Comm: one all-reduce per dtype and step over `group`, of all dense gradients, and one of a flag per parameter between
    the hosts. Nothing waits for the device.
    """

    def __init__(
        self,
        dmp: nn.Module,
        dense: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        *,
        dense_update: DenseUpdate = "delayed",
        warmup_sync_steps: int = 0,
        clip_norm: float | None = None,
        lr_factor: Callable[[int], float] | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if dense_update not in ("sync", "delayed"):
            raise ValueError(f"dense_update must be sync or delayed, got {dense_update!r}")
        self._reduced_by_ddp = any(isinstance(module, nn.parallel.DistributedDataParallel) for module in _outermost(dmp))
        if self._reduced_by_ddp and dense_update == "delayed":
            raise ValueError("delayed starts its own all-reduce, but DDP wraps the model; expected init_data_parallel=False")
        self._parameters = {name: p for name, p in in_backward_optimizer_filter(dmp.named_parameters()) if p.requires_grad}
        self._dense = dense(list(self._parameters.values()))
        # It is an Optimizer to those who ask (TorchRec's pipelines), with the dense optimizer's groups as its own.
        self.param_groups, self.state, self.defaults = self._dense.param_groups, self._dense.state, self._dense.defaults
        self._fused: KeyedOptimizer | None = getattr(dmp, "fused_optimizer", None)
        self._base_lrs = [pg["lr"] for pg in self._dense.param_groups]
        self._delayed, self._warmup = dense_update == "delayed", warmup_sync_steps
        self._clip_norm, self._lr_factor, self._group = clip_norm, lr_factor, group
        self._host_group = _host_group(group)
        self._in_flight: GradientInFlight | None = None
        self._landed: dict[str, Tensor] = {}
        self.steps = self.applied = 0
        self.grad_norm: Tensor | None = None
        if not self._reduced_by_ddp:
            broadcast_parameters(self._parameters, group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None if set_to_none or parameter.grad is None else parameter.grad.zero_()

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Call after the backward of each step, on every rank, also on one that had no data."""
        self.steps += 1
        if self._reduced_by_ddp:
            self._apply({name: p.grad for name, p in self._parameters.items() if p.grad is not None})
            return
        started = GradientInFlight(self._parameters, self._group, self._host_group)
        if not self._delayed or self.steps <= self._warmup:
            self._apply(started.wait())
            return
        self.flush()
        self._in_flight = started

    def flush(self) -> None:
        """Applies the gradient in flight, if there is one: before evaluation, export and after the last step."""
        landed, self._landed = self._land(), {}
        self._apply(landed)

    def _land(self) -> dict[str, Tensor]:
        if self._in_flight is not None:
            self._landed, self._in_flight = self._in_flight.wait(), None
        return self._landed

    def _apply(self, gradients: dict[str, Tensor]) -> None:
        """One dense update; none without a gradient, so that schedules count updates and not steps."""
        if not gradients:
            return
        for name, parameter in self._parameters.items():
            parameter.grad = gradients.get(name)
        if self._clip_norm is not None:
            self.grad_norm = nn.utils.clip_grad_norm_(list(self._parameters.values()), self._clip_norm)
        if self._lr_factor is not None:
            for group, lr in zip(self._dense.param_groups, self._base_lrs, strict=True):
                group["lr"] = lr * self._lr_factor(self.applied)
        self._dense.step()
        self.applied += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, the gradient in flight included (waited for, not applied)."""
        self._init_state()
        landed = self._land()
        # Copies: clipping works in place on what has landed, perhaps before the state is written.
        in_flight = {
            name: landed[name].clone() if name in landed else torch.zeros_like(p.data) for name, p in self._parameters.items()
        }
        return {
            "dense": {name: self._tensors_of(parameter) for name, parameter in self._parameters.items()},
            "fused": self._fused.state_dict() if self._fused is not None else {},
            "in_flight": in_flight,
            "in_flight_present": torch.tensor([name in landed for name in self._parameters]),
            "counters": torch.tensor([self.steps, self.applied]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._init_state()
        for name, parameter in self._parameters.items():
            for key, value in self._tensors_of(parameter).items():
                value.copy_(state["dense"][name][key])
        if self._fused is not None:
            self._fused.load_state_dict(state["fused"])
        present = zip(self._parameters, state["in_flight_present"].tolist(), strict=True)
        self._landed = {name: state["in_flight"][name].clone() for name, there in present if there}
        self._in_flight = None
        self.steps, self.applied = (int(count) for count in state["counters"])

    def _init_state(self) -> None:
        """Makes the dense optimizer create the state of every parameter (it does so with its first gradient), so that a
        state dict has the same keys at any time. A step of zero gradients at learning rate zero changes no weight."""
        without = {name for name, parameter in self._parameters.items() if not self._tensors_of(parameter)}
        if not without:
            return
        gradients = {name: p.grad for name, p in self._parameters.items()}
        for name, parameter in self._parameters.items():
            parameter.grad = torch.zeros_like(parameter) if name in without else None
        lrs = [group["lr"] for group in self._dense.param_groups]
        for group in self._dense.param_groups:
            group["lr"] = 0.0
        self._dense.step()
        for group, lr in zip(self._dense.param_groups, lrs, strict=True):
            group["lr"] = lr
        for name, parameter in self._parameters.items():
            for value in self._tensors_of(parameter).values() if name in without else ():
                value.zero_()
            parameter.grad = gradients[name]

    def _tensors_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The dense optimizer's state of one parameter."""
        return {key: value for key, value in self._dense.state[parameter].items() if isinstance(value, Tensor)}


def _host_group(group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """A gloo group with the ranks of `group`: that itself, or a new one. Made by all ranks together."""
    if not dist.is_initialized() or "gloo" in dist.get_backend(group):
        return group
    made = dist.new_group(dist.get_process_group_ranks(group or dist.group.WORLD), backend="gloo")
    assert isinstance(made, dist.ProcessGroup), "this rank belongs to the group"
    return made


def _outermost(dmp: nn.Module) -> Iterable[nn.Module]:
    """The model and what DistributedModelParallel wraps directly; DDP further down belongs to data-parallel tables."""
    yield dmp
    yield from dmp.children()

"""The hybrid optimizer: sparse rows now, dense parameters one step late.

Sparse rows are updated by FBGEMM inside the backward of step k (`W_k = W_{k-1} + g_k`). For the dense parameters the
all-reduce of `g_k` starts inside the backward of step k and is waited for at the end of step k + 1:
`W_k = W_{k-1} + g_{k-1}` (HyFormer, arXiv 2601.12681, section 3.8). The first step applies nothing, not even a zero
gradient, since that would decay weights and advance bias correction.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from torch.profiler import record_function
from torchrec.optim.keyed import KeyedOptimizer
from torchrec.optim.optimizers import in_backward_optimizer_filter

from dist_rec.optim.delayed import Compress, DelayedAllReduce, InFlight, total_norm
from dist_rec.optim.dense import DenseFactory, DenseOptimizers, ParamGroups
from dist_rec.optim.groups import broadcast_parameters, host_group_of, own_group
from dist_rec.optim.health import Health, HealthMeter
from dist_rec.optim.loss_scale import LossScale
from dist_rec.optim.staleness import Correction, Staleness

DenseUpdate = Literal["sync", "delayed"]


class HybridOptimizer(KeyedOptimizer):
    """One optimizer for a `DistributedModelParallel`: its fused sparse optimizers and a torch optimizer for the rest.

    `step()` goes after every backward, on every rank, also on one that had no data. DDP may wrap the dense part or not
    (`init_data_parallel=False` saves its buffers); with `delayed`, DDP's own all-reduce is switched off.

    Args:
        dmp: the sharded model, or any module.
        dense: makes a torch optimizer, or several that share the parameters, from a list of parameters.
        dense_update: `sync` applies `g_k` in step k, `delayed` in step k + 1. May be changed between steps.
        warmup_sync_steps: with `delayed`, this many first steps apply their own gradient.
        param_groups: (pattern of names, options) for the dense optimizer, see `DenseOptimizers`.
        accumulation_steps: one dense update for so many calls of `step()`, with the mean of their gradients; `zero_grad`
            does nothing in between. Sparse rows are updated by every backward.
        clip_norm: largest norm of the mean dense gradient over all ranks; sparse gradients do not count.
        lr_factor: applied dense updates so far -> factor of the learning rate of the next one. Without it the learning
            rates are left alone, so that a torch scheduler may set them.
        skip_nonfinite: a mean gradient with an infinity or a NaN is dropped, on all ranks alike; `skipped` counts them. On a
            GPU the host waits for that gradient's all-reduce: a step after it started, or with `sync` at once.
        grad_scaler: scales the loss; this optimizer unscales and sets the scale. `scaler.step` and `update` are not called.
        staleness: what to do about late gradients, see `dist_rec.optim.staleness`.
        compensation: the factor c of `staleness="compensate"`.
        delayed_lr_factor: factor of the learning rates of late updates.
        health_every: measure `health` at every so many updates; 0 never.
        group: process group of the all-reduce; by default a new one, so that it never queues behind TorchRec's all-to-alls.
        bucket_cap_mb, compress: see `DelayedAllReduce`.

    Attributes:
        steps, applied, skipped: steps so far, dense updates applied (the version of the dense weights), gradients dropped.
        grad_norm: norm of the last applied gradient before clipping.
        health: the latest measurement.

    Comm: one all-reduce per bucket of dense gradients over `group`, and one of a flag per parameter between the hosts.

    Raises:
        ValueError: for options that contradict each other or the model; the message says what was expected.
    """

    def __init__(
        self,
        dmp: nn.Module,
        dense: DenseFactory,
        *,
        dense_update: DenseUpdate = "delayed",
        warmup_sync_steps: int = 1000,
        param_groups: ParamGroups = (),
        accumulation_steps: int = 1,
        clip_norm: float | None = None,
        lr_factor: Callable[[int], float] | None = None,
        skip_nonfinite: bool = True,
        grad_scaler: GradScaler | None = None,
        staleness: Staleness = "none",
        compensation: float = 0.04,
        delayed_lr_factor: float = 1.0,
        health_every: int = 0,
        group: dist.ProcessGroup | None = None,
        bucket_cap_mb: float = 25.0,
        compress: Compress = "none",
    ) -> None:
        _check_choice("dense_update", dense_update, ("sync", "delayed"))
        _check_choice("staleness", staleness, ("none", "extrapolate", "compensate", "error_feedback"))
        _check_choice("compress", compress, ("none", "bf16"))
        if accumulation_steps < 1:
            raise ValueError(f"accumulation_steps must be at least 1, got {accumulation_steps}")
        # As TorchRec's CombinedOptimizer: `params`, `state` and `param_groups` are views of the optimizers below.
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = {}, {}
        self.defaults = {"_save_param_groups": False}
        self._fused: KeyedOptimizer | None = getattr(dmp, "fused_optimizer", None)
        if grad_scaler is not None and grad_scaler.is_enabled() and self._fused is not None and self._fused.params:
            raise ValueError(
                "grad_scaler: fused sparse optimizers apply their gradients inside the backward, still scaled, and would "
                "follow the scale; expected bf16 without a scaler, or tables without fused optimizers"
            )
        self._parameters = {name: p for name, p in in_backward_optimizer_filter(dmp.named_parameters()) if p.requires_grad}
        self._dense = DenseOptimizers(self._parameters, dense, param_groups)
        self._base_lrs = [pg["lr"] for pg in self._dense.groups]
        self._ddp = next((m for m in _outermost(dmp) if isinstance(m, nn.parallel.DistributedDataParallel)), None)
        self._group = group
        self._reduce_options: dict[str, Any] = {
            "backwards_per_step": accumulation_steps,
            "bucket_cap_mb": bucket_cap_mb,
            "compress": compress,
        }
        self._reduce: DelayedAllReduce | None = None  # with `sync` under DDP there is nothing to do for it
        self._dense_update: DenseUpdate = dense_update
        self._warmup, self._accumulation, self._micro = warmup_sync_steps, accumulation_steps, 0
        self._clip_norm, self._lr_factor, self._delayed_lr = clip_norm, lr_factor, delayed_lr_factor
        self._skip_nonfinite, self._loss_scale = skip_nonfinite, LossScale(grad_scaler)
        self._correction = Correction(staleness, self._parameters, compensation)
        self._health = HealthMeter(health_every, self._parameters)
        self._in_flight: InFlight | None = None
        self.steps = self.applied = self.skipped = 0
        self.grad_norm: Tensor | None = None
        if self._ddp is None or dense_update == "delayed" or compress != "none":
            self._take_over()
        if self._ddp is None:
            broadcast_parameters(self._parameters, self._group)

    def _take_over(self) -> None:
        """From now on the gradients go through this optimizer's own all-reduce."""
        if self._ddp is not None:
            try:
                self._ddp.register_comm_hook(None, noop_hook)
            except RuntimeError as error:
                raise ValueError("delayed: the model's DDP has a communication hook already; expected none") from error
        self._group = own_group(self._group)
        self._reduce = DelayedAllReduce(
            self._parameters,
            self._group,
            host_group_of(self._group),
            under_ddp=self._ddp is not None,
            **self._reduce_options,
        )
        self._reduce.active = self._accumulation == 1

    @property
    def params(self) -> Mapping[str, Any]:
        return {**(self._fused.params if self._fused is not None else {}), **self._parameters}

    @property
    def state(self) -> Mapping[Any, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        dense = {p: state for optimizer in self._dense.optimizers for p, state in optimizer.state.items()}
        return {**(self._fused.state if self._fused is not None else {}), **dense}

    @property
    def param_groups(self) -> list[Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Dense groups first, then those of the fused optimizers, live."""
        return [*self._dense.groups, *(self._fused.param_groups if self._fused is not None else [])]

    @property
    def health(self) -> Health | None:
        return self._health.latest

    @property
    def all_reduce(self) -> DelayedAllReduce | None:
        """Carries the gradients; None while DDP does."""
        return self._reduce

    @property
    def dense_update(self) -> DenseUpdate:
        """`sync` or `delayed`. Setting it, between steps and on all ranks alike, first applies what is in flight."""
        return self._dense_update

    @dense_update.setter
    def dense_update(self, value: DenseUpdate) -> None:
        _check_choice("dense_update", value, ("sync", "delayed"))
        self._check_between_steps("dense_update")
        self.flush()
        if value == "delayed" and self._reduce is None:
            self._take_over()
        self._dense_update = value

    def add_parameters(self, parameters: Mapping[str, nn.Parameter], **options: Any) -> None:
        """Parameters that joined the model later, by name, as a new group of the dense optimizer with `options`. Between steps,
        on all ranks alike; under DDP, which does not know them, only with `delayed`."""
        self._check_between_steps("add_parameters")
        if self._reduce is None:
            raise ValueError("add_parameters: DDP reduces the gradients and does not know new parameters; expected delayed")
        self._reduce.add(parameters)
        broadcast_parameters(parameters, self._group)
        self._parameters.update(parameters)
        self._dense.add(parameters, options)
        self._base_lrs.append(self._dense.optimizers[0].param_groups[-1]["lr"])
        if len(self._dense.optimizers) > 1:  # the new group is not the last of all
            self._base_lrs = self._base_lrs[:-1]
            self._base_lrs.insert(
                len(self._dense.optimizers[0].param_groups) - 1, self._dense.optimizers[0].param_groups[-1]["lr"]
            )

    def zero_grad(self, set_to_none: bool = True) -> None:
        if self._fused is not None:
            self._fused.zero_grad(set_to_none)
        if self._micro:
            return  # gradients are being added up
        for parameter in self._parameters.values():
            parameter.grad = None if set_to_none or parameter.grad is None else parameter.grad.zero_()

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Call after the backward of each step, on every rank, also on one that had no data."""
        if self._fused is not None:
            self._fused.step()  # hands its learning rate to the tables
        self._micro = (self._micro + 1) % self._accumulation
        if self._micro == 0:
            self._dense_step()
        if self._reduce is not None:
            self._reduce.active = self._micro == self._accumulation - 1

    def _dense_step(self) -> None:
        self.steps += 1
        scale = self._loss_scale.scale
        if self._reduce is None:
            found = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
            for gradient in found.values() if self._accumulation > 1 else ():
                gradient /= self._accumulation
            self._apply(InFlight(None, scale, landed=found), late=False)
            return
        started = InFlight(self._reduce.start(), scale)
        if self._dense_update == "sync" or self.steps <= self._warmup:
            self._apply(started, late=False)
            return
        if self._correction.needs_weights:
            started.computed_at = {name: p.detach().clone() for name, p in self._parameters.items()}
        self.flush()
        self._in_flight = started

    def flush(self) -> None:
        """Applies the gradient in flight, if there is one: before evaluation, export and after the last step."""
        if self._in_flight is not None:
            in_flight, self._in_flight = self._in_flight, None
            self._apply(in_flight, late=True)

    def _apply(self, arrived: InFlight, *, late: bool) -> None:
        """One dense update; none without a gradient, so that schedules count updates and not steps."""
        gradients = arrived.land()
        with record_function("dense update: apply"):
            norm, finite = self._norm(arrived, gradients)
            if gradients and finite:
                self._update(gradients, norm, arrived, late=late)
            self.skipped += not finite
        if gradients:
            self._loss_scale.update(finite)
        if arrived.flight is not None:
            arrived.flight.release()

    def _norm(self, arrived: InFlight, gradients: dict[str, Tensor]) -> tuple[Tensor | None, bool]:
        """Norm of the unscaled mean gradient where something asks for it, and whether the gradient may be applied."""
        if not gradients or (self._clip_norm is None and not self._skip_nonfinite):
            return None, True
        if arrived.flight is not None:
            norm, finite = arrived.flight.norm()
        else:
            norm = total_norm(self._parameters, gradients)
            finite = not self._skip_nonfinite or bool(norm.isfinite())
        return norm / arrived.scale, finite or not self._skip_nonfinite

    def _update(self, gradients: dict[str, Tensor], norm: Tensor | None, arrived: InFlight, *, late: bool) -> None:
        if arrived.scale != 1.0:
            for gradient in gradients.values():
                gradient *= 1.0 / arrived.scale
        self._health.before(self.applied, gradients)
        gradients = self._correction.gradients(gradients, arrived.computed_at, late=late)
        for name, parameter in self._parameters.items():
            parameter.grad = gradients.get(name)
        self.grad_norm = norm
        if self._clip_norm is not None and norm is not None:
            if late and self._correction.changes_gradients:
                norm = total_norm(self._parameters, gradients)  # of what is applied, not of what came back
            nn.utils.clip_grads_with_norm_(list(self._parameters.values()), self._clip_norm, norm)
        factor = self._lr_factor(self.applied) if self._lr_factor is not None else None
        rates = [group["lr"] for group in self._dense.groups]
        slower = self._delayed_lr if late else 1.0
        for group, base, rate in zip(self._dense.groups, self._base_lrs, rates, strict=True):
            group["lr"] = (rate if factor is None else base * factor) * slower
        self._dense.step()
        if factor is None:
            for group, rate in zip(self._dense.groups, rates, strict=True):
                group["lr"] = rate
        self._correction.finish(late=late)
        self._health.after(self.applied)
        self.applied += 1
        if arrived.flight is not None:
            for parameter in self._parameters.values():
                parameter.grad = None  # its memory goes to the next gradient

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, the gradient in flight included (waited for, not applied).

        With `compress` what the rounding has withheld so far joins the gradient in flight, so that a checkpoint does not depend
        on the number of ranks; a run that saves goes on exactly as one that resumes. Comm: then one all-reduce per bucket.

        Raises:
            RuntimeError: while gradients are being accumulated.
        """
        self._check_between_steps("state_dict")
        self._dense.init_state()
        waiting = self._in_flight
        landed = waiting.land() if waiting is not None else {}
        for name, rest in (self._reduce.withheld() if self._reduce is not None else {}).items():
            if name in landed:
                landed[name] += rest
        zeros = {name: torch.zeros_like(p.data) for name, p in self._parameters.items()}
        state = {
            "dense": {name: self._dense.state_of(name) for name in self._parameters},
            "fused": self._fused.state_dict() if self._fused is not None else {},
            # Copies: clipping works in place on what has landed, perhaps before the state is written.
            "in_flight": zeros | {name: gradient.clone() for name, gradient in landed.items()},
            "in_flight_present": torch.tensor([name in landed for name in self._parameters]),
            "counters": torch.tensor([self.steps, self.applied, self.skipped, self._loss_scale.good, waiting is not None]),
            "scales": torch.tensor(
                [self._loss_scale.scale, waiting.scale if waiting is not None else 1.0], dtype=torch.float64
            ),
        }
        if self._correction.keeps_history:
            last = self._correction.last
            state["last"] = zeros | {name: value.clone() for name, value in last.items()}
            state["last_present"] = torch.tensor([name in last for name in self._parameters])
        if self._correction.needs_weights:
            computed_at = waiting.computed_at if waiting is not None else {}
            state["computed_at"] = zeros | {name: value.clone() for name, value in computed_at.items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._check_between_steps("load_state_dict")
        self._dense.init_state()
        for name in self._parameters:
            for key, value in self._dense.state_of(name).items():
                value.copy_(state["dense"][name][key])
        if self._fused is not None:
            self._fused.load_state_dict(state["fused"])
        self.steps, self.applied, self.skipped, good, waiting = (int(count) for count in state["counters"])
        scale, scale_in_flight = state["scales"].tolist()
        self._loss_scale.restore(scale, good)
        if self._in_flight is not None and self._in_flight.flight is not None:
            self._in_flight.land()
            self._in_flight.flight.release()
        self._in_flight = None
        if waiting:
            landed = self._present(state["in_flight"], state["in_flight_present"])
            weights = {name: value.clone() for name, value in state.get("computed_at", {}).items()}
            self._in_flight = InFlight(None, scale_in_flight, weights, landed)
        if self._correction.keeps_history:
            self._correction.last = self._present(state["last"], state["last_present"])

    def _present(self, values: Mapping[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        return {name: values[name].clone() for name, there in zip(self._parameters, present.tolist(), strict=True) if there}

    def _check_between_steps(self, what: str) -> None:
        if self._micro:
            raise RuntimeError(
                f"{what}: {self._micro} of {self._accumulation} gradients are added up; expected it after every "
                f"{self._accumulation}th step()"
            )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(choices)}, got {value!r}")


def _outermost(dmp: nn.Module) -> Iterable[nn.Module]:
    """The model and what DistributedModelParallel wraps directly; DDP further down belongs to data-parallel tables."""
    yield dmp
    yield from dmp.children()

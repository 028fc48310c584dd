"""The hybrid optimizer: sparse rows now, dense parameters one step late.

Sparse rows are updated by FBGEMM inside the backward of step k (`W_k = W_{k-1} + g_k`). For the dense parameters the
all-reduce of `g_k` starts inside the backward of step k and is waited for at the end of step k + 1:
`W_k = W_{k-1} + g_{k-1}` (HyFormer, arXiv 2601.12681, section 3.8). The first step applies nothing, not even a zero
gradient, since that would decay weights and advance bias correction.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal
from weakref import WeakMethod, WeakValueDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from torch.profiler import record_function
from torchrec.optim.keyed import KeyedOptimizer
from torchrec.optim.optimizers import in_backward_optimizer_filter

from dist_rec.optim.arriving import Arriving
from dist_rec.optim.ddp import outermost_ddps, plain_buffers, silence, slices
from dist_rec.optim.delayed import Compress, DelayedAllReduce, Pending, total_norm
from dist_rec.optim.dense import DenseFactory, DenseOptimizers, ParamGroups
from dist_rec.optim.groups import broadcast
from dist_rec.optim.health import Health, HealthMeter
from dist_rec.optim.loss_scale import LossScale
from dist_rec.optim.resumable import Resumable
from dist_rec.optim.saved import Beside
from dist_rec.optim.staleness import Correction, Staleness
from dist_rec.optim.view import View

DenseUpdate = Literal["sync", "delayed"]


class HybridOptimizer(Resumable):
    """One optimizer for a `DistributedModelParallel`: its fused sparse optimizers and a torch optimizer for the rest.

    `step()` goes after every backward, on every rank, also on one that had no data. DDP may wrap the dense part or not
    (`init_data_parallel=False` saves its buffers); with `delayed`, DDP's own all-reduce of gradients is switched off. `sync`
    under DDP is DDP's (with accumulation it reduces every batch).

    Between `backward()` and `step()`, `p.grad` is the mean gradient over all ranks, unscaled, that this `step()` applies: with
    `delayed` that of the step before (zeros in the first late step). It may be read, clipped and changed there as ever, on all
    ranks alike; whoever looks waits for it. What `flush()` applies has had no such moment: `show_in_flight()` gives it one. A
    tool that reads `p.grad` of a parameter that has a gradient on other ranks only is told so by an error, and so is a hook
    that reads it inside the backward. With `sync` under DDP, `p.grad` is DDP's: the sum of accumulated batches, and scaled
    where the loss is; `clip_norm` clips the mean there, too.

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
        skip_nonfinite: a mean dense gradient with an infinity or a NaN is dropped, on all ranks alike; `skipped` counts them.
            Sparse rows have taken theirs in the backward. On a GPU the host waits for that gradient's all-reduce: a step after
            it started, or with `sync` at once.
        grad_scaler: scales the loss; this optimizer unscales and sets the scale. `scaler.step` and `update` are not called.
        staleness: what to do about late gradients, see `dist_rec.optim.staleness`.
        compensation: the factor c of `staleness="compensate"`.
        delayed_lr_factor: factor of the learning rates of late updates.
        health_every: measure `health` at every so many updates; 0 never.
        group, bucket_cap_mb, compress: see `DelayedAllReduce`; by default a process group of its own, so that the all-reduce
            never queues behind TorchRec's all-to-alls.

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
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
        self.defaults = {"_save_param_groups": False}
        self._fused: KeyedOptimizer | None = getattr(dmp, "fused_optimizer", None)
        if grad_scaler is not None and grad_scaler.is_enabled() and self._fused is not None and self._fused.params:
            raise ValueError(
                "grad_scaler: fused sparse optimizers apply their gradients inside the backward, still scaled, and would "
                "follow the scale; expected bf16 without a scaler, or tables without fused optimizers"
            )
        own = dict(in_backward_optimizer_filter(dmp.named_parameters()))
        _check_modules(dmp)
        _check_whole(own)
        self._frozen = {name: p for name, p in own.items() if not p.requires_grad}
        self._dense = DenseOptimizers({name: p for name, p in own.items() if p.requires_grad}, dense, param_groups)
        self._parameters = self._dense.parameters
        self._base_lrs = [pg["lr"] for pg in self._dense.groups]
        self._ddps = outermost_ddps(dmp)
        self._replicated = slices(self._parameters)
        self._reduce_options: dict[str, Any] = {
            "group": group,
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
        self._offered = WeakValueDictionary()
        self._beside = Beside()
        self._in_flight: Pending | None = None
        self._changed_by_job = False  # somebody changes `p.grad` before step()
        self._view: View | None = None
        self.steps = self.applied = self.skipped = 0
        self.grad_norm: Tensor | None = None
        theirs = {p for ddp in self._ddps for p in ddp.parameters()}
        outside = {name: p for name, p in own.items() if p not in theirs}
        if outside or dense_update == "delayed" or compress != "none":
            self._take_over()
        broadcast(outside | (plain_buffers(dmp) if not self._ddps else {}), self._reduce.group if self._reduce else None)

    def _take_over(self) -> None:
        """From now on the gradients go through this optimizer's own all-reduce."""
        if self._replicated:
            raise ValueError(
                f"{self._replicated[0]}: TorchRec reduces data_parallel tables in a DDP of their own, in time; expected "
                "dense_update='sync' with init_data_parallel=True, or another sharding"
            )
        for ddp in self._ddps:
            silence(ddp)
        self._reduce = DelayedAllReduce(
            self._parameters, under_ddp=bool(self._ddps), bring=WeakMethod(self._bring), **self._reduce_options
        )
        self._reduce.active = self._accumulation == 1

    def close(self) -> None:
        """Lets go of the parameters, so that another optimizer may have them. What is in flight is not applied."""
        if self._reduce is not None:
            self._reduce.close()

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

    def init_state(self, sparse_grad_parameter_names: set[str] | None = None) -> None:
        """Nothing: the state dict has the same keys at any time. TorchRec's own would make a step."""

    def add_param_group(self, param_group: Any) -> None:
        """Torch's way, which has no names: raises NotImplementedError."""
        raise NotImplementedError(
            "HybridOptimizer keeps everything by parameter name; expected add_parameters({name: parameter}, **options)"
        )

    def add_parameters(self, parameters: Mapping[str, nn.Parameter], *, optimizer: int = 0, **options: Any) -> None:
        """Parameters that joined the model later, by name, as a new group with `options` of the dense optimizer (of several,
        `optimizer` says which). Between steps, on all ranks alike; under DDP, which does not know them, only with `delayed`."""
        self._check_between_steps("add_parameters")
        if self._reduce is None:
            raise ValueError("add_parameters: DDP reduces the gradients and does not know new parameters; expected delayed")
        _check_whole(parameters)
        self._reduce.check_free(parameters)
        at = self._dense.add(parameters, options, optimizer)  # which also makes them `self._parameters`
        self._reduce.add(parameters)
        self._frozen = {name: p for name, p in self._frozen.items() if not any(p is new for new in parameters.values())}
        self._base_lrs.insert(at, self._dense.groups[at]["lr"])
        broadcast(parameters, self._reduce.group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        if self._fused is not None:
            self._fused.zero_grad(set_to_none)
        if self._micro:
            return  # gradients are being added up
        if self._reduce is not None:
            self._forget_view()
            self._reduce.abandon()
        for parameter in self._parameters.values():
            own = parameter.grad is not None and not isinstance(parameter.grad, Arriving)
            if own and not set_to_none and parameter.grad is not None:
                parameter.grad.zero_()
            else:
                parameter.grad = None

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Call after the backward of each step, on every rank, also on one that had no data."""
        if closure is not None:
            raise ValueError("step takes no closure: gradients have to be there, and on their way, when it is called")
        for hook in self._optimizer_step_pre_hooks.values():
            hook(self, (), {})
        if self._fused is not None:
            self._fused.step()  # hands its learning rate to the tables
        self._micro = (self._micro + 1) % self._accumulation
        if self._micro == 0:
            self._dense_step()
        if self._reduce is not None:
            self._reduce.active = self._micro == self._accumulation - 1
        for hook in self._optimizer_step_post_hooks.values():
            hook(self, (), {})

    def _dense_step(self) -> None:
        self._check_frozen()
        self.steps += 1
        if self._reduce is None:
            self._flush()  # of a checkpoint that was saved with late updates
            found = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
            for gradient in found.values() if self._accumulation > 1 else ():
                gradient /= self._accumulation
            self._apply(Pending(None, self._loss_scale.scale, landed=found), late=False)
            return
        self._loss_scale.check_left_alone(self)
        if self._view is not None and self._view.sent is None:
            self._flush()  # shown for a flush that did not come
        if replaced := self._reduce.replaced():
            self._look(self.steps)
            for name, gradient in replaced.items():
                self._parameters[name].grad = gradient
        if not self._reduce.held:
            self._forget_view()  # cleared by the job, and another backward has come since
        sent = None if self._view is None else self._view.sent
        started = sent or Pending(self._reduce.start(), self._loss_scale.scale)
        if self._in_time(self.steps):
            self._flush()
            self._apply(started, late=False)
        else:
            if self._correction.needs_weights:
                started.computed_at = {name: p.detach().clone() for name, p in self._parameters.items()}
            self._flush()
            self._in_flight = started
        self._close_view()

    def _in_time(self, step: int) -> bool:
        return self._dense_update == "sync" or step <= self._warmup

    def _bring(self, name: str) -> Tensor:
        """What is meant by `p.grad` of a parameter now that somebody uses it."""
        if torch._C._current_graph_task_id() != -1:
            raise RuntimeError(
                f"{name}: its p.grad was read inside the backward, where its gradient is on its way already; expected it to be "
                "read after the backward, or by a hook that was registered before this optimizer was made"
            )
        self._look(self.steps + 1)
        gradient = self._parameters[name].grad
        # None: somebody has cleared it since, and still holds the stand-in.
        return torch.zeros_like(self._parameters[name]) if gradient is None else gradient

    def _look(self, step: int) -> None:
        """Sends this step's gradient and puts into `p.grad` what the step will apply."""
        assert self._reduce is not None, "stand-ins are its"
        if self._view is not None and self._reduce.held:
            return
        self._forget_view()
        here = self._reduce.standing_in
        sent = Pending(self._reduce.start(), self._loss_scale.scale)
        if self._in_time(step):
            self._flush()
        self._open_view(sent, sent if self._in_time(step) else self._in_flight, here)

    def show_in_flight(self) -> None:
        """Puts the gradient in flight, if there is one, into `p.grad`, to be clipped or changed before `flush()` applies it."""
        self._check_between_steps("show_in_flight")
        if self._in_flight is not None and self._view is None:
            self._open_view(None, self._in_flight, self._land(self._in_flight))

    def _open_view(self, sent: Pending | None, applied: Pending | None, here: Collection[str]) -> None:
        """An error if there is more to apply than the job can know of, which looks for gradients of `here`."""
        assert self._reduce is not None, "without it everything is in `p.grad` as it is"
        gradients = {} if applied is None else self._land(applied)
        if elsewhere := gradients.keys() - set(here):
            raise RuntimeError(
                f"{min(elsewhere)} has a gradient of other ranks or of the step before, and none of this rank's backward, so "
                "that a tool that reads p.grad cannot see it; expected clip_norm in the place of the job's own clipping, or a "
                "gradient of every parameter on every rank"
            )
        self._view, self._reduce.held = View(self._parameters, sent, applied, gradients, here), True

    def _close_view(self) -> None:
        if self._view is not None and self._reduce is not None:
            self._view.close()
            self._view, self._reduce.held = None, False

    def _forget_view(self) -> None:
        """For a step that did not come: what was sent for it is dropped, a gradient in flight stays in flight."""
        view, self._view = self._view, None
        if view is None or self._reduce is None:
            return
        self._reduce.held = False
        if view.sent is not None and view.sent.flight is not None:
            self._land(view.sent)
            view.sent.flight.release()
        if view.applied is not view.sent:
            view.take_back()

    def _check_frozen(self) -> None:
        if thawed := [name for name, p in self._frozen.items() if p.requires_grad]:
            raise RuntimeError(
                f"{thawed[0]} ({len(thawed)} parameters) was frozen when this optimizer was made and requires a gradient now, "
                "so that nobody would update it; expected add_parameters({name: parameter}) first, or requires_grad before the "
                "optimizer is made"
            )

    def flush(self) -> None:
        """Applies the gradient in flight, if there is one: before evaluation, export and after the last step."""
        if self._changed_by_job and self._in_flight is not None and self._view is None:
            warnings.warn(
                "flush() applies a gradient that the job has had no chance to change (clip) in p.grad, as it has changed those "
                "before: expected clip_norm in the place of its own clipping, or show_in_flight(), the same change, and then "
                "flush()",
                stacklevel=2,
            )
        self._flush()

    def _flush(self) -> None:
        if self._in_flight is None:
            return
        in_flight, self._in_flight = self._in_flight, None
        # Of a step or an accumulation that goes on; what stands in `p.grad` to be looked at is applied now.
        viewed = self._view is not None and self._view.applied is in_flight
        unfinished = {} if viewed else {name: p.grad for name, p in self._parameters.items()}
        self._apply(in_flight, late=True)
        for name, parameter in self._parameters.items():
            parameter.grad = unfinished.get(name)

    def _apply(self, arrived: Pending, *, late: bool) -> None:
        """One dense update; none without a gradient, so that schedules count updates and not steps."""
        view = self._view if self._view is not None and self._view.applied is arrived else None
        gradients = self._land(arrived) if view is None else view.found()
        if view is not None and self._reduce is not None:
            self._reduce.changed = view.is_changed()
            self._changed_by_job |= self._reduce.changed
        scale = arrived.scale if view is None else 1.0
        with record_function("dense update: apply"):
            norm, finite = None, True
            if gradients and (self._clip_norm is not None or self._skip_nonfinite):
                # Of what was shown anew, since not every change of it can be seen.
                norm = arrived.norm(self._parameters) if view is None else total_norm(self._parameters, gradients)
                finite = not self._skip_nonfinite or (arrived.is_finite(norm) if view is None else bool(norm.isfinite()))
                norm = norm / scale
            if gradients and finite:
                self._update(gradients, norm, arrived.computed_at, scale, late)
            else:
                self._correction.forget()
            self.skipped += not finite
        if gradients:
            self._loss_scale.update(finite, arrived.scale)
        if arrived.flight is not None:
            arrived.flight.release()
        if view is not None:
            self._close_view()

    def _update(
        self, gradients: dict[str, Tensor], norm: Tensor | None, computed_at: dict[str, Tensor], scale: float, late: bool
    ) -> None:
        if scale != 1.0:
            for gradient in gradients.values():
                gradient *= 1.0 / scale
        self._health.before(self.applied, gradients)
        gradients = self._correction.gradients(gradients, computed_at, late=late)
        for name, parameter in self._parameters.items():
            parameter.grad = gradients.get(name)
        self.grad_norm = norm
        if self._clip_norm is not None and norm is not None:
            if late and self._correction.changes_gradients:
                norm = total_norm(self._parameters, gradients)  # of what is applied, not of what came back
            nn.utils.clip_grads_with_norm_(list(self._parameters.values()), self._clip_norm, norm)
        self._dense_optimizer_step(late)
        self._correction.finish(late=late)
        self._health.after(self.applied)
        self.applied += 1
        for parameter in self._parameters.values() if self._reduce is not None else ():
            parameter.grad = None  # its memory goes to the next gradient

    def _dense_optimizer_step(self, late: bool) -> None:
        """At the rate that `lr_factor` says, or a scheduler has set, which is there again afterwards."""
        groups, set_by_others = self._dense.groups, self._lr_factor is None
        slower = self._delayed_lr if late else 1.0
        rates = [group["lr"] for group in groups]
        if self._lr_factor is not None:
            rates = [base * self._lr_factor(self.applied) for base in self._base_lrs]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * slower
        self._dense.step()
        for group, rate in zip(groups, rates, strict=True) if set_by_others else ():
            group["lr"] = rate


def _check_whole(parameters: Mapping[str, Tensor]) -> None:
    """Raises ValueError for parameters that are spread over ranks."""
    for name, parameter in parameters.items():
        if isinstance(parameter, DTensor):
            raise ValueError(
                f"{name} is a DTensor, spread over ranks by fully_shard (FSDP) or tensor parallelism, which reduce its "
                "gradient themselves; expected dense parameters that every rank holds whole, as plain or DDP modules have them"
            )


def _check_modules(model: nn.Module) -> None:
    """Raises ValueError for parts whose gradients somebody else reduces, in a way that is not seen at the parameters."""
    for name, module in model.named_modules():
        if isinstance(module, FullyShardedDataParallel):
            raise ValueError(
                f"{name or 'the model'} is a FullyShardedDataParallel (FSDP), which spreads parameters over ranks and reduces "
                "their gradients itself; expected dense parameters that every rank holds whole, as plain or DDP modules have"
            )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(choices)}, got {value!r}")

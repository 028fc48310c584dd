"""The hybrid optimizer: embedding rows are updated immediately, dense parameters one step later.

FBGEMM updates embedding rows inside the backward of step k (`W_k = W_{k-1} + g_k`). For dense parameters the all-reduce
of `g_k` starts at the end of step k and is waited for at the end of step k + 1: `W_k = W_{k-1} + g_{k-1}` (HyFormer,
arXiv 2601.12681, section 3.8). The first step applies nothing, because even a zero gradient would decay weights and
advance bias correction.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakMethod, WeakValueDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.profiler import record_function
from torchrec.optim.keyed import KeyedOptimizer
from torchrec.optim.optimizers import in_backward_optimizer_filter

from dist_rec.common.choices import Compress, CorrectionKind, DenseUpdate, check_choice
from dist_rec.optim.correction import Correction
from dist_rec.optim.ddp import outermost_ddps, plain_buffers, silence
from dist_rec.optim.delayed import DelayedAllReduce
from dist_rec.optim.dense import DenseFactory, DenseOptimizers, ParamGroups
from dist_rec.optim.dense_step import DenseStep, UpdateHook
from dist_rec.optim.health import Health, HealthMeter
from dist_rec.optim.model_checks import check_frozen, check_modules, check_whole
from dist_rec.optim.pending_reduce import DelayedGradient, is_finite, total_norm
from dist_rec.optim.placeholder import Placeholder
from dist_rec.optim.process_groups import broadcast
from dist_rec.optim.replicated import check_own, reduced_by_torchrec
from dist_rec.optim.resumable import Resumable
from dist_rec.optim.saved import Beside
from dist_rec.optim.view import View


class HybridOptimizer(Resumable):
    """One optimizer for a `DistributedModelParallel`: its fused sparse optimizers, and torch optimizers for the dense
    rest.

    Call `step()` after every backward, on every rank, also on a rank without data. DDP may wrap the dense part or not
    (`init_data_parallel=False` saves DDP's buffers). `delayed` switches DDP's all-reduce of gradients off; `sync`
    leaves the all-reduce to DDP, which reduces every batch of an accumulation.

    Between `backward()` and `step()`, `p.grad` is the mean gradient over all ranks that this `step()` applies; with
    `delayed` that of the previous step (zeros in the first delayed step). The job may read, clip and change it, on all
    ranks alike; the first use waits for the all-reduce. `show_in_flight()` does the same for the gradient that
    `flush()` applies. A tool that reads `p.grad` inside the backward, or that cannot see the gradient of a parameter
    because only other ranks have one, meets a RuntimeError. With `sync` under DDP, `p.grad` is DDP's: the sum of the
    accumulated batches, of which `clip_norm` clips the mean.

    Args:
        dmp: the sharded model, or any module.
        dense: creates a torch optimizer, or several that divide the parameters, from a list of parameters.
        dense_update: `sync` applies `g_k` in step k, `delayed` in step k + 1. May be changed between steps.
        warmup_sync_steps: with `delayed`, the number of first steps that are synchronous.
        param_groups: (pattern of names, options) for the dense optimizer, see `DenseOptimizers`.
        accumulation_steps: calls of `step()` per dense update, which applies the mean of their gradients; `zero_grad`
            does nothing in between. Every backward updates embedding rows.
        clip_norm: largest norm of the mean dense gradient over all ranks; sparse gradients do not count.
        lr_factor: number of dense updates so far, dropped ones too -> factor of the next one's learning rates. Without
            it the optimizer keeps the rates, and a torch scheduler may set them.
        skip_nonfinite: drop a mean dense gradient with an infinity or a NaN, on all ranks alike; `skipped` counts them.
            Embedding rows were already updated. A GPU decides by itself; with a `correction` the host waits for it.
        correction: of delayed gradients, see `dist_rec.optim.correction`.
        delayed_lr_factor: factor of the learning rates of delayed updates.
        health_every: measure `health` at every n-th update; 0 never.
        group, bucket_cap_mb, compress: see `DelayedAllReduce`. By default the process group is a new one, so that
            TorchRec's all-to-alls do not delay the all-reduce.

    Attributes:
        steps: steps so far.
        applied, skipped: dense updates (the version of the weights) and dropped gradients; may wait for the device.
        grad_norm: () norm of the latest gradient before clipping; None if neither clipping nor skipping needs it.
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
        correction: CorrectionKind = "none",
        delayed_lr_factor: float = 1.0,
        health_every: int = 0,
        group: dist.ProcessGroup | None = None,
        bucket_cap_mb: float = 25.0,
        compress: Compress = "none",
    ) -> None:
        check_choice("dense_update", dense_update, DenseUpdate)
        check_choice("correction", correction, CorrectionKind)
        check_choice("compress", compress, Compress)
        if accumulation_steps < 1:
            raise ValueError(f"accumulation_steps must be at least 1, got {accumulation_steps}")
        # As in TorchRec's CombinedOptimizer, `params`, `state` and `param_groups` are views of the optimizers below.
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
        self.defaults = {"_save_param_groups": False}
        self._fused: KeyedOptimizer | None = getattr(dmp, "fused_optimizer", None)
        own = dict(in_backward_optimizer_filter(dmp.named_parameters()))
        check_modules(dmp)
        check_whole(own)
        self._frozen = {name: p for name, p in own.items() if not p.requires_grad}
        self._dense = DenseOptimizers({name: p for name, p in own.items() if p.requires_grad}, dense, param_groups)
        self._parameters = self._dense.parameters
        self._dense_step = DenseStep(
            self._dense,
            Correction(correction, self._parameters),
            HealthMeter(health_every, self._parameters),
            clip_norm=clip_norm,
            lr_factor=lr_factor,
            delayed_lr_factor=delayed_lr_factor,
        )
        self._ddps = outermost_ddps(dmp)
        self._replicated = reduced_by_torchrec(dmp, self._parameters)
        options = {"backwards_per_step": accumulation_steps, "bucket_cap_mb": bucket_cap_mb, "compress": compress}
        self._reduce_options: dict[str, Any] = {"group": group, **options}
        self._reduce: DelayedAllReduce | None = None  # None while DDP reduces all gradients
        self._dense_update: DenseUpdate = dense_update
        self._warmup, self._accumulation, self._micro = warmup_sync_steps, accumulation_steps, 0
        self._skip_nonfinite = skip_nonfinite
        self._offered = WeakValueDictionary()
        self._beside = Beside()
        self._in_flight: DelayedGradient | None = None
        self._changed_by_job = False  # the job has changed `p.grad` before a step()
        self._view: View | None = None
        self.steps = 0
        self._updates, self._dropped = 0, 0
        self.grad_norm: Tensor | None = None
        # DDP leaves slices out, though they are parameters of what it wraps.
        reduced = {p for ddp in self._ddps for p in ddp.parameters() if p.is_leaf}
        outside = {name: p for name, p in own.items() if p not in reduced and name not in self._replicated}
        if outside or dense_update == "delayed" or compress != "none":
            self._take_over()
        shared = outside if self._ddps else outside | plain_buffers(dmp)
        broadcast(shared, self._reduce.group if self._reduce else None)

    def _take_over(self) -> None:
        """Reduces the gradients from now on, in place of DDP."""
        check_own(self._replicated)
        for ddp in self._ddps:
            silence(ddp)
        self._reduce = DelayedAllReduce(
            self._parameters, under_ddp=bool(self._ddps), resolve=WeakMethod(self._resolve), **self._reduce_options
        )
        self._reduce.active, self._reduce.in_backward = self._accumulation == 1, self._dense_update == "sync"

    def close(self) -> None:
        """Releases the parameters, so that another optimizer may take them. Does not apply the gradient in flight."""
        if self._reduce is not None:
            self._reduce.close()

    @property
    def param_groups(self) -> list[Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The dense groups, then those of the fused optimizers; not copies."""
        return [*self._dense.groups, *(self._fused.param_groups if self._fused is not None else [])]

    @property
    def health(self) -> Health | None:
        return self._dense_step.health.latest

    @property
    def all_reduce(self) -> DelayedAllReduce | None:
        """Reduces the gradients; None while DDP does."""
        return self._reduce

    @property
    def dense_update(self) -> DenseUpdate:
        """`sync` or `delayed`. Set it between steps and on all ranks alike; setting it first applies the gradient in
        flight."""
        return self._dense_update

    @dense_update.setter
    def dense_update(self, value: DenseUpdate) -> None:
        check_choice("dense_update", value, DenseUpdate)
        self._check_between_steps("dense_update")
        self.flush()
        self._dense_update = value
        if value == "delayed" and self._reduce is None:
            self._take_over()
        elif self._reduce is not None:
            self._reduce.in_backward = value == "sync"

    def init_state(self, sparse_grad_parameter_names: set[str] | None = None) -> None:
        """Does nothing: the state dict has the same keys at any time. TorchRec's own `init_state` would make a step."""

    def add_param_group(self, param_group: Any) -> None:
        """Raises NotImplementedError: torch's method has no names for the parameters."""
        raise NotImplementedError(
            "HybridOptimizer keeps everything by parameter name; expected add_parameters({name: parameter}, **options)"
        )

    def add_parameters(self, parameters: Mapping[str, nn.Parameter], *, optimizer: int = 0, **options: Any) -> None:
        """Adds parameters that joined the model later, as a new group with `options`. Call between steps, on all ranks
        alike.

        `optimizer`: index of the dense optimizer, if there are several.

        Raises ValueError for parameters that are sharded or already have an optimizer, and with `sync` under DDP, which
        does not reduce new parameters.
        """
        self._check_between_steps("add_parameters")
        if self._reduce is None:
            raise ValueError("add_parameters: DDP reduces the gradients but no new parameters; expected delayed")
        check_whole(parameters)
        self._reduce.check_free(parameters)
        self._dense_step.add_group(self._dense.add(parameters, options, optimizer))  # extends `self._parameters`, too
        self._reduce.add(parameters)
        self._frozen = {name: p for name, p in self._frozen.items() if not any(p is new for new in parameters.values())}
        broadcast(parameters, self._reduce.group)

    def register_update_hook(self, hook: UpdateHook) -> None:
        """Calls `hook(applied)` after every dense update; `applied` () bool on the device, or None for true, is false
        for one that was dropped."""
        self._dense_step.update_hooks.append(hook)

    def zero_grad(self, set_to_none: bool = True) -> None:
        if self._fused is not None:
            self._fused.zero_grad(set_to_none)
        if self._micro:
            return  # in the middle of an accumulation
        if self._reduce is not None:
            self._forget_view()
            self._reduce.abandon()
        for parameter in self._parameters.values():
            gradient = parameter.grad
            if gradient is None or set_to_none or isinstance(gradient, Placeholder):
                parameter.grad = None
            else:
                gradient.zero_()

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Call after each backward, on every rank, also on a rank without data."""
        if closure is not None:
            raise ValueError("step takes no closure: the backward must be finished before step() is called")
        for hook in self._optimizer_step_pre_hooks.values():
            hook(self, (), {})
        if self._fused is not None:
            self._fused.step()  # passes its learning rate to the tables
        self._micro = (self._micro + 1) % self._accumulation
        if self._micro == 0:
            self._step_dense()
        if self._reduce is not None:
            self._reduce.active = self._micro == self._accumulation - 1
        for hook in self._optimizer_step_post_hooks.values():
            hook(self, (), {})

    def _step_dense(self) -> None:
        check_frozen(self._frozen)
        self.steps += 1
        if self._reduce is None:
            self._flush()  # the checkpoint may have been saved with delayed updates
            found = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
            for gradient in found.values() if self._accumulation > 1 else ():
                gradient /= self._accumulation
            self._apply(DelayedGradient(None, found), delayed=False)
            return
        if self._view is not None and self._view.started is None:
            self._flush()  # the job called show_in_flight() without flush()
        if overwritten := self._reduce.overwritten():
            self._show(self.steps)
            for name, gradient in overwritten.items():
                self._parameters[name].grad = gradient
        if not self._reduce.shown:
            self._forget_view()  # the job cleared the gradients itself and called another backward
        shown = None if self._view is None else self._view.started
        started = shown or DelayedGradient(self._reduce.start())
        self._flush()
        if self._is_synchronous(self.steps):
            self._apply(started, delayed=False)
        else:
            self._in_flight = started
        self._close_view()

    def _is_synchronous(self, step: int) -> bool:
        return self._dense_update == "sync" or step <= self._warmup

    def _resolve(self, name: str) -> Tensor:
        """The tensor meant by the placeholder in `p.grad` of a parameter, called at its first use."""
        if torch._C._current_graph_task_id() != -1:
            raise RuntimeError(
                f"{name}: its p.grad was read inside the backward, while its gradient is being reduced; expected it to "
                "be read after the backward, or by a hook that was registered before this optimizer was made"
            )
        self._show(self.steps + 1)
        gradient = self._parameters[name].grad
        # None: the job has set p.grad to None, but kept a reference to the placeholder.
        return torch.zeros_like(self._parameters[name]) if gradient is None else gradient

    def _show(self, step: int) -> None:
        """Starts the remaining buckets and puts into `p.grad` what `step` applies."""
        assert self._reduce is not None, "owns the placeholders"
        if self._view is not None and self._reduce.shown:
            return
        self._forget_view()
        here = self._reduce.placeholder_names
        started = DelayedGradient(self._reduce.start())
        if self._is_synchronous(step):
            self._flush()
        self._open_view(started, started if self._is_synchronous(step) else self._in_flight, here)

    def show_in_flight(self) -> None:
        """Puts the gradient in flight, if any, into `p.grad`, to be clipped or changed before `flush()` applies it."""
        self._check_between_steps("show_in_flight")
        if self._in_flight is not None and self._view is None:
            self._open_view(None, self._in_flight, set(self._gradients_of(self._in_flight)))

    def _open_view(self, started: DelayedGradient | None, applied: DelayedGradient | None, here: set[str]) -> None:
        """Raises RuntimeError if the gradient has parameters that are not in `here`, where the job expects
        gradients."""
        assert self._reduce is not None, "otherwise p.grad is DDP's"
        gradients = {} if applied is None else self._gradients_of(applied)
        if elsewhere := gradients.keys() - here:
            raise RuntimeError(
                f"{min(elsewhere)} has a gradient of other ranks or of the step before, but none of this rank's "
                "backward, so that a tool that reads p.grad cannot see it; expected clip_norm in the place of the "
                "job's own clipping, or a gradient of every parameter on every rank"
            )
        self._view, self._reduce.shown = View(self._parameters, started, applied, gradients, here), True

    def _close_view(self) -> None:
        if self._view is not None and self._reduce is not None:
            self._view.close()
            self._view, self._reduce.shown = None, False

    def _forget_view(self) -> None:
        """Drops this step's gradient, because the job skips the step. The gradient in flight stays in flight."""
        view, self._view = self._view, None
        if view is None or self._reduce is None:
            return
        self._reduce.shown = False
        if view.started is not None and view.started.reduce is not None:
            self._gradients_of(view.started)
            view.started.reduce.release()

    def flush(self) -> None:
        """Applies the gradient in flight, if any. Call before evaluation, before export and after the last step."""
        if self._changed_by_job and self._in_flight is not None and self._view is None:
            warnings.warn(
                "flush() applies a gradient that the job has had no chance to change (clip) in p.grad, as it changed "
                "those before: expected clip_norm in the place of its own clipping, or show_in_flight(), the same "
                "change, and then flush()",
                stacklevel=2,
            )
        self._flush()

    def _flush(self) -> None:
        if self._in_flight is None:
            return
        in_flight, self._in_flight = self._in_flight, None
        # `p.grad` may hold gradients of an unfinished accumulation or placeholders of this step; keep them. Not so if
        # it shows the gradient in flight itself.
        viewed = self._view is not None and self._view.applied is in_flight
        unfinished = {} if viewed else {name: p.grad for name, p in self._parameters.items()}
        self._apply(in_flight, delayed=True)
        for name, parameter in self._parameters.items():
            parameter.grad = unfinished.get(name)

    def _apply(self, gradient: DelayedGradient, *, delayed: bool) -> None:
        """One dense update; none without any gradient, because schedules count updates, not steps."""
        view = self._view if self._view is not None and self._view.applied is gradient else None
        gradients = self._gradients_of(gradient) if view is None else view.found()
        if view is not None and self._reduce is not None:
            self._reduce.changed = view.is_changed()
            self._changed_by_job |= self._reduce.changed
        with record_function("dense update: apply"):
            norm, finite = None, True
            if gradients and (self._dense_step.clip_norm is not None or self._skip_nonfinite):
                # Computed anew for a view, because not every change of shown gradients can be detected.
                reduce = gradient.reduce if view is None else None
                norm = total_norm(self._parameters, gradients) if reduce is None else reduce.norm()
                read = self._dense_step.correction.keeps_history
                finite = not self._skip_nonfinite or is_finite(norm, reduce, read=read)
            if gradients and finite is not False:
                there = finite if isinstance(finite, Tensor) else None
                self._dense_step.apply(gradients, norm, updates=self._updates, delayed=delayed, wanted=there)
                self.grad_norm = norm
                for parameter in self._parameters.values() if self._reduce is not None else ():
                    parameter.grad = None  # frees the memory for the next gradient
            else:
                self._dense_step.correction.forget()
            self._updates += bool(gradients)
            self._dropped = self._dropped + (~finite if isinstance(finite, Tensor) else not finite)
        if gradient.reduce is not None:
            gradient.reduce.release()
        if view is not None:
            self._close_view()

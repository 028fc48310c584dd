"""All-reduce of dense gradients that may be waited for one step later.

Buckets start in the same order on every rank, whichever parameters a rank's batch used, so that all ranks issue the
same collectives. They start after the backward, or inside it, each as soon as all of its gradients are there (see
`in_backward`). Gradients are identified by parameter name, so that nothing depends on DDP's buckets, which DDP changes
after its first step.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.profiler import record_function
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from dist_rec.common.choices import Compress
from dist_rec.optim.buckets import Bucket, lay_out
from dist_rec.optim.pending_reduce import PendingReduce
from dist_rec.optim.placeholder import SECOND_GRADIENT, Placeholder, Resolve
from dist_rec.optim.process_groups import host_group_of, own_group, start_all_reduce
from dist_rec.optim.replicated import by_flat, hand_out

# Maps each parameter to the DelayedAllReduce that owns it; weak, because the owner holds the parameter.
_owners = WeakTensorKeyDictionary()


class DelayedAllReduce:
    """Reduces the gradients of `parameters` from every backward that is the last one of its step.

    Call `start()` after the backward: it starts the remaining buckets, sets `p.grad` to None and returns a
    `PendingReduce`, whose `wait()` returns the mean gradients, in the same step or a later one. Several may be pending.
    Between the backward and `start()`, `p.grad` is a `Placeholder`.

    Attributes:
        in_backward: may be set between steps, on all ranks alike. True: a bucket starts inside the backward, so that
            the rest of the backward hides it. Only the step before tells which gradients are not on every rank: where a
            parameter loses its gradient on some of them, its bucket is inside the backward on the others that once, on
            another side of the other groups' collectives there. False: all buckets wait for `start()`, and the order of
            all collectives is the same on every rank, whatever parameters a batch uses.

    Args:
        parameters: name -> parameter, the same names in the same order on every rank.
        group: process group of the all-reduce; by default a new group of all ranks, so that no other collective delays
            it.
        backwards_per_step: number of accumulated backwards; gradients are divided by it and by the number of ranks.
        bucket_cap_mb: largest bucket in MB of gradients.
        compress: `bf16` reduces fp32 gradients in bf16. The rounding error is kept in fp32, the residual, and added to
            the parameter's next gradient (error feedback).
        under_ddp: DDP wraps the parameters. DDP needs `p.grad` until the end of the backward, and fills in missing
            gradients.
        resolve: method that a placeholder calls when it is used: name -> the tensor meant by `p.grad`. By default any
            use raises RuntimeError.

    Memory: buffers as large as the gradients, twice with a step of delay and once without. `p.grad` is freed when its
    bucket starts, so a step of delay needs one more copy of the gradients than training without delay; under DDP, which
    has buckets of its own, two more. `bf16` halves the buffers, but keeps a residual in fp32 as large as the gradients,
    and needs another such copy while gradients are applied. `nbytes` counts buffers and residuals.

    Comm: per step one all-reduce per bucket over `group`, and one of an int32 per parameter between the hosts. These
    flags say which parameters have a gradient; reading them from the device would make every step wait for the device.

    Raises:
        ValueError: if another `DelayedAllReduce` reduces one of the parameters.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        group: dist.ProcessGroup | None = None,
        *,
        backwards_per_step: int = 1,
        bucket_cap_mb: float = 25.0,
        compress: Compress = "none",
        under_ddp: bool = False,
        resolve: Resolve | None = None,
    ) -> None:
        self.group = own_group(group)
        self._host_group = host_group_of(self.group)
        self._world_size = 1 if self.group is None else dist.get_world_size(self.group)
        self._divisor = self._world_size * backwards_per_step
        self._cap_bytes = int(bucket_cap_mb * 1e6)
        self._reduce_dtype = torch.bfloat16 if compress == "bf16" else None
        self._under_ddp = under_ddp
        self._resolve = resolve or weakref.WeakMethod(self._refuse)
        self._placeholders: dict[str, Placeholder] = {}
        self.parameters: dict[str, nn.Parameter] = {}
        self.in_backward = True
        self._hooks: list[RemovableHandle] = []
        self._buckets: list[Bucket] = []
        self._residuals: dict[int, Tensor] = {}  # by index of a bucket
        self._partial: set[str] = set()  # parameters without a gradient on some rank in the last step waited for
        self._pending: PendingReduce | None = None  # of the current step
        self._dropped: list[PendingReduce] = []  # started on all ranks, but their means are not used
        self.shown = False  # p.grad holds the mean gradients that the next step applies
        self.changed = False  # the job changed the last shown gradients, which all ranks or none must do
        self._side_stream: torch.cuda.Stream | None = None  # waits for the collectives
        weakref.finalize(self, _remove, self._hooks)
        self.active = True  # False: the next backward is not the last one of its step
        self.add(parameters)

    def add(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Adds parameters, in new buckets. Call between steps, on every rank. Raises what `check_free` raises, and
        changes nothing then."""
        self.check_free(parameters)
        for name, parameter in parameters.items():
            self.parameters[name] = parameter
            _owners[parameter] = weakref.ref(self)
            self._placeholders[name] = Placeholder.of(name, parameter, self._resolve)
            if parameter.is_leaf:
                self._call_after(parameter, self._on_gradient, name)
        for flat, names in by_flat(parameters):
            self._call_after(flat, self._on_flat_gradient, names)
        for bucket in lay_out(parameters, self._cap_bytes, self._reduce_dtype):
            self._buckets.append(bucket)
            if self._side_stream is None and bucket.device.type == "cuda":
                self._side_stream = torch.cuda.Stream(bucket.device)

    def _call_after(self, leaf: nn.Parameter, method: Callable[[Any, nn.Parameter], None], name: Any) -> None:
        hook = _hook(weakref.WeakMethod(method), name)
        self._hooks.append(leaf.register_post_accumulate_grad_hook(hook))

    def check_free(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Raises ValueError for a known name, or a parameter that another `DelayedAllReduce` reduces."""
        for name, parameter in parameters.items():
            if name in self.parameters:
                raise ValueError(f"{name} is reduced already")
            if parameter in _owners and _owners[parameter]() is not None:
                raise ValueError(f"{name}: another optimizer takes its gradients; close() that one first")

    def close(self) -> None:
        """Releases the parameters: from now on a backward leaves their gradients in `p.grad`."""
        _remove(self._hooks)
        for parameter in self.parameters.values():
            _owners.pop(parameter, None)

    @property
    def nbytes(self) -> int:
        """Memory of buffers and residuals, in bytes."""
        residuals = sum(residual.nbytes for residual in self._residuals.values())
        return sum(bucket.nbytes for bucket in self._buckets) + residuals

    def start(self) -> PendingReduce:
        """Starts the remaining buckets of this step. Call on every rank after its backward, also on a rank without
        data."""
        pending, self._pending = self._current(), None
        while pending.pending_buckets:
            self._start_bucket(pending, pending.pending_buckets.pop(0))
        pending.taken.clear()
        for parameter in self.parameters.values():
            parameter.grad = None
        self._launch(pending)
        return pending

    def wait(self, pending: PendingReduce) -> dict[str, Tensor]:
        """`pending.wait()`, which also shows which parameters some rank had no gradient of. Every rank must wait for
        the same ones between the same steps, because such parameters change the order of the buckets."""
        for dropped in self._dropped:
            dropped.wait()
            dropped.release()
        self._dropped = []
        means = pending.wait()
        self._partial = pending.names.keys() - pending.everywhere
        return means

    def abandon(self, keep: str = "") -> None:
        """Drops the gradients of a backward that gets no step, except the new gradient of the parameter `keep`. Call on
        every rank: other ranks may wait for buckets that have started, so the remaining ones are started too, marked as
        dropped."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        for name in pending.replaced - {keep}:
            self.parameters[name].grad = None
        if self._world_size == 1:
            pending.release()
            return
        pending.dropped = True
        pending.taken.clear()
        new = self.parameters[keep].grad if keep else None
        if keep:
            self.parameters[keep].grad = None
        while pending.pending_buckets:
            self._start_bucket(pending, pending.pending_buckets.pop(0))
        if keep:
            self.parameters[keep].grad = new
        self._launch(pending)
        self._dropped.append(pending)

    @property
    def placeholder_names(self) -> set[str]:
        """Parameters whose gradient of this step was taken and replaced by a placeholder."""
        return set() if self._pending is None else self._pending.replaced

    def overwritten(self) -> dict[str, Tensor | None]:
        """Values of `p.grad` that the job assigned in place of a placeholder without using the placeholder."""
        grads = {name: self.parameters[name].grad for name in self.placeholder_names}
        return {name: grad for name, grad in grads.items() if grad is not self._placeholders[name]}

    def residual(self) -> dict[str, Tensor]:
        """Rounding errors of `compress`, summed over the ranks, by parameter name; zeros before the first step.

        Every rank then keeps an equal share, so that a run continues exactly as one that loads. Comm: one
        all-reduce per compressed bucket.
        """
        found: dict[str, Tensor] = {}
        for index, bucket in self._compressed():
            zeros = torch.zeros(bucket.numel, dtype=bucket.dtype, device=bucket.device)
            residual = self._residuals.setdefault(index, zeros)
            if self._world_size > 1:
                start_all_reduce(residual, self.group).wait()
            found |= {name: view.clone() for name, view in bucket.views(residual)}
            residual.mul_(1.0 / self._world_size)
        return found

    def load_residual(self, totals: Mapping[str, Tensor]) -> None:
        """Goes on from the sums that `residual` returned, on any number of ranks; without a residual if `totals` is
        empty."""
        self._residuals = {}
        for index, bucket in self._compressed() if totals else ():
            total = torch.cat([totals[name].reshape(-1) for name in bucket.parameters])
            self._residuals[index] = total.mul(1.0 / self._world_size)

    def forget(self) -> None:
        """Drops the residuals and wipes free buffers: nothing is left of earlier gradients. Call between steps."""
        for dropped in self._dropped:
            dropped.wait()
            dropped.release()
        self._dropped, self._residuals = [], {}
        for bucket in self._buckets:
            bucket.wipe()

    def _compressed(self) -> list[tuple[int, Bucket]]:
        return [(index, bucket) for index, bucket in enumerate(self._buckets) if bucket.reduce_dtype != bucket.dtype]

    def _current(self) -> PendingReduce:
        """The `PendingReduce` of the current step. A bucket with a partial parameter waits for `start()`: on the rank
        without the gradient it is not complete within the backward, and on every rank it has to leave on the same side
        of the backward's other collectives. All ranks know the same partial parameters."""
        if self._pending is None:
            waits = not self.in_backward
            late = [waits or bool(bucket.parameters.keys() & self._partial) for bucket in self._buckets]
            order = sorted(range(len(late)), key=late.__getitem__)
            self._pending = PendingReduce(self._buckets, order, late=sum(late))
        return self._pending

    def _on_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Called by autograd when the parameter's gradient of this backward is in `p.grad`."""
        if parameter.grad is not None and parameter.grad.layout != torch.strided:
            raise ValueError(f"{name}: its gradient is sparse, expected dense; build the embedding with sparse=False")
        if self.shown or (self._pending is not None and self.active and name in self._pending.complete):
            # A second gradient is an error, unless the job cleared all others itself, as `zero_grad` of a module does.
            if any(p.grad is not None for other, p in self.parameters.items() if other != name):
                raise RuntimeError(f"{name} {SECOND_GRADIENT}")
            self.shown = False
            self.abandon(keep=name)
        pending = self._current()
        pending.ready.add(name)
        if not self.active:
            return
        pending.complete.add(name)
        if self._under_ddp:
            self._replace_after_ddp(pending)
        else:
            self._replace(pending, name)
        order = pending.pending_buckets
        while len(order) > pending.late and self._buckets[order[0]].parameters.keys() <= pending.complete:
            self._start_bucket(pending, order.pop(0))

    def _on_flat_gradient(self, names: list[str], flat: nn.Parameter) -> None:
        """Called by autograd when the gradient of a parameter is there whose slices have these names."""
        hand_out(flat, [self.parameters[name] for name in names])
        for name in names:
            self._on_gradient(name, self.parameters[name])

    def _replace_after_ddp(self, pending: PendingReduce) -> None:
        """Puts in the placeholders at the end of the backward, after DDP has written its gradients back."""
        task = torch._C._current_graph_task_id()
        if task in pending.backwards:
            return
        pending.backwards.append(task)

        def at_the_end() -> None:
            if task != min(pending.backwards):
                return  # a nested backward, as a reentrant checkpoint makes
            for name in pending.complete:
                self._replace(pending, name)

        # DDP queues its own callback during the backward. A callback that is queued by a callback runs after DDP's.
        engine = torch.autograd.Variable._execution_engine
        engine.queue_callback(lambda: engine.queue_callback(at_the_end))

    def _replace(self, pending: PendingReduce, name: str) -> None:
        parameter = self.parameters[name]
        if parameter.grad is not None:
            pending.taken[name] = parameter.grad
            pending.replaced.add(name)
            parameter.grad = self._placeholders[name]

    def _refuse(self, name: str) -> Tensor:
        raise RuntimeError(f"{name}: its gradient is being reduced; expected its use after start() and wait()")

    @torch.no_grad()
    def _start_bucket(self, pending: PendingReduce, index: int) -> None:
        """Packs a bucket, with zeros for gradients that this rank does not have, and starts its all-reduce."""
        bucket = pending.buckets[index]
        with record_function(f"dense all-reduce: start bucket {index}"):
            grads = []
            for name, p in bucket.parameters.items():
                gradient = pending.taken.pop(name, None)
                # Not taken: DDP still needs it, or it comes from an earlier backward of an accumulation.
                gradient = p.grad if gradient is None and (name in pending.ready or not self._under_ddp) else gradient
                pending.present[name] = gradient is not None
                grads.append(p.new_zeros(p.numel()) if gradient is None else gradient.reshape(-1))
            buffer = pending.buffers[index] = bucket.take()
            scale = 1.0 / self._divisor
            if bucket.reduce_dtype == bucket.dtype:
                torch.cat(grads, out=buffer)
                buffer.mul_(scale)
            else:
                residual = self._residuals.get(index)
                self._residuals[index] = _compress(bucket, grads, scale, residual, pending.present, buffer)
            if self._world_size > 1:
                pending.works.append(start_all_reduce(buffer, self.group))

    def _launch(self, pending: PendingReduce) -> None:
        pending.changed, self.changed = self.changed, False
        pending.launch(self.parameters, self._side_stream, self._host_group if self._world_size > 1 else None)


def _hook(method: Callable[[], Callable[[Any, nn.Parameter], None] | None], name: Any) -> Callable[[Tensor], None]:
    """A hook of one parameter that calls a weakly referenced method, so that the parameter does not keep its owner
    alive."""

    def call(parameter: Tensor) -> None:
        if (alive := method()) is not None:
            assert isinstance(parameter, nn.Parameter), "registered on one"
            alive(name, parameter)

    return call


def _remove(hooks: list[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()


def _compress(
    bucket: Bucket,
    grads: list[Tensor],
    scale: float,
    residual: Tensor | None,
    present: Mapping[str, bool],
    buffer: Tensor,
) -> Tensor:
    """Rounds the scaled gradients plus `residual` into `buffer` and returns the new residual, (numel,) in fp32.
    Parameters without a gradient keep their old residual."""
    exact = torch.cat(grads).mul_(scale)
    residual = torch.zeros_like(exact) if residual is None else residual
    exact += residual
    absent = [name for name in bucket.parameters if not present[name]]
    views, old = dict(bucket.views(exact)), dict(bucket.views(residual))
    for name in absent:
        views[name].zero_()
    buffer.copy_(exact)
    # A gradient that is not finite is skipped as a whole; its error must not stay in the residual.
    exact.sub_(buffer).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    for name in absent:
        views[name].copy_(old[name])
    return exact

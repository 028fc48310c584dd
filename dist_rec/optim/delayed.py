"""All-reduce of dense gradients that starts inside the backward and may be waited for a step later.

A bucket leaves as soon as the backward has all of its gradients, and always in the same order on every rank, whatever
parameters its batch happened to use, so that all ranks issue the same collectives. Gradients are kept by parameter name:
nothing depends on how DDP would bucket them, which it changes after its first step.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.profiler import record_function
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from dist_rec.optim.arriving import SECOND_GRADIENT, Arriving, Bring
from dist_rec.optim.buckets import Bucket, lay_out
from dist_rec.optim.groups import host_group_of, own_group

Compress = Literal["none", "bf16"]

# Parameter -> weak reference to the one that takes its gradients: that one holds the parameters, and none would ever be freed.
_taken = WeakTensorKeyDictionary()


class DelayedAllReduce:
    """Takes the gradients of `parameters` from every backward that is the last of its step.

    `start()`, after the backward, sends what has not left yet and returns the step's gradients as a `Flight`. From then on
    `p.grad` is None; the means come back from `Flight.wait()`, now or a step later. Several flights may be under way. Until
    `start()`, `p.grad` of a taken gradient is a stand-in (`Arriving`).

    Args:
        parameters: name -> parameter, the same names in the same order on every rank.
        group: carries the all-reduce; by default a new group of all ranks, so that it queues behind nothing else.
        backwards_per_step: gradients are divided by it (and by the number of ranks), as a mean over accumulated batches.
        bucket_cap_mb: largest bucket in MB of gradients.
        compress: `bf16` sends fp32 gradients in bf16; what the rounding takes away is kept in fp32 and added to the next
            gradient of the parameter (error feedback).
        under_ddp: the parameters are DDP's as well, which wants `p.grad` until the end of the backward and fills in those that
            had none.
        bring: the method that a stand-in calls when it is used: name -> the tensor that is meant by `p.grad`. By default any
            use is an error.

    Memory: two buffers as large as the gradients with a step of delay, one without. `p.grad` is freed as its bucket leaves, so
    that a step of delay costs one gradient more than training needs anyway; under DDP, which keeps its own buckets, two.
    Compression halves the buffers, keeps errors as large as the gradients in fp32 and needs another such copy while they are
    applied. `nbytes` counts buffers and errors.

    Comm: per step one all-reduce per bucket over `group`, and one of an int32 per parameter between the hosts: read from the
    device, the flags that say which parameters have a gradient would make every step wait for it.

    Raises:
        ValueError: for a parameter whose gradients another one takes already.
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
        bring: Bring | None = None,
    ) -> None:
        self.group = own_group(group)
        self._host_group = host_group_of(self.group)
        self._world_size = 1 if self.group is None else dist.get_world_size(self.group)
        self._divisor = self._world_size * backwards_per_step
        self._cap, self._wire = int(bucket_cap_mb * 1e6), torch.bfloat16 if compress == "bf16" else None
        self._under_ddp = under_ddp
        self._bring = bring or weakref.WeakMethod(self._refuse)
        self._stand_ins: dict[str, Arriving] = {}
        self.parameters: dict[str, nn.Parameter] = {}
        self._hooks: list[RemovableHandle] = []
        self._buckets: list[Bucket] = []
        self._errors: dict[int, Tensor] = {}  # by bucket: what compression has withheld so far
        self._idle: set[str] = set()  # without a gradient on any rank, when last heard
        self._flight: Flight | None = None
        self._dropped: list[Flight] = []  # on their way, and nobody waits for them
        self.held = False  # the means stand in `p.grad`, for the job to look at until the step
        self.changed = False  # the job has changed the last ones there, which every rank has to do alike
        self._side: torch.cuda.Stream | None = None  # follows the collectives
        weakref.finalize(self, _remove, self._hooks)
        self.active = True  # False: the next backward is not the last of its step
        self.add(parameters)

    def add(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """More parameters, in buckets of their own; between steps, on every rank alike. Nothing is changed if it raises.

        Raises:
            ValueError: for a name or a parameter that is taken.
        """
        self.check_free(parameters)
        for name, parameter in parameters.items():
            self.parameters[name] = parameter
            _taken[parameter] = weakref.ref(self)
            self._stand_ins[name] = Arriving.of(name, parameter, self._bring)
            self._hooks.append(parameter.register_post_accumulate_grad_hook(_hook(weakref.WeakMethod(self._ready), name)))
        for bucket in lay_out(parameters, self._cap, self._wire):
            self._buckets.append(bucket)
            if self._side is None and bucket.device.type == "cuda":
                self._side = torch.cuda.Stream(bucket.device)

    def check_free(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Raises ValueError for a name or a parameter that is taken."""
        for name, parameter in parameters.items():
            if name in self.parameters:
                raise ValueError(f"{name} is reduced already")
            if parameter in _taken and _taken[parameter]() is not None:
                raise ValueError(f"{name}: another optimizer takes its gradients; close() that one first")

    def close(self) -> None:
        """Lets go of the parameters: their gradients stay where the backward puts them."""
        _remove(self._hooks)
        for parameter in self.parameters.values():
            _taken.pop(parameter, None)

    @property
    def nbytes(self) -> int:
        """Memory of buffers and errors, in bytes."""
        errors = sum(error.nbytes for error in self._errors.values())
        return sum(bucket.nbytes for bucket in self._buckets) + errors

    @property
    def num_buckets(self) -> int:
        return len(self._buckets)

    def _open(self) -> "Flight":
        """This step's flight. Buckets with a parameter that had no gradient lately leave last: they cannot be complete before
        the backward has ended, and must not hold up the others. All ranks have heard the same."""
        if self._flight is None:
            waits = [bool(bucket.parameters.keys() & self._idle) for bucket in self._buckets]
            self._flight = Flight(self._buckets, sorted(range(len(waits)), key=waits.__getitem__))
        return self._flight

    def _ready(self, name: str, parameter: nn.Parameter) -> None:
        """The backward has this parameter's gradient."""
        if parameter.grad is not None and parameter.grad.layout != torch.strided:
            raise ValueError(f"{name}: its gradient is sparse, expected dense; build the embedding with sparse=False")
        if self.held or (self._flight is not None and self.active and name in self._flight.complete):
            # Unless the job has cleared all others in its own way, as `zero_grad` of a module does.
            if any(p.grad is not None for other, p in self.parameters.items() if other != name):
                raise RuntimeError(f"{name} {SECOND_GRADIENT}")
            self.held = False
            self.abandon(keep=name)
        flight = self._open()
        flight.fired.add(name)
        if not self.active:
            return
        flight.complete.add(name)
        if self._under_ddp:
            self._after_ddp(flight)
        else:
            self._stand_in(flight, name)
        while flight.left and self._buckets[flight.left[0]].parameters.keys() <= flight.complete:
            self._send(flight, flight.left.pop(0))

    def _after_ddp(self, flight: "Flight") -> None:
        """Stand-ins take the place of the gradients when DDP has put its own back, at the end of the backward."""
        task = torch._C._current_graph_task_id()
        if task in flight.backwards:
            return
        flight.backwards.append(task)

        def at_the_end() -> None:
            if task != min(flight.backwards):
                return  # a backward inside another one: that of a reentrant checkpoint
            for name in flight.complete:
                self._stand_in(flight, name)

        # DDP queues what it does at the end during the backward, and what is queued at the end comes after that.
        engine = torch.autograd.Variable._execution_engine
        engine.queue_callback(lambda: engine.queue_callback(at_the_end))

    def _stand_in(self, flight: "Flight", name: str) -> None:
        parameter = self.parameters[name]
        if parameter.grad is not None:
            flight.taken[name] = parameter.grad
            flight.stood_in.add(name)
            parameter.grad = self._stand_ins[name]

    @property
    def standing_in(self) -> set[str]:
        """Names of the gradients of this step that were taken and that a stand-in took the place of."""
        return set() if self._flight is None else self._flight.stood_in

    def replaced(self) -> dict[str, Tensor | None]:
        """What somebody has put into `p.grad` in the place of a stand-in, without a look at it."""
        grads = {name: self.parameters[name].grad for name in self.standing_in}
        return {name: grad for name, grad in grads.items() if grad is not self._stand_ins[name]}

    def _refuse(self, name: str) -> Tensor:
        raise RuntimeError(f"{name}: its gradient is on its way; expected its use after start() and wait()")

    @torch.no_grad()
    def _send(self, flight: "Flight", index: int) -> None:
        """A bucket leaves, with zeros where this rank has no gradient."""
        bucket = flight.buckets[index]
        with record_function(f"dense all-reduce: start bucket {index}"):
            grads = []
            for name, p in bucket.parameters.items():
                gradient = flight.taken.pop(name, None)
                # Without one that was taken: of an earlier batch that is being added up, or still in DDP's hands.
                gradient = p.grad if gradient is None and (name in flight.fired or not self._under_ddp) else gradient
                flight.present[name] = gradient is not None
                grads.append(p.new_zeros(p.numel()) if gradient is None else gradient.reshape(-1))
            buffer = flight.buffers[index] = bucket.take()
            if bucket.wire_dtype == bucket.dtype:
                torch.cat(grads, out=buffer)
                buffer.mul_(1.0 / self._divisor)
            else:
                self._errors[index] = _compress(
                    bucket, grads, 1.0 / self._divisor, self._errors.get(index), flight.present, buffer
                )
            if self._world_size > 1:
                flight.works.append(_all_reduce(buffer, self.group))

    def start(self) -> "Flight":
        """Sends the rest of this step's gradients. Call on every rank after its backward, also on one without data."""
        flight, self._flight = self._open(), None
        while flight.left:
            self._send(flight, flight.left.pop(0))
        flight.taken.clear()
        for parameter in self.parameters.values():
            parameter.grad = None
        self._leave(flight)
        return flight

    def land(self, flight: "Flight") -> dict[str, Tensor]:
        """`flight.wait()`, and hears which parameters are idle; every rank lands the same flights between the same steps."""
        for dropped in self._dropped:
            dropped.wait()
            dropped.release()
        self._dropped = []
        means = flight.wait()
        self._idle = flight.names.keys() - means.keys()
        return means

    def abandon(self, keep: str = "") -> None:
        """Forgets gradients of a backward that will have no step, but for one that has just come (`keep`). On every rank alike:
        what has left is waited for elsewhere, so the rest follows, marked as dropped."""
        flight, self._flight = self._flight, None
        if flight is None:
            return
        for name in flight.stood_in - {keep}:
            self.parameters[name].grad = None
        if self._world_size == 1:
            flight.release()
            return
        flight.dropped = True
        flight.taken.clear()
        fresh = self.parameters[keep].grad if keep else None
        if keep:
            self.parameters[keep].grad = None
        while flight.left:
            self._send(flight, flight.left.pop(0))
        if keep:
            self.parameters[keep].grad = fresh
        self._leave(flight)
        self._dropped.append(flight)

    def _leave(self, flight: "Flight") -> None:
        flight.changed, self.changed = self.changed, False
        flight.leave(self.parameters, self._side, self._host_group if self._world_size > 1 else None)

    def withheld(self) -> dict[str, Tensor]:
        """What compression withholds, added up over the ranks, by parameter (zeros where it never rounded). From now
        on each rank withholds an equal share: a run that asks goes on as one that was told. Comm: one all-reduce per
        compressed bucket."""
        found: dict[str, Tensor] = {}
        for index, bucket in self._compressed():
            error = self._errors.setdefault(index, torch.zeros(bucket.numel, dtype=bucket.dtype, device=bucket.device))
            if self._world_size > 1:
                _all_reduce(error, self.group).wait()
            found |= {name: view.clone() for name, view in bucket.views(error)}
            error.mul_(1.0 / self._world_size)
        return found

    def withhold(self, totals: Mapping[str, Tensor]) -> None:
        """Goes on from what `withheld` told, perhaps on another number of ranks; from nothing if it told nothing."""
        self._errors = {}
        for index, bucket in self._compressed() if totals else ():
            self._errors[index] = torch.cat([totals[name].reshape(-1) for name in bucket.parameters]).mul(
                1.0 / self._world_size
            )

    def _compressed(self) -> list[tuple[int, Bucket]]:
        return [(index, bucket) for index, bucket in enumerate(self._buckets) if bucket.wire_dtype != bucket.dtype]


class Flight:
    """One step's gradients, bucket by bucket, until they are given back."""

    def __init__(self, buckets: list[Bucket], order: list[int]) -> None:
        self.buckets, self.left = list(buckets), order
        self.buffers: dict[int, Tensor] = {}
        self.works: list[dist.Work] = []
        self.present: dict[str, bool] = {}  # has this rank a gradient
        self.fired: set[str] = set()
        self.complete: set[str] = set()
        self.taken: dict[str, Tensor] = {}  # gradients of buckets that wait for others
        self.stood_in: set[str] = set()
        self.dropped = self.changed = False
        self.backwards: list[int] = []  # autograd's numbers of this step's backwards, an inner one after the one around it
        self.names: dict[str, None] = {}  # in the order of the parameters
        self._landed: torch.Event | None = None
        self._means: dict[str, Tensor] = {}
        self._norm: Tensor | None = None

    def leave(self, names: Iterable[str], side: "torch.cuda.Stream | None", host_group: dist.ProcessGroup | None) -> None:
        """All buckets are on their way: sends the flags after them and, on a GPU, queues what has to follow the collectives."""
        self.names = dict.fromkeys(name for name in names if name in self.present)
        here = [self.present[name] and not self.dropped for name in self.names]
        self._flags = torch.tensor([*here, self.dropped, self.changed, True], dtype=torch.int32)
        self._flag_work = _all_reduce(self._flags, host_group) if host_group is not None else None
        if side is None:
            return
        # The host learns whether all is finite without waiting for the work that it queues meanwhile.
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for work in self.works:
                work.wait()
            self._means = self._views()
            self._norm = total_norm(self.names, self._means)
            self._host_norm = torch.empty((), dtype=self._norm.dtype, pin_memory=True)
            self._host_norm.copy_(self._norm, non_blocking=True)
            self._landed = side.record_event()

    def wait(self) -> dict[str, Tensor]:
        """Mean gradient by parameter name, views of the buffers; parameters without one on any rank are left out."""
        with record_function("dense all-reduce: wait"):
            if self._landed is not None:
                # Its own event: on the side stream younger flights stand behind it already.
                current = torch.cuda.current_stream()
                current.wait_event(self._landed)
                for made_there in (*self._means.values(), self._norm):
                    assert made_there is not None, "set with the event"
                    made_there.record_stream(current)
            else:
                for work in self.works:
                    work.wait()
                self._means = self._views()
            if self._flag_work is not None:
                self._flag_work.wait()
        *flags, dropped, changed, ranks = self._flags.tolist()
        if dropped not in (0, ranks):
            raise RuntimeError(
                f"zero_grad() between backward() and step() on {dropped} of {ranks} ranks: a gradient is dropped by all ranks "
                "or by none; expected all of them to call it"
            )
        if changed not in (0, ranks):
            raise RuntimeError(
                f"p.grad was changed (clipped, for example) between backward() and step() on {changed} of {ranks} ranks, so "
                "that they have other weights now; a rank without data finds nothing there. Expected clip_norm in its place"
            )
        return {name: self._means[name] for name, flag in zip(self.names, flags, strict=True) if flag > 0}

    def norm(self) -> Tensor:
        """Norm of all mean gradients, after `wait`."""
        return total_norm(self.names, self._means) if self._norm is None else self._norm

    def is_finite(self, norm: Tensor) -> bool:
        """Whether all gradients are, the same on every rank, since the means are. On a GPU the host waits for the end of this
        flight's collectives, not for the work queued behind them."""
        if self._landed is None:
            return bool(norm.isfinite())
        self._landed.synchronize()
        return bool(self._host_norm.isfinite())

    def _views(self) -> dict[str, Tensor]:
        """Of every bucket, in the dtype of its parameters."""
        found: dict[str, Tensor] = {}
        for index, bucket in enumerate(self.buckets):
            found |= dict(bucket.views(self.buffers[index].to(bucket.dtype)))
        return found

    def release(self) -> None:
        """Its buffers may be used again; views of them must not be."""
        for index, buffer in self.buffers.items():
            self.buckets[index].give_back(buffer)


@dataclass
class Pending:
    """A step's gradient that is not applied yet, with what was true when it was computed: on its way, or landed already."""

    flight: Flight | None
    scale: float
    computed_at: dict[str, Tensor] = field(default_factory=dict)
    landed: dict[str, Tensor] | None = None

    def norm(self, names: Iterable[str]) -> Tensor:
        """Of a gradient that has landed, all parameters together."""
        assert self.landed is not None, "its norm is asked for when it is applied"
        return total_norm(names, self.landed) if self.flight is None else self.flight.norm()

    def is_finite(self, norm: Tensor) -> bool:
        """See `Flight.is_finite`."""
        return bool(norm.isfinite()) if self.flight is None else self.flight.is_finite(norm)


def _hook(ready: Callable[[], Callable[[str, nn.Parameter], None] | None], name: str) -> Callable[[Tensor], None]:
    """For one parameter; it does not keep the one that it calls alive."""

    def call(parameter: Tensor) -> None:
        if (alive := ready()) is not None:
            assert isinstance(parameter, nn.Parameter), "registered on one"
            alive(name, parameter)

    return call


def _remove(hooks: list[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()


def total_norm(names: Iterable[str], gradients: Mapping[str, Tensor]) -> Tensor:
    """Norm of all gradients as one vector. A name without one counts as zero, so that the bits do not depend on who knows
    already that a parameter has no gradient."""
    zero = next(iter(gradients.values())).new_zeros(())
    return nn.utils.get_total_norm([gradients.get(name, zero) for name in names])


def _compress(
    bucket: Bucket, grads: list[Tensor], share: float, error: Tensor | None, present: Mapping[str, bool], wire: Tensor
) -> Tensor:
    """Rounds the gradients into `wire`; returns what that withholds, with what was withheld of parameters absent this time."""
    exact = torch.cat(grads).mul_(share)
    error = torch.zeros_like(exact) if error is None else error
    exact += error
    absent = [name for name in bucket.parameters if not present[name]]
    views, owed = dict(bucket.views(exact)), dict(bucket.views(error))
    for name in absent:
        views[name].zero_()
    wire.copy_(exact)
    # A gradient that is not finite is skipped as a whole; its error must not stay for ever.
    exact.sub_(wire).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    for name in absent:
        views[name].copy_(owed[name])
    return exact


def _all_reduce(tensor: Tensor, group: dist.ProcessGroup | None) -> dist.Work:
    work = dist.all_reduce(tensor, group=group, async_op=True)
    assert work is not None, "this rank belongs to the group"
    return work

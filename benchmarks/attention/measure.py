"""Measures one attention case: every peer forward, backward and both, side by side in one run."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.attention.cases import Lengths, Problem, Shape, make_problem
from benchmarks.attention.peers import PEERS, Absent, Attention, ours
from benchmarks.harness import Timing, measure_on_gpu, measure_side_by_side

L2_BYTES = 60 * 2**20
ERROR_REQUESTS = 4  # the float64 truth is computed for the first requests only


@dataclass(frozen=True)
class Ceilings:
    """What this machine does at most: bytes/s of a large copy (read + write), FLOP/s of a large matmul of the same dtype."""

    bandwidth: float
    matmul: float

    def floor(self, problem: Problem, backward: bool) -> float:
        """Least seconds: everything moved once, every useful multiply-add done."""
        return max(problem.bytes(backward) / self.bandwidth, problem.flops(backward) / self.matmul)


@dataclass(frozen=True)
class Line:
    """One peer on one case; `why_not` says why it is absent, and the rest is then None."""

    shape: Shape
    lengths: str
    peer: str
    why_not: str = ""
    prepare: float | None = None  # seconds, once per batch of lengths
    forward: Timing | None = None
    backward: Timing | None = None
    both: Timing | None = None
    floor: tuple[float, float] = (0.0, 0.0)  # forward, backward
    useful: tuple[int, int] = (0, 0)  # FLOP
    extra_bytes: int | None = None  # peak of forward and backward beyond inputs, output and gradients
    error: float | None = None  # largest absolute error of output and gradients against float64
    deterministic: bool | None = None


def measure_ceilings(dtype: torch.dtype = torch.bfloat16) -> Ceilings:
    """The machine's rates; on a CPU smaller, and only good for running the script."""
    on_gpu = torch.cuda.is_available()
    device, size = ("cuda", 8192) if on_gpu else ("cpu", 512)
    a, b = (torch.randn(size, size, device=device).to(dtype if on_gpu else torch.float32) for _ in range(2))
    source = torch.empty(2**30 if on_gpu else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    calls = {"copy": lambda _: target.copy_(source), "matmul": lambda _: a @ b}
    times = _time(calls, on_gpu, repeats=20)
    return Ceilings(2 * source.numel() / times["copy"].p50, 2 * size**3 / times["matmul"].p50)


def measure_case(
    shape: Shape, lengths: Lengths, ceilings: Ceilings, peers: list[str], *, repeats: int, toy: bool
) -> list[Line]:
    """All `peers` on one case, whose inputs rotate until K and V together exceed the L2 cache."""
    on_gpu = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if on_gpu else "cpu"), torch.bfloat16 if on_gpu else torch.float32
    problem = make_problem(shape, lengths, dtype, device)
    copies = 1 if toy else 1 + 2 * L2_BYTES // (problem.k.nbytes + problem.v.nbytes)
    inputs = [_leaves(problem) for _ in range(copies)]
    found: dict[str, Line] = {}
    runs: dict[str, _Runs] = {}
    for name in peers:
        try:
            start = time.perf_counter()
            runs[name] = _Runs(PEERS[name](problem), inputs, problem.grad)
            found[name] = Line(shape, lengths, name, prepare=time.perf_counter() - start)
        except (Absent, torch.OutOfMemoryError, RuntimeError) as error:
            found[name] = Line(shape, lengths, name, why_not=str(error).splitlines()[0][:80])
    timings = {
        part: _time({name: getattr(run, part) for name, run in runs.items()}, on_gpu, repeats)
        for part in ("forward", "backward", "both")
    }
    for name, run in runs.items():
        found[name] = replace(
            found[name],
            **{part: timings[part][name] for part in timings},
            floor=(ceilings.floor(problem, backward=False), ceilings.floor(problem, backward=True)),
            useful=(problem.flops(backward=False), problem.flops(backward=True)),
            extra_bytes=_extra_bytes(run) if on_gpu else None,
            error=_error(PEERS[name], problem, with_gradients=name != "history repeated"),
            deterministic=all(torch.equal(x, y) for x, y in zip(run.both(0), run.both(0))),
        )
    return list(found.values())


class _Runs:
    """The three things that are timed, over rotating inputs."""

    def __init__(self, attention: Attention, inputs: list[tuple[Tensor, ...]], grad: Tensor) -> None:
        self.attention, self.inputs, self.grad = attention, inputs, grad
        self.outputs = [attention(*leaves) for leaves in inputs]

    def forward(self, turn: int) -> Tensor:
        with torch.no_grad():
            return self.attention(*self.inputs[turn % len(self.inputs)])

    def backward(self, turn: int) -> tuple[Tensor, ...]:
        at = turn % len(self.inputs)
        return torch.autograd.grad(self.outputs[at], self.inputs[at], self.grad, retain_graph=True)

    def both(self, turn: int) -> tuple[Tensor, ...]:
        leaves = self.inputs[turn % len(self.inputs)]
        out = self.attention(*leaves)
        return out.detach(), *torch.autograd.grad(out, leaves, self.grad)


def _leaves(problem: Problem) -> tuple[Tensor, ...]:
    return tuple(x.clone().requires_grad_() for x in (problem.q, problem.k, problem.v))


def _time(calls: dict[str, Callable[[int], object]], on_gpu: bool, repeats: int) -> dict[str, Timing]:
    if on_gpu:
        return measure_on_gpu(calls, repeats=repeats)
    return measure_side_by_side({name: partial(call, 0) for name, call in calls.items()}, repeats=repeats, warm_up=1)


def _extra_bytes(run: _Runs) -> int:
    """Peak of one forward and backward beyond its inputs, output and gradients."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = run.both(0)
    return torch.cuda.max_memory_allocated() - before - sum(x.nbytes for x in results)


def _error(make: Callable[[Problem], Attention], problem: Problem, with_gradients: bool) -> float:
    """Largest absolute error over the first requests, output and gradients, against the float64 reference."""
    small = problem.first(ERROR_REQUESTS)
    truth_of = partial(ours, backend="reference")
    exact = replace(small, **{name: getattr(small, name).double() for name in ("q", "k", "v", "grad")})
    results = []
    for make_one, at in ((make, small), (truth_of, exact)):
        leaves = _leaves(at)
        out = make_one(at)(*leaves)
        gradients = torch.autograd.grad(out, leaves, at.grad) if with_gradients else ()
        results.append((out, *gradients))
    return max(float((mine.double() - truth).abs().max()) for mine, truth in zip(*results) if len(truth))

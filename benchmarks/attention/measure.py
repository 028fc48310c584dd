"""Measures one attention case: every peer forward, backward and both, side by side in one run."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.attention.cases import Lengths, Problem, Shape, make_problem
from benchmarks.attention.peers import FORMS, PEERS, ours
from benchmarks.harness import Absent, Timing, measure_on_gpu, measure_side_by_side

ERROR_REQUESTS = 4  # the float64 truth is computed for the first requests only


@dataclass(frozen=True)
class Ceilings:
    """What this machine does at most: bytes/s of a large copy (read + write), FLOP/s of a large matmul of the same
    dtype."""

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
    calls = {"copy": lambda: target.copy_(source), "matmul": lambda: a @ b}
    times = _time(calls, on_gpu, repeats=20)
    return Ceilings(2 * source.numel() / times["copy"].p50, 2 * size**3 / times["matmul"].p50)


def measure_case(shape: Shape, lengths: Lengths, ceilings: Ceilings, peers: list[str], *, repeats: int) -> list[Line]:
    """All `peers` on one case. Whatever goes wrong with a peer is written into its line and stops nobody else."""
    on_gpu = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if on_gpu else "cpu"), torch.bfloat16 if on_gpu else torch.float32
    problem = make_problem(shape, lengths, dtype, device)
    found = {name: Line(shape, lengths, name) for name in peers}
    runs: dict[str, _Run] = {}
    for name in peers:
        try:
            runs[name] = _Run(name, problem)
            found[name] = replace(
                found[name],
                prepare=runs[name].prepare,
                error=_error(name, problem),
                deterministic=runs[name].repeats_bitwise(),
                extra_bytes=_extra_bytes(runs[name]) if on_gpu else None,
            )
        except Exception as error:  # any library may fail in any way; the table says how
            runs.pop(name, None)
            reason = str(error).splitlines()[0][:80] if str(error) else ""
            found[name] = Line(
                shape,
                lengths,
                name,
                why_not=reason if isinstance(error, Absent) else f"{type(error).__name__}: {reason}",
            )
    timings = {
        part: _time({name: getattr(run, part) for name, run in runs.items()}, on_gpu, repeats)
        for part in ("forward", "backward", "both")
    }
    floors = (ceilings.floor(problem, backward=False), ceilings.floor(problem, backward=True))
    useful = (problem.flops(backward=False), problem.flops(backward=True))
    for name in runs:
        found[name] = replace(
            found[name], **{part: timings[part][name] for part in timings}, floor=floors, useful=useful
        )
    return list(found.values())


class _Run:
    """The three things that are timed of one peer, which may need the problem in a form of its own."""

    def __init__(self, name: str, problem: Problem) -> None:
        self.problem = FORMS[name](problem) if name in FORMS else problem
        make = PEERS[name]
        make(self.problem)  # once for what is compiled or loaded at first use
        _wait()
        start = time.perf_counter()
        self.attention = make(self.problem)
        _wait()
        self.prepare = time.perf_counter() - start
        self.leaves = _leaves(self.problem)
        self.output = self.attention(*self.leaves)
        self.both()

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self.attention(*self.leaves)

    def backward(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.output, self.leaves, self.problem.grad, retain_graph=True)

    def both(self) -> tuple[Tensor, ...]:
        out = self.attention(*self.leaves)
        return out.detach(), *torch.autograd.grad(out, self.leaves, self.problem.grad)

    def repeats_bitwise(self, times: int = 5) -> bool:
        first = self.both()
        return all(torch.equal(x, y) for _ in range(times) for x, y in zip(first, self.both()))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _leaves(problem: Problem) -> tuple[Tensor, ...]:
    return tuple(x.clone().requires_grad_() for x in (problem.q, problem.k, problem.v))


def _time(calls: dict[str, Callable[[], object]], on_gpu: bool, repeats: int) -> dict[str, Timing]:
    if on_gpu:
        return measure_on_gpu(calls, repeats=repeats)
    return measure_side_by_side(calls, repeats=repeats, warm_up=1)


def _extra_bytes(run: _Run) -> int:
    """Peak of one forward and backward beyond its inputs, output and gradients."""
    _wait()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = run.both()
    return torch.cuda.max_memory_allocated() - before - sum(x.nbytes for x in results)


def _error(name: str, problem: Problem) -> float:
    """Largest absolute error over the first requests, output and gradients, against the float64 reference."""
    small = problem.first(ERROR_REQUESTS)
    small = FORMS[name](small) if name in FORMS else small
    exact = replace(small, **{part: getattr(small, part).double() for part in ("q", "k", "v", "grad")})
    results = []
    for make, at in ((PEERS[name], small), (partial(ours, backend="reference"), exact)):
        leaves = _leaves(at)
        out = make(at)(*leaves)
        results.append((out, *torch.autograd.grad(out, leaves, at.grad)))
    return max(float((mine.double() - truth).abs().max()) for mine, truth in zip(*results) if len(truth))

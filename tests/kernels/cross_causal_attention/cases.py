"""Random jagged attention problems, and what each row sees, written down a second time.

Legend: B requests, H heads, D head size, m rows of one candidate's group, c candidates of one request.
"""

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.kernels.cross_causal_attention import Backend, cross_causal_attention

Mode = Literal["plain", "groups", "seen", "full"]


@dataclass(frozen=True)
class Request:
    """`events` and `candidates` of one request and how many rows ask, which may be more than there are keys."""

    events: int
    candidates: int
    queries: int


@dataclass(frozen=True)
class Case:
    q: Tensor
    k: Tensor
    v: Tensor
    q_offsets: Tensor
    kv_offsets: Tensor
    options: dict[str, Any]

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.q, self.k, self.v

    def to(self, dtype: torch.dtype) -> "Case":
        return replace(self, q=self.q.to(dtype), k=self.k.to(dtype), v=self.v.to(dtype))

    def run(self, backend: Backend) -> Tensor:
        return cross_causal_attention(*self.inputs, self.q_offsets, self.kv_offsets, backend=backend, **self.options)

    def run_with_gradients(self, backend: Backend) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Output, and gradients of a fixed random weighting of it for q, k and v."""
        leaves = tuple(tensor.detach().requires_grad_() for tensor in self.inputs)
        out = replace(self, q=leaves[0], k=leaves[1], v=leaves[2]).run(backend)
        generator = torch.Generator().manual_seed(1)
        weights = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
        dq, dk, dv = torch.autograd.grad((out * weights).sum(), leaves)
        return out.detach(), dq, dk, dv


def make_case(
    requests: list[Request],
    mode: Mode,
    *,
    group_size: int = 1,
    hide: float = 0.0,
    positions: bool = False,
    seed: int = 0,
    heads: int = 2,
    head_size: int = 4,
) -> Case:
    """float64 problem; `hide` is the share of keys that `key_valid` hides, with `positions` the rows ask from anywhere."""
    generator = torch.Generator().manual_seed(seed)
    grouped = mode in ("groups", "seen")
    keys = [r.events + grouped * r.candidates * group_size for r in requests]
    queries = [r.queries for r in requests]
    options: dict[str, Any] = {"causal": mode != "full"}
    if grouped:
        options |= {"num_candidates": _ints([r.candidates for r in requests]), "group_size": group_size}
    if mode == "seen":
        limits = [int(torch.randint(0, r.events + 1, (), generator=generator)) for r in requests for _ in range(r.candidates)]
        options["seen"] = _ints(limits)
    if positions and mode != "full":
        ends = [n for n, r in zip(keys, requests) for _ in range(r.queries)]
        options["q_positions"] = _ints([int(torch.randint(-1, n, (), generator=generator)) for n in ends])
    if hide:
        options["key_valid"] = torch.rand(sum(keys), generator=generator) >= hide

    def rows(count: int) -> Tensor:
        return torch.randn(count, heads, head_size, generator=generator, dtype=torch.float64)

    offsets = [_ints([0, *accumulate(lengths)]) for lengths in (queries, keys)]
    return Case(rows(sum(queries)), rows(sum(keys)), rows(sum(keys)), *offsets, options)


def _ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small problems of every kind: no request, empty requests, primes, more rows than keys, everything hidden."""
    mode: Mode = draw(st.sampled_from(("plain", "groups", "seen", "full")))
    group_size = draw(st.integers(1, 3))
    sizes = st.sampled_from((0, 1, 2, 3, 5, 8, 13, 17))
    requests = draw(st.lists(st.builds(Request, events=sizes, candidates=st.integers(0, 3), queries=sizes), max_size=6))
    hide = draw(st.sampled_from((0.0, 0.0, 0.5, 1.0)))
    return make_case(
        requests, mode, group_size=group_size, hide=hide, positions=draw(st.booleans()), seed=draw(st.integers(0, 99))
    )


def plain_attention(case: Case) -> Tensor:
    """The docstring of `cross_causal_attention`, one row and one head at a time."""
    out = torch.zeros_like(case.q)
    scale = case.options.get("scale") or case.q.shape[-1] ** -0.5
    for b in range(len(case.q_offsets) - 1):
        first_q, end_q = case.q_offsets[b : b + 2].tolist()
        first_key = int(case.kv_offsets[b])
        for row in range(first_q, end_q):
            keys = [first_key + j for j in visible_keys_of(case, b, row)]
            for head in range(case.q.shape[1] if keys else 0):
                scores = torch.stack([case.q[row, head].dot(case.k[j, head]) * scale for j in keys])
                weights = scores.exp() / scores.exp().sum()
                out[row, head] = sum(w * case.v[j, head] for w, j in zip(weights, keys))
    return out


def visible_keys_of(case: Case, b: int, row: int) -> list[int]:
    """Key positions within request b that a packed query row sees."""
    options = case.options
    num_keys = int(case.kv_offsets[b + 1] - case.kv_offsets[b])
    valid = [
        j for j in range(num_keys) if options.get("key_valid") is None or options["key_valid"][int(case.kv_offsets[b]) + j]
    ]
    if not options["causal"]:
        return valid
    if options.get("q_positions") is None:
        p = num_keys - (int(case.q_offsets[b + 1]) - row)  # the last row stands on the last key
    else:
        p = int(options["q_positions"][row])
    if options.get("num_candidates") is None:
        return [j for j in valid if j <= p]
    m, counts = options["group_size"], options["num_candidates"].tolist()
    events = num_keys - counts[b] * m
    if p < events:
        return [j for j in valid if j <= p]
    candidate = (p - events) // m
    limit = events if options.get("seen") is None else int(options["seen"][sum(counts[:b]) + candidate])
    own_group = range(events + candidate * m, p + 1)
    return [j for j in valid if j < limit or j in own_group]

"""Random jagged attention problems, what each row sees, written down a second time, and plain maths in the same
precision.

Legend: B requests, H heads, D head size, m rows of one candidate's group, c candidates of one request.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal
from unittest import mock

import torch
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.kernels.cross_causal_attention import Backend, Mask, cross_causal_attention, op, tuning
from tests.helpers.closeness import assert_close_to_truth, farthest

Mode = Literal["plain", "groups", "prefix", "full"]
MODES: tuple[Mode, ...] = ("plain", "groups", "prefix", "full")
BLOCK = 64  # keys that the kernels take at a time in fp16; in fp32 a divisor of it
# Where "triton" runs; without a GPU that is Triton's interpreter.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


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

    def __repr__(self) -> str:
        """Sizes, not numbers: those follow from the seed."""
        sizes = f"q {tuple(self.q.shape)}, k {tuple(self.k.shape)}, {self.q.dtype}"
        return f"Case({sizes}, {self.q_offsets.tolist()}, {self.kv_offsets.tolist()}, {sorted(self.options)})"

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.q, self.k, self.v

    @property
    def most_rows(self) -> int:
        """The tightest `max_q_len`."""
        return int(self.q_offsets.diff().max()) if len(self.q_offsets) > 1 else 0

    @property
    def scale(self) -> float:
        return self.options.get("scale") or self.q.shape[-1] ** -0.5

    def to(self, dtype: torch.dtype) -> "Case":
        return replace(self, q=self.q.to(dtype), k=self.k.to(dtype), v=self.v.to(dtype))

    def on(self, device: torch.device | str) -> "Case":
        options = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in self.options.items()
        }
        return Case(*(x.to(device) for x in (*self.inputs, self.q_offsets, self.kv_offsets)), options)

    def only(self, b: int) -> "Case":
        """Request b without the others."""
        (first_q, end_q), (first_key, end_key) = (x[b : b + 2].tolist() for x in (self.q_offsets, self.kv_offsets))
        rows, keys = slice(first_q, end_q), slice(first_key, end_key)
        parts = {"q_positions": rows, "key_valid": keys, "num_candidates": slice(b, b + 1)}
        if "num_candidates" in self.options:
            end = int(self.options["num_candidates"][: b + 1].sum())
            parts["prefix_len"] = slice(end - int(self.options["num_candidates"][b]), end)
        options = {name: x[parts[name]] if name in parts else x for name, x in self.options.items()}
        offsets = (_ints([0, end_q - first_q]), _ints([0, end_key - first_key]))
        return Case(self.q[rows], self.k[keys], self.v[keys], *offsets, options)

    def operands(self, max_q_len: int | None = None) -> tuple[Any, ...]:
        """The arguments of the custom op `attend`, in its order."""
        mask = Mask(**{name: value for name, value in self.options.items() if name != "scale"})
        layout = [self.q_offsets, self.kv_offsets, *mask.tensors]
        return *self.inputs, layout, mask.causal, mask.group_size, self.scale, max_q_len

    def run(self, backend: Backend, **options: Any) -> Tensor:
        case = self.on(DEVICE) if backend == "triton" else self
        options = case.options | options
        out = cross_causal_attention(*case.inputs, case.q_offsets, case.kv_offsets, backend=backend, **options)
        return out.to(self.q.device)

    def run_with_gradients(self, backend: Backend, **options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Output, and gradients of a fixed random weighting of it for q, k and v."""
        leaves = tuple(tensor.detach().requires_grad_() for tensor in self.inputs)
        out = replace(self, q=leaves[0], k=leaves[1], v=leaves[2]).run(backend, **options)
        dq, dk, dv = torch.autograd.grad((out * output_weights(out)).sum(), leaves)
        return out.detach(), dq, dk, dv


def output_weights(out: Tensor) -> Tensor:
    """The gradient that `run_with_gradients` sends in: the same numbers in every dtype."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return weights.to(torch.bfloat16).to(out.dtype)


def make_case(
    requests: list[Request],
    mode: Mode,
    *,
    group_size: int = 1,
    hide: float = 0.0,
    positions: bool = False,
    seed: int = 0,
    heads: int | tuple[int, int] = 2,
    head_size: int = 4,
) -> Case:
    """float64 problem; `hide` is the share of keys that `key_valid` hides, with `positions` the rows ask from anywhere,
    two numbers of heads are those of queries and of keys and values."""
    generator = torch.Generator().manual_seed(seed)
    grouped = mode in ("groups", "prefix")
    keys = [r.events + grouped * r.candidates * group_size for r in requests]
    queries = [r.queries for r in requests]
    options: dict[str, Any] = {"causal": mode != "full"}
    if grouped:
        options |= {"num_candidates": _ints([r.candidates for r in requests]), "group_size": group_size}
    if mode == "prefix":
        limits = [
            int(torch.randint(0, r.events + 1, (), generator=generator)) for r in requests for _ in range(r.candidates)
        ]
        options["prefix_len"] = _ints(limits)
    if positions and mode != "full":
        ends = [n for n, r in zip(keys, requests) for _ in range(r.queries)]
        options["q_positions"] = _ints([int(torch.randint(-1, n, (), generator=generator)) for n in ends])
    if hide:
        options["key_valid"] = torch.rand(sum(keys), generator=generator) >= hide
    q_heads, kv_heads = heads if isinstance(heads, tuple) else (heads, heads)

    def rows(count: int, of: int) -> Tensor:
        return torch.randn(count, of, head_size, generator=generator, dtype=torch.float64)

    offsets = [_ints([0, *accumulate(lengths)]) for lengths in (queries, keys)]
    return Case(rows(sum(queries), q_heads), rows(sum(keys), kv_heads), rows(sum(keys), kv_heads), *offsets, options)


def _ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small problems of every kind: no request, empty requests, primes, more rows than keys, everything hidden."""
    mode = draw(st.sampled_from(MODES))
    group_size = draw(st.integers(1, 3))
    sizes = st.sampled_from((0, 1, 2, 3, 5, 8, 13, 17))
    requests = draw(st.lists(st.builds(Request, events=sizes, candidates=st.integers(0, 3), queries=sizes), max_size=6))
    hide = draw(st.sampled_from((0.0, 0.0, 0.5, 1.0)))
    heads = draw(st.sampled_from(((2, 2), (2, 1), (4, 2))))
    positions, seed = draw(st.booleans()), draw(st.integers(0, 99))
    return make_case(requests, mode, group_size=group_size, hide=hide, positions=positions, seed=seed, heads=heads)


@st.composite
def tiled_cases(draw: st.DrawFn) -> Case:
    """Problems around the sizes of tiles, in fp32 or fp16 (the numbers fit fp16 either way).

    An ordinary request is always in the batch: its errors set the scale, where the others may happen to be exact.
    """
    lengths = st.sampled_from((0, 1, 2, 7, 15, 16, 17, BLOCK - 1, BLOCK, BLOCK + 1, 97))
    rows = st.sampled_from((0, 1, 2, 7, 15, 16, 17, 31, 33))
    others = draw(st.lists(st.builds(Request, events=lengths, candidates=st.integers(0, 4), queries=rows), max_size=2))
    place = draw(st.integers(0, len(others)))
    requests = [*others[:place], Request(35, 3, 19), *others[place:]]
    case = make_case(
        requests,
        draw(st.sampled_from(MODES)),
        group_size=draw(st.sampled_from((1, 2, 5))),
        hide=draw(st.sampled_from((0.0, 0.0, 0.3))),
        positions=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
        heads=draw(st.sampled_from(((1, 1), (2, 1), (3, 1), (2, 2)))),
        head_size=draw(st.sampled_from((8, 16, 24, 32, 48))),
    )
    return case.to(torch.float16).to(draw(st.sampled_from((torch.float32, torch.float16))))


def plain_attention(case: Case) -> Tensor:
    """The docstring of `cross_causal_attention`, one row and one head at a time."""
    out = torch.zeros_like(case.q)
    group = case.q.shape[1] // case.k.shape[1]
    for b in range(len(case.q_offsets) - 1):
        first_q, end_q = case.q_offsets[b : b + 2].tolist()
        first_key = int(case.kv_offsets[b])
        for row in range(first_q, end_q):
            keys = [first_key + j for j in visible_keys_of(case, b, row)]
            for head in range(case.q.shape[1] if keys else 0):
                k, v = case.k[keys, head // group], case.v[keys, head // group]
                scores = torch.stack([case.q[row, head].dot(key) * case.scale for key in k])
                weights = scores.exp() / scores.exp().sum()
                out[row, head] = sum(w * value for w, value in zip(weights, v))
    return out


@dataclass(frozen=True)
class Plain:
    """What `plain_autograd` computes: `out` and gradients in the dtype of the case; of every row and head in fp32, or
    float64 for a float64 case, `peak`, the largest score (base 2), `total`, the sum of weights relative to it, their
    mean of dO v."""

    out: Tensor
    dq: Tensor
    dk: Tensor
    dv: Tensor
    peak: Tensor
    total: Tensor
    delta: Tensor

    @property
    def log_sum(self) -> Tensor:
        return self.peak + self.total.log2()

    @property
    def results(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `Case.run_with_gradients` returns them."""
        return self.out, self.dq, self.dk, self.dv


def plain_autograd(case: Case, shuffle: torch.Generator | None = None) -> Plain:
    """Softmax attention by PyTorch's autograd in the dtype of the case, whole matrices at a time: plain maths to
    compare with.

    The reference is not that in 16 bits: it computes in fp32 and rounds once at the end. `shuffle` draws the orders in
    which the elements of a head, the keys and the rows of a request are added up, which changes nothing but rounding.
    """
    order = _order(case.q.shape[2], shuffle)
    leaves = tuple(x.detach().requires_grad_() for x in case.inputs)
    do = output_weights(case.q)
    shuffled = replace(case, **{name: x[..., order] for name, x in zip("qkv", leaves)})
    requests = [_plain_request(shuffled, do[..., order], b, shuffle) for b in range(len(case.q_offsets) - 1)]
    assert requests, "a batch without a request has nothing to compare"
    out, *statistics = (torch.cat(parts) for parts in zip(*requests))
    out = out[..., order.argsort()]
    return Plain(out.detach(), *torch.autograd.grad((out * do).sum(), leaves), *statistics)


def _order(count: int, shuffle: torch.Generator | None) -> Tensor:
    return torch.arange(count) if shuffle is None else torch.randperm(count, generator=shuffle)


def assert_true(case: Case, got: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """Output and gradients are as close to the truth as plain softmax attention and its derivative by autograd."""
    plain = [p.results for p in plain_in_orders(case)]
    for mine, truth, *rough in zip(got, truth_of(case), *plain):
        assert_close_to_truth(mine, truth, farthest(rough, truth))


def plain_in_orders(case: Case) -> list[Plain]:
    """Plain maths in the order of the inputs and in a few others, for `farthest` to choose from: where few rows see few
    keys, the error of a single one is zero by luck now and then."""
    shuffle = torch.Generator().manual_seed(2)
    return [plain_autograd(case), *(plain_autograd(case, shuffle) for _ in range(8))]


def _plain_request(
    case: Case, do: Tensor, b: int, shuffle: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, `peak`, `total` and `delta` of one request; h heads of keys, i rows, j keys, d elements of a head.

    Query heads that share a head of keys are rows of it, so that a gradient of K or V is one sum over all of them: a
    sum of sums, head by head, rounds less than the one sum that fewer reads of K and V ask for.
    """
    group = case.q.shape[1] // case.k.shape[1]
    (first_q, end_q), (first_key, end_key) = (x[b : b + 2].tolist() for x in (case.q_offsets, case.kv_offsets))
    rows, keys = _order((end_q - first_q) * group, shuffle), _order(end_key - first_key, shuffle)
    q, do = (x[first_q:end_q].unflatten(1, (-1, group)).transpose(1, 2).flatten(0, 1)[rows] for x in (case.q, do))
    k, v = (x[first_key:end_key][keys] for x in (case.k, case.v))
    visible = torch.zeros(end_q - first_q, end_key - first_key, dtype=torch.bool)
    for row in range(end_q - first_q):
        visible[row, visible_keys_of(case, b, first_q + row)] = True
    visible = visible.repeat_interleave(group, dim=0)[rows][:, keys]
    sighted = visible.any(1, keepdim=True)

    def scores(q: Tensor, k: Tensor) -> Tensor:
        """A row that sees nothing keeps finite scores, which softmax can take; its weights become zero."""
        return (torch.einsum("ihd,jhd->hij", q, k) * case.scale).masked_fill(~visible & sighted, float("-inf"))

    def by_query_head(x: Tensor) -> Tensor:
        """(i, h, ...) to (rows of the request, query heads, ...), in their order again."""
        return x[rows.argsort()].unflatten(0, (-1, group)).transpose(1, 2).flatten(1, 2)

    weights = scores(q, k).softmax(-1).masked_fill(~visible, 0.0)
    out = torch.einsum("hij,jhd->ihd", weights, v)
    with torch.no_grad():
        q, k, v, do = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v, do))
        s = scores(q, k).masked_fill(~visible, float("-inf"))
        peak = torch.cat([s, s.new_full((*s.shape[:2], 1), float("-inf"))], -1).amax(-1)  # a maximum over no key
        e = (s - peak.nan_to_num(neginf=0.0).unsqueeze(-1)).exp()
        total = e.sum(-1)
        p = e / total.where(total > 0, 1.0).unsqueeze(-1)
        delta = (p * torch.einsum("ihd,jhd->hij", do, v)).sum(-1)
    statistics = (by_query_head(x.T) for x in (peak * 1.4426950408889634, total, delta))  # log2(e)
    return by_query_head(out), *statistics


def truth_of(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output and gradients by the reference, in float64."""
    return case.to(torch.float64).run_with_gradients("reference")


@contextmanager
def keys_in_pieces(length: int = BLOCK) -> Iterator[None]:
    """As on a GPU that is larger than the batch: it has many processors, and the keys are cut into pieces of this
    length."""
    sizes = mock.patch.multiple(tuning, SPLIT_KEYS=length, piece_keys=lambda _: length)
    with mock.patch.object(op, "_processors", lambda _: 1000), sizes:
        yield


@contextmanager
def launches() -> Iterator[list[Any]]:
    """Collects the kernels of the operator in the order in which they are launched."""
    found = []
    real = op._Call.launch

    def launch(call: Any, kernel: Any, *arguments: Any) -> None:
        found.append(kernel)
        real(call, kernel, *arguments)

    with mock.patch.object(op._Call, "launch", launch):
        yield found


@contextmanager
def poisoned_memory(value: float = float("nan")) -> Iterator[None]:
    """What `torch.empty` and `torch.empty_like` hand out holds `value`, so that reading before writing shows.

    Only floats: an index that was never written would be read through as an address.
    """

    def poison(make: Any) -> Any:
        def made(*arguments: Any, **options: Any) -> Tensor:
            tensor = make(*arguments, **options)
            return tensor.fill_(value) if tensor.is_floating_point() else tensor

        return made

    with mock.patch.multiple(torch, empty=poison(torch.empty), empty_like=poison(torch.empty_like)):
        yield


def visible_keys_of(case: Case, b: int, row: int) -> list[int]:
    """Key positions within request b that a query row sees."""
    options = case.options
    first_key, end_key = case.kv_offsets[b : b + 2].tolist()
    num_keys = end_key - first_key
    valid = list(range(num_keys))
    if options.get("key_valid") is not None:
        valid = [j for j, is_valid in enumerate(options["key_valid"][first_key:end_key].tolist()) if is_valid]
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
    limit = events if options.get("prefix_len") is None else int(options["prefix_len"][sum(counts[:b]) + candidate])
    own_group = range(events + candidate * m, p + 1)
    return [j for j in valid if j < limit or j in own_group]

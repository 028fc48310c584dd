"""What a user would call instead, each with the same packed inputs and the same result.

Every peer is a function of a problem that gives a callable (q, k, v) -> (sum_q, H, d), or raises `Absent` with the
reason why it cannot run here. What has to be prepared once per batch of lengths (a block mask, a padded index) is
prepared outside the callable and timed apart."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.attention.cases import Problem
from benchmarks.harness import Absent
from dist_rec.kernels.common.backend import is_interpreted
from dist_rec.kernels.cross_causal_attention import Backend, cross_causal_attention

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(problem: Problem, backend: Backend = "triton", promise: bool = True) -> Attention:
    """The fused kernel; with `promise`, the caller says how many rows a request has at most. On a CPU it is
    interpreted."""
    groups = {"num_candidates": problem.num_candidates, "group_size": problem.shape.group_size}
    options = groups if problem.num_candidates is not None else {}

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return cross_causal_attention(
            q,
            k,
            v,
            problem.q_offsets,
            problem.kv_offsets,
            causal=problem.shape.causal,
            max_q_len=problem.max_q if promise else None,
            backend=backend,
            **options,
        )

    return run


def varlen(problem: Problem) -> Attention:
    """torch's FlashAttention-2 on packed rows."""
    _needs_cuda(problem)
    _needs_no_groups(problem)
    from torch.nn.attention.varlen import varlen_attn

    window = (-1, 0) if problem.shape.causal else (-1, -1)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = varlen_attn(
            q, k, v, problem.q_offsets, problem.kv_offsets, problem.max_q, problem.max_kv, window_size=window
        )
        assert isinstance(out, Tensor)
        return out

    return run


def flash4(problem: Problem) -> Attention:
    """FlashAttention-4 (CuTe), if its wheels are here."""
    _needs_cuda(problem)
    _needs_no_groups(problem)
    if find_spec("flash_attn") is None or find_spec("flash_attn.cute") is None:
        raise Absent("flash-attn-4 is not installed")
    from flash_attn.cute import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = flash_attn_varlen_func(
            q,
            k,
            v,
            cu_seqlens_q=problem.q_offsets,
            cu_seqlens_k=problem.kv_offsets,
            max_seqlen_q=problem.max_q,
            max_seqlen_k=problem.max_kv,
            causal=problem.shape.causal,
        )
        return out[0] if isinstance(out, tuple) else out

    return run


def fbgemm(problem: Problem) -> Attention:
    """FBGEMM's jagged attention for several heads in Triton (fbgemm_gpu.sll): a request attends to itself, and every
    row sees every key; it has no causal mask.

    Scores are not scaled, the softmax is divided by the longest length, and rows are (H, rows, d): the scale goes into
    q, the length out of the result, and copies of q, k, v are in the time."""
    _needs_no_groups(problem)
    if problem.shape.causal:
        raise Absent("has no causal mask")
    if not torch.equal(problem.q_offsets, problem.kv_offsets):
        raise Absent("needs as many rows as keys")
    if find_spec("fbgemm_gpu") is None:
        raise Absent("fbgemm-gpu is not installed")
    if problem.q.device.type != "cuda" and not is_interpreted():
        raise Absent("needs CUDA")
    from fbgemm_gpu.sll.triton.triton_multi_head_jagged_flash_attention import multi_head_jagged_flash_attention

    scale, longest = problem.shape.head_size**-0.5, problem.max_kv

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = [x.transpose(0, 1) for x in (q * scale, k, v)]
        out = multi_head_jagged_flash_attention(*heads, problem.q_offsets, longest, allow_tf32=False)
        return out.transpose(0, 1) * longest

    return run


def flex(problem: Problem) -> Attention:
    """FlexAttention, compiled, over the packed batch with a document mask. Building the mask happens here."""
    _needs_cuda(problem)
    _needs_no_groups(problem)
    from torch._functorch import config as functorch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q_lengths, kv_lengths = problem.q_offsets.diff(), problem.kv_offsets.diff()
    requests = torch.arange(len(q_lengths), device=problem.q.device)
    q_owner, kv_owner = requests.repeat_interleave(q_lengths), requests.repeat_interleave(kv_lengths)
    rows, keys = (torch.arange(len(owner), device=owner.device) for owner in (q_owner, kv_owner))
    # Positions counted from the end of the request, so that the last row stands on the last key.
    q_from_end, kv_from_end = problem.q_offsets[1:][q_owner] - rows, problem.kv_offsets[1:][kv_owner] - keys
    causal = problem.shape.causal

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        same = q_owner[i] == kv_owner[j]
        return same & (kv_from_end[j] >= q_from_end[i]) if causal else same

    torch.compiler.reset()  # else shapes of earlier cases make this one dynamic
    functorch.donated_buffer = False  # the backward is timed again and again
    device = str(problem.q.device)
    mask = torch.compile(create_block_mask)(visible, None, None, len(rows), len(keys), device=device)
    compiled = torch.compile(flex_attention)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batched = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        return compiled(*batched, block_mask=mask)[0].transpose(0, 1)

    return run


def padded(problem: Problem) -> Attention:
    """Padding to the longest request, one SDPA call, and back: what most code does."""
    index = _Padding(problem)
    mask: Any = index.mask
    if bool(index.is_row.all() & index.is_key.all()) and problem.num_candidates is None:
        # Nothing is padded: the forms that torch can give to its flash kernel.
        mask = causal_lower_right(problem.max_q, problem.max_kv) if problem.shape.causal else None

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        queries, keys, values = index.pad_rows(q), index.pad_keys(k), index.pad_keys(v)
        return index.pack_rows(scaled_dot_product_attention(queries, keys, values, attn_mask=mask))

    return run


def eager(problem: Problem) -> Attention:
    """Padding, then the softmax written out; holds every score in memory."""
    index = _Padding(problem)
    scores = len(problem.q_offsets) * problem.shape.heads * problem.max_q * problem.max_kv
    if scores * 4 > 16 * 2**30:
        raise Absent(f"scores alone would take {scores * 4 / 2**30:.0f} GiB")
    scale = problem.shape.head_size**-0.5

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = index.pad_rows(q) @ index.pad_keys(k).transpose(-1, -2) * scale
        weights = scores.masked_fill(~index.mask, float("-inf")).softmax(-1)
        return index.pack_rows(weights @ index.pad_keys(v))

    return run


def repeat_history(problem: Problem) -> Problem:
    """Several candidates the usual way: one request per candidate, each with a copy of the history. Copying is not
    timed."""
    if problem.num_candidates is None:
        raise Absent("one candidate per request")
    c, m = problem.shape.candidates, problem.shape.group_size
    q_rows, kv_rows = (_repeat_groups(offsets, c, m) for offsets in (problem.q_offsets, problem.kv_offsets))
    lengths = [
        (offsets.diff() - (c - 1) * m).repeat_interleave(c) for offsets in (problem.q_offsets, problem.kv_offsets)
    ]
    q_offsets, kv_offsets = (torch.nn.functional.pad(x.cumsum(0), (1, 0)).int() for x in lengths)
    tensors = {
        name: getattr(problem, name)[rows]
        for name, rows in (("q", q_rows), ("grad", q_rows), ("k", kv_rows), ("v", kv_rows))
    }
    longest = {"max_q": problem.max_q - (c - 1) * m, "max_kv": problem.max_kv - (c - 1) * m}
    return replace(problem, **tensors, **longest, q_offsets=q_offsets, kv_offsets=kv_offsets, num_candidates=None)


PEERS: dict[str, Callable[[Problem], Attention]] = {
    "dist_rec": ours,
    "dist_rec, rows not promised": lambda problem: ours(problem, promise=False),
    "varlen_attn (FA2)": varlen,
    "FlexAttention": flex,
    "FlashAttention-4": flash4,
    "FBGEMM jagged": fbgemm,
    "padded SDPA": padded,
    "eager": eager,
    "history repeated": ours,
}
# Peers that take the problem in a form of their own.
FORMS: dict[str, Callable[[Problem], Problem]] = {"history repeated": repeat_history}


def _repeat_groups(offsets: Tensor, candidates: int, group_size: int) -> Tensor:
    """Index into packed rows: for every request and candidate, its event rows and the candidate's own group."""
    found = []
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist()):
        groups = end - candidates * group_size
        for c in range(candidates):
            found += [torch.arange(start, groups), groups + c * group_size + torch.arange(group_size)]
    return torch.cat(found).to(offsets.device)


class _Padding:
    """Places of packed rows in a padded batch, and its mask (B, 1, q, n) bool."""

    def __init__(self, problem: Problem) -> None:
        q_lengths, kv_lengths = problem.q_offsets.diff(), problem.kv_offsets.diff()
        device = q_lengths.device
        i, j = torch.arange(problem.max_q, device=device), torch.arange(problem.max_kv, device=device)
        self.is_row, self.is_key = i < q_lengths[:, None], j < kv_lengths[:, None]
        self.row_place, self.key_place = (real.flatten().nonzero()[:, 0] for real in (self.is_row, self.is_key))
        position = i + (kv_lengths - q_lengths)[:, None]
        self.mask = self.is_key[:, None, :].expand(-1, problem.max_q, -1)
        if problem.shape.causal:
            visible = j <= position[:, :, None]
            if problem.num_candidates is not None:
                m = problem.shape.group_size
                events = (kv_lengths - problem.num_candidates * m)[:, None, None]
                own = (position[:, :, None] - events).div(m, rounding_mode="floor") * m + events
                visible &= (j < events) | (j >= own)
            self.mask = self.mask & visible
        self.mask = (self.mask | ~self.is_row[:, :, None]).unsqueeze(1)  # padding rows see all: no division by zero

    def pad_rows(self, x: Tensor) -> Tensor:
        return self._pad(x, self.is_row, self.row_place)

    def pad_keys(self, x: Tensor) -> Tensor:
        return self._pad(x, self.is_key, self.key_place)

    def pack_rows(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(0, 1)[self.row_place]

    @staticmethod
    def _pad(x: Tensor, real: Tensor, place: Tensor) -> Tensor:
        flat = x.new_zeros(real.numel(), *x.shape[1:]).index_copy(0, place, x)
        return flat.unflatten(0, real.shape).transpose(1, 2)


def _needs_cuda(problem: Problem) -> None:
    if problem.q.device.type != "cuda":
        raise Absent("needs CUDA")


def _needs_no_groups(problem: Problem) -> None:
    if problem.num_candidates is not None:
        raise Absent("has no mask for several candidates")

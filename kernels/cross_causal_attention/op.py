"""The fused operator in PyTorch: a custom op with a fake form and an autograd formula, and the launches behind it.

Legend: H query heads, H_kv key-value heads, G = H / H_kv.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dist_rec.kernels.common.backend import on
from dist_rec.kernels.common.eager import function_of, is_eager, is_eager_backward
from dist_rec.kernels.common.launch import launch
from dist_rec.kernels.cross_causal_attention import tuning
from dist_rec.kernels.cross_causal_attention.backward_one_pass import backward_one_pass, sum_parts
from dist_rec.kernels.cross_causal_attention.backward_two_pass import backward_keys, backward_queries
from dist_rec.kernels.cross_causal_attention.forward import combine, forward
from dist_rec.kernels.cross_causal_attention.mask import Mask
from dist_rec.kernels.cross_causal_attention.row_statistics import row_statistics
from dist_rec.kernels.cross_causal_attention.work_list import WorkList, clear_tails, make_work_list, sound_offsets

COMBINED_ROWS = 16  # rows that one program of `combine` joins


def fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    q_offsets: Tensor,
    kv_offsets: Tensor,
    mask: Mask,
    scale: float,
    max_q_len: int | None,
) -> Tensor:
    """See `cross_causal_attention`."""
    layout = [q_offsets, kv_offsets, *mask.tensors]
    run = _eager if is_eager(q, k, *(() if v is None else (v,))) else attend
    return run(q, k, v, layout, mask.causal, mask.group_size, scale, max_q_len)[0]


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    layout: Sequence[Tensor | None],
    causal: bool,
    group_size: int,
    scale: float,
    max_q_len: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output (sum_q, H, D) like q; per row and head, (sum_q, H) fp32, the largest score times log2(e) and the sum of
    2^(score - largest). The log-sum-exp is `peak + log2(total)`, -inf for a row without a visible key (total 0).

    Args:
        v: None if `k` (sum_kv, 2 H_kv, D) holds both, the heads of the keys first.
        layout: `q_offsets`, `kv_offsets` and `Mask.tensors`.
    """
    call = _Call(q, k, v, layout, causal, group_size, scale, max_q_len)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    peak, total = (torch.empty(q.shape[:2], dtype=torch.float32, device=q.device) for _ in range(2))
    with on(q.device):
        if len(q) and call.batch:
            _run_forward(call, {"OUT": out, "PEAK": peak, "TOTAL": total})
        clear_tails(call.q_offsets, call.broken, out)
    return out, peak, total


attend = torch.library.custom_op("dist_rec::cross_causal_attention", _attend, mutates_args=())


@attend.register_fake
def _(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    peak, total = (q.new_empty(q.shape[:2], dtype=torch.float32) for _ in range(2))
    return q.new_empty(q.shape), peak, total


def _attend_backward(
    grad: Tensor,
    inputs: Sequence[Tensor],
    results: Sequence[Tensor],
    layout: Sequence[Tensor | None],
    causal: bool,
    group_size: int,
    scale: float,
    max_q_len: int | None,
) -> list[Tensor]:
    """Gradients of `attend` for its inputs (q, k, v), or (q, k) if k holds both; contiguous. `results` are what it
    returned."""
    q, k, *v = inputs
    call = _Call(q, k, v[0] if v else None, layout, causal, group_size, scale, max_q_len)
    gradients = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in inputs]
    if len(q) == 0 or call.batch == 0:
        return [gradient.zero_() for gradient in gradients]
    dq, *by_key = gradients
    dk, dv = by_key if v else by_key[0].chunk(2, dim=1)
    run = _run_two_pass if call.tiles.one_pass is None else _run_one_pass
    known: dict[str, Any] = dict(zip(("OUT", "PEAK", "TOTAL"), results))
    known |= {"DO": grad.contiguous(), "DQ": dq, "DK": dk, "DV": dv, "SHARED": 1 if v else 2}
    with on(q.device):
        run(call, known)
        clear_tails(call.q_offsets, call.broken, dq)
        clear_tails(call.kv_offsets, call.broken, *by_key)
    return gradients


attend_backward = torch.library.custom_op(
    "dist_rec::cross_causal_attention_backward", _attend_backward, mutates_args=()
)


@attend_backward.register_fake
def _(grad: Tensor, inputs: Sequence[Tensor], *rest: Any) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in inputs]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, layout, *ctx.options = inputs
    ctx.set_materialize_grads(False)  # peak and total never get a gradient
    ctx.inputs = 2 if v is None else 3
    ctx.save_for_backward(*(x for x in (q, k, v) if x is not None), *output, *layout)


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    inputs, rest = saved[: ctx.inputs], saved[ctx.inputs :]
    gradients: list[Tensor | None] = [None] * 3
    if grad is not None:
        run = _attend_backward if is_eager_backward(grad) else attend_backward
        gradients[: ctx.inputs] = run(grad, inputs, rest[:3], rest[3:], *ctx.options)
    # Torch takes a list of tensors apart, but a list with a None as a whole.
    no_layout = [None] * len(rest[3:]) if isinstance(ctx.needs_input_grad[3], list) else None
    return *gradients, no_layout, None, None, None, None


attend.register_autograd(_backward, setup_context=_keep)
_eager = function_of(_attend, _keep, _backward)


class _Call:
    """What the launches of one call share."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor | None,
        layout: Sequence[Tensor | None],
        causal: bool,
        group_size: int,
        scale: float,
        max_q_len: int | None,
    ) -> None:
        k, v = k.chunk(2, dim=1) if v is None else (k, v)
        # Kernels read the integers of the mask and the offsets one by one.
        q_offsets, kv_offsets, num_candidates, prefix_len, q_positions, key_valid = (
            None if x is None else x.contiguous() for x in layout
        )
        assert q_offsets is not None and kv_offsets is not None
        self.batch, self.kv_heads = len(q_offsets) - 1, k.shape[1]
        self.group = q.shape[1] // k.shape[1]
        self.sum_q, self.sum_kv = len(q), len(k)
        self.max_rows = None if max_q_len is None else max_q_len * self.group
        self.tiles = tuning.tiles_for(q.device, q.dtype, q.shape[2], self.max_rows)
        self.processors = _processors(q.device)
        with on(q.device):
            offsets = sound_offsets(q_offsets, len(q), kv_offsets, len(k))
        first = None
        if prefix_len is not None and num_candidates is not None:
            first = num_candidates.cumsum(0, dtype=torch.int32) - num_candidates.int()
        self.q_offsets, self.kv_offsets, self.broken = offsets.q, offsets.kv, offsets.broken
        self.arguments = _strided(q, k, v) | {
            "Q_OFFSETS": offsets.q,
            "KV_OFFSETS": offsets.kv,
            "NUM_CANDIDATES": num_candidates,
            "FIRST_CANDIDATE": first,
            "PREFIX_LEN": prefix_len,
            "Q_POSITIONS": q_positions,
            "KEY_VALID": None if key_valid is None else key_valid.view(torch.uint8),
            "kv_heads": self.kv_heads,
            "group_size": group_size,
            "scale": scale,
            "max_q_len": 2**31 - 1 if max_q_len is None else max_q_len,
            "GROUP": self.group,
            "CAUSAL": causal,
            "PRECISION": "tf32" if q.dtype == torch.float32 and _tf32_allowed() else "ieee",
            "HEAD": q.shape[2],
            "D": tuning.padded_head(q.shape[2]),
        }

    def work(self, tile: int, over: str, *, at_least_one: bool = False) -> WorkList:
        """Tiles of query rows or of keys; requests with the longest histories first."""
        if over == "rows":
            return make_work_list(self.q_offsets, self.sum_q, self.kv_offsets, tile, factor=self.group)
        return make_work_list(self.kv_offsets, self.sum_kv, self.kv_offsets, tile, at_least_one=at_least_one)

    def launch(self, kernel: Any, programs: int, tile: tuning.Tile, arguments: dict[str, Any]) -> None:
        """Runs `programs` programs for every key-value head, with the arguments that the kernel takes."""
        known = self.arguments | {"BM": tile.rows, "BN": tile.keys, "STAGES": tile.stages} | arguments
        taken = {name: known[name] for name in kernel.arg_names}
        launch(kernel, (programs * self.kv_heads,), **taken, num_warps=tile.warps)


def _tf32_allowed() -> bool:
    """Torch's own flag, in its newer form where there is one: reading the older raises once the newer was set."""
    matmul = torch.backends.cuda.matmul
    return bool(matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32)


@functools.cache
def _processors(device: torch.device) -> int:
    """Streaming multiprocessors; 0 for the interpreter, which runs one program at a time."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0


def _strided(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Any]:
    """The inputs with their strides; only the elements of a head have to be adjacent."""
    found = {}
    for name, x in (("q", q), ("k", k), ("v", v)):
        x = x if x.stride(2) == 1 else x.contiguous()
        found |= {name.upper(): x, f"{name}_stride": x.stride(0), f"{name}_head_stride": x.stride(1)}
    return found


def _run_forward(call: _Call, results: dict[str, Tensor]) -> None:
    tile = call.tiles.forward
    # Without a promise each piece would need room for all rows, so the keys are not split.
    row_tiles = 1 if call.max_rows is None else -(-call.max_rows // tile.rows)
    arguments: dict[str, Any] = {"row_tiles": row_tiles}
    enough = row_tiles * call.batch * call.kv_heads >= 2 * call.processors
    if enough or call.max_rows is None or call.sum_kv <= tuning.SPLIT_KEYS:
        work = call.work(tile.rows, "rows")
        call.launch(forward, work.slots, tile, arguments | results | work.arguments | {"SPLIT": 0})
        return
    # Too few tiles to fill the GPU: the keys are split into pieces, and the results of the pieces are joined.
    work = call.work(tuning.SPLIT_KEYS, "keys")
    rows = (work.slots, row_tiles * tile.rows, call.kv_heads)
    shapes = {"OUT": (*rows, call.arguments["HEAD"]), "PEAK": rows, "TOTAL": rows}
    pieces = {
        name: torch.empty(shape, dtype=torch.float32, device=call.q_offsets.device) for name, shape in shapes.items()
    }
    arguments |= work.arguments | {"SPLIT": tuning.SPLIT_KEYS}
    call.launch(forward, work.slots * row_tiles, tile, arguments | pieces)
    pieces = {f"PIECE_{name}": piece for name, piece in pieces.items()}
    blocks = row_tiles * (tile.rows // COMBINED_ROWS)
    call.launch(combine, call.batch * blocks, tile, arguments | pieces | results | {"ROWS": COMBINED_ROWS})


def _before_backward(call: _Call, tile: tuning.Tile, results: dict[str, Tensor]) -> dict[str, Any]:
    """What a backward starts from: in 16 bits the results of the forward, in fp32 new statistics of each row, with
    tiles of the backward's shape, so that both form the same products."""
    if results["DO"].dtype != torch.float32:
        return results | {"DELTA": None, "ANEW": False}
    anew = {name: torch.empty_like(results["PEAK"]) for name in ("PEAK", "TOTAL", "DELTA")}
    work = call.work(tile.rows, "rows")
    tile = tuning.statistics_tile(tuning.architecture(results["DO"].device), call.arguments["D"], tile)
    call.launch(row_statistics, work.slots, tile, results | work.arguments | anew)
    return results | anew | {"OUT": None, "ANEW": True}


def _run_one_pass(call: _Call, results: dict[str, Tensor]) -> None:
    tile = call.tiles.one_pass
    assert tile is not None
    piece = tuning.piece_keys(tile.rows) if call.batch * call.kv_heads < 2 * call.processors else 0
    work = call.work(piece or 2**30, "keys", at_least_one=True)
    parts = None
    if piece:
        shape = (work.slots, call.kv_heads, tile.rows, call.arguments["HEAD"])
        parts = torch.empty(shape, dtype=torch.float32, device=call.q_offsets.device)
    arguments = _before_backward(call, tile, results) | work.arguments | {"DQ_PARTS": parts, "PIECE": piece}
    call.launch(backward_one_pass, work.slots, tile, arguments)
    if piece:
        call.launch(sum_parts, call.batch, tile, arguments)


def _run_two_pass(call: _Call, results: dict[str, Tensor]) -> None:
    by_rows, by_keys = call.tiles.queries, call.tiles.keys
    arguments = _before_backward(call, by_rows, results)
    if not arguments["ANEW"]:
        arguments["DELTA"] = torch.empty_like(results["PEAK"])  # `backward_queries` writes it
    rows, keys = call.work(by_rows.rows, "rows"), call.work(by_keys.keys, "keys")
    call.launch(backward_queries, rows.slots, by_rows, arguments | rows.arguments)
    call.launch(backward_keys, keys.slots, by_keys, arguments | keys.arguments)

"""What the CPU at hand can do, measured apart from any recipe: rates by kind of operator, and the time of one that does
next to nothing.

Processor time of one thread. Tensors are of sizes that a step has; every rate is the median of blocks in turns.

Legend: N rows, W width.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor
from torch.nn.functional import layer_norm

from benchmarks.cost.cells import SCHEMA, Cell
from dist_rec.cost.machine import Dtype, Kind, Machine
from dist_rec.data.collate import collate
from dist_rec.kernels.cross_causal_attention import cross_causal_attention
from dist_rec.kernels.gelu import gelu
from dist_rec.kernels.slot_attention import slot_attention

DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
WIDTHS = (8, 16, 32, 64, 128, 256)
HEADS = (4, 8, 16, 32)
# Bytes of a tensor. From 32 MiB on, glibc's malloc asks the system for each anew, so there is one on either side.
SIZES = (2**14, 2**17, 2**19, 2**21, 2**23, 3 * 2**23, 2**25)
CHAIN = 24  # tensors that are kept until the backward of a chain, as a step keeps those of its layers


def seconds(call: Callable[[], object], *, blocks: int, block_s: float) -> float:
    """Median processor time of a call over blocks of about `block_s`."""
    call()
    started = time.thread_time()
    call()
    repeats = max(int(block_s / max(time.thread_time() - started, 1e-7)), 1)
    found = []
    for _ in range(blocks):
        started = time.thread_time()
        for _ in range(repeats):
            call()
        found.append((time.thread_time() - started) / repeats)
    return float(np.median(found))


@dataclass(frozen=True)
class Effort:
    """How long is measured, and on tensors of how many bytes."""

    blocks: int = 5
    block_s: float = 0.03
    sizes: tuple[int, ...] = SIZES

    def __call__(self, call: Callable[[], object]) -> float:
        return seconds(call, blocks=self.blocks, block_s=self.block_s)


def machine(effort: Effort, launch_s: float) -> Machine:
    """The machine at hand, one thread; `launch_s` see `cells.py`."""
    torch.set_num_threads(1)
    rates = byte_rates(effort)
    copying = rates["stream"][max(rates["stream"])]
    # Batches from rows in memory: with Parquet, decoding comes on top.
    rows = [Cell(length=length, requests=64).of_requests().rows(SCHEMA) for length in (1, 1000)]
    small, large = (effort(lambda rows=rows: collate(rows, SCHEMA)) for rows in rows)
    events = 64 * 999
    return Machine(
        name="here",
        device="cpu",
        flops={"fp32": product_flops(effort, torch.float32), "bf16": product_flops(effort, torch.bfloat16)},
        attention_flops={
            "fp32": attention_flops(effort, torch.float32),
            "bf16": attention_flops(effort, torch.bfloat16),
        },
        bytes_per_s=rates,
        flops_reached=1.0,
        bytes_reached=1.0,
        launch_s=launch_s,
        host_launch_s=0.0,
        to_device_bytes_per_s=copying,
        input_events_per_s=events / (large - small),
        input_batch_s=small,
        host_link_bytes_per_s=copying / 2,  # gloo writes and reads every byte once more; not measured
    )


def product_flops(effort: Effort, dtype: torch.dtype) -> dict[int, float]:
    """By the smallest dim: FLOP/s of linear layers (N, W) -> (N, W), one after the other, and their gradients."""
    found = {}
    for width in WIDTHS:
        rows = torch.randn(effort.sizes[-1] // 16 // (4 * width), width, dtype=dtype)
        weight = torch.randn(width, width, dtype=dtype) / width**0.5

        def chain(rows: Tensor = rows, weight: Tensor = weight) -> None:
            kept = [rows]
            for _ in range(CHAIN):
                kept.append(kept[-1] @ weight)
            gradient, weights = kept[-1], []
            for x in reversed(kept[:-1]):
                weights.append(gradient.T @ x)
                gradient = gradient @ weight.T

        found[width] = CHAIN * 6 * rows.numel() * width / effort(chain)
    return found


def attention_flops(effort: Effort, dtype: torch.dtype) -> dict[int, float]:
    """By the size of a head: FLOP/s of the attention, forward and backward: 4 heads, 24 rows over 512 keys of 32
    requests, laid out as linear layers give them."""
    found = {}
    for size in HEADS:
        q, kv = (torch.randn(32 * n, h, size, dtype=dtype, requires_grad=True) for n, h in ((24, 4), (512, 8)))
        q_offsets, kv_offsets = (n * torch.arange(33, dtype=torch.int32) for n in (24, 512))
        gradient = torch.ones(32 * 24, 4, size, dtype=dtype)

        def both(
            q: Tensor = q, kv: Tensor = kv, gradient: Tensor = gradient, offsets: Any = (q_offsets, kv_offsets)
        ) -> None:
            cross_causal_attention(q, kv, None, *offsets).backward(gradient)
            q.grad = kv.grad = None

        found[size] = 14 * q.numel() * 512 / effort(both)
    return found


def byte_rates(effort: Effort) -> dict[Kind, dict[int, float]]:
    """By kind and bytes of an operator, in chains whose tensors are kept and then read once more, as in a step."""
    found: dict[Kind, dict[int, float]] = {"gather": {}, "norm": {}, "stream": {}, "inplace": {}, "sort": {}}
    for size in effort.sizes:
        x = torch.randn(size // 128, 32)
        table, index = x[: len(x) // 4].clone(), torch.randint(0, len(x) // 4, (len(x),))
        keys, kept = index.int(), [x.clone() for _ in range(CHAIN)]
        nbytes = size + 8 * len(index) + table.nbytes
        one = x[:4].clone()
        found["stream"][5 * size // 2] = 5 * CHAIN * size / _beyond(effort, lambda of: _chain(of, gelu), x, one)
        found["norm"][5 * size // 2] = 5 * CHAIN * size / _beyond(effort, lambda of: _chain(of, _norm), x, one)
        found["gather"][nbytes] = (
            CHAIN * nbytes / _beyond(effort, lambda of, table=table: _gather(table, of), index, index[:4])
        )
        found["inplace"][2 * size] = 2 * CHAIN * size / _beyond(effort, _scale, kept, [one.clone() for _ in kept])
        nbytes = 20 * len(keys)  # keys in and out, and places of 8 bytes
        found["sort"][nbytes] = nbytes / _beyond(effort, lambda of: of.sort(stable=True), keys, keys[:4])
    attention = {1: slot_rate(effort)}
    return found | {"matmul": found["stream"], "attention": attention, "update": update_rates(effort)}


def slot_rate(effort: Effort) -> float:
    """Bytes per second of the attention of slots, forward and backward: groups of 4, heads of 8 and 32."""
    seconds, nbytes = 0.0, 0
    for size in (8, 32):
        qkv, real = torch.randn(4096, 4, 3, 2, size, requires_grad=True), torch.ones(4096, 4, dtype=torch.bool)
        gradient = torch.ones(4096, 4, 2, size)

        def both(qkv: Tensor = qkv, real: Tensor = real, gradient: Tensor = gradient) -> None:
            slot_attention(qkv, real).backward(gradient)
            qkv.grad = None

        seconds += effort(both)
        nbytes += 3 * qkv.nbytes + 2 * gradient.nbytes + 2 * real.nbytes
    return nbytes / seconds


def _beyond(effort: Effort, call: Callable[[Any], object], large: Any, small: Any) -> float:
    """Seconds of a call beyond those of one that does next to nothing, which are a launch."""
    with_both = effort(lambda: call(large))
    return max(with_both - effort(lambda: call(small)), 0.1 * with_both)


def _gather(table: Tensor, index: Tensor) -> list[Tensor]:
    return [table.index_select(0, index) for _ in range(CHAIN)]


def _scale(kept: list[Tensor]) -> None:
    for each in kept:
        each.mul_(0.999)


def _chain(x: Tensor, layer: Callable[[Tensor], Tensor]) -> None:
    """Forward and backward: 2 and 3 times its bytes for every layer."""
    out = first = x.detach().requires_grad_()
    for _ in range(CHAIN):
        out = layer(out)
    out.backward(x)
    first.grad = None


def _norm(x: Tensor) -> Tensor:
    return layer_norm(x, (x.shape[1],), torch.ones(x.shape[1], requires_grad=True))


def update_rates(effort: Effort) -> dict[int, float]:
    """Bytes of distinct fp32 rows per second through FBGEMM's fused row-wise Adagrad, in a table of 200,000."""
    found = {}
    for count in (500, 5_000, 50_000):
        table = SplitTableBatchedEmbeddingBagsCodegen(
            [(200_000, 16, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            pooling_mode=PoolingMode.NONE,
        )
        ids = torch.randperm(200_000)[:count]
        offsets = torch.tensor([0, count])

        def both(table: Any = table, ids: Tensor = ids, offsets: Tensor = offsets) -> None:
            rows = table(ids, offsets)
            rows.backward(rows.detach())

        found[64 * count] = 64 * count / effort(both)
    return found

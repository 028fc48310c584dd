"""LONGER's step with packed attention against the same step with every request padded to the longest and one masked
SDPA call.

    python -m benchmarks.bench_longer_step [--out benchmarks/results/FILE.md]

The quickstart's model and batch on one thread, forward and backward of the ranker; both forms must give the same loss.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.bench_candidates import RECIPE, rows_of, step
from benchmarks.harness import measure_side_by_side
from dist_rec.common.provenance import provenance_lines
from dist_rec.config import load_config
from dist_rec.data.collate import collate
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema import load_schema
from dist_rec.data.synthetic.history import SynthConfig, synthesize
from dist_rec.data.validate import open_parquet
from dist_rec.embedding.tables import table_dims
from dist_rec.models.layers import attention_block
from dist_rec.models.ranker import Ranker


def padded_attention(q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, kv_offsets: Tensor, **options: Any) -> Tensor:
    """The same attention of a whole batch padded to its longest request, with the mask of the candidates' groups."""
    assert options["q_positions"] is None and options["prefix_len"] is None
    q_lengths, kv_lengths = q_offsets.diff(), kv_offsets.diff()
    is_row, is_key = (torch.arange(int(lengths.max())) < lengths[:, None] for lengths in (q_lengths, kv_lengths))
    position = torch.arange(is_row.shape[1]) + (kv_lengths - q_lengths)[:, None]
    key, position, m = torch.arange(is_key.shape[1]), position[:, :, None], options["group_size"]
    mask = is_key[:, None] & (key <= position)
    if options["num_candidates"] is not None:
        events = (kv_lengths - options["num_candidates"] * m)[:, None, None]
        own_group = (position - events).div(m, rounding_mode="floor") * m + events
        mask &= (key < events) | (key >= own_group)

    def pad(x: Tensor, real: Tensor) -> Tensor:
        flat = x.new_zeros(real.numel(), *x.shape[1:]).index_copy(0, real.flatten().nonzero()[:, 0], x)
        return flat.unflatten(0, real.shape).transpose(1, 2)

    out = scaled_dot_product_attention(pad(q, is_row), pad(k, is_key), pad(v, is_key), attn_mask=mask.unsqueeze(1))
    return out.transpose(1, 2)[is_row]


def run(requests: int, repeats: int) -> str:
    config = load_config(RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        synthesize(path, SynthConfig(requests=10 * requests))
        schema = load_schema(path)
        reader = RequestReader(folders=[path / "test"], schema=schema, batch_size=requests)
        with open_parquet(reader.row_groups[0].path, schema) as file:
            batch = collate(file.read().slice(0, requests), schema).to(torch.device("cpu"))
    torch.manual_seed(0)
    ranker = Ranker(schema, config.model, table_dims(schema, config.embedding))
    tables = {name: 0.3 * torch.randn(size, config.embedding.dim) for name, size in schema.tables.items()}
    rows = rows_of(batch, schema, tables)

    def packed() -> Tensor:
        return step(ranker, rows, batch)

    def padded() -> Tensor:
        with mock.patch.object(attention_block, "cross_causal_attention", padded_attention):
            return step(ranker, rows, batch)

    times = measure_side_by_side({"packed": packed, "padded": padded}, repeats=repeats)
    difference = float((packed() - padded()).abs() / packed())
    lengths = next(iter(batch.sequences.values())).lengths
    return (
        f"| {requests} | {lengths.longest}, mean {lengths.host.mean():.0f} | {times['packed']} | "
        f"{times['padded']} | {times['padded'].p50 / times['packed'].p50:.2f} | {difference:.0e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# LONGER's step on a CPU: packed attention against padding to the longest request",
        "",
        *provenance_lines(),
        "- the quickstart's model; forward and backward of the ranker, 4 candidates per request, fp32",
        "",
        "| requests | longest history | packed, ms p20/p50/p80 | padded SDPA, ms | padded / packed | loss differs by |",
        "|---|---|---|---|---|---|",
        *(run(requests, options.repeats) for requests in (64, 256)),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()

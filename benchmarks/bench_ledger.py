"""What one step of a ranker moves and launches on a GPU, counted without one.

    python -m benchmarks.bench_ledger [--out benchmarks/results/FILE.md] [--operators]

Forward, loss and backward run on tensors that have shapes and no values, in bf16 as on a GPU, by the kernels a GPU
would take. Counted are operators that do something and the bytes of their inputs and outputs, each once, of rows that
are picked by an index only those (`dist_rec/cost/ledger.py`). An operator may launch several kernels, so this compares
changes; it predicts no time by itself. The estimate of a whole step is 2.5 TB/s, 2.5 us for every launch, and constants
for what is not counted: none of it has been measured.

The host's part is measured: processor time of a step whose tensors are small and whose Triton kernels are compiled for
sm_90 and not run, in units of one small `torch.add` on the same thread. An operator on a GPU costs its host about as
much as on a CPU, and a launch besides. Runs differ by a tenth, and products in bf16, which a CPU emulates, are a good
part of it: this shows large changes only.

Legend: B requests, L events of each, N = B L, U unique rows, C candidates.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.aot import recording_driver
from dist_rec.common.provenance import provenance_lines
from dist_rec.cost.ledger import Ledger, Operator, kernels_of_a_gpu
from dist_rec.data.batch import JaggedEvents, SequenceBatch
from dist_rec.data.lengths import Lengths
from dist_rec.data.schema import Schema
from dist_rec.kernels.unique_ids import BitPackedIndex
from dist_rec.kernels.unique_ids.bit_packed import num_words
from dist_rec.models.config import ModelConfig
from dist_rec.models.layers.loss import BinaryCrossEntropy, total_loss
from dist_rec.models.ranker import Ranker
from dist_rec.optim.muon import BatchedMuon

REQUESTS, LENGTH, CANDIDATES, UNIQUE_SHARE = 512, 2000, 1, 4
WIDTH = 32  # of a table's rows
# By reading: TorchRec's exchange, lookup and fused update 65; all-reduce, norm, clipping and AdamW 30.
OTHER_LAUNCHES = 95
# The attention's products at half of the peak, and the backward's sorts of the indices.
ARITHMETIC_MS = 1.2
SCHEMA = Schema.model_validate(
    {
        "name": "ledger",
        "tables": {"item": 1_000_000, "category": 500, "user": 200_000},
        "request": {"grouping_key": "user", "time": "time"},
        "context": ["user"],
        "sequences": [{"name": "history", "ids": ["item", "category"], "side": {"action": 4}, "time": True}],
        "candidate": {"ids": ["item", "category"], "labels": ["click"]},
    }
)
HALF = {"tokens": "bf16", "layers": "bf16", "head": "fp32"}
MODELS: dict[str, dict[str, Any]] = {
    f"LONGER, width {width}": {
        "tokens": {"width": width, "hidden": 2 * width},
        "longer": {"merge": 1, "inner_trans": False, "k": 100, "heads": 4},
    }
    for width in (64, 128)
} | {
    "LONGER, width 32, merge 4, InnerTrans": {
        "tokens": {"width": 32, "hidden": 64},
        "longer": {"merge": 4, "k": 100, "heads": 4},
    },
    "HyFormer, width 128": {
        "name": "hyformer",
        "tokens": {"width": 128, "hidden": 256},
        "hyformer": {"heads": 4, "sequences": {"history": {"encoder": "longer", "recent": 100, "queries": 1}}},
    },
}


@dataclass
class Tally:
    """Operators and bytes by phase."""

    operators: Counter[str] = field(default_factory=Counter)
    nbytes: Counter[str] = field(default_factory=Counter)
    by_name: Counter[tuple[str, str]] = field(default_factory=Counter)

    @classmethod
    def of(cls, operators: list[Operator]) -> "Tally":
        tally = cls()
        for each in operators:
            tally.operators[each.stage] += 1
            tally.nbytes[each.stage] += each.nbytes
            tally.by_name[each.stage, each.name] += each.nbytes
        return tally

    @property
    def of_model(self) -> tuple[int, int]:
        """Operators and bytes of forward, loss and backward."""
        phases = ("forward", "loss", "backward")
        return sum(self.operators[phase] for phase in phases), sum(self.nbytes[phase] for phase in phases)


def batch_of(requests: int, length: int, candidates: int) -> SequenceBatch:
    """Shapes of a batch whose histories are all as long."""

    def lengths(count: int) -> Lengths:
        return Lengths(torch.full((requests,), count, dtype=torch.int32), np.full(requests, count, np.int32))

    def index(count: int, bits: int) -> BitPackedIndex:
        return BitPackedIndex(torch.empty(num_words(count, bits), dtype=torch.int32), bits, count)

    events, asked = requests * length, requests * candidates
    history = JaggedEvents(
        lengths(length),
        index(events, 18),
        {"action": torch.empty(events, dtype=torch.uint8)},
        torch.empty(events, dtype=torch.int32),
    )
    unique: Any = None  # the ranker gets the rows
    return SequenceBatch(
        unique=unique,
        context=index(requests, 9),
        sequences={"history": history},
        candidates=JaggedEvents(lengths(candidates), index(asked, 18), {}),
        labels=torch.empty(asked, 1),
        oracle=None,
        visible_events=None,
        grouping_key=torch.empty(requests, dtype=torch.int64),
        candidates_per_rank=torch.empty(()),
    )


@dataclass
class Step:
    """What one step needs, on fake tensors or small real ones; without tables."""

    ranker: Ranker
    batch: SequenceBatch
    rows: dict[str, Tensor]
    loss: BinaryCrossEntropy

    @classmethod
    def of(cls, model: dict[str, Any], requests: int, length: int, width: int = WIDTH) -> "Step":
        config = ModelConfig.model_validate({"precision": HALF, "head": {"hidden": [256, 128]}, **model})
        unique = max(requests * length // UNIQUE_SHARE, 1)
        rows = {
            name: torch.zeros(requests if name == "context" else unique, width * len(of.keys), requires_grad=True)
            for name, of in SCHEMA.layout.feature_sets.items()
        }
        ranker = Ranker(SCHEMA, config, dict.fromkeys(SCHEMA.tables, width))
        return cls(
            ranker, batch_of(requests, length, CANDIDATES), rows, BinaryCrossEntropy(BinaryCrossEntropy.Config())
        )

    def forward(self) -> Tensor:
        return self.ranker(self.rows, self.batch)

    def total(self, logits: Tensor) -> Tensor:
        return total_loss(self.loss, logits, self.batch.labels, self.batch.candidates_per_rank)


def optimizers(ranker: Ranker) -> dict[str, list[torch.optim.Optimizer]]:
    """As a GPU has them: AdamW in one kernel, Muon with matrices filled up to common sizes."""
    matrices, others = [p for p in ranker.parameters() if p.ndim == 2], [p for p in ranker.parameters() if p.ndim != 2]
    return {
        "AdamW": [torch.optim.AdamW(ranker.parameters(), fused=True)],
        "Muon": [BatchedMuon(matrices, lr=0.1, fill=True), torch.optim.AdamW(others, fused=True)],
    }


def count(model: dict[str, Any], requests: int = REQUESTS, length: int = LENGTH) -> Tally:
    """Of one step, without tables; an update by AdamW and one by Muon are phases of their names."""
    with FakeTensorMode(allow_non_fake_inputs=True), kernels_of_a_gpu():
        step = Step.of(model, requests, length)
        with Ledger("forward") as ledger:
            logits = step.forward()
            ledger.stage = "loss"
            step.total(logits).backward()
        for name, found in optimizers(step.ranker).items():
            for optimizer in found:
                optimizer.step()  # makes its state
            ledger.stage = name
            with ledger:
                for optimizer in found:
                    optimizer.step()
    return Tally.of(ledger.operators)


def host_cost(model: dict[str, Any], repeats: int = 25) -> dict[str, float]:
    """Median processor time of the phases of a step of two requests by a narrow model, in small additions."""
    width = {"width": 20 if model.get("name") == "hyformer" else 8, "hidden": 16, "max_positions": 16}
    model = {**model, "tokens": width, "head": {"hidden": [8, 4]}}
    # Kernels that do not run leave their results as they were made: zeros are valid places for whoever reads them.
    with kernels_of_a_gpu(), mock.patch.object(torch, "empty", torch.zeros):
        step = Step.of(model, requests=2, length=8, width=4)
        (update,) = optimizers(step.ranker)["AdamW"]
        times: dict[str, list[float]] = {}

        def timed(name: str, call: Callable[[], Any]) -> Any:
            started = time.thread_time()
            result = call()
            times.setdefault(name, []).append(time.thread_time() - started)
            return result

        small = torch.ones(1)
        for _ in range(repeats):
            logits = timed("forward", step.forward)
            total = timed("loss", lambda: step.total(logits))  # noqa: B023 - called at once
            timed("backward", total.backward)
            timed("AdamW", update.step)
            timed("add", lambda: [small + small for _ in range(1000)])
    middle = {name: float(np.median(values)) for name, values in times.items()}
    return {name: value / middle["add"] * 1000 for name, value in middle.items() if name != "add"}


def table() -> list[str]:
    lines = [
        "| model | forward: operators, GB | backward: operators, GB | both and loss | update: AdamW, Muon |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, model in MODELS.items():
        found = count(model)
        operators, moved = found.of_model
        parts = [f"{found.operators[phase]}, {found.nbytes[phase] / 1e9:.1f}" for phase in ("forward", "backward")]
        updates = ", ".join(str(found.operators[update]) for update in ("AdamW", "Muon"))
        lines.append(f"| {name} | {parts[0]} | {parts[1]} | {operators}, {moved / 1e9:.1f} GB | {updates} |")
    return lines


def estimates() -> list[str]:
    """Of a whole step on one H100, for a measurement to confirm or refute."""
    lines = [
        "| model: estimate for one H100 | launches | GB | device |",
        "| --- | --- | --- | --- |",
    ]
    for width, lookup_gb in ((64, 0.5), (128, 1.0)):
        name = f"LONGER, width {width}"
        operators, moved = count(MODELS[name]).of_model
        launches, moved_gb = operators + OTHER_LAUNCHES, moved / 1e9 + lookup_gb
        device_ms = moved_gb / 2.5 + 2.5e-3 * launches + ARITHMETIC_MS
        lines.append(f"| {name}, AdamW | {launches} | {moved_gb:.1f} | {device_ms:.1f} ms |")
    return lines


def host_table() -> list[str]:
    recording_driver.install()
    torch.set_num_threads(1)
    phases = ("forward", "loss", "backward", "AdamW")
    lines = [f"| model: host, in additions | {' | '.join(phases)} |", "| --- |" + " --- |" * len(phases)]
    for name, model in MODELS.items():
        found = host_cost(model)
        lines.append(f"| {name} | {' | '.join(f'{found[phase]:,.0f}' for phase in phases)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--operators", action="store_true", help="Also the operators that move most.")
    options = parser.parse_args()
    lines = [*table(), "", *estimates(), "", *host_table()]
    print("\n".join(lines))
    if options.operators:
        for name, model in MODELS.items():
            print(f"\n{name}")
            for (phase, operator), moved in count(model).by_name.most_common(12):
                print(f"  {phase:8s} {operator:32s} {moved / 1e9:6.2f} GB")
    if options.out:
        shape = f"B {REQUESTS}, L {LENGTH}, {CANDIDATES} candidate, N / {UNIQUE_SHARE} unique rows of 2 x 32, bf16"
        about = [
            "# What a step moves and launches, counted without a GPU",
            "",
            *provenance_lines(),
            f"- shapes: {shape}",
            "",
        ]
        options.out.write_text("\n".join([*about, *lines, "", *(__doc__ or "").splitlines()[4:], ""]))


if __name__ == "__main__":
    main()

"""Operators against their peers and against the hardware: time, share of the floor, memory, error.

    python -m benchmarks.bench_ops lookup [--toy] [--out DIR]
    python -m benchmarks.bench_ops attention [--toy] [--cases A1,A2] [--lengths fixed,zipf] [--peers dist_rec,eager] [--out DIR]

On a GPU: bf16, CUDA events, from a cold L2 cache, without the host's launch overhead; the floor is the larger of bytes over
the measured copy bandwidth and FLOP over the measured matmul rate. With --toy: tiny shapes on any machine, the fused kernel
through Triton's interpreter where there is no GPU; its times mean nothing.
"""

import argparse
import os
import time
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before any kernel is imported

from benchmarks.attention import measure, report
from benchmarks.attention.cases import SHAPES, TOY
from benchmarks.attention.peers import PEERS
from benchmarks.harness import hardware


def attention(options: argparse.Namespace) -> None:
    shapes = [shape for shape in (TOY if options.toy else SHAPES) if not options.cases or shape.name in options.cases]
    ceilings = measure.measure_ceilings()
    lines = []
    name = f"attention_{hardware()}{'_toy' if options.toy else ''}_{time.strftime('%Y%m')}"
    for shape in shapes:
        for lengths in options.lengths:
            found = measure.measure_case(shape, lengths, ceilings, options.peers, repeats=options.repeats)
            report.show(found)
            lines += found
            if options.out:  # after every case, so that a run that is cut off leaves what it has
                report.write(options.out / name, lines, ceilings)


def lookup(options: argparse.Namespace) -> None:
    # Here, because FBGEMM and TorchRec take seconds to import.
    from benchmarks.lookup import report as lookup_report
    from benchmarks.lookup.measure import Size, start_ranks
    from benchmarks.lookup.measure import measure as measure_lookup

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bandwidth = measure.measure_ceilings().bandwidth
    start_ranks(device)
    shape = (16, 50) if options.toy else (512, 2000)
    rows = {"rows": 10_000} if options.toy else {}
    lines = []
    for width in (64, 128):
        for duplicates in (0.25, 0.5, 0.75, 0.9):
            lines += measure_lookup(Size(*shape, width, duplicates, **rows), device, repeats=options.repeats)
            text = lookup_report.page(lines, bandwidth, toy=options.toy)
            if options.out:
                name = f"lookup_{hardware()}{'_toy' if options.toy else ''}_{time.strftime('%Y%m')}.md"
                lookup_report.write(options.out / name, text)
    print(text)
    torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operator", choices=["attention", "lookup"])
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--cases", type=lambda text: text.split(","), default=[])
    parser.add_argument("--lengths", type=lambda text: text.split(","), default=["fixed", "uniform", "zipf"])
    parser.add_argument("--peers", type=lambda text: text.split(","), default=list(PEERS))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not options.toy and not torch.cuda.is_available():
        parser.error("the real shapes need a GPU; --toy runs tiny ones here")
    {"attention": attention, "lookup": lookup}[options.operator](options)


if __name__ == "__main__":
    main()

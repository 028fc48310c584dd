"""Operators against their peers and against the hardware: time, share of the floor, memory, error.

    python -m benchmarks.bench_ops attention [--toy] [--cases A1,A2] [--lengths fixed,zipf] [--peers dist_rec,eager]
    [--out DIR] python -m benchmarks.bench_ops lookup [--toy] [--cases row_wise-64-75%] [--out DIR]

Attention on a GPU: bf16, CUDA events, from a cold L2 cache, without the host's launch overhead; the floor is the larger
of bytes over the measured copy bandwidth and FLOP over the measured matmul rate. Lookup: one rank, fp32, the wall clock
too, because lookups wait for the device inside. With --toy: tiny shapes on any machine, kernels through Triton's
interpreter where there is no GPU; its times mean nothing."""

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
    from benchmarks.lookup import measure as lookups
    from benchmarks.lookup import operators, ways
    from benchmarks.lookup import report as pages

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    sizes = [
        size for size in (ways.TOY if options.toy else ways.SIZES) if not options.cases or size.name in options.cases
    ]
    streams = ways.make_streams(sizes, "uniform" if options.toy else "zipf")
    bandwidth = measure.measure_ceilings().bandwidth
    lines: list[lookups.Line] = []
    alone: list[operators.OperatorLine] = []
    name = f"lookup_{hardware()}{'_toy' if options.toy else ''}_{time.strftime('%Y%m')}"
    ways.start_group(device)
    for size in sizes:
        ids = streams[size.duplicates]
        lines += lookups.measure_size(size, ids, device, repeats=options.repeats)
        if all((line.size.width, line.size.duplicates) != (size.width, size.duplicates) for line in alone):
            alone += operators.measure_operators(size, ids, device, repeats=options.repeats)
        if options.out:  # after every case, so that a run that is cut off leaves what it has
            pages.write(options.out / name, lines, alone, bandwidth, toy=options.toy)
    print(pages.page(lines, alone, bandwidth, toy=options.toy))
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

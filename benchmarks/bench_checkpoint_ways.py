"""Steps beside a checkpoint that is written at once, and beside one that is written while training goes on.

    python -m benchmarks.bench_checkpoint_ways [--rounds 3] [--every 100] [--out FILE.md] [--set key=value ...]

Trains the quickstart on gloo ranks, one way after the other in every round, since the machine may be shared; steps are
compared with the other steps of their own run. Prints the page."""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.checkpoint.job import RECIPE, Moments, run_job
from dist_rec.common.provenance import provenance_lines

WARM = 20  # steps before those that count
WAYS = {"at once": "false", "beside training": "true"}


@dataclass
class Found:
    """In seconds, of all rounds: steps without a save, the first step of each save, and those after it that end while
    it goes on; the saves; and by how much all steps of a save together are longer than others (medians of their own
    run)."""

    others: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    saves: list[float] = field(default_factory=list)
    extra: list[float] = field(default_factory=list)

    def add(self, moments: Moments) -> None:
        steps = list(itertools.pairwise(moments["steps"]))[WARM:]
        saves = [(began, end) for began, end in moments["saves"] if began > steps[0][0] and end < steps[-1][1]]
        of_saves = [[b - a for a, b in steps if a < end and b > began] for began, end in saves]
        others = [b - a for a, b in steps if not any(a < end and b > began for began, end in moments["saves"])]
        usual = statistics.median(others)
        self.others += others
        self.first += [of[0] for of in of_saves]
        self.beside += [step for of in of_saves for step in of[1:]]
        self.saves += [end - began for began, end in saves]
        self.extra += [sum(step - usual for step in of) for of in of_saves]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=100, help="steps between two checkpoints")
    parser.add_argument("--saves", type=int, default=3, help="checkpoints in a round")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {way: Found() for way in WAYS}
    for _ in range(options.rounds):
        for way, asynchronous in WAYS.items():
            more = [
                f"checkpoint.asynchronous={asynchronous}",
                f"checkpoint.every_steps={options.every}",
                "checkpoint.keep_last=2",
                f"run.max_steps={options.every * (options.saves + 1) - 1}",
            ]
            with tempfile.TemporaryDirectory() as place:
                recipe = [str(options.recipe), *options.overrides]
                found[way].add(run_job(recipe, Path(place) / "run", more, None, options.ranks)[0])
    text = "\n".join(["# Steps beside a checkpoint", "", *provenance_lines(), "", *_page(found)]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def _page(found: dict[str, Found]) -> Iterator[str]:
    yield "| written | steps | number | median, ms | mean, ms | 95 %, ms | median to others |"
    yield "|---|---|---|---|---|---|---|"
    for way, of in found.items():
        usual = statistics.median(of.others)
        for name, steps in (("others", of.others), ("first of a save", of.first), ("rest of a save", of.beside)):
            if len(steps) < 2:
                continue
            middle, high = statistics.median(steps), statistics.quantiles(steps, n=20, method="inclusive")[-1]
            numbers = " | ".join(f"{1000 * value:.1f}" for value in (middle, statistics.mean(steps), high))
            yield f"| {way} | {name} | {len(steps)} | {numbers} | {middle / usual:.2f} |"
    yield ""
    for way, of in found.items():
        extra, save = statistics.median(of.extra), statistics.median(of.saves)
        yield f"- {way}: a checkpoint costs training {extra:.2f} s (median) and is there after {save:.2f} s"


if __name__ == "__main__":
    main()

"""Do checkpoints that are written while training goes on slow it down, and does a long run stay as it is?

    python -m benchmarks.bench_checkpoint [--minutes 30] [--every 20] [--out FILE.md] [--set key=value ...]

Trains the quickstart on gloo ranks with an asynchronous checkpoint about every so many seconds, looks at its
processes twice a minute, ends it with SIGUSR1, and prints the page."""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.checkpoint.job import RECIPE, Moments, run_job
from benchmarks.checkpoint.watch import Held
from dist_rec.common.provenance import provenance_lines

STEPS_TO_MEASURE = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two checkpoints, about")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        recipe = [str(options.recipe), *options.overrides]
        short = [f"run.max_steps={STEPS_TO_MEASURE}"]
        moments = run_job(recipe, Path(place) / "short", short, None, options.ranks)[0]["steps"]
        every = max(1, round(options.every * (len(moments) - 11) / (moments[-1] - moments[10])))
        more = [f"checkpoint.every_steps={every}", "checkpoint.asynchronous=true", "checkpoint.keep_last=2"]
        found, held, left = run_job(
            recipe, Path(place) / "long", [*more, "run.epochs=100000"], options.minutes, options.ranks
        )
    head = ["# Checkpoints while training goes on", "", *provenance_lines(), ""]
    text = "\n".join([*head, *_page(found, held, left, every)]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def _page(found: Moments, held: list[Held], left: list[str], every: int) -> Iterator[str]:
    steps, saves = found["steps"], found["saves"]
    pairs = list(itertools.pairwise(steps))[10:]
    during = [b - a for a, b in pairs if any(a < end and b > began for began, end in saves)]
    # A step that the copy before a save falls into is one of them.
    beside = [b - a for a, b in pairs if not any(a < end and b > began for began, end in saves)]
    minutes = (steps[-1] - steps[0]) / 60
    yield f"{len(steps)} steps in {minutes:.1f} minutes, {len(saves)} checkpoints, one every {every} steps."
    yield ""
    yield "| | steps | median, ms | mean, ms | 95 %, ms |"
    yield "|---|---|---|---|---|"
    for name, of in (("no save", beside), ("a save goes on", during)):
        high = statistics.quantiles(of, n=20)[-1]
        numbers = " | ".join(f"{1000 * value:.1f}" for value in (statistics.median(of), statistics.mean(of), high))
        yield f"| {name} | {len(of)} | {numbers} |"
    yield ""
    ratios = statistics.median(during) / statistics.median(beside), statistics.mean(during) / statistics.mean(beside)
    yield f"A step during a save takes {ratios[0]:.2f} times the median and {ratios[1]:.2f} times the mean of others."
    lengths = [end - began for began, end in saves]
    yield f"A save takes {statistics.median(lengths):.2f} s (median), {max(lengths):.2f} s at most."
    yield ""
    yield "All processes of the job, launcher and reader workers too:"
    yield ""
    yield "| minute | processes | resident, MiB | threads | open files | in /dev/shm: files | MiB |"
    yield "|---|---|---|---|---|---|---|"
    for at in held[2 :: max(1, len(held) // 10)]:
        yield (
            f"| {at.seconds / 60:.1f} | {at.processes} | {at.resident / 2**20:.0f} | {at.threads} | {at.files} | "
            f"{at.shared_files} | {at.shared_bytes / 2**20:.1f} |"
        )
    yield ""
    nothing = "no process, no file in shared memory, no folder half written"
    yield f"Left when it had ended: {', '.join(left) or nothing}."


if __name__ == "__main__":
    main()

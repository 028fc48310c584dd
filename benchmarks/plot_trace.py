"""Draws a trace of `dist-rec train --trace`: one rank's training thread, and below it every bucket of the dense
all-reduce.

python -m benchmarks.plot_trace runs/NAME/trace/rank0.json OUT.png
"""

import argparse
import json
from itertools import accumulate
from pathlib import Path
from typing import Any

START, WAIT, APPLY = "dense all-reduce: start bucket", "dense all-reduce: wait", "dense update: apply"
COLLECTIVES = ("gloo:all_reduce", "nccl:all_reduce")
SLACK = 1e3  # us that a span may end after the wait for it: threads note the time one after the other
COLOURS = {
    "forward": "#9ecae1",
    "backward": "#fdae6b",
    "sparse rows updated": "#e6550d",
    "waiting for the all-reduce": "#de2d26",
    "dense update, last step's gradient": "#31a354",
}

Event = dict[str, Any]


def read(path: Path) -> list[Event]:
    """Events with a duration, by their begin; microseconds from the first recorded step."""
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("ph") == "X" and "name" in e]
    steps = [e for e in events if e["name"].startswith("ProfilerStep")]
    first = min(float(e["ts"]) for e in steps)
    return sorted(({**e, "ts": float(e["ts"]) - first, "dur": float(e["dur"])} for e in events), key=lambda e: e["ts"])


def thread_spans(events: list[Event]) -> list[tuple[str, float, float]]:
    """(what, begin, length) on the training thread."""
    found = []
    for step in (e for e in events if e["name"].startswith("ProfilerStep")):
        inside = [e for e in events if step["ts"] <= e["ts"] < step["ts"] + step["dur"] and e["tid"] == step["tid"]]
        nodes = [e for e in inside if e["name"].startswith("autograd::engine::evaluate_function")]
        if nodes:
            begin, end = nodes[0]["ts"], nodes[-1]["ts"] + nodes[-1]["dur"]
            found += [("forward", step["ts"], begin - step["ts"]), ("backward", begin, end - begin)]
        sparse = [e for e in nodes if "LookupFunction" in e["name"]]  # FBGEMM's backward, which applies its optimizer
        found += [("sparse rows updated", e["ts"], e["dur"]) for e in sparse]
        found += [("waiting for the all-reduce", e["ts"], e["dur"]) for e in inside if e["name"] == WAIT]
        found += [("dense update, last step's gradient", e["ts"], e["dur"]) for e in inside if e["name"] == APPLY]
    return found


def reduce_spans(events: list[Event]) -> list[tuple[int, int, float, float]]:
    """(step, bucket, begin, length) of every dense all-reduce. Its process group has threads that serve nobody else:
    those that take up work first after a bucket was started."""
    starts = [e for e in events if e["name"].startswith(START)]
    collectives = [e for e in events if e["name"] in COLLECTIVES]
    lanes = set()
    for start in starts:
        after = [e for e in collectives if e["ts"] >= start["ts"]]
        if after and after[0]["ts"] < start["ts"] + start["dur"] + 500:
            lanes.add(after[0]["tid"])
    spans = [e for e in collectives if e["tid"] in lanes and e["ts"] >= starts[0]["ts"]]
    # They take up work in the order of its start. The first spans may still be those of the step before the trace: what
    # belongs to the first recorded start is the first span with which no all-reduce begins before it was started, and
    # all are over when they have been waited for, a step later.
    waited = [e["ts"] + e["dur"] for e in events if e["name"] == WAIT]
    steps = list(accumulate(start["name"].endswith(" 0") for start in starts))
    for skipped in range(len(spans)):
        pairs = list(zip(starts, spans[skipped:], strict=False))
        ends = [span["ts"] + span["dur"] for _, span in pairs]
        in_order = all(span["ts"] >= start["ts"] for start, span in pairs)
        if in_order and all(
            end <= waited[step] + SLACK for step, end in zip(steps, ends, strict=False) if step < len(waited)
        ):
            buckets = [int(start["name"].rsplit(" ", 1)[1]) for start in starts]
            return [
                (step - 1, bucket, start["ts"], end - start["ts"])
                for step, bucket, (start, _), end in zip(steps, buckets, pairs, ends, strict=False)
            ]
    raise ValueError("the all-reduces of this trace cannot be told apart")


def draw(events: list[Event], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    figure, axes = pyplot.subplots(figsize=(11, 3.6))
    for what, begin, length in thread_spans(events):
        axes.broken_barh([(begin / 1e3, length / 1e3)], (0.0, 0.8), facecolors=COLOURS[what])
    reduces = reduce_spans(events)
    buckets = max((bucket for _, bucket, *_ in reduces), default=0) + 1
    greys = ("#756bb1", "#bcbddc")
    for step, bucket, begin, length in reduces:
        axes.broken_barh(
            [(begin / 1e3, length / 1e3)], (-1.0 - bucket, 0.8), facecolors=greys[step % 2], edgecolor="white"
        )
    for step in (e for e in events if e["name"].startswith("ProfilerStep")):
        axes.axvline(step["ts"] / 1e3, color="k", linewidth=0.6)
        axes.text(step["ts"] / 1e3, 0.95, f" step {step['name'].split('#')[1]}", fontsize=8)
    axes.set_ylim(-0.2 - buckets, 1.4)
    axes.set_yticks([0.4, *(-0.6 - bucket for bucket in range(buckets))])
    axes.set_yticklabels(
        ["training thread", *(f"all-reduce, bucket {bucket}" for bucket in range(buckets))], fontsize=8
    )
    axes.set_xlabel("ms")
    handles = [Patch(color=colour, label=what) for what, colour in COLOURS.items()]
    handles += [
        Patch(color=colour, label=f"in flight, gradient of an {kind} step")
        for colour, kind in zip(greys, ("even", "odd"))
    ]
    axes.legend(handles=handles, ncol=4, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    figure.tight_layout()
    figure.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    draw(read(options.trace), options.out)


if __name__ == "__main__":
    main()

"""What a filter costs: a training step, its bytes to the device, a reader worker, and the decision by itself, in turns.

The recipe `quickstart` on synthetic data; two of 16 categories are filtered."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.forms import Form, in_turns, quickstart, spread
from dist_rec.data.filter.config import FilterConfig
from dist_rec.data.filter.events import Events
from dist_rec.data.row_reader import PARQUET
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.data.some_rows import SomeRows
from dist_rec.data.synthetic.history import SynthConfig, synthesize
from dist_rec.registry import FILTERS
from dist_rec.training.ranks import start_ranks

REQUESTS, BATCHES, ROUNDS = 4_000, 12, 9
CATEGORIES = {"reason": "sensitive", "field": "category", "values": [0, 1]}
RULES: dict[str, list[dict[str, Any]]] = {
    "two categories": [CATEGORIES],
    "a thousand items": [{"reason": "unlearn", "field": "item", "values": list(range(0, 10_000, 10))}],
    "a tenth of the users": [{"reason": "privacy", "field": "user", "values": list(range(0, 800, 10))}],
    "older than two days": [{"reason": "low_quality", "older_than_days": 2}],
}
RULES["all four"] = [rule for rules in RULES.values() for rule in rules]


def page() -> Iterator[str]:
    """Lines of two tables."""
    with TemporaryDirectory() as place:
        data = Path(place) / "data"
        synthesize(data, SynthConfig(requests=REQUESTS))
        yield from _decisions(data)
        yield from _steps(data)


def _decisions(data: Path) -> Iterator[str]:
    schema = load_schema(data)
    table = PARQUET.read(PARQUET.row_groups(data / "train", schema), schema).combine_chunks()
    rows = SomeRows(table, np.arange(table.num_rows))
    yield from ("One core, all histories of the training split at once; median of rounds.", "")
    yield from ("| rules | events | M events/s |", "|---|---|---|")
    for name, rules in RULES.items():
        seconds = [_decided(rows, schema, rules) for _ in range(ROUNDS)]
        events = len(Events(rows, schema, "history"))
        yield f"| {name} | {events:,} | {events / float(np.median(seconds)) / 1e6:,.0f} |"


def _decided(rows: SomeRows, schema: Schema, rules: list[dict[str, Any]]) -> float:
    """Seconds of the processor for one decision about every event, with reading its columns."""
    config = FilterConfig.model_validate({"rules": rules})
    policy, events = FILTERS.make(config.policy, config, schema), Events(rows, schema, "history")
    started = time.process_time()
    policy.decide(events)
    return time.process_time() - started


def _steps(data: Path) -> Iterator[str]:
    actions = ("mask", "hide", "keymask", "drop")
    chosen = {action: {"filter": {"actions": {"sensitive": action}, "rules": [CATEGORIES]}} for action in actions}
    configs = {name: quickstart(data, form) for name, form in ({"none": {}} | chosen).items()}
    with start_ranks(configs["none"].parallel) as ranks:
        forms = {name: Form.of(config, ranks, BATCHES) for name, config in configs.items()}
        read = in_turns({name: form.read for name, form in forms.items()}, ROUNDS)
        step = in_turns({name: form.steps for name, form in forms.items()}, ROUNDS)
    events = sum(batch.num_events for batch in forms["none"].batches)
    yield from (
        "",
        f"{BATCHES} batches of 32 requests, {events / BATCHES:,.0f} events each without a filter, which counts for all "
        f"rates. Processor time, p20 / p50 / p80 of {ROUNDS} rounds in turns; ratios round by round.",
        "",
        "| action | filtered | ms per step | ratio | M events/s of a reader worker | ratio | KiB to the device |",
        "|---|---|---|---|---|---|---|",
    )
    for name, form in forms.items():
        acted = [sum(batch.filtered.get(of, 0) for batch in form.batches) for of in (name, "keep")]
        yield (
            f"| {name} | {acted[0] / max(sum(acted), 1) if name != 'none' else 0:.0%} "
            f"| {spread(1e3 * np.array(step[name]) / BATCHES, 1)} "
            f"| {spread(np.array(step[name]) / np.array(step['none']), 2)} "
            f"| {spread(events / np.array(read[name]) / 1e6, 2)} "
            f"| {spread(np.array(read['none']) / np.array(read[name]), 2)} "
            f"| {sum(batch.nbytes for batch in form.batches) / BATCHES / 1024:,.1f} |"
        )

"""What n-grams cost: a training step, its bytes to the device, and a reader worker, with them and without, in turns.

The recipe `quickstart` on synthetic data."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.forms import Form, in_turns, quickstart, spread
from dist_rec.data.synthetic.history import SynthConfig, synthesize
from dist_rec.training.ranks import start_ranks

REQUESTS, BATCHES, ROUNDS = 2_000, 12, 7
SPEC = {"orders": [2, 3], "heads": 2, "rows": 200_000}
FORMS: dict[str, dict[str, Any]] = {
    "none": {},
    "history.category": {"ngram": {"history.category": SPEC}},
    "history.item": {"ngram": {"history.item": SPEC}},
    "history.item, hashed after the copy": {"ngram": {"history.item": SPEC}, "hash_ngrams": "device"},
}


def page() -> Iterator[str]:
    """Lines of the tables."""
    with TemporaryDirectory() as place:
        data = Path(place) / "data"
        synthesize(data, SynthConfig(requests=REQUESTS))
        configs = {name: quickstart(data, form) for name, form in FORMS.items()}
        with start_ranks(configs["none"].parallel) as ranks:
            forms = {name: Form.of(config, ranks, BATCHES) for name, config in configs.items()}
            events = sum(batch.num_events for batch in forms["none"].batches)
            read = in_turns({name: form.read for name, form in forms.items()}, ROUNDS)
            step = in_turns({name: form.steps for name, form in forms.items()}, ROUNDS)
    yield (
        f"{BATCHES} batches of 32 requests, {events / BATCHES:,.0f} events; {SPEC['rows']:,} rows of each"
        f" of 4 sub-tables. Processor time, p20 / p50 / p80 of {ROUNDS} rounds in turns; ratios round by round."
    )
    yield from (
        "",
        "| n-grams of | ms per step | ratio | M events/s of a reader worker | ratio | KiB to the device | ids / row |",
    )
    yield "|---|---|---|---|---|---|---|"
    for name, form in forms.items():
        rate = events / np.array(read[name]) / 1e6
        sent = sum(batch.nbytes for batch in form.batches) / BATCHES / 1024
        use = [use.dedup_factor for use in form.batches[0].ngram_use.values()]
        yield (
            f"| {name} | {spread(1e3 * np.array(step[name]) / BATCHES, 1)} "
            f"| {spread(np.array(step[name]) / np.array(step['none']), 2)} | {spread(rate, 2)} "
            f"| {spread(np.array(read['none']) / np.array(read[name]), 2)} | {sent:,.1f} "
            f"| {', '.join(f'{factor:.2f}' for factor in use)} |"
        )

"""Events of every rank in every step, by the plan of the reader: how far ranks are apart, and what that costs.

Legend: R ranks, S steps."""

from pathlib import Path

import numpy as np

from dist_rec.data.columns import Ints
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema

EPOCHS = 3
SHUFFLE_WINDOW = 2048


def make_reader(
    data: Path, schema: Schema, rank: int, world_size: int, requests: int, *, by_events: bool
) -> RequestReader:
    """Batches of `requests` requests, or of as many events as so many requests have on average."""
    settings = {"folders": [data / "train"], "schema": schema, "shuffle_window": SHUFFLE_WINDOW, "epochs": EPOCHS}
    by_rows = RequestReader(**settings, batch_size=requests, rank=rank, world_size=world_size)
    if not by_events:
        return by_rows
    mean = sum(group.events or 0 for group in by_rows.row_groups) / by_rows.num_rows
    return RequestReader(**settings, batch_events=round(requests * mean), rank=rank, world_size=world_size)


def spread(data: Path, sizes: list[int], ranks: list[int]) -> list[str]:
    """One line per batch size, number of ranks and kind of batches."""
    lines = [
        "| requests per batch | ranks | batches by | steps per epoch | events per rank and step "
        "| max / mean of a step: median, p95 | variation over time | sum of max, M events | predicted speed-up |",
        "|---" * 9 + "|",
    ]
    schema = load_schema(data)
    for requests in sizes:
        for world_size in ranks:
            costs: dict[bool, float] = {}
            for by_events in (False, True):
                events = _events(data, schema, world_size, requests, by_events=by_events)
                largest, mean = events.max(axis=0), events.mean(axis=0)
                costs[by_events] = float(largest.sum())
                uneven = np.percentile(largest / mean, [50, 95])
                gain = f"{costs[False] / costs[True] - 1:+.0%}" if by_events else ""
                lines.append(
                    f"| {requests} | {world_size} | {'events' if by_events else 'requests'} "
                    f"| {events.shape[1] // EPOCHS} | {events.mean():,.0f} | {uneven[0]:.3f}, {uneven[1]:.3f} "
                    f"| {events.std() / events.mean():.3f} | {largest.sum() / 1e6:.3f} | {gain} |"
                )
                print(lines[-1], flush=True)
    return lines


def _events(data: Path, schema: Schema, world_size: int, requests: int, *, by_events: bool) -> Ints:
    """(R, S) events of all sequences, over all epochs."""
    found = []
    for rank in range(world_size):
        reader = make_reader(data, schema, rank, world_size, requests, by_events=by_events)
        found.append([batch.num_events for batch in reader])
    return np.array(found)


def lengths_of(data: Path) -> Ints:
    """(requests,) events of the training split's requests."""
    schema = load_schema(data)
    reader = RequestReader(folders=[data / "train"], schema=schema, batch_size=1024)
    name = schema.sequences[0].name
    return np.concatenate([batch.tensors[f"lengths.{name}"].numpy() for batch in reader])

"""Shared memory, through which batches come from the reader processes: its room, and what a job will need of it."""

import math

import torch

from dist_rec.data.attributes import AttributeField
from dist_rec.data.files import warn_once
from dist_rec.data.numbers import as_sent
from dist_rec.data.schema import Schema
from dist_rec.data.transfer_buffer import KEPT_FREE, SHARED_MEMORY, shared_memory_room, shrink_ids

AHEAD = 2  # batches that each reader process makes ahead: the prefetch factor of torch's DataLoader
INVERSE_BYTES, AGE_BYTES, NUMBER_BYTES = 4, 4, 4  # of an event at most


def event_bytes(schema: Schema) -> int:
    """Bytes of an event in a batch at most, of the sequence with the widest events: no id repeats, and n-grams are
    hashed on the host. Lists that belong to ids are counted as if they were empty."""

    def width(values: int) -> int:
        return shrink_ids(torch.empty(0, dtype=torch.int64), values).itemsize

    return max(
        sum(width(2**63 if _is_raw(schema, field.table) else schema.rows_of(field.table)) for field in of.ids)
        + sum(width(values) for values in schema.side_values(of).values())
        + INVERSE_BYTES
        + (AGE_BYTES if of.time else 0)
        + NUMBER_BYTES * len(as_sent(of.numbers))
        + sum(_attribute_bytes(each) for field in of.ids for each in schema.attributes.get(field.table, {}).values())
        + sum(field.ngram.tables * (width(field.ngram.total_rows) + INVERSE_BYTES) for field in of.ids if field.ngram)
        for of in schema.sequences
    )


def _is_raw(schema: Schema, table: str) -> bool:
    return schema.open_ids.get(table) == "dynamic"


def _attribute_bytes(of: AttributeField) -> int:
    """A number, the length of a list, or a vector."""
    return NUMBER_BYTES if of.vector is None else 2 * of.vector


def warn_of_little_room(batch_bytes: float, *, workers: int, ranks_here: int) -> None:
    """Says once if the batches that wait for the ranks of this host do not fit shared memory.

    Args:
        batch_bytes: of one batch at most, on average.
        workers: reader processes of each rank.
        ranks_here: ranks on this host.
    """
    needed, room = AHEAD * workers * ranks_here * batch_bytes, shared_memory_room()
    if needed > room:
        warn_once(
            f"shared memory ({SHARED_MEMORY}) has room for {room / 1e6:.0f} MB of batches, but those of {workers} "
            f"reader processes x {ranks_here} ranks on this host x {AHEAD} batches ahead take up to "
            f"{needed / 1e6:.0f} MB: what finds no room comes through a pipe, which takes longer; enlarge it "
            f"(docker run --shm-size={math.ceil(needed / (1 - KEPT_FREE) / 2**20)}m), or lower data.workers"
        )

"""Every Triton kernel that a run may launch, compiled before its first step.

Otherwise the first batch with a second candidate, or with more of them than before, would stop one rank for seconds,
and all others in the next collective.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.common.strict import Strict
from dist_rec.config import Config
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.collate import Collator
from dist_rec.data.columns import CANDIDATE
from dist_rec.data.example import ExampleAttributes, example_rows
from dist_rec.data.filter.actions import Action
from dist_rec.data.filter.event_filter import EventFilter
from dist_rec.data.filter.events import Events
from dist_rec.data.filter.policy import FilterPolicy
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import table_dims
from dist_rec.models.ranker import Ranker
from dist_rec.training.ranks import Ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.splits import hashes_on_device

# Kernels differ by the power of two that holds the query rows of a request, so doubling meets every one of them.
CANDIDATES = tuple(2**n for n in range(8))
# Requests and events: a few keys; many keys of few requests, which are then split; more requests than twice the
# processors of any GPU, which are not, with more rows than a short table has. Not those of a batch: this needs little
# memory, whatever the batches are.
SHAPES = ((1, 3), (16, 700), (300, 10))
# Distinct n-grams of a batch, of which these few requests have too few: a short table has another kernel.
MANY_NGRAMS = 300
MOST_THREADS = 16
_log = logging.getLogger("dist_rec.training")


def compile_kernels(ranker: Ranker, schema: Schema, config: Config, ranks: Ranks, log: RunLog) -> None:
    """Compiles for the schema, the model and its precision, on the first rank of each host; the others load what it
    left in Triton's cache. Without a GPU it does nothing. Comm: a barrier."""
    if ranks.device.type != "cuda":
        return
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0
    if not first:
        ranks.barrier()
    started = time.perf_counter()
    built = run_without_launches(ranker, schema, config, ranks.device, log)
    if first:
        log.say(f"{built} kernels compiled, or found in Triton's cache, in {time.perf_counter() - started:.0f} s")
        ranks.barrier()


def run_without_launches(ranker: Ranker, schema: Schema, config: Config, device: torch.device, log: RunLog) -> int:
    """Runs a copy of the model forward and backward over batches of zeros; the number of kernels compiled. The random
    state stays as it was."""
    from dist_rec.kernels.common.compile_ahead import compiling_ahead, noticing_builds  # needs Triton

    built: list[str] = []
    threads = min(max(len(os.sched_getaffinity(0)) - 1, 1), MOST_THREADS)
    own = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with own, noticing_builds(built.append), compiling_ahead(threads, log.compiling):
        copy = deepcopy(ranker)
        for batch in _batches(schema, config, device):
            forward_and_backward(copy, batch, schema, config, device)
        if schema.feedback_read is not None:
            for batch in _batches(schema, config, device) if _copies(config) else ():
                forward_alone(copy, batch, schema, config, device, twins_only=True)
            for batch in _batches(schema.as_served(), config, device):  # evaluation has no twins
                forward_alone(copy, batch, schema, config, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return len(built)


def _batches(schema: Schema, config: Config, device: torch.device) -> Iterator[HostBatch]:
    """Of every size that meets other kernels, with and without empty places."""
    there = hashes_on_device(config, schema, device)
    for candidates in CANDIDATES:
        for requests, events in SHAPES:
            rows = example_rows(schema, requests=requests, events=events, candidates=candidates)
            for acting in _filters(config, schema):
                collate = Collator(
                    schema,
                    config.data.max_length,
                    dedup=config.data.dedup,
                    event_filter=acting,
                    hash_ngrams=not there,
                    attributes=ExampleAttributes.of(schema),
                )
                yield from _with_few_and_many_ngrams(collate, rows)


def _with_few_and_many_ngrams(collate: Collator, rows: Any) -> Iterator[HostBatch]:
    """Each made anew: what launches are given is cleared."""
    batch = collate(rows)
    yield batch
    if batch.hash_there is not None:
        yield as_hashed_there(replace(collate, hash_ngrams=True)(rows))
    if collate.schema.layout.ngrams or batch.candidate_ngrams:
        many = replace(collate, hash_ngrams=True)(rows)
        yield with_ngrams(many if batch.hash_there is None else as_hashed_there(many), MANY_NGRAMS)


def as_hashed_there(batch: HostBatch) -> HostBatch:
    """With the index of n-grams in the form that hashing on the device gives it. How many n-grams differ, on which
    kernels depend, hashing itself cannot say here: its kernel does not run."""
    inverses = {f"inverse.{owner}": batch.inverse(owner) for owner in batch.ngrams}
    bits = {owner: of for owner, of in batch.bits.items() if owner not in batch.ngrams}
    return replace(batch, tensors={**batch.tensors, **inverses}, bits=bits)


def with_ngrams(batch: HostBatch, least: int) -> HostBatch:
    """With at least so many distinct n-grams in each of their tables, of which nobody needs to refer to the last."""
    num_unique, tensors = dict(batch.num_unique), dict(batch.tensors)
    for owner in (*batch.ngrams, *batch.candidate_ngrams):
        more = max(0, least - num_unique[owner])
        tensors[f"ids.{owner}"] = torch.nn.functional.pad(tensors[f"ids.{owner}"], (0, more))
        num_unique[owner] += more
    tensors["unique"] = torch.tensor([*num_unique.values()], dtype=torch.int32)
    return replace(batch, tensors=tensors, num_unique=num_unique)


def _copies(config: Config) -> bool:
    """Whether the teacher has weights of its own, which run the twins by themselves."""
    return config.distill is not None and config.distill.weight > 0 and config.distill.teacher != "live"


class _EverySecond(FilterPolicy):
    """Key-masks every second event of histories."""

    def decide(self, events: Events) -> NDArray[np.uint8]:
        if events.owner == CANDIDATE:
            return np.zeros(len(events), np.uint8)
        return np.arange(len(events)).astype(np.uint8) % 2 * np.uint8(Action.KEYMASK)


def _filters(config: Config, schema: Schema) -> list[EventFilter | None]:
    """None, and where the recipe's filter may key-mask, which leaves empty places, one that does."""
    chosen = config.data.filter
    may = chosen is not None and (chosen.policy.name != "rules" or "keymask" in chosen.actions.model_dump().values())
    if chosen is None or not may:
        return [None]
    return [None, EventFilter(_EverySecond(Strict(), chosen, schema), training=True)]


def forward_and_backward(
    ranker: Ranker, packed: HostBatch, schema: Schema, config: Config, device: torch.device
) -> None:
    """Launches what a step of the model launches, on rows of zeros; gradients are added to the model's."""
    batch = packed.to(device)
    ranker(_rows(batch, schema, config, device), batch).sum().backward()


@torch.no_grad()
def forward_alone(
    ranker: Ranker,
    packed: HostBatch,
    schema: Schema,
    config: Config,
    device: torch.device,
    *,
    twins_only: bool = False,
) -> None:
    """Launches what evaluation launches, or with `twins_only` the copy of a teacher."""
    batch = packed.to(device)
    ranker(_rows(batch, schema, config, device), batch, twins_only=twins_only)


def _rows(batch: SequenceBatch, schema: Schema, config: Config, device: torch.device) -> dict[str, Tensor]:
    """Zeros, as many by feature set as a lookup gives."""
    layout, dims = schema.layout, table_dims(schema, config.embedding)
    unique = dict(zip(batch.unique.keys(), batch.unique.length_per_key(), strict=True))
    rows: dict[str, Tensor] = {}
    for name, of in layout.feature_sets.items():
        width = sum(dims[layout.tables[key]] for key in of.keys)
        rows[name] = torch.zeros(unique[of.keys[0]], width, device=device, requires_grad=True)
    return rows


def telling_of_late_builds(device: torch.device) -> AbstractContextManager[None]:
    """Inside, a warning for every kernel that is compiled all the same."""
    if device.type != "cuda":
        return nullcontext()
    from dist_rec.kernels.common.compile_ahead import noticing_builds  # needs Triton

    return noticing_builds(lambda name: _log.warning("%s is compiled in the middle of training", name))

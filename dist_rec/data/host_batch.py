"""The batch of a reader worker: one buffer in host memory, which one copy moves to the device."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dist_rec.data.batch import JaggedEvents, SequenceBatch
from dist_rec.data.columns import CANDIDATE, CONTEXT
from dist_rec.data.layout import FieldNgrams
from dist_rec.data.lengths import Lengths, Slots
from dist_rec.data.ngram.counts import NgramUse
from dist_rec.data.ngram.device import DeviceHash, hashed
from dist_rec.data.unique_tokens import UniqueTokens


@dataclass(frozen=True, eq=False)
class HostBatch(UniqueTokens):
    """Made by `collate`; `to` makes a `SequenceBatch` of it, which documents the shapes and types of the tensors.

    - owners are the sequences, "candidate" and "context". Every owner but context also has `lengths.<owner>`,
      `side.<owner>.<field>` and `age.<owner>`, and where a filter leaves slots empty `slot.<owner>` and
      `slots.<owner>`; there are also `labels`, `oracle`, `visible_events`, `visible_slots`, `chosen`, `grouping_key`
      and `candidates_per_rank`
    - `side` owner -> names of its side values
    - `plain_bytes`: bytes the same batch would take as int64 KeyedJaggedTensors without dedup
    - `num_targets`: candidates that are trained
    - `filtered` action -> events and candidates; empty without a filter
    - `ngrams` owner -> what they are n-grams of. Their ids are hashed, or `hash_there` says how `to` hashes them
    - `candidate_ngrams` owners, always hashed on the host
    - `ngram_use` by "<sequence>.<field>.<order>"; of what is hashed there, `to` fills it in
    """

    side: dict[str, tuple[str, ...]]
    plain_bytes: int
    num_targets: int
    filtered: dict[str, int]
    ngrams: dict[str, FieldNgrams]
    candidate_ngrams: tuple[str, ...]
    hash_there: DeviceHash | None
    ngram_use: dict[str, NgramUse]

    @property
    def num_requests(self) -> int:
        return len(self.tensors["grouping_key"])

    @property
    def num_candidates(self) -> int:
        return self.counts[CANDIDATE]

    @property
    def num_events(self) -> int:
        return sum(self.counts[owner] for owner in self.side if owner != CANDIDATE)

    def set_candidates_per_rank(self, count: float) -> None:
        """Writes the mean number per rank in this step into the buffer, before the buffer is copied."""
        self.tensors["candidates_per_rank"].fill_(count)

    def to(  # pyright: ignore[reportIncompatibleMethodOverride] - an opened batch moves no further
        self, device: torch.device, non_blocking: bool = False
    ) -> SequenceBatch:
        """One copy of the buffer, then views of it. Only ids are new tensors there, as int64, and what is hashed there,
        for which the host waits."""
        there = super().to(device, non_blocking)
        tensors = there.tensors
        lengths = {owner: self._lengths(f"lengths.{owner}", tensors, of=owner) for owner in self.side}
        if self.hash_there is not None:
            there, used = hashed(there, self.hash_there, lengths)
            self.ngram_use.update(used)
        events = {
            owner: JaggedEvents(
                lengths=lengths[owner],
                inverse=there.inverse(owner),
                side={name: tensors[f"side.{owner}.{name}"] for name in names},
                age=tensors.get(f"age.{owner}"),
                ngrams={name: there.inverse(name) for name in self._ngrams_of(owner)},
            )
            for owner, names in self.side.items()
        }
        return SequenceBatch(
            unique=there.deduplicated,
            context=there.inverse(CONTEXT) if CONTEXT in there.counts else None,
            candidates=events.pop(CANDIDATE),
            sequences=events,
            labels=tensors["labels"],
            oracle=tensors.get("oracle"),
            visible_events=self._lengths("visible_events", tensors) if "visible_events" in tensors else None,
            visible_slots=self._lengths("visible_slots", tensors) if "visible_slots" in tensors else None,
            chosen=tensors.get("chosen"),
            grouping_key=tensors["grouping_key"],
            candidates_per_rank=tensors["candidates_per_rank"],
        )

    def _ngrams_of(self, owner: str) -> list[str]:
        """Of a sequence or of the candidates."""
        of_sequence = [name for name, of in self.ngrams.items() if of.sequence == owner]
        return list(self.candidate_ngrams) if owner == CANDIDATE else of_sequence

    def _lengths(self, name: str, there: Mapping[str, Tensor], of: str | None = None) -> Lengths:
        """Copies on the host: the buffer goes back to its allocator before the batch is done."""
        slots = None
        if f"slot.{of}" in there:
            position = f"slot.{of}"
            host = self.tensors[position].numpy().astype(np.int32)
            slots = Slots(there[position].int(), host, self._lengths(f"slots.{of}", there))
        return Lengths(there[name], self.tensors[name].numpy().copy(), slots=slots)

"""A batch as it leaves a reader worker: one buffer in host memory, which crosses by one copy and is opened on the
device."""

from dataclasses import dataclass

import torch

from dist_rec.data.batch import JaggedEvents, SequenceBatch
from dist_rec.data.columns import CANDIDATE, CONTEXT
from dist_rec.data.unique_tokens import UniqueTokens


@dataclass(frozen=True, eq=False)
class HostBatch(UniqueTokens):
    """What `collate` makes, and `to` turns into a `SequenceBatch`, where the shapes and types of the tensors are.

    - owners are the sequences, "candidate" and "context"; beside the ids there are for every owner but context
      `lengths.<owner>`, `side.<owner>.<field>` and `age.<owner>`, and `labels`, `oracle`, `visible_events`,
      `grouping_key`, `candidates_per_rank`
    - `side` owner -> names of its side values
    - `plain_bytes`: bytes the same batch would take as int64 KeyedJaggedTensors without dedup
    """

    side: dict[str, tuple[str, ...]]
    max_candidates: int
    plain_bytes: int

    @property
    def num_requests(self) -> int:
        return len(self.tensors["grouping_key"])

    @property
    def num_candidates(self) -> int:
        return self.counts[CANDIDATE]

    @property
    def num_events(self) -> int:
        return sum(count for owner, count in self.counts.items() if owner not in (CANDIDATE, CONTEXT))

    def set_candidates_per_rank(self, count: float) -> None:
        """Writes the number of an average rank in this step into the buffer, before it is copied."""
        self.tensors["candidates_per_rank"].fill_(count)

    def to(  # pyright: ignore[reportIncompatibleMethodOverride] - an opened batch moves no further
        self, device: torch.device, non_blocking: bool = False
    ) -> SequenceBatch:
        """One copy of the buffer, then views of it. Only ids are made anew there, as int64."""
        there = super().to(device, non_blocking)
        tensors = there.tensors
        events = {
            owner: JaggedEvents(
                lengths=tensors[f"lengths.{owner}"],
                inverse=there.inverse(owner),
                side={name: tensors[f"side.{owner}.{name}"] for name in names},
                age=tensors.get(f"age.{owner}"),
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
            visible_events=tensors.get("visible_events"),
            grouping_key=tensors["grouping_key"],
            candidates_per_rank=tensors["candidates_per_rank"],
            max_candidates=self.max_candidates,
        )

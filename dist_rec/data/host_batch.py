"""A batch as it leaves a reader worker: one buffer in host memory, which crosses by one copy and is opened on the device."""

from dataclasses import dataclass, replace

import torch
from torchrec.streamable import Pipelineable

from dist_rec.data.batch import JaggedEvents, SequenceBatch
from dist_rec.data.columns import CANDIDATE, CONTEXT
from dist_rec.data.unique_tokens import UniqueTokens


@dataclass(frozen=True)
class HostBatch(Pipelineable):
    """What `collate` makes, and `to` turns into a `SequenceBatch`, where the shapes and types of the tensors are.

    - `tokens` owners are the sequences, "candidate" and "context"; beside its own, its buffer holds for every owner but
      context `lengths.<owner>`, `dynamic.<owner>.<field>` and `age.<owner>`, and `labels`, `truth`, `seen`, `group`, `share`
    - `dynamic` owner -> names of its dynamic fields
    - `plain_bytes`: bytes the same batch would take as int64 KeyedJaggedTensors without dedup
    """

    tokens: UniqueTokens
    dynamic: dict[str, tuple[str, ...]]
    max_candidates: int
    plain_bytes: int

    @property
    def num_requests(self) -> int:
        return len(self.tokens.tensors["group"])

    @property
    def num_candidates(self) -> int:
        return self.tokens.counts[CANDIDATE]

    @property
    def num_events(self) -> int:
        return sum(count for owner, count in self.tokens.counts.items() if owner not in (CANDIDATE, CONTEXT))

    @property
    def nbytes(self) -> int:
        """Bytes that `to` moves."""
        return self.tokens.nbytes

    def set_share(self, share: float) -> None:
        """Writes the step's `share` into the buffer, before it is copied."""
        self.tokens.tensors["share"].fill_(share)

    def pin_memory(self) -> "HostBatch":
        return replace(self, tokens=self.tokens.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        self.tokens.record_stream(stream)

    def to(  # pyright: ignore[reportIncompatibleMethodOverride] - an opened batch moves no further
        self, device: torch.device, non_blocking: bool = False
    ) -> SequenceBatch:
        """One copy of the buffer, then views of it. Only ids are made anew there, as int64."""
        tokens = self.tokens.to(device, non_blocking)
        tensors = tokens.tensors
        return SequenceBatch(
            unique=tokens.deduplicated(),
            context=tokens.inverse(CONTEXT) if CONTEXT in tokens.counts else None,
            sequences={owner: self._events(tokens, owner) for owner in self.dynamic if owner != CANDIDATE},
            candidates=self._events(tokens, CANDIDATE),
            labels=tensors["labels"],
            truth=tensors.get("truth"),
            seen=tensors.get("seen"),
            group=tensors["group"],
            share=tensors["share"],
            max_candidates=self.max_candidates,
        )

    def _events(self, tokens: UniqueTokens, owner: str) -> JaggedEvents:
        tensors = tokens.tensors
        return JaggedEvents(
            lengths=tensors[f"lengths.{owner}"],
            inverse=tokens.inverse(owner),
            dynamic={name: tensors[f"dynamic.{owner}.{name}"] for name in self.dynamic[owner]},
            age=tensors.get(f"age.{owner}"),
        )

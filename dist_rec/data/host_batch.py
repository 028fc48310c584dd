"""The batch of a reader worker: one buffer in host memory, which one copy moves to the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dist_rec.data.batch import Feedback, IdLists, JaggedEvents, RequestValues, SequenceBatch
from dist_rec.data.columns import CANDIDATE, CONTEXT, REQUEST
from dist_rec.data.kinds import SentKinds
from dist_rec.data.later import FEEDBACK
from dist_rec.data.layout import FieldNgrams
from dist_rec.data.lengths import Lengths, Slots
from dist_rec.data.ngram.counts import NgramUse
from dist_rec.data.ngram.device import DeviceHash, hashed
from dist_rec.data.torchrec_types import NO_LOOKUP, KeyedJaggedTensor
from dist_rec.data.unique_tokens import UniqueTokens


@dataclass(frozen=True, eq=False)
class HostBatch(UniqueTokens):
    """Made by `collate`; `to` makes a `SequenceBatch` of it, which documents the shapes and types of the tensors.

    - owners are the sequences, "candidate" and "context". Every owner but context also has `lengths.<owner>`,
      `side.<owner>.<field>`, `number.<owner>.<name>` and `age.<owner>`, and where a filter leaves slots empty
      `slot.<owner>` and `slots.<owner>`; there are also `labels`, `oracle`, `observed`, `waited`, `visible_events`,
      `visible_slots`, `chosen`, `grouping_key`, `candidates_per_rank`, those of `request_values`, of `Joined` and, with
      feedback, of `feedback_columns`
    - `side` owner -> names of its side values; `feedback` those of feedback, None where there is none
    - `plain_bytes`: bytes the same batch would take as int64 KeyedJaggedTensors without dedup
    - `num_targets`: candidates that are trained, one number or one for each task
    - `filtered` action -> events and candidates; empty without a filter
    - `ngrams` owner -> what they are n-grams of. Their ids are hashed, or `hash_there` says how `to` hashes them
    - `candidate_ngrams` owners, always hashed on the host
    - `ngram_use` by "<sequence>.<field>.<order>"; of what is hashed there, `to` fills it in
    - `kinds` what there is beside ids, side values and times
    - `lost` requests of row groups that could not be read since the batch before
    """

    side: dict[str, tuple[str, ...]]
    feedback: tuple[str, ...] | None
    plain_bytes: int
    num_targets: tuple[float, ...]
    filtered: dict[str, int]
    ngrams: dict[str, FieldNgrams]
    candidate_ngrams: tuple[str, ...]
    hash_there: DeviceHash | None
    ngram_use: dict[str, NgramUse]
    kinds: SentKinds
    lost: int = 0

    @property
    def num_requests(self) -> int:
        return len(self.tensors["grouping_key"])

    @property
    def num_candidates(self) -> int:
        return self.counts[CANDIDATE]

    @property
    def num_events(self) -> int:
        return sum(self.counts[owner] for owner in self.side if owner != CANDIDATE)

    def set_candidates_per_rank(self, means: Sequence[float]) -> None:
        """Writes the mean numbers per rank in this step into the buffer, before the buffer is copied."""
        place = self.tensors["candidates_per_rank"]
        place.copy_(torch.tensor(means, dtype=torch.float32).view_as(place))

    def to(  # pyright: ignore[reportIncompatibleMethodOverride] - an opened batch moves no further
        self, device: torch.device, non_blocking: bool = False
    ) -> SequenceBatch:
        """One copy of the buffer, then views of it. Only ids are new tensors there, as int64, and what is hashed there,
        for which the host waits."""
        there = super().to(device, non_blocking)
        lengths = self._lengths_of_owners(there)
        if self.hash_there is not None:
            there, used = hashed(there, self.hash_there, lengths)
            self.ngram_use.update(used)
        return self._opened(there, lengths, there.deduplicated)

    def without_lookup(self, device: torch.device) -> SequenceBatch:
        """As `to`, for a caller who finds the rows of `ids_of` without TorchRec, which need not be installed: `unique`
        of the batch is `NO_LOOKUP`.

        Raises ValueError for n-grams that are not hashed yet: their ids would be known to nobody."""
        if self.hash_there is not None:
            raise ValueError(
                "expected ids of n-grams that are hashed on the host, got some that are hashed in a lookup"
            )
        there = super().to(device)
        return self._opened(there, self._lengths_of_owners(there), NO_LOOKUP)

    def _lengths_of_owners(self, there: UniqueTokens) -> dict[str, Lengths]:
        return {owner: self._lengths(f"lengths.{owner}", there.tensors, of=owner) for owner in self.side}

    def _opened(self, there: UniqueTokens, lengths: dict[str, Lengths], unique: KeyedJaggedTensor) -> SequenceBatch:
        tensors = there.tensors
        events = {
            owner: JaggedEvents(
                lengths=lengths[owner],
                inverse=there.inverse(owner),
                side={name: tensors[f"side.{owner}.{name}"] for name in names},
                age=tensors.get(f"age.{owner}"),
                ngrams={name: there.inverse(name) for name in self._ngrams_of(owner)},
                numbers={name: tensors[f"number.{owner}.{name}"] for name in self.kinds.numbers.get(owner, ())},
            )
            for owner, names in self.side.items()
        }
        return SequenceBatch(
            unique=unique,
            context=there.inverse(CONTEXT) if CONTEXT in there.counts else None,
            request=self._request_of(tensors) if self.kinds.has_request else None,
            lists={owner: self._lists_of(there, owner) for owner in self.kinds.id_lists},
            attributes={key: self._attributes_of(there, key) for key in self.kinds.attributes},
            candidates=events.pop(CANDIDATE),
            sequences=events,
            labels=tensors["labels"],
            oracle=tensors.get("oracle"),
            observed=tensors.get("observed"),
            waited=tensors.get("waited"),
            feedback=None if self.feedback is None else self._feedback_of(there, self.feedback),
            visible_events=self._lengths("visible_events", tensors) if "visible_events" in tensors else None,
            visible_slots=self._lengths("visible_slots", tensors) if "visible_slots" in tensors else None,
            chosen=tensors.get("chosen"),
            grouping_key=tensors["grouping_key"],
            candidates_per_rank=tensors["candidates_per_rank"],
        )

    def _request_of(self, tensors: Mapping[str, Tensor]) -> RequestValues:
        return RequestValues(
            side={name: tensors[f"side.{REQUEST}.{name}"] for name in self.kinds.buckets},
            numbers={name: tensors[f"number.{REQUEST}.{name}"] for name in self.kinds.numbers[REQUEST]},
            week=tensors.get(f"week.{REQUEST}"),
        )

    def _attributes_of(self, there: UniqueTokens, key: str) -> dict[str, Tensor | IdLists]:
        found: dict[str, Tensor | IdLists] = {
            name: there.tensors[f"attribute.{key}.{name}"] for name in self.kinds.attributes[key]
        }
        return found | {name: self._lists_of(there, f"{key}.{name}") for name in self.kinds.lists[key]}

    def _lists_of(self, there: UniqueTokens, owner: str) -> IdLists:
        return IdLists(self._lengths(f"lengths.{owner}", there.tensors), there.inverse(owner))

    def _feedback_of(self, there: UniqueTokens, side: tuple[str, ...]) -> Feedback:
        tensors = there.tensors
        return Feedback(
            lengths=self._lengths(f"lengths.{FEEDBACK}", tensors),
            inverse=there.inverse(FEEDBACK) if FEEDBACK in there.counts else None,
            side={name: tensors[f"side.{FEEDBACK}.{name}"] for name in side},
            age=tensors.get(f"age.{FEEDBACK}"),
            twins=self._lengths("twins", tensors),
            twin=tensors["twin"].long(),
            twin_host=self.tensors["twin"].numpy().copy(),
            distilled=tensors["distilled"],
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

"""A `SequenceBatch` as it leaves a reader worker: one buffer, crossed by one copy and opened on the other side.

Per event there cross the inverse index in ceil(log2 U) bits and the dynamic fields in their narrowest type; per unique token
each of its ids in the narrowest integer that holds its table.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from dist_rec.data.batch import JaggedEvents, SequenceBatch
from dist_rec.data.columns import CANDIDATE, CONTEXT
from dist_rec.data.dedup import pack_inverse, unpack_inverse
from dist_rec.data.schema import Schema
from dist_rec.data.wire import Packet, narrow, widen
from dist_rec.kernels.unique_ids import BitPackedIndex


@dataclass(frozen=True)
class PackedBatch(Pipelineable):
    """See `SequenceBatch`, which `to` makes of it.

    Names in the packet: `ids.<key>`, and for every owner (each sequence, "candidate", "context") `inverse.<owner>`,
    `lengths.<owner>`, `dynamic.<owner>.<field>`, `age.<owner>`; `unique` has the numbers of ids.

    - `bits` owner -> bits of its inverse index, `counts` owner -> its events, candidates or requests
    - `dynamic` owner -> names of its dynamic fields
    """

    packet: Packet
    keys: tuple[str, ...]
    bits: dict[str, int]
    counts: dict[str, int]
    dynamic: dict[str, tuple[str, ...]]
    max_candidates: int
    plain_bytes: int

    @classmethod
    def of(cls, batch: SequenceBatch, schema: Schema) -> "PackedBatch":
        """From a batch in host memory with plain inverse indices."""
        tensors: dict[str, Tensor] = {"unique": batch.unique.lengths()}
        sizes = {key: schema.tables[f.table] for tokens in schema.token_sets.values() for key, f in tokens.keyed_fields}
        ids = batch.unique.to_dict()
        tensors |= {f"ids.{key}": narrow(column.values(), sizes[key]) for key, column in ids.items()}
        owners = {**batch.sequences, CANDIDATE: batch.candidates}
        indices = {owner: events.inverse for owner, events in owners.items()}
        if batch.context is not None:
            indices[CONTEXT] = batch.context
        first_key = {tokens.name: tokens.keys[0] for tokens in schema.token_sets.values()}
        token_sets = {s.name: schema.token_set_of(s.static) for s in schema.sequences}
        token_sets |= {CANDIDATE: schema.token_set_of(schema.candidate.static), CONTEXT: CONTEXT}
        bits: dict[str, int] = {}
        for owner, index in indices.items():
            assert isinstance(index, Tensor), "packed only once"
            packed = pack_inverse(index, len(tensors[f"ids.{first_key[token_sets[owner]]}"]))
            tensors[f"inverse.{owner}"], bits[owner] = packed.words, packed.bits
        for owner, events in owners.items():
            tensors[f"lengths.{owner}"] = events.lengths
            tensors |= {f"dynamic.{owner}.{name}": values for name, values in events.dynamic.items()}
            if events.age is not None:
                tensors[f"age.{owner}"] = events.age
        outcome = {"labels": batch.labels, "truth": batch.truth, "seen": batch.seen, "group": batch.group, "share": batch.share}
        tensors |= {name: tensor for name, tensor in outcome.items() if tensor is not None}
        return cls(
            packet=Packet.of(tensors),
            keys=tuple(batch.unique.keys()),
            bits=bits,
            counts={owner: len(index) for owner, index in indices.items()},
            dynamic={owner: tuple(events.dynamic) for owner, events in owners.items()},
            max_candidates=batch.max_candidates,
            plain_bytes=batch.plain_bytes,
        )

    @property
    def num_requests(self) -> int:
        return self.packet.places["group"].shape[0]

    @property
    def num_candidates(self) -> int:
        return self.counts[CANDIDATE]

    @property
    def num_events(self) -> int:
        return sum(count for owner, count in self.counts.items() if owner not in (CANDIDATE, CONTEXT))

    @property
    def nbytes(self) -> int:
        """Bytes that `to` moves."""
        return self.packet.nbytes

    def set_share(self, share: float) -> None:
        """Writes the step's `share` into the buffer, before it is copied."""
        self.packet["share"].fill_(share)

    def pin_memory(self) -> "PackedBatch":
        return replace(self, packet=self.packet.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        self.packet.record_stream(stream)

    def to(self, device: torch.device, non_blocking: bool = False) -> SequenceBatch:
        """One copy of the buffer, then views of it. Ids become int64 there; inverse indices stay packed on a GPU, where every
        kernel that takes them unpacks as it reads, and are unpacked on a CPU."""
        packet = self.packet.to(device, non_blocking)
        ids = [widen(packet[f"ids.{key}"]) for key in self.keys]
        unique = KeyedJaggedTensor(
            keys=list(self.keys),
            values=torch.cat(ids),
            lengths=packet["unique"],
            stride=1,
            length_per_key=[len(column) for column in ids],  # known here, so that nobody has to ask the device
        )

        return SequenceBatch(
            unique=unique,
            context=self._inverse(packet, CONTEXT) if CONTEXT in self.counts else None,
            sequences={owner: self._events(packet, owner) for owner in self.dynamic if owner != CANDIDATE},
            candidates=self._events(packet, CANDIDATE),
            labels=packet["labels"],
            truth=packet.get("truth"),
            seen=packet.get("seen"),
            group=packet["group"],
            share=packet["share"],
            max_candidates=self.max_candidates,
            plain_bytes=self.plain_bytes,
        )

    def _events(self, packet: Packet, owner: str) -> JaggedEvents:
        return JaggedEvents(
            lengths=packet[f"lengths.{owner}"],
            inverse=self._inverse(packet, owner),
            dynamic={name: packet[f"dynamic.{owner}.{name}"] for name in self.dynamic[owner]},
            age=packet.get(f"age.{owner}"),
        )

    def _inverse(self, packet: Packet, owner: str) -> Tensor | BitPackedIndex:
        packed = BitPackedIndex(packet[f"inverse.{owner}"], self.bits[owner], self.counts[owner])
        return unpack_inverse(packed) if packet.buffer.device.type == "cpu" else packed

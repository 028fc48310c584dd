"""What a server keeps of a user: the events, and what the model has made of them so far.

Legend: N events of one sequence, M groups of K events (`SequenceModel.group_size`), W width of a part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
from torch import Tensor

FOREVER = 2**63 - 1


@dataclass(frozen=True)
class SequenceState:
    """One sequence of one user.

    - `events`: N
    - `inputs` (M, K * w) int32: all that the states of each group follow from, for the groups that do not change
    - `kept` name -> (M, W) of each group; `encoded` name -> (n, W)
    - `pool` (D,), where the model reads it
    """

    events: int
    inputs: Tensor
    kept: Mapping[str, Tensor]
    encoded: Mapping[str, Tensor]
    pool: Tensor | None

    @property
    def tensors(self) -> dict[str, Tensor]:
        found = {"inputs": self.inputs}
        found |= {f"kept.{name}": of for name, of in self.kept.items()}
        found |= {f"encoded.{name}": of for name, of in self.encoded.items()}
        return found if self.pool is None else found | {"pool": self.pool}


@dataclass(frozen=True)
class UserState:
    """One user, of one version of a model.

    - `version`: of the export that made it; another one refuses it
    - `events`: a row of the columns of the sequences, in the types of the schema
    - `as_of`, `until`: what is here is right for requests from the one second on, up to before the other. Ages of
      events are in buckets, and at `until` the first of them goes into its next one
    - `sequences` by name
    """

    version: str
    events: pa.Table
    as_of: int
    until: int
    sequences: Mapping[str, SequenceState]

    def holds_at(self, time: int, stale: int = 0) -> bool:
        """Whether a request at `time` needs nothing new; with `stale`, ages may be wrong by so many seconds."""
        return self.as_of <= time and (time < self.until or time <= self.as_of + stale)

    @cached_property
    def nbytes(self) -> int:
        tensors = (tensor for of in self.sequences.values() for tensor in of.tensors.values())
        return self.events.nbytes + sum(tensor.nbytes for tensor in tensors)

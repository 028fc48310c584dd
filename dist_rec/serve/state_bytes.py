"""States of users <-> bytes that any tier can keep, without pickle.

8 bytes   magic, with the number of this format
32 bytes  SHA-256 of all that follows
8 bytes   lengths of head and events, little-endian uint32
head      JSON: version of the model, user, origin, seconds, names, numbers of events
events    Arrow IPC stream of one row
tensors   safetensors, as `<sequence>/<part>`
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dist_rec.serve.user_state import SequenceState, UserState

MAGIC = b"drstate\x02"
_LENGTHS = struct.Struct("<II")
_START = len(MAGIC) + 32
_KINDS = ("kept", "encoded")


class DamagedState(ValueError):
    """Bytes that are no state, or are not as they were written."""


@dataclass(frozen=True)
class Kept:
    """The `state` of a `user` (the grouping key in decimal).

    - `origin` of its events: models of one origin read the same events of a user in the same columns, see `UserStates`
    - `came`: how many events of each sequence have come, of which the state may have the newest alone
    """

    user: str
    origin: str
    state: UserState
    came: Mapping[str, int]


def to_bytes(kept: Kept) -> bytes:
    state = kept.state
    head: dict[str, Any] = {
        **{"user": kept.user, "origin": kept.origin, "version": state.version},
        **{"as_of": state.as_of, "until": state.until},
        "sequences": {name: of.events for name, of in state.sequences.items()},
        "came": dict(kept.came),
    }
    tensors = {f"{name}/{part}": of for name, each in state.sequences.items() for part, of in each.tensors.items()}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, state.events.schema) as writer:
        writer.write_table(state.events)
    parts = [json.dumps(head).encode(), sink.getvalue().to_pybytes()]
    body = b"".join([_LENGTHS.pack(*map(len, parts)), *parts, save({k: of.contiguous() for k, of in tensors.items()})])
    return MAGIC + hashlib.sha256(body).digest() + body


def from_bytes(data: "bytes | memoryview[int]") -> Kept:
    """What is returned holds memory of its own. Raises DamagedState."""
    view = memoryview(data)
    if view[: len(MAGIC)] != MAGIC:
        raise DamagedState(f"expected a state that starts with {MAGIC!r}, got {bytes(view[: len(MAGIC)])!r}")
    body = view[_START:]
    if view[len(MAGIC) : _START] != hashlib.sha256(body).digest():
        raise DamagedState(f"expected bytes with the sum that they were written with, got {len(view)} others")
    try:
        return _read(body)
    except (SafetensorError, pa.ArrowException, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedState(f"expected a state, got what this version cannot read: {error!r}") from None


def _read(body: "memoryview[int]") -> Kept:
    head_size, events_size = _LENGTHS.unpack(body[: _LENGTHS.size])
    events_at = _LENGTHS.size + head_size
    tensors_at = events_at + events_size
    head = json.loads(bytes(body[_LENGTHS.size : events_at]))
    events = pa.ipc.open_stream(bytes(body[events_at:tensors_at])).read_all()
    found: dict[str, dict[str, Tensor]] = {name: {} for name in head["sequences"]}
    for name, tensor in load(bytes(body[tensors_at:])).items():
        sequence, _, part = name.partition("/")
        found[sequence][part] = tensor
    sequences = {name: _sequence(events, found[name]) for name, events in head["sequences"].items()}
    state = UserState(head["version"], events, head["as_of"], head["until"], sequences)
    return Kept(head["user"], head["origin"], state, dict(head["came"]))


def _sequence(events: int, parts: dict[str, Tensor]) -> SequenceState:
    of_kind: dict[str, dict[str, Tensor]] = {kind: {} for kind in _KINDS}
    for name, tensor in parts.items():
        kind, _, rest = name.partition(".")
        if kind in of_kind:
            of_kind[kind][rest] = tensor
    return SequenceState(events, parts["inputs"], of_kind["kept"], of_kind["encoded"], parts.get("pool"))

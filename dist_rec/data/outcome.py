"""What came of the candidates of a batch, as tensors: labels, their truth, which events each sees.

Shapes: C candidates, T tasks.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.data.columns import CANDIDATE, Ints
from dist_rec.data.reading import Reading
from dist_rec.data.targets import Labels


def trained(reading: Reading, labels: Labels) -> NDArray[np.bool_]:
    """(C,) the candidates with a loss: a filter keeps them, and they were served before the moment of training."""
    untrained = reading.left.untrained
    return labels.served if untrained is None else labels.served & ~untrained


def num_targets(reading: Reading, labels: Labels, taught: NDArray[np.float64]) -> tuple[float, ...]:
    """Candidates that are trained; where labels take time of every task, without those of whose label nothing is known
    yet: one whose condition is not met counts, as it does where labels take no time. One that is only taught counts
    with the weight of its lesson, `taught` (C, T), so that a mean is over all that have a loss."""
    there = trained(reading, labels)
    if not reading.schema.candidate.delayed:
        return (float(there.sum()),)
    known = labels.mature | ~labels.defined | ~np.isnan(labels.more.get("observed", labels.final))
    return tuple(float(of) for of in (np.where(known, 1.0, taught) * there[:, None]).sum(0))


def outcome(reading: Reading, labels: Labels) -> dict[str, Tensor]:
    """`labels`, `oracle` and `visible_events` if the schema has them, `observed` and `waited` for a correction, and in
    evaluation what a filter `chose`."""
    declared = reading.schema.candidate
    values = {"labels": labels.final, **labels.more}
    if declared.oracle and declared.labels_read:
        names = (f"{label}.oracle" for label in declared.labels)
        values["oracle"] = np.stack([reading.values(CANDIDATE, name).astype(np.float32) for name in names], axis=1)
    untrained = ~trained(reading, labels)
    for of in values.values():
        of[untrained] = np.nan
    found = {name: torch.from_numpy(of) for name, of in values.items()}
    if declared.visible_events:
        found |= _visible_events(reading)
    if reading.left.chosen is not None:
        found["chosen"] = torch.from_numpy(reading.left.chosen)
    return found


def _visible_events(reading: Reading) -> dict[str, Tensor]:
    """How many of the events that are left each candidate sees, and where slots are empty how many slots."""
    visible = reading.values(CANDIDATE, "visible_events").astype(np.int64)
    (sequence,) = reading.schema.sequences
    kept = reading.left.kept.get(sequence.name)
    if kept is None:
        return {"visible_events": torch.from_numpy(visible.astype(np.int32))}
    events = reading.left.some.lists(f"{sequence.name}.{sequence.ids[0].name}").lengths
    first = (np.cumsum(events) - events).repeat(reading.lengths(CANDIDATE, reading.schema.candidate.ids[0].name))

    def among(before: Ints) -> Tensor:
        return torch.from_numpy((before[first + visible] - before[first]).astype(np.int32))

    found = {"visible_events": among(kept.before)}
    return found if kept.slots is None else found | {"visible_slots": among(kept.places_before)}

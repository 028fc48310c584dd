"""What a batch says of labels: those that are final, what was known of the others, and what a teacher teaches.

Delayed feedback: O. Chapelle, "Modeling delayed feedback in display advertising", KDD 2014.

Shapes: B requests, C candidates, T tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dist_rec.common.choices import DistilledRows
from dist_rec.data.columns import CANDIDATE
from dist_rec.data.reading import Reading


@dataclass(frozen=True)
class Targets:
    """What a run asks of the labels.

    - `now`: the moment of training in seconds; a label is what was known then. None: later than everything
    - `corrected`: whether a correction of delay reads what was known of labels that were not final
    - `taught`: the tasks that a teacher teaches, with the weight of the lesson beside a label's loss; None: all, 1 each
    - `distilled`: of these all labels, those that are final, or the others
    """

    now: int | None = None
    corrected: bool = False
    taught: Mapping[str, float] | None = None
    distilled: DistilledRows = "all"


@dataclass(frozen=True)
class Labels:
    """Of C candidates, before a filter says which of them are trained.

    - `final` (C, T) float32: 0 or 1, NaN where the label is not defined or not final
    - `defined`, `mature` (C, T) bool: whether there is such a label, and whether it is final
    - `served` (C,) bool: whether the request was before the moment of training
    - `observed`, `waited` (C, T) float32: with `corrected`, whether the 1 had come, and how long it took, or if it had
      not how long it has been waited for, in horizons, at most 1; tasks without a horizon have their final label, and 0
    """

    final: NDArray[np.float32]
    defined: NDArray[np.bool_]
    mature: NDArray[np.bool_]
    served: NDArray[np.bool_]
    more: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def read_labels(reading: Reading, targets: Targets) -> Labels:
    """The labels of the candidates that are left; where they are not read, nobody knows one."""
    declared = reading.schema.candidate
    if not declared.labels_read:
        count = int(reading.lengths(CANDIDATE, declared.ids[0].name).sum())
        nothing = np.zeros((count, len(declared.labels)), bool)
        return Labels(np.full(nothing.shape, np.nan, np.float32), nothing, nothing, np.ones(count, bool))

    def column(name: str) -> NDArray[np.float32]:
        return reading.values(CANDIDATE, name).astype(np.float32)

    final = np.stack([column(label) for label in declared.labels], axis=1)
    defined, mature = np.ones(final.shape, bool), np.ones(final.shape, bool)
    for task, condition in declared.given.items():
        defined[:, declared.labels.index(task)] = final[:, declared.labels.index(condition)] != 0
    served, elapsed = np.ones(len(final), bool), np.full(len(final), np.inf)
    if targets.now is not None:
        request = np.repeat(np.arange(len(reading.left.some)), reading.lengths(CANDIDATE, declared.ids[0].name))
        elapsed = (targets.now - reading.now())[request].astype(np.float64)
        served = elapsed >= 0
    observed, waited = final.copy(), np.zeros_like(final)
    for task, of in declared.delayed.items():
        place = declared.labels.index(task)
        if not of.read:
            continue
        if of.horizon is None:
            mature[:, place] = column(f"{task}.matured") == 1
            observed[~mature[:, place], place] = np.nan  # no correction knows how long it has been waited for
            continue
        delay = column(f"{task}.delay").astype(np.float64)
        came = (final[:, place] == 1) & (delay <= elapsed)
        mature[:, place] = elapsed >= of.horizon
        observed[:, place] = came
        waited[:, place] = np.where(came, delay, elapsed).clip(max=of.horizon) / of.horizon
    final[~(defined & mature & served[:, None])] = np.nan
    observed[~(defined & served[:, None])] = np.nan
    more = {"observed": observed, "waited": waited} if targets.corrected else {}
    return Labels(final, defined, mature, served, more)

"""Whether feedback alone tells a label: measured before a teacher is trained.

Where it does, as a dwell time that only clicked candidates have tells the click, the teacher becomes the label.
Learning from it is then the cross-entropy of the label once more, and nothing new.

Candidates of unknown feedback have no part in it: no teacher reads them.

Legend: C candidates, F numbers of a candidate, T tasks.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dist_rec.common.auc import auc
from dist_rec.common.logistic import fit_logistic
from dist_rec.data.columns import CANDIDATE, Ints
from dist_rec.data.reader import RequestReader
from dist_rec.distill.features import feedback_features

LIMIT = 0.95  # AUC above which a run stops
MOST_CANDIDATES = 50_000  # read, whether or not their labels are final
FEWEST = 10  # of a class, in each half: fewer would reach the limit by chance; and of a number that is not zero
L2 = 0.05  # with a few thousand candidates less finds more in one half than is there


@dataclass(frozen=True)
class LeakAudit:
    """Of one task: AUC of a logistic regression on feedback, on candidates that it was not fitted on. What leaks in the
    few candidates that have an event hardly shows among many that have none, so those few are measured by themselves,
    too.

    - `auc` NaN if a half has fewer than `FEWEST` candidates of a class
    - `candidates` with a final label and known feedback, and how many of them are `with_feedback`, at least one event
    - `auc_with_feedback` the same as `auc`, fitted and measured on these alone
    """

    auc: float
    candidates: int
    with_feedback: int
    auc_with_feedback: float

    @property
    def largest(self) -> float:
        """Of both; NaN if nothing is known of either."""
        return float(np.fmax(self.auc, self.auc_with_feedback))

    @property
    def leaks(self) -> bool:
        return self.largest > LIMIT  # not NaN, of which nothing is known

    def told(self, task: str) -> str:
        """One line for the reader at the console."""
        share = self.with_feedback / max(self.candidates, 1)
        of = f"{self.candidates:,} candidates with a final label, {100 * share:.0f} % with feedback"
        if math.isnan(self.largest):
            return f"{task}: whether feedback alone tells it is unknown, for lack of labels of both classes ({of})"
        told = f"{task}: feedback alone tells it with AUC {_number(self.auc)}"
        if self.with_feedback < self.candidates:
            told += f", and with AUC {_number(self.auc_with_feedback)} where there is some"
        return f"{told} (limit {LIMIT:g}; {of})"


def _number(auc: float) -> str:
    return "unknown" if math.isnan(auc) else f"{auc:.3f}"


def feedback_leak_audit(reader: RequestReader, tasks: Iterable[str]) -> dict[str, LeakAudit]:
    """One audit for each of the tasks, from the reader's first batches: `MOST_CANDIDATES`, and the rest of a batch.

    reader: of a training split with feedback, of one epoch, since a request that comes twice would be in both halves.

    Raises DataError for what cannot be read."""
    labels_of = reader.schema.candidate.labels
    names = list(tasks)
    places = [labels_of.index(task) for task in names]
    features, labels, request = _read(reader, places)
    # By request: its candidates have much in common, such as what was visited next.
    requests = int(request.max(initial=-1)) + 1
    half = np.random.default_rng(0).permutation(requests)[request] < requests / 2
    return {task: _audited(features, labels[:, number], half) for number, task in enumerate(names)}


def leaks_told(found: dict[str, LeakAudit], allowed: Iterable[str]) -> str:
    """Why a run has to stop; nothing if no task leaks but those that may."""
    leaking = {task: audit for task, audit in found.items() if audit.leaks and task not in set(allowed)}
    if not leaking:
        return ""
    told = " and ".join(f"{task} with AUC {audit.largest:.3f}" for task, audit in leaking.items())
    return (
        f"distill: feedback alone tells {told}, above the limit of {LIMIT:g}: the teacher would be the label, and "
        "teach nothing new; expected feedback that the label is not made of: leave the column that tells it out of "
        "candidate.feedback in schema.yaml, teach another task (distill.tasks), or allow it with "
        f"distill.allow_leak: [{', '.join(leaking)}]"
    )


def _read(reader: RequestReader, places: list[int]) -> tuple[NDArray[np.uint8], NDArray[np.float32], Ints]:
    """Features (C, F), labels (C, T) of the tasks at `places`, and request (C,) of candidates with a final label whose
    feedback is known: those that have a twin."""
    features, labels, request = [], [], []
    candidates = requests = 0
    for batch in reader:
        of, twin = batch.tensors["labels"].numpy()[:, places], batch.tensors["twin"].numpy()
        final = twin[~np.isnan(of[twin]).all(axis=1)]
        owner = np.repeat(np.arange(batch.num_requests), batch.tensors[f"lengths.{CANDIDATE}"].numpy())
        features.append(feedback_features(batch, reader.schema)[final])
        labels.append(of[final])
        request.append(requests + owner[final])
        candidates, requests = candidates + batch.num_candidates, requests + batch.num_requests
        if candidates >= MOST_CANDIDATES:
            break
    return np.concatenate(features), np.concatenate(labels), np.concatenate(request)


def _audited(features: NDArray[np.uint8], labels: NDArray[np.float32], half: NDArray[np.bool_]) -> LeakAudit:
    """Of one task: labels (C,), NaN where not final, and whether each candidate is of the half to fit on."""
    final = ~np.isnan(labels)
    with_feedback = final & (features[:, 0] > 0)
    found = _held_out_auc(features, labels, final, half)
    among = found if (with_feedback == final).all() else _held_out_auc(features, labels, with_feedback, half)
    return LeakAudit(found, int(final.sum()), int(with_feedback.sum()), among)


def _held_out_auc(
    features: NDArray[np.uint8], labels: NDArray[np.float32], of: NDArray[np.bool_], half: NDArray[np.bool_]
) -> float:
    """Of the candidates `of` (C,), fitted on those of the half, measured on the others; NaN if a class has too few."""
    parts = of & half, of & ~half
    classes = [(labels[part] == 1).sum() for part in parts], [(labels[part] == 0).sum() for part in parts]
    if np.min(classes) < FEWEST:
        return math.nan
    fit, held = (features[part] for part in parts)
    used = (fit > 0).sum(axis=0) >= FEWEST
    model = fit_logistic(torch.from_numpy(fit[:, used]), labels[parts[0]] == 1, l2=L2)
    return auc(model.scores(torch.from_numpy(held[:, used])), labels[parts[1]])

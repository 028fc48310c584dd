"""Feedback of the candidates of a batch: what happened to them after they were served, for a teacher to read.

A candidate with feedback gets a twin, a second candidate that also sees the feedback. There is none for a candidate
that is not trained; whether it has a label that the teacher teaches or learns from makes no difference, as the log says
how many have feedback alone.

Shapes: B requests, C candidates, F twins, E their feedback events, T tasks.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from dist_rec.data.columns import CANDIDATE, Ints
from dist_rec.data.later import FEEDBACK, FeedbackSchema
from dist_rec.data.outcome import trained
from dist_rec.data.reading import OwnerColumns, Reading
from dist_rec.data.targets import Labels, Targets


def feedback_columns(reading: Reading, labels: Labels, targets: Targets) -> OwnerColumns | None:
    """ids (E,) of each field, and tensors; None without feedback, or if it is not read.

    - `lengths.feedback` (F,) int32 events of each twin, at least one; `side.feedback.<name>`; `age.feedback` (E,) int32
      seconds from the request to the event
    - `twins` (B,) int32 twins of each request, `twin` (F,) int32 the candidate of each
    - `distilled` (F, T) bool: the labels that the teacher teaches the candidate
    """
    feedback = reading.schema.feedback_read
    if feedback is None:
        return None
    there = trained(reading, labels)
    chosen, candidate = _chosen(reading, feedback, there, targets.now)
    twin, events = np.unique(candidate, return_counts=True)
    request = np.repeat(np.arange(len(reading.left.some)), _candidates_of(reading))
    tensors = {
        f"lengths.{FEEDBACK}": torch.from_numpy(events.astype(np.int32)),
        **{name: values[torch.from_numpy(chosen)] for name, values in reading.side(FEEDBACK, feedback).items()},
        "twins": torch.from_numpy(np.bincount(request[twin], minlength=len(reading.left.some)).astype(np.int32)),
        "twin": torch.from_numpy(twin.astype(np.int32)),
        "distilled": torch.from_numpy(_distilled(labels, targets, reading.schema.candidate.labels)[twin]),
    }
    if feedback.time:
        elapsed = reading.values(FEEDBACK, "time").astype(np.int64)[chosen] - reading.now()[request[candidate]]
        tensors[f"age.{FEEDBACK}"] = torch.from_numpy(elapsed.clip(max=2**31 - 1).astype(np.int32))
    ids = [values[chosen] for values in reading.ids(FEEDBACK, feedback)]
    # As KeyedJaggedTensors of the candidates, as for the events of a sequence.
    plain_bytes = len(feedback.columns) * (8 * len(chosen) + 4 * len(there))
    return OwnerColumns(ids, tensors, plain_bytes, tuple(feedback.side))


def no_feedback(feedback: FeedbackSchema) -> list[NDArray]:
    """Ids of each field where feedback is declared but not read: the keys of the batch are the same without it."""
    return [np.zeros(0, np.int64) for _ in feedback.ids]


def taught(labels: Labels, feedback: OwnerColumns | None) -> NDArray[np.bool_]:
    """(C, T) the labels that the teacher teaches."""
    found = np.zeros_like(labels.mature)
    if feedback is not None:
        found[feedback.tensors["twin"].numpy()] = feedback.tensors["distilled"].numpy()
    return found


def _distilled(labels: Labels, targets: Targets, tasks: list[str]) -> NDArray[np.bool_]:
    """(C, T)"""
    wanted = {"all": True, "labelled": labels.mature, "immature": ~labels.mature}[targets.distilled]
    named = [targets.taught is None or task in targets.taught for task in tasks]
    return labels.defined & wanted & np.array(named)


def _candidates_of(reading: Reading) -> Ints:
    """(B,)"""
    return reading.lengths(CANDIDATE, reading.schema.candidate.ids[0].name)


def _chosen(reading: Reading, feedback: FeedbackSchema, there: NDArray[np.bool_], now: int | None) -> tuple[Ints, Ints]:
    """Which feedback events, among those a filter leaves, are read, and the candidate of each.

    They are the first `most` of every candidate that is `there` (C,), known by `now`."""
    counts = reading.left.some.lists(f"{CANDIDATE}.feedback_events").values.astype(np.int64)
    # Candidates are counted as the file has them, then as a filter leaves them.
    of_file, left = np.repeat(np.arange(len(counts)), counts), reading.left.kept.get(CANDIDATE)
    number = np.full(len(counts), -1)
    stays = np.arange(len(counts)) if left is None or left.index is None else left.index
    number[stays] = np.where(there, np.arange(len(stays)), -1)
    kept = reading.left.kept.get(FEEDBACK)
    candidate = number[of_file if kept is None else kept.of(of_file)]
    known = candidate >= 0
    if now is not None and feedback.time:
        known &= reading.values(FEEDBACK, "time").astype(np.int64) <= now
    chosen = np.flatnonzero(known)
    candidate = candidate[chosen]
    first = np.concatenate([[True], np.diff(candidate) != 0])[: len(candidate)]
    place = np.arange(len(candidate)) - np.flatnonzero(first)[np.cumsum(first) - 1]
    early = place < feedback.most
    return chosen[early], candidate[early]

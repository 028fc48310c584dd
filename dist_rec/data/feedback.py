"""Feedback of the candidates of a batch: what happened to them after they were served, for a teacher to read.

A candidate whose feedback is known gets a twin, a second candidate that also sees the feedback; that nothing happened
is feedback, too. There is no twin where it is not known, nor for a candidate that is not trained.

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

    - `lengths.feedback` (F,) int32 events of each twin, perhaps none; `side.feedback.<name>`; `age.feedback` (E,) int32
      seconds from the request to the event
    - `twins` (B,) int32 twins of each request, `twin` (F,) int32 the candidate of each
    - `distilled` (F, T) bool: the labels that the teacher teaches the candidate
    """
    feedback = reading.schema.feedback_read
    if feedback is None:
        return None
    request = np.repeat(np.arange(len(reading.left.some)), _candidates_of(reading))
    twin, chosen, candidate = _twins(reading, feedback, trained(reading, labels), request, targets.now)
    events = np.bincount(candidate, minlength=len(request))[twin]
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
    plain_bytes = len(feedback.columns) * (8 * len(chosen) + 4 * len(request))
    return OwnerColumns(ids, tensors, plain_bytes, tuple(feedback.side))


def no_feedback(feedback: FeedbackSchema) -> list[NDArray]:
    """Ids of each field where feedback is declared but not read: the keys of the batch are the same without it."""
    return [np.zeros(0, np.int64) for _ in feedback.ids]


def taught(labels: Labels, feedback: OwnerColumns | None, targets: Targets, tasks: list[str]) -> NDArray[np.float64]:
    """(C, T) the weight of the lesson for each label, 0 where there is none."""
    found = np.zeros(labels.mature.shape)
    if feedback is not None:
        weights = [1.0 if targets.taught is None else targets.taught.get(task, 0.0) for task in tasks]
        found[feedback.tensors["twin"].numpy()] = feedback.tensors["distilled"].numpy() * np.array(weights)
    return found


def _distilled(labels: Labels, targets: Targets, tasks: list[str]) -> NDArray[np.bool_]:
    """(C, T)"""
    wanted = {"all": True, "labelled": labels.mature, "immature": ~labels.mature}[targets.distilled]
    named = [targets.taught is None or targets.taught.get(task, 0.0) > 0 for task in tasks]
    return labels.defined & wanted & np.array(named)


def _candidates_of(reading: Reading) -> Ints:
    """(B,)"""
    return reading.lengths(CANDIDATE, reading.schema.candidate.ids[0].name)


def _twins(
    reading: Reading, feedback: FeedbackSchema, there: NDArray[np.bool_], request: Ints, now: int | None
) -> tuple[Ints, Ints, Ints]:
    """The candidates (F,) with a twin, which feedback events (E,) are read, among those a filter leaves, and the
    candidate of each: the first `most` events, within the window, of the candidates that are `there` (C,).

    `request` (C,) of the candidates. Feedback is known when its window has passed by `now`. Where a filter takes all of
    a candidate's events, nobody knows whether something happened."""
    counts = reading.left.some.lists(f"{CANDIDATE}.feedback_events").values.astype(np.int64)
    # Candidates are counted as the file has them, then as a filter leaves them.
    of_file, left = np.repeat(np.arange(len(counts)), counts.clip(min=0)), reading.left.kept.get(CANDIDATE)
    stays = np.arange(len(counts)) if left is None or left.index is None else left.index
    kept = reading.left.kept.get(FEEDBACK)
    of_file = of_file if kept is None else kept.of(of_file)
    untouched = (counts == 0) | (np.bincount(of_file, minlength=len(counts)) > 0)
    known = there & (counts >= 0)[stays] & untouched[stays]
    if now is not None and feedback.window is not None:
        known &= now - reading.now()[request] >= feedback.window
    number = np.full(len(counts), -1)
    number[stays] = np.where(known, np.arange(len(stays)), -1)
    candidate = number[of_file]
    read = candidate >= 0
    if feedback.time and feedback.window is not None:
        elapsed = reading.values(FEEDBACK, "time").astype(np.int64) - _of_each(reading.now()[request], candidate)
        read &= elapsed <= feedback.window
    chosen = np.flatnonzero(read)
    candidate = candidate[chosen]
    first = np.concatenate([[True], np.diff(candidate) != 0])[: len(candidate)]
    place = np.arange(len(candidate)) - np.flatnonzero(first)[np.cumsum(first) - 1]
    early = place < feedback.most
    return np.flatnonzero(known), chosen[early], candidate[early]


def _of_each(values: Ints, index: Ints) -> Ints:
    """`values[index]`, zero where the index is -1."""
    return np.append(values, 0)[index]

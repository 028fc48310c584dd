"""What a teacher and its student say, as sums over candidates for the log.

Legend: C candidates, F twins, T tasks, q the teacher's probability, p the student's, y the label.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dist_rec.data.batch import Feedback

SUMS = (
    "both",  # candidates with feedback and a label
    "feedback_only",
    "label_only",
    "neither",
    "gap",  # |q - p| with feedback
    "teacher",  # q, p and y where there are both
    "student",
    "label",
    "credit_one",  # log(q / p) where y = 1
    "credit_zero",  # log((1 - q) / (1 - p)) where y = 0
)


def teaching_signals(logits: Tensor, z_teacher: Tensor, labels: Tensor, feedback: Feedback) -> Tensor:
    """(S, T) float32 sums in the order of `SUMS`; logits and labels (C, T), z_teacher (F, T)."""
    has_label, has_feedback = ~labels.isnan(), torch.zeros_like(labels, dtype=torch.bool)
    has_feedback.index_fill_(0, feedback.twin, True)
    z, y = logits[feedback.twin], labels[feedback.twin]
    known, y = ~y.isnan(), y.nan_to_num()
    p, q = z.sigmoid(), z_teacher.sigmoid()
    one = (logsigmoid(z_teacher) - logsigmoid(z)) * y
    zero = (logsigmoid(-z_teacher) - logsigmoid(-z)) * (1 - y)
    shares = [a & b for a in (has_feedback, ~has_feedback) for b in (has_label, ~has_label)]
    both, feedback_only, label_only, neither = (share.float().sum(0) for share in shares)
    sums = [(q - p).abs().sum(0), *((of * known).sum(0) for of in (q, p, y, one, zero))]
    return torch.stack([both, feedback_only, label_only, neither, *sums])


@dataclass(frozen=True)
class Teaching:
    """Of one task over a window: shares of candidates by what is known of them; `agreement`, 1 - mean |q - p|;
    predictions over labels of both (`calibration`); mean credit of the label, log(q / p) of a 1 and log((1 - q) /
    (1 - p)) of a 0: positive where the teacher gives it more."""

    both: float
    feedback_only: float
    label_only: float
    neither: float
    agreement: float
    teacher_calibration: float
    student_calibration: float
    credit_of_ones: float
    credit_of_zeros: float

    @classmethod
    def of(cls, sums: list[float]) -> "Teaching":
        """From sums in the order of `SUMS`; NaN where nothing is known."""
        at = dict(zip(SUMS, sums, strict=True))
        shares = {name: _ratio(at[name], sum(sums[:4])) for name in SUMS[:4]}
        zeros = at["both"] - at["label"]
        return cls(
            **shares,
            agreement=1 - _ratio(at["gap"], at["both"] + at["feedback_only"]),
            teacher_calibration=_ratio(at["teacher"], at["label"]),
            student_calibration=_ratio(at["student"], at["label"]),
            credit_of_ones=_ratio(at["credit_one"], at["label"]),
            credit_of_zeros=_ratio(at["credit_zero"], zeros),
        )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")

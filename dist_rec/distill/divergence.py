"""How far a student is from its teacher, for Bernoulli heads and for distributions over K entries.

p is the student's distribution, q the teacher's, a = `div_mix`, and m = (1 - a) p + a q:

    a = 0        KL(q || p), forward: the student covers what the teacher holds possible
    0 < a < 1    (1 - a) KL(p || m) + a KL(q || m); at 0.5 the Jensen-Shannon divergence
    a = 1        KL(p || q), reverse: the student keeps to what the teacher holds likely

The ends are not the limits of the middle, which are zero: divided by a, or by 1 - a, the middle tends to them. Of a
student that cannot tell the cases f of its teacher apart, forward KL is calibrated for Bernoulli heads: the p that
minimises E_f KL(q_f || p) is E q_f. The others are below it where positives are rare.

Source: SDPO, https://arxiv.org/abs/2601.20802, equation 1; the bucket of the remaining mass: appendix A.3.

Legend: N rows, K entries of a row.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid


def distill_bernoulli(
    z_student: Tensor, z_teacher: Tensor, weight: Tensor | None = None, *, div_mix: float = 0.0
) -> Tensor:
    """The divergence of sigmoid(z_student) and sigmoid(z_teacher), entry by entry, times `weight`.

    z_student and z_teacher are logits of one shape and any floating dtype, weight broadcasts to that shape (None:
    ones). Returns that shape in float32, or in float64 if a logit is. Only z_student gets a gradient: the teacher and
    the weight are constants. An entry of weight zero has a loss and a gradient of exactly zero, whatever its logits.

    ValueError: shapes that do not fit, div_mix outside [0, 1].
    """
    _check(z_student, z_teacher, div_mix)
    if weight is not None and not _broadcasts(weight.shape, z_student.shape):
        raise ValueError(
            f"weight must broadcast to the logits' shape {tuple(z_student.shape)}, got {tuple(weight.shape)}"
        )
    student, teacher = _in_full(z_student, z_teacher)
    weight = None if weight is None else weight.detach().to(student.dtype)
    return _BernoulliDivergence.apply(student, teacher, weight, div_mix)  # pyright: ignore[reportReturnType]


def distill_topk(logp_student: Tensor, logp_teacher: Tensor, *, div_mix: float = 0.0, add_tail: bool = True) -> Tensor:
    """The divergence of two distributions over the same K entries, row by row.

    logp_student and logp_teacher (N, K) are log-probabilities of any floating dtype: of the entries that are the most
    likely ones under the student, or of a positive and its sampled negatives. With `add_tail` what is left of each
    side's mass is one more entry; without it the K entries have to be the whole distribution. Returns (N,) in float32,
    or float64 if a side is. Only the student gets a gradient. An entry of probability zero (-inf) on both sides adds
    nothing.

    ValueError: shapes that differ or are not (N, K), div_mix outside [0, 1].
    """
    _check(logp_student, logp_teacher, div_mix)
    if logp_student.dim() != 2:
        raise ValueError(f"log-probabilities must be (N, K), got {tuple(logp_student.shape)}")
    log_p, log_q = _in_full(logp_student, logp_teacher)
    if add_tail:
        log_p, log_q = _with_tail(log_p), _with_tail(log_q)
    if div_mix == 0.0:
        return _kl(log_q, log_p)
    if div_mix == 1.0:
        return _kl(log_p, log_q)
    # logaddexp has no gradient where both sides are -inf.
    floor = torch.finfo(log_p.dtype).min
    log_m = _log_mixture(log_p.clamp(min=floor), log_q.clamp(min=floor), div_mix)
    return (1.0 - div_mix) * _kl(log_p, log_m) + div_mix * _kl(log_q, log_m)


def _check(student: Tensor, teacher: Tensor, div_mix: float) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher must have the same shape, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if not 0.0 <= div_mix <= 1.0:
        raise ValueError(f"div_mix must be in [0, 1], got {div_mix}")


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(to)))


def _in_full(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 or float64, the teacher as a constant."""
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


def _log_mixture(log_p: Tensor, log_q: Tensor, div_mix: float) -> Tensor:
    return torch.logaddexp(log_p + math.log1p(-div_mix), log_q + math.log(div_mix))


def _with_tail(logp: Tensor) -> Tensor:
    """(N, K) -> (N, K + 1). The tail has at least the mass that rounding leaves in doubt, so its logarithm is
    finite."""
    mass = logp.exp().sum(1, keepdim=True).clamp(max=1.0 - torch.finfo(logp.dtype).eps)
    return torch.cat([logp, torch.log1p(-mass)], 1)


def _kl(log_x: Tensor, log_y: Tensor) -> Tensor:
    """KL(x || y) of each row: (N, K) -> (N,)."""
    x = log_x.exp()
    return (x * (log_x - log_y).masked_fill(x == 0.0, 0.0)).sum(1)


class _BernoulliDivergence(torch.autograd.Function):
    """Keeps one tensor for the backward, the gradient itself, and the entries of weight zero."""

    @staticmethod
    def forward(ctx: Any, z_student: Tensor, z_teacher: Tensor, weight: Tensor | None, div_mix: float) -> Tensor:
        dropped = None if weight is None else weight == 0.0
        if dropped is not None:  # a weight of zero alone would leave NaN * 0
            z_student, z_teacher = z_student.masked_fill(dropped, 0.0), z_teacher.masked_fill(dropped, 0.0)
        loss, slope = _bernoulli(z_student, z_teacher, div_mix)
        if weight is not None:
            loss, slope = loss * weight, slope * weight
        ctx.save_for_backward(slope, dropped)
        return loss

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the names
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        slope, dropped = ctx.saved_tensors
        grad = grad * slope
        return grad if dropped is None else grad.masked_fill(dropped, 0.0), None, None, None


def _bernoulli(z_student: Tensor, z_teacher: Tensor, div_mix: float) -> tuple[Tensor, Tensor]:
    """The divergence and its derivative by z_student. Logarithms come from logits: log p is finite where p rounds to 0,
    and 1 - p is kept where p rounds to 1."""
    p, not_p = torch.sigmoid(z_student), torch.sigmoid(-z_student)
    q, not_q = torch.sigmoid(z_teacher), torch.sigmoid(-z_teacher)
    log_p, log_not_p = logsigmoid(z_student), logsigmoid(-z_student)
    log_q, log_not_q = logsigmoid(z_teacher), logsigmoid(-z_teacher)
    if div_mix == 0.0:
        loss = q * (log_q - log_p) + not_q * (log_not_q - log_not_p)
        slope = p - q
    elif div_mix == 1.0:
        loss = p * (log_p - log_q) + not_p * (log_not_p - log_not_q)
        slope = p * not_p * (z_student - z_teacher)
    else:
        log_m, log_not_m = _log_mixture(log_p, log_q, div_mix), _log_mixture(log_not_p, log_not_q, div_mix)
        from_student = p * (log_p - log_m) + not_p * (log_not_p - log_not_m)
        from_teacher = q * (log_q - log_m) + not_q * (log_not_q - log_not_m)
        loss = (1.0 - div_mix) * from_student + div_mix * from_teacher
        slope = (1.0 - div_mix) * p * not_p * (z_student - (log_m - log_not_m))
    return loss.clamp(min=0.0), slope  # rounding would let equal sides fall below zero

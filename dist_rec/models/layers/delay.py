"""Losses of labels that take time, from what is known of them before they are final.

Legend: N candidates or twins, T tasks, R tasks with a horizon, z a logit, p = sigmoid(z), times in horizons.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from dist_rec.data.schema import Schema
from dist_rec.models.config import HeadConfig

LEAST_RATE = 1e-3  # arrivals per horizon: with it the density is even


def num_rates(schema: Schema, head: HeadConfig) -> int:
    """R: scores of a candidate beside the logits of its tasks."""
    return len(delayed_places(schema)) if head.immature == "delayed_feedback_model" else 0


def delayed_places(schema: Schema) -> list[int]:
    """Places of the tasks with a horizon among all tasks."""
    candidate = schema.candidate
    horizons = [task for task, of in candidate.delayed.items() if of.horizon is not None]
    return [place for place, label in enumerate(candidate.labels) if label in horizons]


def fake_negative_weighting(logits: Tensor, observed: Tensor) -> Tensor:
    """(N,) importance weighting of fake negatives: Ktena et al., "Addressing delayed feedback for continuous training
    with neural networks in CTR prediction", RecSys 2019 (arXiv 1907.06558), section 4.3.

    Every candidate is trained on as a negative when it is served, and once more as a positive when its 1 comes. In this
    stream b(y = 1) = p / (1 + p), so positives weigh 1 + p and negatives (1 - p)(1 + p), p without a gradient.
    `observed` (N,): whether the 1 has come. Right once all of them have: those still to come stay negatives."""
    p = logits.detach().sigmoid()
    return (1 + p) * (observed * softplus(-logits) + (1 - p) * softplus(logits))


def delayed_feedback_model(logits: Tensor, rates: Tensor, observed: Tensor, waited: Tensor) -> Tensor:
    """(N,) minus the log-likelihood of what is observed: O. Chapelle, "Modeling delayed feedback in display
    advertising", KDD 2014, section 4, with its exponential delays cut off at the horizon.

    A 1 comes with probability p, after a delay of density f(d) = r exp(-r d) / (1 - exp(-r)) on [0, 1]. If it came
    after d: -log p - log f(d). If after e it has not: -log(1 - p + p S(e)), S the share of delays beyond e; at the
    horizon that is -log(1 - p). `rates` (N,) any real numbers, r = softplus; `waited` (N,) d or e."""
    r = softplus(rates) + LEAST_RATE
    within = -torch.expm1(-r)  # 1 - exp(-r)
    came = softplus(-logits) - r.log() + r * waited + within.log()
    # S(e) = exp(-r e) (1 - exp(-r (1 - e))) / (1 - exp(-r)): a difference of two exponentials would lose small ones.
    left = -torch.expm1(-r * (1.0 - waited))
    log_beyond = left.clamp(min=torch.finfo(left.dtype).tiny).log() - r * waited - within.log()
    waiting = -torch.logaddexp(logsigmoid(-logits), logsigmoid(logits) + log_beyond)
    return torch.where(observed > 0, came, waiting)

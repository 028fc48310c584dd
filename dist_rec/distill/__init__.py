"""Self-distillation: a model learns from what it says itself when it is shown more, such as events that come later. For
jobs of one's own, torch only: the divergences from teacher to student, and the weights that a teacher has.

SDPO: Reinforcement Learning via Self-Distillation, https://arxiv.org/abs/2601.20802.

Names come when they are used: a recipe reads a part of this package without torch."""

from typing import TYPE_CHECKING

from dist_rec.common.lazy import lazily

if TYPE_CHECKING:
    from dist_rec.distill.divergence import distill_bernoulli as distill_bernoulli
    from dist_rec.distill.divergence import distill_topk as distill_topk
    from dist_rec.distill.self_teacher import SelfTeacher as SelfTeacher

_HOMES = {
    "SelfTeacher": "dist_rec.distill.self_teacher",
    "distill_bernoulli": "dist_rec.distill.divergence",
    "distill_topk": "dist_rec.distill.divergence",
}
__all__ = ["SelfTeacher", "distill_bernoulli", "distill_topk"]

__getattr__ = lazily("dist_rec.distill", _HOMES)

"""Self-distillation: a model learns from what it says itself when it is shown more, such as events or labels that come
later. The divergences from teacher to student, and the weights that the teacher has. For jobs of one's own too: torch
only.

SDPO: Reinforcement Learning via Self-Distillation, https://arxiv.org/abs/2601.20802."""

from dist_rec.distill.divergence import distill_bernoulli, distill_topk
from dist_rec.distill.self_teacher import SelfTeacher

__all__ = ["SelfTeacher", "distill_bernoulli", "distill_topk"]

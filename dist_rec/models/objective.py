"""What a step minimises: the loss of the labels, and with a teacher its own loss and what it teaches.

`y_present (BCE(z, y) + w_t BCE(z_t, y)) + w f_present KL(Bern(q) || Bern(p))` with q = sigmoid(z_t) a constant
(self-distillation, SDPO, arXiv 2601.20802, for labels and feedback of candidates).

Legend: C candidates, F twins, T tasks, R tasks with a horizon.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dist_rec.config import Config
from dist_rec.data.batch import Feedback, SequenceBatch
from dist_rec.data.schema import Schema
from dist_rec.distill.config import DistillConfig
from dist_rec.distill.divergence import distill_bernoulli
from dist_rec.distill.self_teacher import SelfTeacher
from dist_rec.distill.tasks import taught_tasks
from dist_rec.models.config import Immature
from dist_rec.models.layers.delay import delayed_feedback_model, delayed_places, fake_negative_weighting
from dist_rec.models.layers.loss import Loss, weighted_mean
from dist_rec.models.layers.placed_rows import picked_rows
from dist_rec.models.ranker import Ranker
from dist_rec.models.signals import teaching_signals
from dist_rec.registry import LOSSES


@dataclass(frozen=True)
class LabelLoss:
    """The loss of every candidate and task by itself; of tasks in `delayed` the correction of delay, where a batch has
    what it reads: in training."""

    loss: Loss
    immature: Immature
    delayed: list[int]
    tasks: int

    def __call__(self, scores: Tensor, batch: SequenceBatch, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, T + R) scores of the candidates `rows` (N,), None for all -> losses (N, T) and where they are defined."""

        def of(values: Tensor) -> Tensor:
            return values if rows is None else values[rows]

        scores = scores.float()
        logits, rates = scores[:, : self.tasks], scores[:, self.tasks :]
        labels = of(batch.labels if batch.observed is None else batch.observed)
        undefined = labels.isnan()
        # Both sides are replaced: a weight of zero alone would leave NaN * 0 where a logit is not finite.
        logits, known = logits.masked_fill(undefined, 0.0), labels.masked_fill(undefined, 0.0)
        losses = self.loss(logits, known)
        if batch.observed is not None and batch.waited is not None:  # sent for a correction
            columns = list(losses.unbind(1))
            for number, place in enumerate(self.delayed):
                z, y = logits[:, place], known[:, place]
                if self.immature == "fake_negative_weighting":
                    columns[place] = fake_negative_weighting(z, y)
                else:
                    waited = of(batch.waited)[:, place].masked_fill(undefined[:, place], 0.0)
                    rate = rates[:, number].masked_fill(undefined[:, place], 0.0)
                    columns[place] = delayed_feedback_model(z, rate, y, waited)
            losses = torch.stack(columns, dim=1)
        return losses, ~undefined


class Objective(nn.Module):
    """Scores (C + F, T + R), rows by feature set and the batch -> (loss (), logits (C, T) float32, signals).

    `signals` (S, T) float32 are sums for the log, see `teaching_signals`; empty without a teacher. `task_weights` (T,)
    weigh the tasks' losses; they belong to the recipe, so no checkpoint holds them.
    """

    task_weights: Tensor
    taught_weights: Tensor

    def __init__(self, schema: Schema, config: Config, ranker: Ranker, device: torch.device) -> None:
        super().__init__()
        head, labels = config.model.head, schema.candidate.labels
        self.tasks = len(labels)
        self.label_loss = LabelLoss(LOSSES.make(head.loss), head.immature, delayed_places(schema), self.tasks)
        reads = schema.candidate.feedback is not None and schema.candidate.feedback.read
        self.distill = config.distill if reads and config.distill is not None and config.distill.is_on else None
        weights = [head.task_weights.get(task, 1.0) for task in labels]
        self.register_buffer("task_weights", torch.tensor(weights, device=device), persistent=False)
        self.teacher: SelfTeacher | None = None
        if self.distill is not None:
            taught = taught_tasks(config, schema)
            weights = [taught.get(task, 0.0) for task in labels]
            self.register_buffer("taught_weights", torch.tensor(weights, device=device), persistent=False)
            kind = self.distill.teacher if self.distill.weight > 0 else "live"  # a copy that teaches nothing is none
            start = self.distill.frozen_at if kind in ("frozen", "trust_region") else 0
            self.teacher = SelfTeacher(ranker, kind=kind, rate=self.distill.teacher_rate, start=start)

    def forward(self, scores: Tensor, rows: dict[str, Tensor], batch: SequenceBatch) -> tuple[Tensor, Tensor, Tensor]:
        own, feedback = scores[: batch.num_candidates], batch.feedback
        loss = weighted_mean(*self.label_loss(own, batch), batch.candidates_per_rank, self.task_weights)
        logits = own[:, : self.tasks].detach().float()
        if self.distill is None or self.teacher is None or feedback is None:
            return loss, logits, logits.new_zeros(0, self.tasks)
        of_teacher = scores[batch.num_candidates :]
        losses, defined = self.label_loss(of_teacher, batch, feedback.twin)
        weights = self.distill.teacher_weight * self.task_weights
        loss = loss + weighted_mean(losses, defined, batch.candidates_per_rank, weights)
        z_teacher = self._teaching(self.distill, self.teacher, of_teacher, rows, batch)
        if self.distill.weight > 0:
            weight = self.distill.weight * self._grown(self.distill, self.teacher)
            loss = loss + weight * self._taught(self.distill, own, z_teacher, feedback, batch.candidates_per_rank)
        return loss, logits, teaching_signals(logits, z_teacher, batch.labels, feedback)

    def _teaching(
        self,
        distill: DistillConfig,
        teacher: SelfTeacher,
        of_teacher: Tensor,
        rows: dict[str, Tensor],
        batch: SequenceBatch,
    ) -> Tensor:
        """(F, T) the logits that teach, of the weights that the recipe says, on the rows of this step."""
        live = of_teacher[:, : self.tasks].detach().float()
        copied = teacher(rows, batch, twins_only=True)[:, : self.tasks].float() if teacher.needs_copy else None
        return teacher.combine(live, copied)

    def _taught(
        self, distill: DistillConfig, own: Tensor, z_teacher: Tensor, feedback: Feedback, candidates_per_rank: Tensor
    ) -> Tensor:
        """() the divergence. A candidate that is taught counts like one with a label."""
        z_student = picked_rows(own, feedback.twin)[:, : self.tasks].float()
        divergence = distill_bernoulli(z_student, z_teacher, feedback.distilled.float(), div_mix=distill.div_mix)
        return weighted_mean(divergence, feedback.distilled, candidates_per_rank, self.taught_weights)

    def _grown(self, distill: DistillConfig, teacher: SelfTeacher) -> Tensor:
        """() how far the weight of the divergence has grown: 0 before the copy is there, 1 in the end."""
        since = (teacher.versions - teacher.start).float()
        return ((since + 1) / (distill.warmup_updates + 1)).clamp(0.0, 1.0)

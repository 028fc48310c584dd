"""What a step minimises, against the sum over candidates, twins and tasks written out in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from dist_rec.config import Config
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.collate import collate, empty_batch
from dist_rec.data.schema import Schema
from dist_rec.data.targets import Targets
from dist_rec.models.layers.delay import LEAST_RATE
from dist_rec.models.objective import Objective
from dist_rec.models.signals import SUMS, teaching_signals
from dist_rec.training.splits import training_targets
from tests.data.feedback_rows import NOW, feedback_rows, feedback_schema
from tests.data.filter.policies import all_items, filter_by_item
from tests.data.requests import make_table
from tests.models.batches import Model, make_model, model_config

CPU = torch.device("cpu")
TASKS = ("click", "buy")  # buy takes time
BOTH = {"click": {"horizon": 700}, "buy": {"horizon": 500}}
CORRECTIONS = ("fake_negative_weighting", "delayed_feedback_model")


def _batch(schema: Schema, **targets: Any) -> SequenceBatch:
    rows = feedback_rows(12)
    for row in rows:
        row["candidate.click.delay"] = row["candidate.buy.delay"][::-1]
    return collate(make_table(rows, schema), schema, targets=Targets(now=NOW, **targets)).to(CPU)


def _config(distill: dict[str, Any] | None, head: dict[str, Any]) -> Config:
    model = model_config(head=head).model_dump()
    return Config.model_validate({"data": {"path": "unused", "observed_at": NOW}, "model": model, "distill": distill})


def _objective(schema: Schema, distill: dict[str, Any] | None = None, **head: Any) -> tuple[Config, Objective, Model]:
    config, model = _config(distill, head), make_model(schema, head=head)
    return config, Objective(schema, config, model.ranker, CPU), model


def _scores(objective: Objective, batch: SequenceBatch) -> Tensor:
    """Random ones of candidates and twins: no model is needed for those of a live teacher."""
    twins = 0 if batch.feedback is None else len(batch.feedback.twin)
    rates = len(objective.label_loss.delayed) * (objective.label_loss.immature == "delayed_feedback_model")
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(batch.num_candidates + twins, len(TASKS) + rates, generator=generator)


def _label_loss(
    config: Config, delayed: list[int], batch: SequenceBatch, row: Tensor, candidate: int, task: int
) -> Tensor | None:
    """Of scores (T + R,) of a candidate or its twin; None where nothing is known of the label. `delayed`: tasks that
    are corrected, in the order of what the correction asks for."""
    labels = batch.labels if batch.observed is None else batch.observed
    z, y = row[task], labels[candidate, task]
    if y.isnan():
        return None
    p = z.sigmoid()
    if batch.observed is None or batch.waited is None or task not in delayed:
        return -p.log() if y else -(1 - p).log()
    if config.model.head.immature == "fake_negative_weighting":
        q = p.detach()
        return (1 + q) * (-p.log() * y - (1 - q) * (1 - p).log())
    r = softplus(row[len(TASKS) + delayed.index(task)]) + LEAST_RATE
    at, whole = (-r * batch.waited[candidate, task].double()).exp(), 1 - (-r).exp()
    return -(p * r * at / whole).log() if y else -(1 - p + p * (at - (-r).exp()) / whole).log()


def _divergence(z: Tensor, z_teacher: Tensor, mix: float) -> Tensor:
    p, q = (torch.stack([of.sigmoid(), 1 - of.sigmoid()]) for of in (z, z_teacher))
    if mix in (0.0, 1.0):
        x, y = (q, p) if mix == 0.0 else (p, q)
        return (x * (x / y).log()).sum()
    m = (1 - mix) * p + mix * q
    return (1 - mix) * (p * (p / m).log()).sum() + mix * (q * (q / m).log()).sum()


def _expected(
    config: Config,
    delayed: list[int],
    batch: SequenceBatch,
    scores: Tensor,
    z_teacher: Tensor | None,
    grown: float,
) -> Tensor:
    """`z_teacher` (F, T) are constants, None for those of the twins in `scores`."""
    candidates, total = batch.num_candidates, scores.new_zeros(())
    divisor = batch.candidates_per_rank.double().expand(len(TASKS))
    for task, name in enumerate(TASKS):
        weight = config.model.head.task_weights.get(name, 1.0) / divisor[task] / len(TASKS)
        for c in range(candidates):
            own = _label_loss(config, delayed, batch, scores[c], c, task)
            total = total if own is None else total + weight * own
        distill, feedback = config.distill, batch.feedback
        if distill is None or feedback is None:
            continue
        taught = (distill.tasks or {"buy": 1.0}).get(name, 0.0)
        for f, c in enumerate(feedback.twin.tolist()):
            of_twin = _label_loss(config, delayed, batch, scores[candidates + f], c, task)
            total = total if of_twin is None else total + distill.teacher_weight * weight * of_twin
            if feedback.distilled[f, task]:
                z = (scores[candidates:] if z_teacher is None else z_teacher)[f, task].detach()
                lesson = taught * _divergence(scores[c, task], z, distill.div_mix) / divisor[task]
                total = total + distill.weight * grown * lesson / len(TASKS)
    return total


def _assert_as_written(
    config: Config,
    objective: Objective,
    batch: SequenceBatch,
    scores: Tensor,
    found: Tensor,
    z_teacher: Tensor | None = None,
    grown: float = 1.0,
) -> None:
    """The loss, and its gradient."""
    leaf = scores.detach().double().requires_grad_()
    expected = _expected(config, objective.label_loss.delayed, batch, leaf, z_teacher, grown)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    (gradient,), (written,) = torch.autograd.grad(found, scores), torch.autograd.grad(expected, leaf)
    torch.testing.assert_close(gradient.double(), written, rtol=1e-4, atol=1e-6)


CASES: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "none": (None, {}),
    "plain": ({}, {}),
    "weights of tasks": ({}, {"task_weights": {"click": 0.25, "buy": 3.0}}),
    "a task is not trained": ({"tasks": {"click": 1.0}}, {"task_weights": {"click": 0.0}}),
    "weights of what is taught": ({"tasks": {"click": 0.5, "buy": 2.0}}, {}),
    "weights": ({"weight": 0.3, "teacher_weight": 0.7}, {"task_weights": {"buy": 3.0}}),
    "the teacher alone": ({"weight": 0.0, "teacher_weight": 0.5}, {}),
    "Jensen-Shannon": ({"div_mix": 0.5, "tasks": {"click": 1.0, "buy": 1.0}}, {}),
    "reverse": ({"div_mix": 1.0, "tasks": {"click": 1.0, "buy": 1.0}}, {}),
    "labelled": ({"rows": "labelled"}, {}),
    "immature": ({"rows": "immature"}, {}),
}


def _taught(config: Config) -> dict[str, float]:
    """Weights of lessons by task, as a run gives them to its reader."""
    schema = feedback_schema()
    return dict(training_targets(config, schema).taught or {})


@pytest.mark.parametrize("name", list(CASES))
def test_the_loss_is_the_sum_written_out(name: str) -> None:
    distill, head = CASES[name]
    schema = feedback_schema() if distill is not None else feedback_schema().with_feedback(None)
    config, objective, _ = _objective(schema, distill, **head)
    targets = {} if config.distill is None else {"distilled": config.distill.rows}
    batch = _batch(schema, taught=_taught(config), **targets)
    assert batch.candidates_per_rank.shape == (2,) and batch.candidates_per_rank[0] != batch.candidates_per_rank[1]
    scores = _scores(objective, batch).requires_grad_()
    loss, logits, signals = objective(scores, {}, batch)
    _assert_as_written(config, objective, batch, scores, loss)
    assert torch.equal(logits, scores[: batch.num_candidates].detach()) and not logits.requires_grad
    if batch.feedback is None:
        assert signals.shape == (0, 2)
    else:
        z_teacher = scores[batch.num_candidates :].detach()
        assert torch.equal(signals, teaching_signals(logits, z_teacher, batch.labels, batch.feedback))
        assert not signals.requires_grad


@pytest.mark.parametrize("distill", [None, {"tasks": {"buy": 1.0}}, {"weight": 0.5, "tasks": {"click": 1.0}}])
@pytest.mark.parametrize("immature", CORRECTIONS)
@pytest.mark.parametrize("delayed", [{"buy": BOTH["buy"]}, BOTH], ids=["one task", "both"])
def test_corrections_of_delay(delayed: dict[str, Any], immature: str, distill: dict[str, Any] | None) -> None:
    """The teacher's own loss is corrected as well: it learns from the same labels."""
    schema = feedback_schema(delayed=delayed)
    schema = schema if distill is not None else schema.with_feedback(None)
    config, objective, _ = _objective(schema, distill, immature=immature)
    batch = _batch(schema, corrected=True)
    scores = _scores(objective, batch).requires_grad_()
    loss, logits, _ = objective(scores, {}, batch)
    _assert_as_written(config, objective, batch, scores, loss)
    assert logits.shape == (batch.num_candidates, 2), "without what the correction asks for"


@pytest.mark.parametrize("immature", CORRECTIONS)
def test_evaluation_has_plain_labels(immature: str) -> None:
    """Of final labels nothing is corrected, though the scores have what a correction asks for."""
    schema = feedback_schema().as_served()
    _, objective, _ = _objective(schema, immature=immature)
    batch = collate(make_table(feedback_rows(12), schema), schema).to(CPU)
    assert batch.observed is None and batch.feedback is None
    scores = _scores(objective, batch).requires_grad_()
    _assert_as_written(_config(None, {}), objective, batch, scores, objective(scores, {}, batch)[0])


@pytest.mark.parametrize("kind", ["live", "ema", "frozen", "trust_region"])
def test_who_teaches(kind: str) -> None:
    """The copy reads the rows of this step; trust_region mixes its logits with those of the twins."""
    schema = feedback_schema()
    config, objective, model = _objective(schema, {"teacher": kind, "teacher_rate": 0.25, "frozen_at": 1})
    assert objective.teacher is not None
    objective.teacher.advance(model.ranker)
    batch = _batch(schema)
    rows, scores = model.tables(batch), _scores(objective, batch).requires_grad_()
    copied, live = model.ranker(rows, batch, twins_only=True).detach(), scores[batch.num_candidates :].detach()
    z_teacher = {"live": live, "trust_region": 0.75 * copied + 0.25 * live}.get(kind, copied)
    _assert_as_written(config, objective, batch, scores, objective(scores, rows, batch)[0], z_teacher.double())


@pytest.mark.parametrize(
    ("distill", "versions", "grown"),
    [
        ({}, 0, 1.0),
        ({"warmup_updates": 3}, 0, 0.25),
        ({"warmup_updates": 3}, 2, 0.75),
        ({"warmup_updates": 3}, 9, 1.0),
        ({"warmup_updates": 1, "teacher": "frozen", "frozen_at": 4}, 3, 0.0),
        ({"warmup_updates": 1, "teacher": "frozen", "frozen_at": 4}, 4, 0.5),
        ({"teacher": "trust_region", "frozen_at": 4}, 3, 0.0),
    ],
)
def test_the_lesson_grows_with_the_versions(distill: dict[str, Any], versions: int, grown: float) -> None:
    schema = feedback_schema()
    config, objective, model = _objective(schema, distill)
    assert objective.teacher is not None
    objective.teacher.versions.fill_(versions)
    batch = _batch(schema)
    rows, scores = model.tables(batch), _scores(objective, batch).requires_grad_()
    copied = model.ranker(rows, batch, twins_only=True).detach().double()
    z_teacher = None if objective.teacher.kind == "live" else copied
    _assert_as_written(config, objective, batch, scores, objective(scores, rows, batch)[0], z_teacher, grown)


@pytest.mark.parametrize("immature", ["leave_out", *CORRECTIONS])
def test_candidates_that_a_filter_takes_have_no_part(immature: str) -> None:
    """Whatever is said of them, and where nothing is known of a label: not even where it is no number."""
    schema = Schema.model_validate(feedback_schema().model_dump() | {"hidden": True})
    config, objective, _ = _objective(schema, {}, immature=immature)
    acting = filter_by_item(schema, all_items("hide"))
    targets = Targets(now=NOW, corrected=immature != "leave_out")
    batch = collate(make_table(feedback_rows(12), schema), schema, event_filter=acting, targets=targets).to(CPU)
    known = batch.labels if batch.observed is None else batch.observed
    taken = known.isnan().all(1)
    assert 0 < taken.sum() < len(taken) and batch.feedback is not None and len(batch.feedback.twin) > 0
    assert not taken[batch.feedback.twin].any()
    scores = _scores(objective, batch)
    scores[: batch.num_candidates][taken] = torch.nan
    scores.requires_grad_()
    loss, _, signals = objective(scores, {}, batch)
    _assert_as_written(config, objective, batch, scores, loss)
    (gradient,) = torch.autograd.grad(objective(scores, {}, batch)[0], scores)
    assert not gradient[: batch.num_candidates][taken].any() and signals.isfinite().all()


@pytest.mark.parametrize("immature", ["leave_out", *CORRECTIONS])
@pytest.mark.parametrize("distill", [{}, {"teacher": "trust_region", "frozen_at": 1}])
def test_without_candidates_the_loss_is_zero(distill: dict[str, Any], immature: str) -> None:
    schema = feedback_schema()
    _, objective, model = _objective(schema, distill, immature=immature)
    batch = empty_batch(schema, targets=Targets(now=NOW, corrected=immature != "leave_out")).to(CPU)
    rows = model.tables(batch)
    scores = model.ranker(rows, batch)
    loss, logits, signals = objective(scores, rows, batch)
    assert loss == 0.0 and logits.shape == (0, 2) and signals.shape == (len(SUMS), 2) and not signals.any()
    gradients = torch.autograd.grad(loss, list(model.ranker.parameters()), allow_unused=True)
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_without_feedback_nothing_is_taught() -> None:
    schema = feedback_schema()
    config, objective, _ = _objective(schema, {"weight": 5.0})
    empty = {"candidate.feedback_events": lambda of: [-1] * len(of)}
    rows = [
        {name: [] if name.startswith("feedback.") else empty.get(name, lambda of: of)(of) for name, of in row.items()}
        for row in feedback_rows(12)
    ]
    batch = collate(make_table(rows, schema), schema, targets=Targets(now=NOW)).to(CPU)
    assert batch.feedback is not None and len(batch.feedback.twin) == 0
    scores = _scores(objective, batch).requires_grad_()
    loss, _, signals = objective(scores, {}, batch)
    _assert_as_written(config, objective, batch, scores, loss)
    names = dict(zip(SUMS, signals.tolist(), strict=True))
    assert not any(any(of) for name, of in names.items() if name not in ("label_only", "neither"))


def test_one_number_divides_all_tasks_where_none_takes_time() -> None:
    schema = feedback_schema(delayed={})
    config, objective, _ = _objective(schema, {"tasks": {"click": 1.0, "buy": 0.5}})
    batch = _batch(schema)
    assert batch.candidates_per_rank.shape == () and not batch.labels.isnan().any()
    scores = _scores(objective, batch).requires_grad_()
    _assert_as_written(config, objective, batch, scores, objective(scores, {}, batch)[0])


def test_checkpoints_hold_what_the_teacher_is_and_no_weights_of_the_recipe() -> None:
    for distill, names in (
        ({}, {"teacher.versions"}),
        ({"weight": 0.0, "teacher": "ema"}, {"teacher.versions"}),  # a copy that teaches nothing is none
    ):
        _, objective, _ = _objective(feedback_schema(), distill, task_weights={"buy": 2.0})
        assert set(objective.state_dict()) == names
    _, objective, model = _objective(feedback_schema(), {"teacher": "ema"})
    copied = {f"teacher.copy.{name}" for name in model.ranker.state_dict()}
    assert set(objective.state_dict()) == copied | {"teacher.versions"}
    _, objective, _ = _objective(feedback_schema().with_feedback(None))
    assert objective.teacher is None and not objective.state_dict()

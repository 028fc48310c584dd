"""Self-distillation in whole models: the student sees no feedback, the teacher's lesson moves the student alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dist_rec.config import Config
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.collate import collate
from dist_rec.data.schema import Schema
from dist_rec.data.targets import Targets
from dist_rec.models.objective import Objective
from tests.data.feedback_rows import NOW, feedback_rows, feedback_schema, other_feedback
from tests.data.filter.policies import all_items, filter_by_item
from tests.data.requests import make_table, seen_schema
from tests.embedding.sharded import local_batch, shard, sharded_config
from tests.helpers.ranks import run_ranks
from tests.models.batches import MODELS, Model, Row, cut, make_model, model_config, seen_row

CPU = torch.device("cpu")
SCHEMA = feedback_schema()
MORE: dict[str, dict[str, Any]] = {
    "longer_rotary": {"longer": {"rotary": True, "merge": 1, "queries": "uniform", "self_layers": 2}},
    "longer_learnable": {"longer": {"queries": "learnable", "globals": ["cls", "user", "candidate"]}},
    "hyformer_rotary": {
        **MODELS["hyformer"],
        "hyformer": {"heads": 2, "rotary": True, "sequences": {"history": {"encoder": "full", "queries": 1}}},
    },
}
READERS = {name: MODELS[name] for name in ("longer", "hyformer", "longer_rankmixer")} | MORE


def _batch(rows: list[Row], schema: Schema = SCHEMA, **targets: Any) -> SequenceBatch:
    return collate(make_table(rows, schema), schema, targets=Targets(now=NOW, **targets)).to(CPU)


def _apart(model: Model, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
    """Scores of candidates, and of twins."""
    return model(batch)[: batch.num_candidates], model(batch)[batch.num_candidates :]


@pytest.mark.parametrize("name", list(READERS))
def test_a_student_does_not_see_feedback(name: str) -> None:
    """Other feedback changes the twins' scores, and no bit of the candidates'."""
    rows, model = feedback_rows(12), make_model(SCHEMA, **READERS[name])
    batch = _batch(rows)
    student, teacher = _apart(model, batch)
    same, changed = _apart(model, _batch(other_feedback(rows)))
    assert torch.equal(student, same) and len(teacher) == len(changed) > 10 and batch.feedback is not None
    happened = torch.from_numpy(batch.feedback.lengths.host > 0)
    assert torch.equal(teacher[~happened], changed[~happened]) and (~happened).any()
    assert ((teacher - changed)[happened].abs() > 1e-6).all(1).float().mean() > 0.9


@pytest.mark.parametrize("name", list(READERS))
def test_what_is_served_is_what_was_trained(name: str) -> None:
    """Without feedback, as evaluation and a server know a candidate, its scores are the same up to rounding."""
    rows, model = feedback_rows(12), make_model(SCHEMA, **READERS[name])
    student, _ = _apart(model, _batch(rows))
    served = SCHEMA.as_served()
    torch.testing.assert_close(model(collate(make_table(rows, served), served).to(CPU)), student)
    without = make_model(SCHEMA.with_feedback(None), **READERS[name])
    assert without.load_state_dict(model.state_dict(), strict=False).missing_keys == []
    plain = SCHEMA.with_feedback(None)
    torch.testing.assert_close(without(collate(make_table(rows, plain), plain).to(CPU)), student)


@pytest.mark.parametrize("name", list(READERS))
def test_a_twin_sees_the_feedback_of_its_candidate_alone(name: str) -> None:
    """Other feedback of one candidate changes the scores of its twin and of no other, of its own request neither."""
    rows, model = feedback_rows(12), make_model(SCHEMA, **READERS[name])
    batch, (_, before) = _batch(rows), _apart(model, _batch(rows))
    assert batch.feedback is not None
    twins, lengths = batch.feedback.twins.host, batch.feedback.lengths.host
    assert twins.max() > 2 and (lengths > 0).sum() > 10
    for number in np.flatnonzero(lengths):
        _, after = _apart(model, _batch(_with_other_feedback_of(rows, int(batch.feedback.twin_host[number]))))
        changed = (after - before).abs().amax(1)
        assert changed[number] > 1e-5
        assert changed[np.arange(len(changed)) != number].max() < 5e-7  # rounding


def _with_other_feedback_of(rows: list[Row], candidate: int) -> list[Row]:
    """Of the candidate of this number in the batch."""
    found = []
    for row, other in zip(rows, other_feedback(rows)):
        counts = np.array(row["candidate.feedback_events"], np.int64).clip(min=0)
        events = np.repeat(np.arange(len(counts)), counts) == candidate
        values = {
            name: np.where(events, other[name], row[name]).tolist() for name in row if name.startswith("feedback.")
        }
        found.append({**row, **values})
        candidate -= len(row["candidate.item"])
    return found


@pytest.mark.parametrize("name", list(READERS))
def test_twins_alone_score_as_beside_their_candidates(name: str) -> None:
    rows, model = feedback_rows(12), make_model(SCHEMA, **READERS[name])
    batch = _batch(rows)
    alone = model.ranker(model.tables(batch), batch, twins_only=True)
    torch.testing.assert_close(alone, _apart(model, batch)[1])


@pytest.mark.parametrize("name", list(READERS))
def test_a_batch_without_feedback_trains_every_parameter(name: str) -> None:
    """DDP waits for a gradient of each on every rank."""
    rows = [{**row, **{key: [] for key in row if key.startswith("feedback.")}} for row in feedback_rows(6)]
    rows = [row | {"candidate.feedback_events": [-1] * len(row["candidate.item"])} for row in rows]
    model, batch = make_model(SCHEMA, **READERS[name]), _batch(rows)
    student, teacher = _apart(model, batch)
    assert len(teacher) == 0
    gradients = model.gradients(batch)
    assert not any(gradient.isnan().any() for gradient in gradients.values())
    served = SCHEMA.as_served()
    torch.testing.assert_close(student, model(collate(make_table(rows, served), served).to(CPU)))


@pytest.mark.parametrize("action", ["hide", "keymask", "drop"])
@pytest.mark.parametrize("name", ["longer", "hyformer"])
def test_feedback_obeys_the_filter(name: str, action: str) -> None:
    """Rows of filtered items are not read, whatever they are: as event, candidate or feedback."""
    schema = Schema.model_validate(SCHEMA.model_dump() | {"hidden": True})
    acting = filter_by_item(schema, all_items(action))
    batch = collate(make_table(feedback_rows(12), schema), schema, event_filter=acting).to(CPU)
    model = make_model(schema, **READERS[name])
    before = model(batch)
    assert batch.feedback is not None and len(before) > batch.num_candidates
    with torch.no_grad():
        model.tables.weights["item"][sorted(all_items(action))] = torch.nan
    assert torch.equal(model(batch), before)


OF_MOMENTS: dict[str, dict[str, Any]] = {
    "longer": {"longer": {"merge": 1, "k": 0, "globals": ["candidate"]}, "tokens": {"position": "absolute"}},
    "hyformer": {
        "name": "hyformer",
        "tokens": {"width": 24, "position": "absolute"},
        "hyformer": {"heads": 2, "sequences": {"history": {"encoder": "full", "causal": True}}},
    },
}


def _moments_schema() -> Schema:
    tree: dict[str, Any] = seen_schema().model_dump() | {"hidden": True}
    tree["candidate"] |= {"feedback": {"ids": ["item"], "side": {"dwell": 6}, "most": 2}}
    return Schema.model_validate(tree)


def _moments() -> list[Row]:
    """Requests whose candidates see a part of the history each; some have no feedback."""
    rng = np.random.default_rng(1)
    rows = [seen_row(rng, 9, [0, 3, 9, 5]) for _ in range(4)]
    for row in rows:
        row["candidate.item"] = [item // 3 * 3 + 1 for item in row["candidate.item"]]  # no filter takes them
        events = rng.integers(1, 4, 4) * np.array([1, 1, 0, 1])
        row["candidate.feedback_events"] = events.tolist()
        row["feedback.item"] = rng.integers(0, 50, events.sum()).tolist()
        row["feedback.dwell"] = rng.integers(0, 6, events.sum()).tolist()
    return rows


def _cut(row: Row, candidate: int) -> Row:
    """A request with this candidate, its feedback and the history that it sees."""
    owner = np.repeat(np.arange(4), np.array(row["candidate.feedback_events"], np.int64).clip(min=0))
    feedback = {
        name: [value for value, of in zip(row[name], owner) if of == candidate]
        for name in row
        if name.startswith("feedback.")
    }
    return cut({name: value for name, value in row.items() if name not in feedback}, candidate) | feedback


@pytest.mark.parametrize("action", [None, "keymask"])
@pytest.mark.parametrize("name", list(OF_MOMENTS))
def test_twins_with_their_own_moment(name: str, action: str | None) -> None:
    """The student is the same with and without feedback; a twin sees what is left of its own prefix, as if the history
    ended there, and no other twin."""
    schema = _moments_schema()
    acting = filter_by_item(schema, all_items(action)) if action else None
    rows, model = _moments(), make_model(schema, **OF_MOMENTS[name])

    def batch_of(rows: list[Row], known: Schema = schema) -> SequenceBatch:
        return collate(make_table(rows, known), known, event_filter=acting).to(CPU)

    batch, served = batch_of(rows), batch_of(rows, schema.as_served())
    student, teacher = _apart(model, batch)
    assert batch.feedback is not None and len(teacher) > 4 and served.feedback is None
    torch.testing.assert_close(model(served), student, rtol=1e-5, atol=1e-6)
    of_cut = [_apart(model, batch_of([_cut(row, c)])) for row in rows for c in range(4)]
    for whole, apart in zip((student, teacher), zip(*of_cut)):
        torch.testing.assert_close(torch.cat(apart), whole, rtol=1e-5, atol=1e-6)
    alone = model.ranker(model.tables(batch), batch, twins_only=True)
    torch.testing.assert_close(alone, teacher, rtol=1e-5, atol=1e-6)
    assert ((student[batch.feedback.twin] - teacher).abs().amax(1) > 1e-5).all()


def _objective(model: Model, schema: Schema = SCHEMA, **distill: Any) -> Objective:
    config = Config.model_validate(
        {"data": {"path": "unused"}, "model": model_config().model_dump(), "distill": distill}
    )
    return Objective(schema, config, model.ranker, CPU)


def _loss(model: Model, objective: Objective, batch: SequenceBatch) -> Tensor:
    rows = model.tables(batch)
    return objective(model.ranker(rows, batch), rows, batch)[0]


def _gradients(model: Model, loss: Tensor) -> dict[str, Tensor | None]:
    names, parameters = zip(*model.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True)))


@pytest.mark.parametrize("kind", ["live", "ema", "frozen", "trust_region"])
@pytest.mark.parametrize("name", ["longer", "hyformer"])
def test_the_lesson_moves_nothing_of_the_teacher(name: str, kind: str) -> None:
    """The divergence alone: exactly no gradient for feedback's encoder and for rows that only feedback reads."""
    tree = SCHEMA.model_dump()
    tree["tables"]["next"] = 9
    tree["candidate"]["feedback"]["ids"][1]["table"] = "next"
    schema = Schema.model_validate(tree)
    model, batch = make_model(schema, **READERS[name]), _batch(feedback_rows(12), schema)
    both, own = (_objective(model, schema, teacher=kind, frozen_at=1, weight=w) for w in (1.0, 0.0))
    assert both.teacher is not None
    both.teacher.advance(model.ranker)
    rows = model.tables(batch)
    scores = model.ranker(rows, batch)
    lesson = both(scores, rows, batch)[0] - own(scores, rows, batch)[0]
    assert float(lesson) > 0
    only_feedback = set(batch.unique[schema.layout.owners["feedback"].keys[1]].values().tolist())
    assert only_feedback
    trained = _gradients(model, _loss(model, own, batch))["tables.weights.next"]
    gradients = _gradients(model, lesson)
    feedback = [g for name, g in gradients.items() if name.startswith("ranker.feedback")]
    assert feedback and all(g is None or not g.any() for g in feedback)
    query = gradients["tables.weights.next"]
    assert trained is not None and all(trained[each].any() for each in only_feedback)
    assert query is None or not query.any()
    moved = [g for name, g in gradients.items() if not name.startswith("ranker.feedback") and g is not None and g.any()]
    assert len(moved) > 10


def test_the_teachers_own_loss_trains_the_encoder_and_rows_of_feedback() -> None:
    model, batch = make_model(SCHEMA), _batch(feedback_rows(12))
    gradients = _gradients(model, _loss(model, _objective(model, weight=0.0), batch))
    assert all(g is not None and g.any() for name, g in gradients.items() if name.startswith("ranker.feedback"))


@pytest.mark.parametrize("rows", ["all", "labelled", "immature"])
def test_what_is_taught(rows: str) -> None:
    """A change of a label that is not taught changes no loss of the lesson; the mean is over what is taught."""
    model, batch = make_model(SCHEMA), _batch(feedback_rows(12), distilled=rows)
    feedback = batch.feedback
    assert feedback is not None
    mature = ~batch.labels[feedback.twin].isnan()
    expected = {"all": torch.ones_like(mature), "labelled": mature, "immature": ~mature}[rows]
    assert torch.equal(feedback.distilled, expected)
    both, own = (_loss(model, _objective(model, rows=rows, weight=w), batch) for w in (1.0, 0.0))
    scores = model(batch)
    p, q = scores[feedback.twin].sigmoid(), scores[batch.num_candidates :].sigmoid()
    kl = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    taught = expected[:, 1]  # of the two tasks, the one that takes time
    assert taught.any()
    torch.testing.assert_close(both - own, kl[taught, 1].sum() / batch.candidates_per_rank[1] / 2, rtol=1e-4, atol=1e-6)


def test_weight_grows_with_the_versions_and_waits_for_the_copy() -> None:
    model, batch = make_model(SCHEMA), _batch(feedback_rows(12))
    objective = _objective(model, teacher="frozen", frozen_at=2, warmup_updates=3)
    assert objective.teacher is not None
    own = _loss(model, _objective(model, weight=0.0), batch)
    shares = []
    for _ in range(8):
        shares.append(float(_loss(model, objective, batch) - own))
        objective.teacher.advance(model.ranker)
    assert shares[0] == shares[1] == 0.0
    torch.testing.assert_close(
        torch.tensor(shares[2:]) / shares[-1], torch.tensor([0.25, 0.5, 0.75, 1, 1, 1]), rtol=5e-3, atol=0
    )


def test_without_feedback_nothing_is_different() -> None:
    """A recipe without a teacher and one whose weights are zero make the same model."""
    served = SCHEMA.with_feedback(None)
    model, batch = make_model(served), collate(make_table(feedback_rows(6), served), served).to(CPU)
    config = Config.model_validate({"data": {"path": "unused"}, "model": model_config().model_dump()})
    objective = Objective(served, config, model.ranker, CPU)
    loss, logits, signals = objective(model(batch), model.tables(batch), batch)
    assert objective.teacher is None and signals.shape == (0, 2) and logits.shape == batch.labels.shape
    assert torch.isfinite(loss)
    with_none = replace(batch, feedback=None)
    assert torch.equal(objective(model(with_none), {}, with_none)[0], loss)


def _scores_under_feedback(name: str) -> list[Tensor]:
    """Of this rank's candidates with the feedback there is, and with another."""
    config = sharded_config(READERS[name], distill={"teacher": "ema"}, tables={"item": {"sharding": ["row_wise"]}})
    dmp = shard(config, ddp=False)
    rows = feedback_rows(12)
    found = []
    for each in (rows, other_feedback(rows)):
        _, (_, logits, signals) = dmp(local_batch([each[:8], each[8:]], config))
        assert len(signals)
        found.append(logits)
    return found


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", ["longer", "hyformer"])
def test_a_sharded_student_does_not_see_feedback(name: str, ranks: int) -> None:
    """Other feedback brings other rows in another order from the tables' owners, and changes no bit of the logits."""
    for one, other in run_ranks(_scores_under_feedback, ranks, name):
        assert torch.equal(one, other) and len(one) > 5

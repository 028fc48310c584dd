"""Feedback tokens against a loop over twins and their events in plain PyTorch."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from dist_rec.data.batch import Feedback
from dist_rec.data.later import FeedbackSchema
from dist_rec.data.lengths import Lengths
from dist_rec.models.layers.feedback import FeedbackEncoder
from dist_rec.models.layers.tokens import BucketTerm
from tests.models.batches import model_config

CONFIG = model_config().tokens
ROWS, DIM, WIDTH, MOST = 5, 6, 7, 3
SIDE = {"dwell": 4, "scroll": 3}
KINDS: dict[str, dict[str, Any]] = {
    "everything": {"ids": ["item"], "side": SIDE, "time": True},
    "no ids": {"side": SIDE, "time": True},
    "no time": {"ids": ["item"], "side": SIDE},
    "no side": {"ids": ["item"], "time": True},
    "ids alone": {"ids": ["item"]},
}


def _encoder(kind: str) -> FeedbackEncoder:
    torch.manual_seed(0)
    schema = FeedbackSchema.model_validate(KINDS[kind] | {"most": MOST})
    encoder = FeedbackEncoder(CONFIG, schema, DIM if schema.ids else 0, schema.side, WIDTH).double()
    torch.nn.init.normal_(encoder.bias)
    return encoder


def _feedback(kind: str, lengths: list[int], seed: int = 0) -> Feedback:
    """Each of the twins of one request with so many events."""
    generator, events = torch.Generator().manual_seed(seed), sum(lengths)

    def draw(most: int) -> Tensor:
        return torch.randint(0, most, (events,), generator=generator, dtype=torch.int32)

    of, twins = KINDS[kind], len(lengths)
    return Feedback(
        lengths=Lengths.of(lengths),
        inverse=draw(ROWS) if "ids" in of else None,
        side={name: draw(size).to(torch.uint8) for name, size in of.get("side", {}).items()},
        age=draw(10_000) if "time" in of else None,
        twins=Lengths.of([twins]),
        twin=torch.arange(twins),
        twin_host=np.arange(twins, dtype=np.int32),
        distilled=torch.ones(twins, 1, dtype=torch.bool),
    )


def _reference(encoder: FeedbackEncoder, rows: Tensor, feedback: Feedback) -> Tensor:
    tokens, event = [], 0
    for count in feedback.lengths.host.tolist():
        for place in range(MOST):
            token = encoder.place.weight[place]
            if place < count:
                token = token + encoder.out(gelu(_hidden(encoder, rows, feedback, event)))
                event += 1
            tokens.append(token)
    return torch.stack(tokens).view(-1, MOST, WIDTH)


def _hidden(encoder: FeedbackEncoder, rows: Tensor, feedback: Feedback, event: int) -> Tensor:
    """The first layer of one event."""
    hidden = encoder.bias
    if encoder.ids is not None and isinstance(feedback.inverse, Tensor):
        hidden = hidden + encoder.ids.weight @ rows[feedback.inverse[event]]
    if encoder.time is not None and feedback.age is not None:
        bucket = min(int(2 * np.log2(float(feedback.age[event]) + 1)), CONFIG.time_buckets - 1)
        hidden = hidden + encoder.time.weight.weight @ encoder.time.embedding.weight[bucket]
    for name, term in encoder.side.items():
        assert isinstance(term, BucketTerm)
        hidden = hidden + term.weight.weight @ term.embedding.weight[int(feedback.side[name][event])]
    return hidden


@pytest.mark.parametrize("lengths", [[1, 3, 2], [3], [2, 2, 1, 3, 1]])
@pytest.mark.parametrize("kind", list(KINDS))
def test_tokens_and_gradients_are_those_of_a_loop(kind: str, lengths: list[int]) -> None:
    encoder, feedback = _encoder(kind), _feedback(kind, lengths)
    rows = torch.randn(ROWS, DIM, dtype=torch.float64).requires_grad_()
    found, expected = encoder(rows, feedback), _reference(encoder, rows, feedback)
    assert found.shape == (len(lengths), MOST, WIDTH)
    torch.testing.assert_close(found, expected)
    leaves = [*encoder.parameters(), *([rows] if "ids" in KINDS[kind] else [])]
    scale = torch.randn(found.shape, dtype=torch.float64)
    gradients = torch.autograd.grad((found * scale).sum(), leaves)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * scale).sum(), leaves))


def test_what_is_absent_is_the_row_of_its_place() -> None:
    """And nothing of what the twin has."""
    encoder = _encoder("everything")
    tokens = encoder(torch.randn(ROWS, DIM, dtype=torch.float64), _feedback("everything", [1, 2]))
    assert torch.equal(tokens[0, 1:], encoder.place.weight[1:]) and torch.equal(tokens[1, 2], encoder.place.weight[2])
    assert not torch.isclose(tokens[:, 0], encoder.place.weight[0]).all(1).any()


def test_without_ids_no_rows_are_needed() -> None:
    encoder, feedback = _encoder("no ids"), _feedback("no ids", [2, 1])
    assert encoder.ids is None and encoder(None, feedback).shape == (2, MOST, WIDTH)


@pytest.mark.parametrize("kind", list(KINDS))
def test_without_twins_every_parameter_has_a_gradient_of_zero(kind: str) -> None:
    encoder = _encoder(kind)
    rows = torch.randn(ROWS, DIM, dtype=torch.float64).requires_grad_()
    tokens = encoder(rows, _feedback(kind, []))
    assert tokens.shape == (0, MOST, WIDTH)
    gradients = torch.autograd.grad(tokens.sum(), list(encoder.parameters()))
    assert not any(gradient.any() for gradient in gradients)


def test_side_values_and_times_start_large() -> None:
    encoder = _encoder("everything")
    terms = [term for term in (encoder.time, *encoder.side.values()) if isinstance(term, BucketTerm)]
    assert len(terms) == 3
    for term in terms:
        torch.nn.init.zeros_(term.embedding.weight)
    before = {name: p.clone() for name, p in encoder.named_parameters() if "embedding" not in name}
    encoder.start_large()
    values = torch.cat([term.embedding.weight.detach().flatten() for term in terms])
    assert 0.8 < float(values.std()) < 1.2
    assert all(torch.equal(dict(encoder.named_parameters())[name], p) for name, p in before.items())
    _encoder("ids alone").start_large()

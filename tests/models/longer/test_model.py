"""LONGER against the paper's dense form, and what its mask promises."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_rec.data.lengths import Lengths
from dist_rec.models.layers.jagged import CandidateView
from dist_rec.models.longer.model import Longer
from tests.models.batches import make_inputs, make_view, model_config, saved_bytes
from tests.models.longer.dense import dense_longer, merged_newest_first

WIDTH = 8
STRATEGIES = ("recent", "uniform", "mixed", "learnable")


def _longer(recompute: tuple[str, ...] = (), **changes: Any) -> Longer:
    torch.manual_seed(0)
    config = model_config(longer=changes, recompute=list(recompute))
    return Longer(config.section("longer"), make_inputs(config)).double()


def _tokens(lengths: list[int], seed: int = 0) -> tuple[Tensor, Lengths]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(sum(lengths), WIDTH, generator=generator, dtype=torch.float64)
    return tokens, Lengths.of(lengths)


def _gradients(model: Longer, out: Tensor, *inputs: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(out.shape, generator=generator, dtype=out.dtype)
    return list(torch.autograd.grad((out * weights).sum(), [*model.parameters(), *inputs]))


def _dense_batch(model: Longer, tokens: Tensor, lengths: Lengths, view: CandidateView) -> Tensor:
    assert view.context is not None
    histories = tokens.split(lengths.host.tolist())
    out = [
        dense_longer(model, histories[b], view.features[c], view.context[b])
        for c, b in enumerate(view.request.tolist())
    ]
    return torch.stack(out)


@pytest.mark.parametrize("queries", STRATEGIES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"merge": 1, "k": 4, "self_layers": 2, "globals": ["cls", "candidate", "user", "cls"]},
        {"merge": 4, "k": 2, "self_layers": 0, "inner_trans": False},
        {"merge": 3, "k": 50, "heads": 4, "globals": ["user", "candidate"]},
    ],
)
@pytest.mark.parametrize("counts", [[1, 2, 1, 3, 0, 1, 2], [1, 1, 0, 1, 1, 1, 1]], ids=["several", "at most one"])
def test_equals_the_papers_dense_form(queries: str, changes: dict[str, Any], counts: list[int]) -> None:
    """Outputs and every gradient, over histories around K and k, none included, and requests without a candidate. With
    at most one candidate each, attention takes the plain causal mask."""
    model = _longer(queries=queries, **changes)
    tokens, lengths = _tokens([7, 0, 1, 12, 3, 4, 17])
    view = make_view(counts)
    tokens.requires_grad_()
    got, truth = model(tokens, lengths, view), _dense_batch(model, tokens, lengths, view)
    torch.testing.assert_close(got, truth, rtol=0.0, atol=1e-11)
    for mine, theirs in zip(_gradients(model, got, tokens), _gradients(model, truth, tokens)):
        torch.testing.assert_close(mine, theirs, rtol=0.0, atol=1e-10)


def test_k_zero_takes_every_merged_token() -> None:
    tokens, lengths = _tokens([7, 2, 12])
    view = make_view([1, 1, 2])
    assert torch.equal(_longer(k=0)(tokens, lengths, view), _longer(k=6)(tokens, lengths, view))


@pytest.mark.parametrize("merge", [1, 2, 3, 4])
def test_merge_pads_the_oldest_group(merge: int) -> None:
    model = _longer(merge=merge, inner_trans=False)
    tokens, lengths = _tokens([merge + 1, 0, 2 * merge, 1])
    merged, merged_lengths = model.merge(tokens, lengths)
    assert merged_lengths.host.tolist() == [-(-n // merge) for n in lengths.host.tolist()]
    for rows, history in zip(merged.split(merged_lengths.host.tolist()), tokens.split(lengths.host.tolist())):
        assert torch.equal(rows.flip(0), merged_newest_first(model, history))
    oldest = merged[0].unflatten(0, (merge, WIDTH))
    padding = -(merge + 1) % merge
    assert not oldest[:padding].any() and torch.equal(oldest[padding], tokens[0])


@pytest.mark.parametrize("queries", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("counts", [[2, 1, 3, 1], [1, 1, 1, 1]], ids=["several", "one"])
def test_sequence_rows_do_not_depend_on_candidates(queries: str, dtype: torch.dtype, counts: list[int]) -> None:
    model = _longer(queries=queries, self_layers=2).to(dtype)
    tokens, lengths = _tokens([7, 0, 30, 3])
    before, after = (make_view(counts, seed=seed, dtype=dtype) for seed in (0, 1))
    first, first_groups, _ = model.states(tokens.to(dtype), lengths, before)
    second, second_groups, _ = model.states(tokens.to(dtype), lengths, after)
    assert torch.equal(first, second)
    assert not torch.isclose(first_groups, second_groups).all(1).any()


def test_candidates_do_not_see_one_another() -> None:
    model = _longer(self_layers=2)
    tokens, lengths = _tokens([9, 4])
    view = make_view([8, 3])
    changed = replace(view, features=torch.cat([view.features[:1], make_view([8, 3], seed=1).features[1:]]))
    before, after = model(tokens, lengths, view), model(tokens, lengths, changed)
    torch.testing.assert_close(after[0], before[0], rtol=0.0, atol=1e-14)
    assert not torch.isclose(after[1:], before[1:]).all(1).any()


def test_a_later_global_sees_the_earlier_ones() -> None:
    """globals: [candidate, user]; the candidate's row must not move with the user's context."""
    model = _longer()
    tokens, lengths = _tokens([5])
    view = make_view([1])
    assert view.context is not None
    _, before, _ = model.states(tokens, lengths, view)
    _, user, _ = model.states(tokens, lengths, replace(view, context=view.context + 1))
    _, candidate, _ = model.states(tokens, lengths, replace(view, features=view.features + 1))
    assert torch.equal(user[0], before[0]) and not torch.equal(user[1], before[1])
    assert not torch.equal(candidate[0], before[0]) and not torch.allclose(candidate[1], before[1])


@pytest.mark.parametrize("merge", [1, 2])
def test_rotary_sees_only_distances(merge: int) -> None:
    """A longer history shifts every position; rows that attend to the same tokens must not notice."""
    model = _longer(rotary=True, merge=merge, k=0, inner_trans=False)
    tokens, lengths = _tokens([12])
    view = make_view([1])
    plain = _longer(rotary=False, merge=merge, k=0, inner_trans=False)
    assert not torch.allclose(model(tokens, lengths, view), plain(tokens, lengths, view))
    batch, batch_lengths = torch.cat([tokens[:4], tokens]), Lengths.of([4, 12])
    both = model(
        batch, batch_lengths, replace(make_view([0, 1]), features=view.features, context=view.context.repeat(2, 1))
    )
    torch.testing.assert_close(both, model(tokens, lengths, view), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("queries", STRATEGIES)
@pytest.mark.parametrize("lengths", [[], [0, 0], [0, 3]])
def test_gradients_exist_without_candidates(queries: str, lengths: list[int]) -> None:
    """A rank without data: no gradient may be None, or DDP waits for ever."""
    model = _longer(queries=queries)
    tokens, counts = _tokens(lengths)
    out = model(tokens, counts, make_view([0] * len(lengths)))
    assert out.shape == (0, model.width)
    assert not any(gradient.any() for gradient in _gradients(model, out))


@pytest.mark.parametrize("parts", [("inner",), ("cross",), ("self",), ("inner", "cross", "self")])
def test_recomputing_changes_no_gradient(parts: tuple[str, ...]) -> None:
    tokens, lengths = _tokens([7, 0, 12])
    view = make_view([1, 2, 1])
    kept, dropped = _longer(), _longer(recompute=parts)
    results = [_gradients(model, model(tokens, lengths, view)) for model in (kept, dropped)]
    for expected, got in zip(*results):
        assert torch.equal(got, expected)


def test_recomputing_keeps_fewer_activations() -> None:
    tokens, lengths = _tokens([64] * 4)
    view = make_view([1] * 4)
    kept = []
    for parts in ((), ("inner", "cross", "self")):
        model = _longer(recompute=parts)
        kept.append(saved_bytes(partial(model, tokens, lengths, view)))
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize(
    ("inputs", "width"), [(["globals", "sequence_mean"], 48), (["sequence_mean", "candidate"], 16), (["globals"], 32)]
)
def test_outputs_that_the_head_asks_for(inputs: list[str], width: int) -> None:
    config = model_config(head={"inputs": inputs})
    model = Longer(config.section("longer"), make_inputs(config)).double()
    tokens, lengths = _tokens([7, 2])
    assert model.width == width and model(tokens, lengths, make_view([1, 2])).shape == (3, width)

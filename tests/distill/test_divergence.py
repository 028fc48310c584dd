"""The divergences against their formulas written out on probabilities, in float64, and at the ends of their range."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import log_softmax

from dist_rec.distill import distill_bernoulli, distill_topk

MIXES = (0.0, 0.3, 0.5, 1.0)
logits = st.floats(-12.0, 12.0)
mixes = st.one_of(st.sampled_from((0.0, 0.5, 1.0)), st.floats(0.001, 0.999))


def _kl(x: Tensor, y: Tensor) -> Tensor:
    return (x * (x.log() - y.log())).sum(-1)


def _divergence(p: Tensor, q: Tensor, a: float) -> Tensor:
    """Of distributions over the last dim."""
    if a in (0.0, 1.0):
        return _kl(p, q) if a else _kl(q, p)
    m = (1 - a) * p + a * q
    return (1 - a) * _kl(p, m) + a * _kl(q, m)


def _both_sides(z: Tensor) -> Tensor:
    """Logits -> probabilities of 1 and 0 in a last dim. 1 - sigmoid(z) would lose digits."""
    return torch.stack([z.sigmoid(), (-z).sigmoid()], -1)


def _leaf(values: list[float] | Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.as_tensor(values, dtype=dtype).clone().requires_grad_()


@settings(deadline=None)
@given(z=st.lists(st.tuples(logits, logits, st.floats(0.0, 3.0)), min_size=1, max_size=5), mix=mixes)
def test_bernoulli_is_the_formula_and_so_is_its_gradient(z: list[tuple[float, float, float]], mix: float) -> None:
    zs, zt, weight = torch.tensor(z, dtype=torch.float64).unbind(1)
    student, written = _leaf(zs), _leaf(zs)
    loss = distill_bernoulli(student, zt, weight, div_mix=mix)
    expected = _divergence(_both_sides(written), _both_sides(zt), mix) * weight
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-12)
    scale = torch.arange(1.0, 1.0 + len(z), dtype=torch.float64)
    (loss * scale).sum().backward()
    (expected * scale).sum().backward()
    torch.testing.assert_close(student.grad, written.grad, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("mix", MIXES)
def test_equal_sides_have_no_loss(mix: float) -> None:
    z = torch.linspace(-100.0, 100.0, 401).requires_grad_()
    loss = distill_bernoulli(z, z.detach(), div_mix=mix)
    loss.sum().backward()
    assert z.grad is not None
    assert (loss >= 0.0).all() and (loss < 1e-6).all() and (z.grad.abs() < 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mix", [*MIXES, 1e-9, 1.0 - 1e-9])
def test_bernoulli_extremes_are_finite(mix: float, dtype: torch.dtype) -> None:
    ends = (-100.0, -50.0, -1.0, 0.0, 1.0, 50.0, 100.0)
    zs, zt = torch.tensor(list(product(ends, ends)), dtype=dtype).unbind(1)
    zs = _leaf(zs, dtype)
    loss = distill_bernoulli(zs, zt, div_mix=mix)
    loss.sum().backward()
    assert zs.grad is not None
    assert loss.isfinite().all() and (loss >= 0.0).all() and zs.grad.isfinite().all()


@pytest.mark.parametrize(("mix", "expected"), [(0.0, 100.0), (0.5, 0.6931472), (1.0, 100.0)])
def test_opposite_sides(mix: float, expected: float) -> None:
    zs, zt = torch.tensor([-100.0, 100.0]), torch.tensor([100.0, -100.0])
    assert distill_bernoulli(zs, zt, div_mix=mix).tolist() == pytest.approx([expected] * 2)


def test_both_rare_and_both_sure_keep_their_digits() -> None:
    """q = 1 - 2e-9 in float32 is 1, and yet the loss is known."""
    zs, zt = torch.tensor([-20.0, 20.0]), torch.tensor([-30.0, 30.0])
    expected = distill_bernoulli(zs.double(), zt.double())
    torch.testing.assert_close(distill_bernoulli(zs, zt).double(), expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_of_zero_is_exactly_zero(bad: float, mix: float) -> None:
    zs, zt = _leaf([bad, 1.0, bad, 2.0]), torch.tensor([1.0, bad, bad, 0.5], dtype=torch.float64)
    weight = torch.tensor([0.0, 0.0, 0.0, 2.0])
    loss = distill_bernoulli(zs, zt, weight, div_mix=mix)
    loss.backward(torch.tensor([1.0, bad, 1.0, 1.0], dtype=torch.float64))
    last = _leaf([2.0])
    loss_alone = distill_bernoulli(last, zt[3:], weight[3:], div_mix=mix)
    loss_alone.backward(torch.ones(1, dtype=torch.float64))
    assert zs.grad is not None and last.grad is not None
    assert loss.tolist() == [0.0, 0.0, 0.0, loss_alone.item()]
    assert zs.grad.tolist() == [0.0, 0.0, 0.0, last.grad.item()]


def test_a_mean_over_nothing_has_a_gradient_of_zero() -> None:
    zs, weight = _leaf([1.0, float("nan")]), torch.zeros(2)
    (distill_bernoulli(zs, torch.zeros(2), weight).sum() / weight.sum()).backward()
    assert zs.grad is not None and zs.grad.tolist() == [0.0, 0.0]


def test_only_the_student_gets_a_gradient() -> None:
    for mix in MIXES:
        zs, zt, weight = _leaf([1.0, 2.0]), _leaf([0.0, 1.0]), _leaf([1.0, 1.0])
        distill_bernoulli(zs, zt, weight, div_mix=mix).sum().backward()
        assert zs.grad is not None and zt.grad is None and weight.grad is None
        ls, lt = _leaf(torch.randn(2, 3)), _leaf(torch.randn(2, 3))
        distill_topk(log_softmax(ls, 1), log_softmax(lt, 1), div_mix=mix, add_tail=False).sum().backward()
        assert ls.grad is not None and lt.grad is None


def test_shapes_and_dtypes() -> None:
    z = torch.randn(2, 3)
    half = z.bfloat16().requires_grad_()
    loss = distill_bernoulli(half, z, torch.tensor([[2.0], [0.0]]))
    loss.sum().backward()
    assert loss.dtype == torch.float32 and loss.shape == (2, 3) and not loss[1].any()
    assert half.grad is not None and half.grad.dtype == torch.bfloat16
    assert distill_bernoulli(z, z, torch.tensor([True, False, True])).dtype == torch.float32
    assert distill_bernoulli(z, z.double()).dtype == torch.float64
    assert distill_bernoulli(z[:0], z[:0]).shape == (0, 3)
    assert distill_topk(z.bfloat16(), z).dtype == torch.float32
    assert distill_topk(z[:0], z[:0]).shape == (0,)


@pytest.mark.parametrize("mix", [-0.1, 1.1, float("nan")])
def test_a_mix_outside_its_range(mix: float) -> None:
    with pytest.raises(ValueError, match=r"div_mix must be in \[0, 1\], got"):
        distill_bernoulli(torch.zeros(1), torch.zeros(1), div_mix=mix)
    with pytest.raises(ValueError, match=r"div_mix must be in \[0, 1\], got"):
        distill_topk(torch.zeros(1, 1), torch.zeros(1, 1), div_mix=mix)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"same shape, got \(2,\) and \(2, 1\)"):
        distill_bernoulli(torch.zeros(2), torch.zeros(2, 1))
    for shape in ((3,), (1, 2), (2, 2)):
        with pytest.raises(ValueError, match=r"weight must broadcast to the logits' shape \(2,\)"):
            distill_bernoulli(torch.zeros(2), torch.zeros(2), torch.ones(shape))
    with pytest.raises(ValueError, match=r"same shape, got \(2, 3\) and \(2, 4\)"):
        distill_topk(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"must be \(N, K\), got \(3,\)"):
        distill_topk(torch.zeros(3), torch.zeros(3))


@pytest.mark.parametrize(("mix", "expected"), [(0.0, 0.0690), (0.5, 0.0224), (1.0, 0.0164)])
def test_one_student_of_two_cases(mix: float, expected: float) -> None:
    """The teacher says 0.6 in a tenth of the cases and 0.01 otherwise: their mean is 0.069, which forward KL finds."""
    teacher, cases = torch.tensor([0.6, 0.01], dtype=torch.float64).logit(), torch.tensor([0.1, 0.9])
    z = _leaf([-3.0])
    optimizer = torch.optim.LBFGS([z], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = distill_bernoulli(z.expand(2), teacher, cases, div_mix=mix).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    assert z.sigmoid().item() == pytest.approx(expected, abs=1e-4)


def _pair(n: int, k: int, seed: int) -> tuple[Tensor, Tensor]:
    z = torch.randn(2, n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    return _leaf(z[0]), z[1]


@settings(deadline=None)
@given(k=st.integers(2, 6), seed=st.integers(0, 99), mix=mixes)
def test_a_whole_distribution_without_a_tail_and_all_but_one_with_it(k: int, seed: int, mix: float) -> None:
    zs, zt = _pair(3, k, seed)
    expected = _divergence(zs.softmax(1), zt.softmax(1), mix)
    (slope,) = torch.autograd.grad(expected.sum(), zs)
    logp, logq = log_softmax(zs, 1), log_softmax(zt, 1)
    for entries, add_tail in ((k, False), (k, True), (k - 1, True)):
        loss = distill_topk(logp[:, :entries], logq[:, :entries], div_mix=mix, add_tail=add_tail)
        torch.testing.assert_close(loss, expected, rtol=1e-7, atol=1e-9)
        (found,) = torch.autograd.grad(loss.sum(), zs, retain_graph=True)
        torch.testing.assert_close(found, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("mix", MIXES)
def test_two_entries_are_a_bernoulli(mix: float) -> None:
    zs, zt = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    logs = [torch.nn.functional.logsigmoid(z)[:, None] for z in (zs, zt)]
    torch.testing.assert_close(distill_topk(*logs, div_mix=mix), distill_bernoulli(zs, zt, div_mix=mix))


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tail_is_never_below_zero(mix: float, dtype: torch.dtype) -> None:
    """Rounding may leave entries with all the mass, or more than it."""
    one = log_softmax(torch.randn(4, 7, dtype=dtype), 1)
    half = one - 0.7
    for p, q in product((one, one + 1e-6, half), repeat=2):
        p = _leaf(p, dtype)
        loss = distill_topk(p, q, div_mix=mix)
        loss.sum().backward()
        assert p.grad is not None
        assert loss.isfinite().all() and p.grad.isfinite().all()
    torch.testing.assert_close(distill_topk(one, one, div_mix=mix), torch.zeros(4, dtype=dtype), rtol=0, atol=1e-6)
    assert (distill_topk(half, one, div_mix=mix) > 0.1).all()


@pytest.mark.parametrize("add_tail", [False, True])
@pytest.mark.parametrize("mix", MIXES)
def test_an_entry_that_is_impossible_on_both_sides_adds_nothing(mix: float, add_tail: bool) -> None:
    """Such as the place of a negative that a row does not have."""
    zs, zt = _pair(3, 4, 0)
    none = torch.full((3, 2), -float("inf"), dtype=torch.float64)
    losses, slopes = [], []
    for student, teacher in ((zs, zt), (torch.cat([zs, none], 1), torch.cat([zt, none], 1))):
        loss = distill_topk(log_softmax(student, 1), log_softmax(teacher, 1), div_mix=mix, add_tail=add_tail)
        losses.append(loss)
        slopes.append(torch.autograd.grad(loss.sum(), zs)[0])
    assert slopes[1].isfinite().all()
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(slopes[1], slopes[0])

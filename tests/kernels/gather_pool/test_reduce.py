"""The kernels that reduce segments: pieces, parts, and what they must not touch. In the interpreter where there is no
GPU."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.kernels.gather_pool import Mode, op, pool, tiles
from dist_rec.kernels.gather_pool.tiles import PIECE
from dist_rec.kernels.unique_ids import segments_of
from tests.kernels.gather_pool.cases import (
    DEVICE,
    MODES,
    OPERATIONS,
    assert_near,
    assert_same,
    assert_truth,
    far_apart,
    make_case,
    poisoned_memory,
)

# Bags around one, two and many pieces, which begin at every place relative to the slots; rows of many occurrences.
LENGTHS = {
    "around a piece": [PIECE - 1, 0, PIECE, PIECE + 1, 3, 2 * PIECE, 2 * PIECE + 1, 1],
    "one long": [5 * PIECE + 7],
    "many short": [3, 0, 1, 4, 2] * 12,
    "no position": [0, 0],
    "no bag": [],
    "one": [1],
}

# Triton's interpreter computes with numpy, which warns where a GPU is silent.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_segments_in_pieces(operation: str, lengths: list[int], dtype: torch.dtype) -> None:
    """Three rows share all positions, one row has none."""
    with poisoned_memory():
        assert_truth(make_case(lengths, 4, 20, used=3).to(dtype).to(DEVICE), operation, "triton")


@pytest.mark.parametrize("width", [1, 16, 100, 300])
@pytest.mark.parametrize("mode", MODES)
def test_every_width(mode: Mode, width: int) -> None:
    with poisoned_memory():
        assert_truth(make_case([40, 90], 30, width).to(torch.float32).to(DEVICE), mode, "triton")


@given(st.lists(st.integers(0, 200), max_size=5), st.integers(1, 40), st.integers(0, 2**31))
@settings(max_examples=12, deadline=None)
def test_any_lengths(lengths: list[int], num_rows: int, seed: int) -> None:
    case = make_case(lengths, num_rows, 3, seed=seed).to(torch.float32).to(DEVICE)
    with poisoned_memory():
        for operation in OPERATIONS:
            assert_near(case, operation, "triton")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_position_has_its_own_row(operation: str) -> None:
    case = make_case([30, 0, 41], 71, 8).to(torch.float32)
    case = replace(case, inverse=torch.randperm(71).int()).to(DEVICE)
    assert_near(case, operation, "triton")


@pytest.mark.parametrize("mode", MODES)
def test_a_bag_does_not_depend_on_its_batch(mode: Mode) -> None:
    """Bitwise, output and gradients, although the others have rows of NaN."""
    mine, others = (
        make_case([3 * PIECE + 5], 9, 8, seed=1).to(torch.float32),
        make_case([100, 3, 70], 9, 8).to(torch.float32),
    )
    alone = mine.to(DEVICE).run_with_gradients(mode, "triton")
    inverse = torch.cat([others.inverse, mine.inverse + 9, others.inverse])
    offsets = torch.tensor([0, 100, 103, 173, 173 + 3 * PIECE + 5, len(inverse)])
    rows = torch.cat([torch.full_like(others.rows, float("nan")), mine.rows])
    rows = rows.to(DEVICE).requires_grad_()
    out = pool(rows, inverse.to(DEVICE), offsets.to(DEVICE), mode=mode, backend="triton")
    assert torch.equal(out[3].detach(), alone[0][0])
    if mode == "max":
        assert out[0].isnan().all()
    weights = torch.zeros(5, 1, device=DEVICE)
    weights[3] = 1.0
    gradients = []
    for result, leaf in ((out, rows), (None, mine.rows.to(DEVICE).requires_grad_())):
        if result is None:
            result, weights = (
                pool(leaf, mine.inverse.to(DEVICE), mine.offsets.to(DEVICE), mode=mode, backend="triton"),
                weights[3:4],
            )
        gradients.append(torch.autograd.grad(result, leaf, weights.expand(result.shape))[0])
    assert torch.equal(gradients[0][9:], gradients[1]) and not gradients[0][:9].any()


def test_the_largest_of_equals_is_the_first() -> None:
    """Across lanes and pieces; and -inf is a value like others."""
    rows = torch.tensor(
        [[1.0, float("-inf")], [1.0, float("-inf")], [0.0, float("-inf")]], device=DEVICE, requires_grad=True
    )
    for first, second in ((0, 1), (1, 0)):
        inverse = torch.full((3 * PIECE,), 2, dtype=torch.int32, device=DEVICE)
        inverse[PIECE + 5], inverse[PIECE + 6 :] = first, second
        inverse[0] = second if first == 0 else 2
        winner = second if first == 0 else first
        out = pool(rows, inverse, torch.tensor([0, len(inverse)], device=DEVICE), mode="max", backend="triton")
        assert out[0].tolist() == [1.0, float("-inf")]
        (grad,) = torch.autograd.grad(out[:, 0].sum(), rows)
        assert grad[:, 0].tolist() == [float(row == winner) for row in range(3)]
        (grad,) = torch.autograd.grad(pool(rows, inverse, torch.tensor([0, len(inverse)]), mode="max").sum(), rows)
        assert grad[:, 1].sum() == 1.0


def _framed(x: Tensor) -> Tensor:
    """The same numbers, between rows of NaN."""
    nan = torch.full_like(x[:1], float("nan"))
    return torch.cat([nan, x, nan])[1:-1]


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_positions_of_no_bag_count_nowhere(mode: Mode) -> None:
    """Behind the last offset: the kernels do not wait for the device to complain."""
    case = make_case([40, 100], 5, 4).to(torch.float32).to(DEVICE)
    longer = torch.cat([case.inverse, torch.zeros(300, dtype=torch.int32, device=DEVICE)])
    offsets = torch.cat([case.offsets, torch.full((2,), 1000, dtype=torch.int32, device=DEVICE)])[
        :-2
    ]  # what stands behind
    results = []
    for index in (case.inverse, longer):
        place = (index, 32, len(index), offsets, mode, None, None)
        out, winner = op.pool_rows(case.rows, *place)
        segments = op.index_segments(index, 32, len(index), 5)
        results.append((out, op.pool_backward(_framed(torch.ones_like(out)), winner, offsets, mode, *segments)))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


@pytest.mark.parametrize("mode", MODES)
def test_an_index_outside_reads_nothing(mode: Mode) -> None:
    rows = _framed(torch.tensor([[2.0], [4.0]], device=DEVICE)).requires_grad_()
    index = torch.tensor([0, 2, -1, 1, 2, -1], dtype=torch.int32, device=DEVICE)
    offsets = torch.tensor([0, 4, 6], device=DEVICE)
    out = pool(rows, index, offsets, mode=mode, backend="triton")
    assert out[:, 0].tolist() == [{"sum": 6.0, "mean": 1.5, "max": 4.0, "last": 4.0}[mode], 0.0]
    (grad,) = torch.autograd.grad(out.sum(), rows)
    assert grad[:, 0].tolist() == {"sum": [1, 1], "mean": [0.25, 0.25], "max": [0, 1], "last": [0, 1]}[mode]


@pytest.mark.parametrize("place", [0, 1, 4, 70, 149])
def test_the_largest_beside_a_nan_is_a_nan(place: int) -> None:
    """Wherever it stands: in which lane, in which piece, first or last. The gradient goes to the first of them."""
    case = make_case([150], 150, 2).to(torch.float32)
    case = replace(case, inverse=torch.arange(150).int())
    case.rows[place::4, 1] = float("nan")
    case.rows[-2, 1] = float("inf")
    results = [case.to(DEVICE).run_with_gradients("max", "triton"), case.run_with_gradients("max", "reference")]
    (out, grad), (expected, expected_grad) = results
    assert out[0].isnan().tolist() == [False, True]
    torch.testing.assert_close(out.cpu(), expected, equal_nan=True)
    assert torch.equal(grad.cpu(), expected_grad) and grad[place, 1] != 0


@pytest.mark.parametrize("lengths", [[0, 5, 0, 0, 200, 64, 0], [300], [1] * 130, []], ids=str)
def test_starts_are_the_segments_of_every_slot(lengths: list[int]) -> None:
    begins = torch.tensor([0, *lengths]).cumsum(0).int()
    total = sum(lengths)
    owners = [segment for segment, length in enumerate(lengths) for _ in range(length)]
    for piece in (PIECE, 3):
        assert [x - 1 for x in op.search_starts(begins, total, piece).tolist()] == owners[::piece]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_long_pieces_of_long_segments(operation: str) -> None:
    """As tables of a few rows have, in batches of a hundred thousand positions; here from the first position on."""
    case = make_case([700, 500, 0, 40], 2, 4).to(torch.float32).to(DEVICE)
    with mock.patch.object(tiles, "_FEW_SEGMENTS", 10**9), poisoned_memory():
        assert tiles.piece_for(2) == tiles.LONG_PIECE
        assert_truth(case, operation, "triton")


def test_gradients_behind_2_to_the_31_elements(tmp_path: Path) -> None:
    """Source rows that far apart: the gradient of an expansion, and the rows of a pool."""
    rows = torch.randn(4, 40).half()
    index, apart = torch.tensor([1, 0, 1, 1], dtype=torch.int32), far_apart(rows, tmp_path).to(DEVICE)
    segments = op.index_segments(index.to(DEVICE), 32, 4, 2)
    sums = op.sum_segments(apart, *segments, torch.float16).cpu()
    expected = torch.stack([rows[1].float(), rows[[0, 2, 3]].float().sum(0)]).half()
    torch.testing.assert_close(sums, expected)
    out = pool(
        apart, torch.tensor([3, 1], device=DEVICE), torch.tensor([0, 2], device=DEVICE), mode="max", backend="triton"
    )
    assert torch.equal(out[0].cpu(), rows[[3, 1]].amax(0))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_two_runs_give_the_same_bits(operation: str) -> None:
    case = make_case([100, 0, 80], 3, 8).to(torch.float32).to(DEVICE)
    assert_same(*(case.run_with_gradients(operation, "triton") for _ in range(2)))


def test_segments_are_used_as_given() -> None:
    """Those of another index give another gradient: nothing was sorted again."""
    case = make_case([50], 4, 3).to(torch.float32)
    other: Tensor = case.inverse.flip(0)
    results = [
        replace(case, inverse=inverse, segments=segments_of(other, 4))
        .to(DEVICE)
        .run_with_gradients("expand", "triton")[1]
        for inverse in (case.inverse, other)
    ]
    assert torch.equal(*results)

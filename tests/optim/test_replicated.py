"""Slices of a flat parameter by themselves; TorchRec's sharded tables are in tests/integration."""

from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torchrec.distributed.composable.table_batched_embedding_slice import TableBatchedEmbeddingSlice

from dist_rec.optim.delayed import DelayedAllReduce
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.optim.replicated import by_flat, check_own, hand_out, reduced_by_torchrec


def _tables() -> tuple[nn.Parameter, dict[str, nn.Parameter]]:
    """A flat parameter, its two tables of 2 x 2 and 3 x 1, and a parameter that is no slice."""
    flat = nn.Parameter(torch.ones(7))
    tables = {"a": TableBatchedEmbeddingSlice(flat, 0, 4, 2, 2), "b": TableBatchedEmbeddingSlice(flat, 4, 7, 3, 1)}
    return flat, {**cast("dict[str, nn.Parameter]", tables), "own": nn.Parameter(torch.ones(2))}


def _loss(flat: Tensor, tables: dict[str, nn.Parameter]) -> Tensor:
    return (flat * torch.arange(7.0)).sum() + tables["own"].sum()


def test_flat_parameters_and_the_names_of_their_slices() -> None:
    flat, tables = _tables()
    ((found, names),) = by_flat(tables)
    assert found is flat and names == ["a", "b"]


def test_a_gradient_is_handed_out_and_added_to_what_is_there() -> None:
    flat, tables = _tables()
    for times in (1, 2):
        _loss(flat, tables).backward()
        hand_out(flat, [tables["a"], tables["b"]])
        assert flat.grad is None
        (a, b) = (tables[name].grad for name in "ab")
        assert a is not None and a.tolist() == [[0.0, 1.0 * times], [2.0 * times, 3.0 * times]]
        assert b is not None and b.flatten().tolist() == [4.0 * times, 5.0 * times, 6.0 * times]


def test_slices_are_reduced_by_name_like_others() -> None:
    flat, tables = _tables()
    reducer = DelayedAllReduce(tables, bucket_cap_mb=1e-6, backwards_per_step=2)
    reducer.active = False
    _loss(flat, tables).backward()
    reducer.active = True
    _loss(flat, tables).backward()
    assert reducer.placeholder_names == {"a", "b", "own"}
    with pytest.raises(RuntimeError, match="got a second gradient since the last step"):
        _loss(flat, tables).backward()
    means = reducer.start().wait()
    assert means["a"].tolist() == [[0.0, 1.0], [2.0, 3.0]] and means["b"].flatten().tolist() == [4.0, 5.0, 6.0]
    assert flat.grad is None and all(p.grad is None for p in tables.values())
    reducer.close()
    _loss(flat, tables).backward()
    assert flat.grad is not None, "left to autograd again"


def test_a_job_sees_and_changes_gradients_of_slices() -> None:
    flat, tables = _tables()
    model = nn.ParameterDict(tables)
    optimizer = HybridOptimizer(model, lambda p: torch.optim.SGD(p, lr=1.0), dense_update="delayed")
    _loss(flat, tables).backward()
    gradient = tables["a"].grad
    assert gradient is not None and gradient.sum() == 6.0
    tables["a"].grad.zero_()
    optimizer.step()
    assert flat.tolist() == [1.0, 1.0, 1.0, 1.0, -3.0, -4.0, -5.0], "the first steps are synchronous"


def test_those_that_torchrec_reduces_are_an_error() -> None:
    _, tables = _tables()
    assert reduced_by_torchrec(nn.ParameterDict(tables), tables) == []
    check_own([])
    with pytest.raises(ValueError, match=r"t\.weight: TorchRec reduces .* \(TorchRec 1\.9 and later\)"):
        check_own(["t.weight"])

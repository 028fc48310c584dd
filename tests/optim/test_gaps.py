import torch
from torch import nn

from dist_rec.optim.gaps import filled, present


def test_keys_stay_and_only_what_was_there_comes_back() -> None:
    like = {"a": nn.Parameter(torch.ones(2)), "b": nn.Parameter(torch.ones(3, dtype=torch.float64))}
    values = {"a": torch.tensor([3.0, 4.0])}
    saved = filled(values, like)
    values["a"].zero_()
    assert saved.keys() == like.keys() and filled({}, like).keys() == like.keys()
    assert saved["b"]["value"].tolist() == [0, 0, 0] and saved["b"]["value"].dtype == torch.float64
    back = present(saved)
    assert list(back) == ["a"] and back["a"].tolist() == [3.0, 4.0], "a copy of what it was when saved"
    back["a"].zero_()
    assert saved["a"]["value"].tolist() == [3.0, 4.0]

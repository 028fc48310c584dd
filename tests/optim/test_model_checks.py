"""Models that the optimizer refuses, also when it is made: `fully_shard` in one process."""

import pytest
import torch
from torch import nn

from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.optim.model_checks import check_frozen, check_modules, check_whole


def test_parameters_that_are_spread_over_ranks_are_refused() -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        net = nn.Linear(4, 2)
        torch.distributed.fsdp.fully_shard(net)
        refusal = r"weight is a DTensor, spread over ranks by fully_shard \(FSDP\)"
        with pytest.raises(ValueError, match=refusal):
            check_whole(dict(net.named_parameters()))
        for update in ("sync", "delayed"):
            with pytest.raises(ValueError, match=refusal):
                HybridOptimizer(net, torch.optim.SGD, dense_update=update)
    finally:
        torch.distributed.destroy_process_group()


def test_a_fully_sharded_module_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sharded(nn.Linear):
        """In place of FSDP, which needs a GPU here."""

    monkeypatch.setattr("dist_rec.optim.model_checks.FullyShardedDataParallel", Sharded)
    for net, name in ((nn.Sequential(nn.Linear(1, 1), Sharded(1, 1)), "1"), (Sharded(1, 1), "the model")):
        with pytest.raises(ValueError, match=f"^{name} is a FullyShardedDataParallel"):
            check_modules(net)
    check_modules(nn.Linear(1, 1))


def test_a_parameter_that_thaws_is_an_error() -> None:
    net = nn.Linear(4, 2).requires_grad_(False)
    frozen = dict(net.named_parameters())
    check_frozen(frozen)
    net.bias.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"bias \(1 parameters\) was frozen.*expected add_parameters"):
        check_frozen(frozen)

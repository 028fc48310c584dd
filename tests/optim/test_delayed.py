import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_rec.optim.delayed import GradientInFlight, broadcast_parameters
from tests.helpers.ranks import run_ranks

SHAPES = {"both": (2, 3), "first": (4,), "none": (3,), "wide": (2,), "scalar": ()}


def _parameters() -> dict[str, nn.Parameter]:
    """`wide` is float64, the others float32; values differ between ranks."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    kinds = {name: torch.float64 if name == "wide" else torch.float32 for name in SHAPES}
    return {name: nn.Parameter(torch.full(shape, 10.0 + rank, dtype=kinds[name])) for name, shape in SHAPES.items()}


def _mean_over_ranks() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    parameters, rank = _parameters(), dist.get_rank()
    for name, parameter in parameters.items():
        if name not in (("none",) if rank == 0 else ("none", "first")):
            parameter.grad = torch.arange(parameter.numel(), dtype=parameter.dtype).view(parameter.shape) + rank
    in_flight = GradientInFlight(parameters, dist.group.WORLD, dist.group.WORLD)
    for parameter in parameters.values():
        if parameter.grad is not None:
            parameter.grad.fill_(torch.nan)  # the next backward writes here while the all-reduce runs
    means = in_flight.wait()
    broadcast_parameters(parameters, dist.group.WORLD)
    return means, {name: parameter.detach() for name, parameter in parameters.items()}


def test_two_ranks_get_the_mean_by_name() -> None:
    for means, values in run_ranks(_mean_over_ranks, 2):
        assert set(means) == {"both", "first", "wide", "scalar"}, "what no rank had is left out"
        assert means["both"].tolist() == [[0.5, 1.5, 2.5], [3.5, 4.5, 5.5]]
        assert means["first"].tolist() == [0.0, 0.5, 1.0, 1.5], "the other rank counts as zero"
        assert means["wide"].tolist() == [0.5, 1.5] and means["wide"].dtype == torch.float64
        assert means["scalar"].item() == 0.5 and means["scalar"].shape == ()
        assert all((value == 10.0).all() for value in values.values()), "rank 0's values"


def test_one_process_without_a_group() -> None:
    parameters = _parameters()
    parameters["both"].grad = torch.ones(2, 3)
    in_flight = GradientInFlight(parameters, None, None)
    parameters["both"].grad.zero_()
    means = in_flight.wait()
    assert list(means) == ["both"] and (means["both"] == 1.0).all()
    broadcast_parameters(parameters, None)
    assert GradientInFlight({}, None, None).wait() == {}


def test_low_precision_flags_are_exact() -> None:
    """The flags travel in the parameters' dtype."""
    parameters = {str(i): nn.Parameter(torch.zeros(1, dtype=torch.bfloat16)) for i in range(300)}
    for name in list(parameters)[::2]:
        parameters[name].grad = torch.zeros(1, dtype=torch.bfloat16)
    assert list(GradientInFlight(parameters, None, None).wait()) == list(parameters)[::2]

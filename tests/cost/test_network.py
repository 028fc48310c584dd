"""Times of collectives by hand, their limits, and the largest batch of many ranks against draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.common.strict import ConfigError
from dist_rec.cost.machine import machine_of
from dist_rec.cost.network import BASE_S, MESSAGE_S, NVLINK_HOP_S, Cluster, imbalance, network_of

H100 = machine_of("h100-80gb")


def _cluster(gpus: int, net: str, machine: str = "h100-80gb") -> Cluster:
    return Cluster(machine_of(machine), network_of(net), gpus)


def test_an_all_to_all_by_hand() -> None:
    """64 GPUs, 8 in a host: 7/64 of the bytes inside, 56/64 across, at once."""
    cluster = _cluster(64, "ib400")
    across = 1e9 * 56 / 64 / (0.8 * 50e9)
    assert cluster.all_to_all_s(1e9) == pytest.approx(BASE_S + 14e-6 + 63 * MESSAGE_S + across)


def test_an_all_reduce_by_hand() -> None:
    cluster = _cluster(64, "eth25")
    inside = 2 * 1e9 * 7 / 8 / (0.8 * 450e9)
    across = 2 * (1e9 / 8) * 7 / 8 / (0.8 * 3.125e9 / 8)
    hops = 2 * 3 * NVLINK_HOP_S + 2 * 3 * 40e-6
    assert cluster.all_reduce_s(1e9) == pytest.approx(BASE_S + hops + inside + across)


def test_one_host_has_no_network() -> None:
    times = {
        (_cluster(8, net).all_to_all_s(1e8), _cluster(8, net).all_reduce_s(1e8)) for net in ("nvlink", "ib400", "eth25")
    }
    assert len(times) == 1


@given(st.sampled_from([1, 2, 8, 64, 1024]), st.sampled_from(["nvlink", "ib400", "eth25"]), st.floats(0, 1e10))
def test_more_bytes_take_longer_and_a_slower_network_never_less(gpus: int, net: str, nbytes: float) -> None:
    cluster, fastest = _cluster(gpus, net), _cluster(gpus, "nvlink")
    for name in ("all_to_all_s", "all_reduce_s"):
        call = getattr(cluster, name)
        assert 0.0 <= call(nbytes) <= call(2 * nbytes)
        assert call(nbytes) >= getattr(fastest, name)(nbytes) * 0.999
        assert gpus > 1 or call(nbytes) == 0.0


@pytest.mark.parametrize(
    ("gpus", "net", "machine", "message"),
    [
        (8, "nvlink", "l4", "l4 has no NVLink; expected --net ib400 or eth25"),
        (12, "ib400", "h100-80gb", "--gpus 12: expected whole hosts of 8"),
        (0, "ib400", "h100-80gb", "--gpus 0: expected at least 1"),
    ],
)
def test_gpus_that_cannot_be_joined_are_refused(gpus: int, net: str, machine: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _cluster(gpus, net, machine)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ib400'"):
        network_of("ib40")


@pytest.mark.parametrize("count", [1, 2, 8, 64, 1024])
def test_the_largest_batch_is_that_of_draws(count: int) -> None:
    draws = np.random.default_rng(0).normal(1000, 150, (4000, count)).max(1).mean() / 1000
    assert imbalance(count, 1000, 150) == pytest.approx(draws, abs=0.01)

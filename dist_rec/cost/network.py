"""What lies between the GPUs, the time of collectives on it, and how unequal the ranks' batches are.

Legend: n GPUs, g GPUs of one host, h = n / g hosts.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from pydantic import Field

from dist_rec.common.strict import ConfigError, Strict, Width, nearest
from dist_rec.cost.machine import Machine, Positive, Share

# NCCL's own table of latencies (src/graph/tuning.cc, 2.19), protocol Simple of a ring: a collective, and each hop.
BASE_S = 8.4e-6
NVLINK_HOP_S = 3.4e-6
PCIE_HOP_S = 5.7e-6
# A message of an all-to-all to one more peer: a post to the NIC. Not measured.
MESSAGE_S = 0.5e-6


class Network(Strict):
    """What joins hosts: `host_bytes_per_s` in one direction per host. None: all GPUs are in one NVLink domain."""

    name: str
    host_bytes_per_s: Positive | None = Field(description="All NICs of a host together, one direction.")
    gpus_per_host: Width | None = Field(description="GPUs that share them; None with one NVLink domain.")
    hop_s: Positive = Field(description="Latency of a hop between hosts, in seconds.")
    reached: Share = Field(description="Share of the bytes/s that collectives reach.")


NETWORKS = {
    network.name: network
    for network in (
        # Every GPU on NVLink Switch. NVIDIA sells such domains of up to 72 GPUs (GB200 NVL72): beyond, this is a limit.
        Network(name="nvlink", host_bytes_per_s=None, gpus_per_host=None, hop_s=NVLINK_HOP_S, reached=0.8),
        # One 400 Gb/s NDR adapter per GPU, eight GPUs per host, as in a DGX H100 (its data sheet). Hop: tuning.cc, NET.
        Network(name="ib400", host_bytes_per_s=8 * 50e9, gpus_per_host=8, hop_s=14e-6, reached=0.8),
        # One port of 25 Gb/s for a host of eight GPUs. Hop: a TCP round trip through the kernel; not measured.
        Network(name="eth25", host_bytes_per_s=3.125e9, gpus_per_host=8, hop_s=40e-6, reached=0.8),
    )
}


def network_of(name: str) -> Network:
    """A built-in network. Raises ConfigError for another name."""
    if name not in NETWORKS:
        raise ConfigError(f"--net {name}: no such network; {nearest(name, list(NETWORKS))}")
    return NETWORKS[name]


@dataclass(frozen=True)
class Cluster:
    """`gpus` of a machine on a network. Raises ConfigError for GPUs that cannot be joined so."""

    machine: Machine
    network: Network
    gpus: int

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise ConfigError(f"--gpus {self.gpus}: expected at least 1")
        if self.network.gpus_per_host is None and self.machine.nvlink_bytes_per_s is None and self.gpus > 1:
            raise ConfigError(
                f"--net {self.network.name}: {self.machine.name} has no NVLink; expected --net ib400 or eth25"
            )
        if self.gpus > self.in_host and self.gpus % self.in_host:
            raise ConfigError(
                f"--gpus {self.gpus}: expected whole hosts of {self.in_host} with --net {self.network.name}"
            )

    @property
    def in_host(self) -> int:
        """g"""
        return min(self.gpus, self.network.gpus_per_host or self.gpus)

    @property
    def hosts(self) -> int:
        """h"""
        return self.gpus // self.in_host

    @property
    def inside_bytes_per_s(self) -> float:
        """Of one GPU to the others of its host."""
        return self.network.reached * (self.machine.nvlink_bytes_per_s or self.machine.host_link_bytes_per_s)

    @property
    def across_bytes_per_s(self) -> float:
        """Of one GPU to other hosts, when all of its host send at once."""
        assert self.network.host_bytes_per_s is not None, "one domain has one host"
        return self.network.reached * self.network.host_bytes_per_s / self.in_host

    @property
    def inside_hop_s(self) -> float:
        return NVLINK_HOP_S if self.machine.nvlink_bytes_per_s else PCIE_HOP_S

    def all_to_all_s(self, nbytes: float) -> float:
        """Every GPU sends `nbytes` in equal parts to all n, itself included. Inside and across go on at once."""
        if self.gpus == 1:
            return 0.0
        inside = nbytes * (self.in_host - 1) / self.gpus / self.inside_bytes_per_s
        across = nbytes * (self.gpus - self.in_host) / self.gpus / self.across_bytes_per_s if self.hosts > 1 else 0.0
        hop = self.network.hop_s if self.hosts > 1 else self.inside_hop_s
        return BASE_S + hop + MESSAGE_S * (self.gpus - 1) + max(inside, across)

    def all_reduce_s(self, nbytes: float) -> float:
        """Reduce-scatter inside, all-reduce of the shares across hosts, all-gather inside; trees of log2 hops."""
        if self.gpus == 1:
            return 0.0
        inside = 2 * nbytes * (self.in_host - 1) / self.in_host / self.inside_bytes_per_s
        seconds = BASE_S + 2 * math.ceil(math.log2(self.in_host)) * self.inside_hop_s + inside
        if self.hosts > 1:
            share = nbytes / self.in_host
            across = 2 * share * (self.hosts - 1) / self.hosts / self.across_bytes_per_s
            seconds += 2 * math.ceil(math.log2(self.hosts)) * self.network.hop_s + across
        return seconds


def largest_of(count: int) -> float:
    """Standard deviations by which the largest of `count` normal draws is expected above the mean (Blom 1958)."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25)) if count > 1 else 0.0


def imbalance(count: int, events: float, spread: float) -> float:
    """Events of the rank that has most in a step over those of an average rank.

    Args:
        count: ranks.
        events: of an average rank's batch.
        spread: standard deviation of the events of one batch.
    """
    return 1 + largest_of(count) * spread / events if events else 1.0

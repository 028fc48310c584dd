"""A described machine: what its processor, its memory and its links can do, read from a data sheet or measured.

Rates are of one GPU, or of one core of a CPU. `python -m benchmarks.bench_cost ceilings` measures those of the machine
at hand and writes them as YAML; `dist-rec plan-cost --machine FILE` reads it.
"""

import bisect
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dist_rec.common.strict import ConfigError, Strict, check
from dist_rec.common.yaml_file import read_yaml

# What an operator is limited by: products of matrices, the fused attention, rows picked by an index, sorting, sums
# along short rows (LayerNorm), the fused update of table rows; else reading and writing everything once, into memory
# that is new ("stream") or that is there already ("inplace", sums as well).
Kind = Literal["matmul", "attention", "gather", "sort", "norm", "update", "inplace", "stream"]
Dtype = Literal["fp32", "bf16"]

Positive = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


class Machine(Strict):
    """Rates per second, times in seconds, sizes in bytes."""

    name: str
    device: Literal["cuda", "cpu"] = Field(description="Which kernels run: those for a GPU, or those for a CPU.")
    flops: dict[Dtype, dict[int, Positive]] = Field(description="FLOP/s of a product by its smallest dim.")
    attention_flops: dict[Dtype, dict[int, Positive]] = Field(
        description="FLOP/s of the fused attention by the size of a head."
    )
    bytes_per_s: dict[Kind, dict[int, Positive]] = Field(
        description="Bytes read and written per second by kind of operator, and by the bytes of one: caches, and pages "
        "that are new to the process, tell between them."
    )
    flops_reached: Share = Field(description="Share of the FLOP/s above that kernels reach; 1 if they were measured.")
    bytes_reached: Share = Field(description="Share of the bytes/s above that kernels reach; 1 if they were measured.")
    launch_s: Positive = Field(description="Time of an operator that does nothing, on the device.")
    host_launch_s: Annotated[float, Field(ge=0.0)] = Field(
        description="Host time of an operator where the host runs ahead of the device; 0 where both are one."
    )
    to_device_bytes_per_s: Positive = Field(description="Host memory to device.")
    input_events_per_s: Positive = Field(description="Events that one reader process makes into batches per second.")
    input_batch_s: Annotated[float, Field(ge=0.0)] = Field(description="Time of a batch in a reader besides.")
    nvlink_bytes_per_s: Positive | None = Field(
        default=None, description="To the GPUs of the same host or NVLink domain, one direction; none without NVLink."
    )
    memory_bytes: Positive | None = Field(
        default=None,
        description="Memory of one GPU as CUDA reports it, or of a host for one rank; of no use to a time.",
    )
    host_memory_bytes: Positive | None = Field(
        default=None, description="Of a host for one of its GPUs: tables in host memory. None: a CPU has its own."
    )
    context_bytes: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0, description="What a process takes besides its tensors: the CUDA context, libraries as they load."
    )
    fragments: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0, description="What the allocator holds beyond the activations, as a share of them."
    )
    host_link_bytes_per_s: Positive = Field(
        description="To the GPUs of the same host without NVLink, one direction: PCIe, or memory."
    )

    def flops_of(self, kind: Literal["matmul", "attention"], dtype: Dtype, dim: float) -> float:
        """FLOP/s that an operator reaches; `dim`: smallest of a product, or size of a head. Raises ConfigError if the
        machine says nothing about the dtype."""
        field = "flops" if kind == "matmul" else "attention_flops"
        tables: dict[Dtype, dict[int, float]] = getattr(self, field)
        if not tables.get(dtype):
            raise ConfigError(f"machine {self.name}: {field} has no {dtype}; there are: {', '.join(tables) or 'none'}")
        return self.flops_reached * _between(tables[dtype], max(dim, 1))

    def bytes_of(self, kind: Kind, nbytes: float) -> float:
        """Bytes per second that an operator reaches which moves `nbytes`. Raises ConfigError if the machine says
        nothing about the kind."""
        if not self.bytes_per_s.get(kind):
            there = ", ".join(self.bytes_per_s) or "none"
            raise ConfigError(f"machine {self.name}: bytes_per_s has no {kind}; there are: {there}")
        return self.bytes_reached * _between(self.bytes_per_s[kind], max(nbytes, 1))


def _between(table: dict[int, float], at: float) -> float:
    """Straight lines between entries where both axes are logarithms; level beyond the ends."""
    dims = sorted(table)
    after = bisect.bisect_left(dims, at)
    if after in (0, len(dims)):
        return table[dims[min(after, len(dims) - 1)]]
    low, high = dims[after - 1], dims[after]
    share = math.log(at / low) / math.log(high / low)
    return table[low] ** (1 - share) * table[high] ** share


def _gpu(
    name: str, tflops: tuple[float, float], tbytes: float, *, nvlink_gb: float | None, gib: float, host_gb: float
) -> Machine:
    """`tflops`: fp32 and bf16, dense; `gib` of memory, as CUDA reports them; `host_gb` of a host for each GPU. Shares
    reached, launch and reader times: see the comments below."""
    fp32, bf16 = (1e12 * each for each in tflops)
    pcie = 25e9 if name in ("a100-80gb", "l4") else 50e9  # PCIe 4 and 5 x16: 32 and 64 GB/s, less a fifth
    return Machine(
        name=name,
        device="cuda",
        flops={"fp32": {1: fp32}, "bf16": {1: bf16}},
        # Tiles of 64 keys and heads of 16 to 64 columns leave half of the matrix units idle; not measured.
        attention_flops={"fp32": {1: 0.5 * fp32}, "bf16": {1: 0.5 * bf16}},
        # Rows of 64 to 256 bytes at places in any order fill half of a sector's neighbours; a radix sort of 32-bit keys
        # reads and writes them in four passes. Not measured.
        bytes_per_s={
            "matmul": {1: 1e12 * tbytes},
            "attention": {1: 1e12 * tbytes},
            "gather": {1: 0.7e12 * tbytes},
            "sort": {1: 0.25e12 * tbytes},
            "norm": {1: 1e12 * tbytes},
            "update": {1: 0.7e12 * tbytes},
            "inplace": {1: 1e12 * tbytes},
            "stream": {1: 1e12 * tbytes},
        },
        flops_reached=0.6,  # cuBLAS on products of this size; not measured
        bytes_reached=0.75,  # of an elementwise kernel; not measured: `bench_ledger.py` counts with 2.5 of 3.35 TB/s
        launch_s=2.5e-6,  # from one small kernel to the next on the device; not measured
        host_launch_s=8e-6,  # torch's dispatcher, autograd and Python around it; not measured on these hosts
        to_device_bytes_per_s=pcie,
        input_events_per_s=15e6,  # one core, four fields: benchmarks/results/dedup_cpu_202611.md, with decoding
        input_batch_s=1e-3,
        nvlink_bytes_per_s=None if nvlink_gb is None else 1e9 * nvlink_gb,
        memory_bytes=gib * 2**30,
        host_memory_bytes=1e9 * host_gb,
        context_bytes=2**30,  # context, modules of torch and FBGEMM, workspaces of cuBLAS; not measured
        host_link_bytes_per_s=pcie,
    )


# Resident memory of a rank's process beyond its tensors (pages of libraries, threads, gloo), and that of glibc's heap
# beyond its activations, as `python -m benchmarks.bench_preflight memory` found them, rounded.
CPU_CONTEXT, CPU_FRAGMENTS = 56 * 2**20, 0.7

# Data sheets of NVIDIA. bf16 is dense, half of what they print "with sparsity". fp32 is without tensor cores: torch
# uses TF32 only where it is told to. NVLink is one direction, half of the total they print. Memory is what CUDA reports
# of such a card, less than the sheet says. Host memory: 2 TB for 8 GPUs (DGX A100 and H100), 48 GB for an L4 (a cloud's
# machine with one).
MACHINES = {
    machine.name: machine
    for machine in (
        # "NVIDIA H100 Tensor Core GPU", SXM: fp32 67, bf16 1,979 TFLOPS with sparsity, 3.35 TB/s, NVLink 900 GB/s.
        _gpu("h100-80gb", (67, 989), 3.35, nvlink_gb=450, gib=79.1, host_gb=256),
        # "NVIDIA H200 Tensor Core GPU", SXM: as H100, with 4.8 TB/s.
        _gpu("h200", (67, 989), 4.8, nvlink_gb=450, gib=139.7, host_gb=256),
        # "NVIDIA A100 Tensor Core GPU", 80 GB SXM: fp32 19.5, bf16 312 TFLOPS dense, 2,039 GB/s, NVLink 600 GB/s.
        _gpu("a100-80gb", (19.5, 312), 2.039, nvlink_gb=300, gib=79.1, host_gb=256),
        # "NVIDIA L4 Tensor Core GPU": fp32 30.3, bf16 242 TFLOPS with sparsity, 300 GB/s, PCIe 4 x16, no NVLink.
        _gpu("l4", (30.3, 121), 0.3, nvlink_gb=None, gib=22.0, host_gb=48),
        # One core of a two-core Intel Xeon (family 6 model 167), torch 2.13.0, rounded from one run of
        # `python -m benchmarks.bench_cost ceilings`. Measure your own.
        Machine(
            name="cpu2",
            device="cpu",
            flops={
                "fp32": {8: 2.9e10, 16: 5.6e10, 32: 7.4e10, 64: 9.6e10, 128: 1.3e11, 256: 1.6e11},
                "bf16": {8: 1.9e10, 16: 6.0e10, 32: 1.6e11, 64: 2.9e11, 128: 4.8e11, 256: 7.0e11},
            },
            attention_flops={
                "fp32": {4: 2.4e10, 8: 3.3e10, 16: 3.6e10, 32: 3.4e10},
                "bf16": {4: 5.2e9, 8: 9.5e9, 16: 1.7e10, 32: 3.1e10},
            },
            bytes_per_s={
                "gather": {172032: 2.5e10, 2752512: 2.2e10, 33030144: 7.7e9, 44040192: 5.6e9},
                "norm": {327680: 1.1e10, 5242880: 1.1e10, 62914560: 8.6e9, 83886080: 7.1e9},
                "stream": {327680: 1.5e10, 5242880: 1.3e10, 62914560: 9.9e9, 83886080: 5.7e9},
                "inplace": {262144: 5.3e10, 4194304: 5.1e10, 50331648: 2.0e10, 67108864: 2.0e10},
                "sort": {20480: 2.2e9, 327680: 4.4e8, 3932160: 1.5e9, 5242880: 1.5e9},
                "matmul": {327680: 1.5e10, 5242880: 1.3e10, 62914560: 9.9e9, 83886080: 5.7e9},
                "attention": {1: 1.7e9},
                "update": {32000: 7.2e7, 320000: 8.4e7, 3200000: 4.1e7},
            },
            flops_reached=1.0,
            bytes_reached=1.0,
            launch_s=2.4e-5,
            host_launch_s=0.0,
            to_device_bytes_per_s=5.7e9,
            input_events_per_s=4.9e7,
            input_batch_s=4.7e-4,
            host_link_bytes_per_s=2.9e9,
            memory_bytes=8e9,  # of 16 GB for two ranks
            context_bytes=CPU_CONTEXT,
            fragments=CPU_FRAGMENTS,
        ),
    )
}


def machine_of(name: str) -> Machine:
    """A built-in machine. Raises ConfigError for another name."""
    if name not in MACHINES:
        raise ConfigError(f"--gpu {name}: expected one of {', '.join(MACHINES)}; --machine reads one from a file")
    return MACHINES[name]


def read_machine(path: Path) -> Machine:
    """A machine from a YAML file with the fields of `Machine`. Raises ConfigError for what is missing or wrong."""
    missing = "no such file; `python -m benchmarks.bench_cost ceilings --out FILE` measures one"
    return check(Machine, read_yaml(path, missing), str(path))

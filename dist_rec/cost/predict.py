"""Time of the stages of a step on a described machine, from the work that was counted.

An operator takes `max(bytes / bandwidth, FLOPs / rate) + launch`, and operators of a device run one after the other.
On a GPU the host runs beside it: a step takes the longer of the two.
"""

from dataclasses import dataclass

from dist_rec.cost.ledger import Operator
from dist_rec.cost.machine import Machine
from dist_rec.cost.stages import STAGES, StepCount


@dataclass(frozen=True)
class Work:
    """Of one stage: operators, bytes, FLOPs, and seconds on a machine."""

    launches: float = 0.0
    nbytes: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(self._numbers(), other._numbers(), strict=True)))

    def _numbers(self) -> tuple[float, ...]:
        return self.launches, self.nbytes, self.flops, self.seconds


def operator_s(operator: Operator, machine: Machine) -> float:
    """Seconds of one operator on the device."""
    dtype = "bf16" if operator.half else "fp32"
    moving = operator.nbytes / machine.bytes_of(operator.kind, operator.nbytes)
    computing = 0.0
    if operator.kind in ("matmul", "attention"):
        computing = operator.flops / machine.flops_of(operator.kind, dtype, operator.dim)
    return max(moving, computing) + machine.launch_s


def stages_of(count: StepCount, machine: Machine) -> dict[str, Work]:
    """The work of every stage of a step, by name, in order."""
    found: dict[str, Work] = {stage: Work() for stage in STAGES}
    for each in count.operators:
        found[each.stage] += Work(1, each.nbytes, each.flops, operator_s(each, machine))
    return found

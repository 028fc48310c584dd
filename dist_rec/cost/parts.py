"""What each part of dist_rec wins: a step with it against a step without it, with the same candidates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from dist_rec.config import Config
from dist_rec.cost.network import Cluster
from dist_rec.cost.plan import Step, StepTime, step_time
from dist_rec.cost.requests import Requests
from dist_rec.cost.stages import StepCount
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema

# Counts the operators of a recipe's step; the last: whether what is `auto` in the recipe is bf16.
Counter = Callable[[Config, Requests, HostBatch, bool], StepCount]


@dataclass(frozen=True)
class Without:
    """A step without one part, and what is in its place. `late`: whether the dense update is delayed in the step with
    the part, and without it."""

    part: str
    instead: str
    step: Step
    late: tuple[bool, bool]


@dataclass(frozen=True)
class Parts:
    """The step of a recipe, and the same step without each part."""

    config: Config
    workers: int
    step: Step
    without: tuple[Without, ...]

    def time(self, cluster: Cluster) -> StepTime:
        """Of the recipe as it is."""
        return self._time(self.step, cluster, _delayed(self.config))

    def gain(self, of: Without, cluster: Cluster) -> float:
        """How much longer a step takes without the part, over the step with it."""
        with_it, without = of.late
        return self._time(of.step, cluster, without).step_s / self._time(self.step, cluster, with_it).step_s - 1

    def _time(self, step: Step, cluster: Cluster, delayed: bool) -> StepTime:
        return step_time(step, cluster, self.config, workers=self.workers, delayed=delayed)


def parts_of(config: Config, schema: Schema, requests: Requests, count: Counter, *, workers: int, half: bool) -> Parts:
    """Counts the step of the recipe and one without each part. `half`: whether bf16 is one of the parts."""

    def step(of: Requests, *, dedup: bool = config.data.dedup, in_half: bool = half) -> Step:
        batch = of.batch(schema, dedup=dedup)
        changed = config.model_copy(update={"data": config.data.model_copy(update={"dedup": dedup})})
        return Step.of(count(changed, of, batch, in_half), schema, config, of, batch)

    whole = step(requests)
    late = (_delayed(config), _delayed(config))

    def all_without() -> Iterator[Without]:
        if config.data.dedup:
            yield Without("dedup", "every event is moved and looked up", step(requests, dedup=False), late)
        yield Without("shared requests", "a request per candidate", step(requests.one_candidate_each()), late)
        yield Without("jagged sequences", "padding to the longest of the batch", step(requests.padded()), late)
        yield Without("late dense update", "an all-reduce in the step", whole, (True, False))
        wide = replace(whole, to_device_bytes=wide_bytes(requests.batch(schema, dedup=config.data.dedup)))
        yield Without("narrow wire", "int64 ids, indices and values", wide, late)
        if half:
            yield Without("bf16", "fp32", step(requests, in_half=False), late)

    return Parts(config, workers, whole, tuple(all_without()))


def wide_bytes(batch: HostBatch) -> int:
    """Bytes of the same batch, made unique, with 8 bytes for every integer: ids, index of every element, values."""
    narrow = sum(x.numel() for name, x in batch.tensors.items() if not name.startswith("inverse."))
    return 8 * (narrow + sum(batch.counts.values()))


def _delayed(config: Config) -> bool:
    return config.optim.dense_update == "delayed"

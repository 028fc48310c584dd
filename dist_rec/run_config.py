"""What a run is around its model: its ranks, where it starts, its checkpoints, its length and its log (config.py)."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dist_rec.common.strict import Folder, Seed, Size, Strict
from dist_rec.registry import LISTENERS, METRICS, Part


def _one_name(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"expected the name of one folder, without '/', got {name!r}")
    return name


class ParallelConfig(Strict):
    backend: Literal["auto", "gloo", "nccl"] = Field(default="auto", description="auto: NCCL with GPUs, gloo without.")
    threads: Size = Field(default=1, ge=1, description="CPU threads per rank for torch operators.")
    hang_timeout_s: Size | None = Field(
        default=None,
        ge=1,
        description="Seconds without a step, or a batch of an evaluation, after which a run says where every rank "
        "stands, writes the stacks of all and ends; null: never.",
    )
    join_timeout_s: Size = Field(
        default=60, ge=1, description="Seconds to wait at the start until all ranks are there."
    )


class CheckpointConfig(Strict):
    every_steps: Size = Field(default=0, ge=0, description="Save every n steps; 0 saves only at the end.")
    at_end: bool = Field(default=True, description="Save the weights at the end; to resume, every_steps is needed.")
    asynchronous: bool = Field(
        default=False,
        description="Train on while a checkpoint of every_steps is written, from a copy in host memory, which takes as "
        "much as this rank's tables, weights and optimizer state, from the first checkpoint to the end.",
    )
    keep_last: Size | None = Field(
        default=None,
        ge=1,
        description="Keep the newest this many checkpoints of every_steps and delete older ones; null: all.",
    )
    keep_every: Size = Field(
        default=0, ge=0, description="With keep_last: keep those of steps that are multiples of it, too; 0 none."
    )
    verify: bool = Field(
        default=True, description="Before a run goes on from a checkpoint, compare the sums of all its files."
    )

    @model_validator(mode="after")
    def _check(self) -> "CheckpointConfig":
        if self.keep_every and self.keep_last is None:
            raise ValueError(f"keep_every={self.keep_every} says what keep_last does not delete; expected keep_last")
        return self


class RunConfig(Strict):
    out: Folder = Field(default="runs", description="A new sub-folder is made in here for each run.")
    name: Annotated[str, AfterValidator(_one_name)] = Field(
        default="run", description="Name of the run's sub-folder; a number is added if it exists."
    )
    seed: Seed = Field(default=0, description="Of initial weights, order of the data and dropout.")
    seeds: list[Seed] = Field(
        default=[], description="Repeat the run for each seed and report mean and spread; replaces seed."
    )
    epochs: Size = Field(default=1, ge=1, description="Times through the training split.")
    max_steps: Size | None = Field(
        default=None, ge=1, description="Stop after this many steps even if epochs are left."
    )
    eval_every: Size = Field(
        default=0, ge=0, description="Evaluate on the validation split every n steps; 0 only after each epoch."
    )
    select_best: Literal["none", "auc", "logloss"] = Field(
        default="none",
        description="Test the weights that were best on the validation split instead of the last ones, by the first "
        "task.",
    )
    patience: Size = Field(
        default=0,
        ge=0,
        description="Stop after this many evaluations without a better first task; 0 never. Needs select_best.",
    )
    metrics: list[Annotated[Part, AfterValidator(METRICS.known)]] = Field(
        default=[], description="Metrics of one's own, beside the built-in ones."
    )
    listeners: list[Annotated[Part, AfterValidator(LISTENERS.known)]] = Field(
        default=[], description="Classes of one's own that hear every record of the log, such as a tracker's client."
    )
    log_every: Size = Field(default=20, ge=1, description="Steps between two log lines.")
    nonfinite_loss: Literal["note", "stop"] = Field(
        default="note",
        description="When the log finds a loss that is infinite or NaN: write down the step and the rows of its batch, "
        "in nonfinite/ of the run's folder, for `dist-rec replay`, and go on; or stop, too.",
    )
    deterministic: bool = Field(default=False, description="Refuse operators without a deterministic form.")
    trace_steps: Size = Field(
        default=0,
        ge=0,
        description="Record this many steps with torch's profiler, after the pipeline has filled; 0 none.",
    )

    @model_validator(mode="after")
    def _check(self) -> "RunConfig":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, since each has a folder of its own, got {self.seeds}")
        if self.patience and self.select_best == "none":
            raise ValueError(
                f"patience={self.patience} counts evaluations without a better one, so it needs select_best"
            )
        return self


class InitConfig(Strict):
    """A new run that starts from the weights of a checkpoint (docs/resume.md). Names of weights are `tables.<table>`,
    and `model.<name>` for all others, as in the checkpoint; `*` in a pattern stands for anything."""

    checkpoint: Folder = Field(
        description="Checkpoint folder whose weights a new run starts from; `--init-from` sets it. A run that is "
        "resumed does not read it."
    )
    rename: dict[str, str] = Field(
        default={}, description="Patterns of names in the checkpoint, and what each is called now, with as many `*`."
    )
    leave_out: list[str] = Field(
        default=[], description="Patterns of names that start fresh, as those of a run without a checkpoint do."
    )
    freeze: list[str] = Field(default=[], description="Patterns of names that are not trained.")
    differ: list[str] = Field(
        default=[],
        description="Patterns of what may differ from the schema and the model of the checkpoint though the meaning of "
        "weights depends on it, by the names that the error has.",
    )

    @model_validator(mode="after")
    def _check(self) -> "InitConfig":
        for before, after in self.rename.items():
            if before.count("*") != after.count("*"):
                raise ValueError(f"rename: expected as many * in both names, got {before!r}: {after!r}")
        return self

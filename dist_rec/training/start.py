"""Where a run starts: anew, or from a checkpoint, and what may differ from the run that saved it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.training.kept import newest_first
from dist_rec.training.made_with import MadeWith, flat
from dist_rec.training.manifest import check_sums
from dist_rec.training.ranks import Ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.together import from_first
from dist_rec.training.weight_names import named

Resume = Path | Literal["auto"] | None  # auto: the newest whole checkpoint of the run's own folder, if there is one


@dataclass(frozen=True)
class ResumeFrom:
    """A checkpoint, or `auto`, and the settings that may differ from the run that saved it, such as `optim.lr`, also as
    patterns."""

    checkpoint: Resume
    allow: Sequence[str] = ()


# What says where and how a run is watched and kept, not what it computes.
FREE = (
    *(
        "checkpoint.*",
        "parallel.*",
        "run.out",
        "run.name",
        "run.log_every",
        "run.trace_steps",
        "run.metrics*",
        "run.listeners*",
    ),
    *("data.path", "data.workers", "data.reader.*", "data.eval_batch_size", "data.test*", "run.seeds"),
)


def check_drift(checkpoint: Path, config: Config, allowed: Sequence[str]) -> None:
    """Raises ConfigError with every setting that differs from the run that saved the checkpoint, unless a pattern in
    `allowed` names it. Settings that can never differ are compared by `MadeWith.schema_for`."""
    was, now = (flat("", of.model_dump(mode="json")) for of in (MadeWith.read(checkpoint).recipe, config))
    differing = [
        name
        for name in dict.fromkeys([*was, *now])
        if was.get(name) != now.get(name) and not named(name, FREE) and not named(name, allowed)
    ]
    if differing:
        lines = "\n".join(f"- {name}: {was.get(name)}\n+ {name}: {now.get(name)}" for name in differing)
        told = " ".join(f"--allow {name}" for name in differing)
        raise ConfigError(
            f"{checkpoint}: the recipe differs from that of the run that saved it:\n{lines}\nexpected the same; if "
            f"this is what you want: {told}"
        )


def checkpoint_for(place: Path, resume: Resume, config: Config, ranks: Ranks, log: RunLog) -> Path | None:
    """The checkpoint that the run in folder `place` goes on from, its files looked at; None to start anew.

    Every rank calls it. Comm: a gather, and one for each checkpoint that is looked at. Raises ConfigError for a
    damaged one that was named; of `auto` the one before is taken."""
    if resume != "auto":
        if resume is not None and config.checkpoint.verify:
            check_sums(resume, ranks.host_group)
        return resume
    for path in from_first(lambda: newest_first(place / "checkpoints"), ranks.host_group):
        if not config.checkpoint.verify:
            return path
        try:
            check_sums(path, ranks.host_group)
        except ConfigError as error:
            log.say(f"passed over: {error}")
        else:
            return path
    return None

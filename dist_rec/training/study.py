"""A recipe as a study: one run for each of its folds and seeds, and a summary with mean and spread."""

import json
import math
import statistics
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dist_rec.common.provenance import provenance
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.registry import LISTENERS
from dist_rec.training.about import About, recorded
from dist_rec.training.interrupt import Asked, listening
from dist_rec.training.kept import tidy
from dist_rec.training.listener import Listeners
from dist_rec.training.loop import train_one
from dist_rec.training.made_with import MadeWith
from dist_rec.training.ranks import Ranks
from dist_rec.training.report import against_baselines, config_yaml, write_page
from dist_rec.training.result import RunResult
from dist_rec.training.run_log import RunLog, finite, named
from dist_rec.training.splits import with_reader_workers
from dist_rec.training.start import Resume, checkpoint_for
from dist_rec.training.together import from_first


@dataclass(frozen=True)
class Member:
    """One run of a study: its resolved recipe and where it writes, relative to the study's folder."""

    config: Config
    folder: str


def members(config: Config) -> list[Member]:
    """The runs of `data.folds` and `run.seeds`; without them a single run, in the study's own folder."""
    found = []
    for seed in config.run.seeds or [config.run.seed]:
        for fold in range(max(len(config.data.folds), 1)):
            data = config.data
            names = [f"seed-{seed}"] if config.run.seeds else []
            if data.folds:
                # The source's own rule: test on fold k, validate on the next, train on the others.
                test, valid = data.folds[fold], data.folds[(fold + 1) % len(data.folds)]
                rest = [name for name in data.folds if name not in (test, valid)]
                data = data.model_copy(update={"train": rest, "valid": [valid], "test": [test], "folds": []})
                names.append(test)
            run = config.run.model_copy(update={"seed": seed, "seeds": []})
            found.append(Member(config.model_copy(update={"data": data, "run": run}), "/".join(names)))
    return found


def check_study(config: Config, resume: Resume) -> None:
    """Raises ConfigError if one checkpoint is to be resumed by several runs."""
    if isinstance(resume, Path) and len(members(config)) > 1:
        raise ConfigError(
            f"--resume {resume}: a checkpoint belongs to one run, but data.folds and run.seeds make "
            f"{len(members(config))}; resume with that run's own recipe.yaml"
        )


@dataclass(frozen=True)
class StudyResult:
    """The folder that rank 0 wrote into, and how each run ended, by its folder in there ("" for a single run)."""

    folder: Path
    runs: dict[str, RunResult]


def run_study(config: Config, ranks: Ranks, resume: Resume = None) -> StudyResult:
    """Runs every member one after the other on all ranks. With `auto` in the folder of the run's name, where members
    that have ended are not run again.

    Raises ConfigError if one checkpoint is to be resumed by several runs, and Interrupted, after a checkpoint, on
    SIGTERM and SIGUSR1.
    """
    check_study(config, resume)
    config = with_reader_workers(config, ranks)
    folder = new_folder(config, ranks) if resume != "auto" else same_folder(config, ranks)
    with listening() as asked:
        return _run_members(config, ranks, folder, resume, asked)


def _run_members(config: Config, ranks: Ranks, folder: Path, resume: Resume, asked: Asked) -> StudyResult:
    # At the start: the checkout may change during the runs.
    origin = provenance() if ranks.is_main else {}
    console = Console()
    results: dict[str, RunResult] = {}
    todo = members(config)
    for number, member in enumerate(todo, 1):
        place = folder / member.folder
        parts = member.config.run.listeners if ranks.is_main else []
        listeners = Listeners([LISTENERS.make(part) for part in parts])
        with named(place), RunLog(place, is_main=ranks.is_main, console=console, hear=listeners) as log:
            log.say(f"run {number}/{len(todo)}: {place}")
            if resume == "auto" and (ended := _ended(place, ranks)) is not None:
                log.say(f"it has ended after step {ended.steps}; nothing to do")
                results[member.folder] = ended
                continue
            checkpoint = checkpoint_for(place, resume, member.config, ranks, log)
            if checkpoint is not None:
                log.say(f"goes on after step {MadeWith.read(checkpoint).step}, from {checkpoint}")
            if resume == "auto":
                log.forget_after(0 if checkpoint is None else MadeWith.read(checkpoint).step)
            recording: AbstractContextManager[None] = nullcontext()
            if ranks.is_main:
                (log.folder / "recipe.yaml").write_text(config_yaml(member.config) + "\n")
                listeners.start(log.folder, member.config.model_dump(mode="json"))
                recording = recorded(About.now(ranks.world_size, origin), log.folder, listeners)
            with recording:
                results[member.folder] = result = train_one(member.config, ranks, log, checkpoint, asked)
                if ranks.is_main:
                    result.write(log.folder)
                    facts = {"ranks": ranks.world_size, "seed": member.config.run.seed, "steps": result.steps}
                    facts |= {"seconds": f"{result.seconds:.1f}", **origin}
                    write_page(log.folder, member.config, result.test, facts)
            for line in against_baselines(member.config, result.test):
                log.say(line)
            log.say(f"report: {log.folder / 'report.md'}")
    if ranks.is_main and len(results) > 1:
        console.print("\n".join(summarize(folder, config, results)), highlight=False, markup=False, soft_wrap=True)
    return StudyResult(folder, results)


def new_folder(config: Config, ranks: Ranks) -> Path:
    """A folder that did not exist, chosen by rank 0. Comm: one gather."""

    def choose() -> Path:
        base, number = Path(config.run.out) / config.run.name, 1
        path = base
        while not _made(path):
            number += 1
            path = base.with_name(f"{base.name}-{number}")
        return path

    return from_first(choose, ranks.host_group)


def same_folder(config: Config, ranks: Ranks) -> Path:
    """The folder of the run's name, new or not, without what a killed process left half written there. Comm: one
    gather."""
    folder = Path(config.run.out) / config.run.name

    def prepare() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for member in members(config):
            tidy(folder / member.folder / "checkpoints")

    from_first(prepare, ranks.host_group)
    return folder


def _ended(place: Path, ranks: Ranks) -> RunResult | None:
    """The result of a run that has ended, as rank 0 finds it. Comm: one gather."""
    return from_first(lambda: RunResult.read(place), ranks.host_group)


def _made(path: Path) -> bool:
    """Makes a folder; False if something is there, perhaps since a moment ago."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def summarize(folder: Path, config: Config, results: dict[str, RunResult]) -> list[str]:
    """Writes `summary.json`; returns lines with each task's mean, spread over runs and spread of the seeds' means, also
    of the strata of a filter."""
    lines, tasks = [], {}
    first = next(iter(results.values())).test
    wanted = [(task, stratum) for task, of in first.items() for stratum in (None, *of.strata)]
    for task, stratum in wanted:
        by_seed: dict[str, list[float]] = {}
        for name, result in results.items():
            of = result.test[task] if stratum is None else result.test[task].strata.get(stratum)
            auc = math.nan if of is None else of.auc
            by_seed.setdefault(name.split("/")[0] if config.run.seeds else "", []).append(auc)
        name = task if stratum is None else f"{task}, {stratum}"
        tasks[name], line = _summary(name, by_seed)
        lines.append(line)
    summary = {"tasks": tasks, "runs": {name: asdict(result) for name, result in results.items()}}
    (folder / "summary.json").write_text(json.dumps(finite(summary), indent=2, allow_nan=False) + "\n")
    lines.append(f"{sum(result.seconds for result in results.values()):.0f} s in all; {folder / 'summary.json'}")
    return lines


def _summary(name: str, by_seed: dict[str, list[float]]) -> tuple[dict[str, Any], str]:
    """Numbers and a line about the test AUCs of every seed."""
    every = [auc for aucs in by_seed.values() for auc in aucs]
    means = {seed: statistics.mean(aucs) for seed, aucs in by_seed.items()}
    mean, deviation = statistics.mean(every), _stdev(every)
    found: dict[str, Any] = {"mean_auc": mean, "stdev_auc": deviation, "mean_auc_by_seed": means}
    line = f"{name}: mean test AUC {mean:.4f} over {len(every)} runs, standard deviation {deviation:.4f}"
    if len(means) > 1:
        spread = found["stdev_of_seed_means"] = _stdev(list(means.values()))
        line += f"; per seed {', '.join(f'{mean:.4f}' for mean in means.values())}, standard deviation {spread:.4f}"
    return found, line


def _stdev(values: list[float]) -> float:
    """NaN where one is, such as the AUC of a split with one class; Python's own raises AttributeError then."""
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan

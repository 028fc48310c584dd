"""Training from Python: what `dist-rec train` does, with parts of one's own given as classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_rec.config import Config, load_config
from dist_rec.registry import Part, part

if TYPE_CHECKING:
    from dist_rec.training.start import Resume, ResumeFrom
    from dist_rec.training.study import StudyResult

GivenPart = type | Part


def train(
    config: Config | str | Path,
    *,
    model: GivenPart | None = None,
    loss: GivenPart | None = None,
    optimizer: GivenPart | None = None,
    embedding_optimizer: GivenPart | None = None,
    reader: GivenPart | None = None,
    metrics: Sequence[GivenPart] = (),
    resume: "Resume | ResumeFrom" = None,
) -> "StudyResult":
    """Trains by a recipe on every rank that torchrun started, or on one, and tests at the end; every rank calls it.

    Args:
        config: a recipe, or the path of its YAML file.
        model, loss, optimizer, embedding_optimizer, reader, metrics: parts of one's own in the place of those in the
            recipe: a class, or `dist_rec.part(Class, {option: value})`. A class must be importable by its name, so that
            checkpoints can name it; one in the script that is run is.
        resume: checkpoint folder to go on from; "auto" for the newest one of the folder of the run's name, if any;
            a `ResumeFrom` where settings may differ from the run that saved it.

    Returns:
        The folder that rank 0 wrote (report, log, checkpoints) and the result of every run by its name in it.

    Raises:
        ConfigError, DataError: everything that can be known to be wrong before the first step, in one list.
        RunError: the run cannot continue.
        Interrupted: SIGTERM or SIGUSR1 came; there is a checkpoint to go on from.
    """
    from dist_rec.door import check_run
    from dist_rec.training.ranks import start_ranks
    from dist_rec.training.start import ResumeFrom
    from dist_rec.training.study import run_study

    config = config if isinstance(config, Config) else load_config(config)
    config = with_parts(
        config,
        {
            "model": model,
            "model.head.loss": loss,
            "optim.optimizer": optimizer,
            "embedding.optimizer": embedding_optimizer,
            "data.reader": reader,
            "run.metrics": list(metrics) or None,
        },
    )
    resume, allow = (resume.checkpoint, resume.allow) if isinstance(resume, ResumeFrom) else (resume, ())
    check_run(config, resume, allow)
    with start_ranks(config.parallel) as ranks:
        return run_study(config, ranks, resume)


def with_parts(config: Config, parts: dict[str, Any]) -> Config:
    """The recipe with the names of these parts in the place of its own, validated anew."""
    tree = config.model_dump(mode="json")
    for key, given in parts.items():
        if given is None:
            continue
        *above, last = key.split(".")
        place = tree
        for step in above:
            place = place[step]
        if key == "model":
            named = _named(given)
            tree["model"] |= {"name": named.name, "options": named.options}
        else:
            named = [_named(each) for each in given] if isinstance(given, list) else _named(given)
            place[last] = named
    return Config.model_validate(tree)


def _named(given: GivenPart) -> Part:
    return given if isinstance(given, Part) else part(given)

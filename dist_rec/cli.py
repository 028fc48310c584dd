"""The command line: parses, calls, prints. `dist-rec --help`."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dist_rec.data_cli import Force, data_app, home
from dist_rec.distill_cli import distill_app
from dist_rec.serve_cli import export, serve

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(data_app, name="data")
filter_app = typer.Typer(no_args_is_help=True, help="Find the events of a dataset that a run should not learn from.")
app.add_typer(filter_app, name="filter")
app.add_typer(distill_app, name="distill")
app.command()(export)
app.command()(serve)


Recipe = Annotated[Path, typer.Argument(help="YAML recipe, such as launch/recipes/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over the recipe, such as model.longer.k=32.")
]


@app.command()
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Checkpoint folder to go on from; auto: the newest one of this run's folder, if any."),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(help="Checkpoint folder whose weights a new run starts from; more in the recipe's init."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="With --resume: a setting that may differ from the saved run, such as optim.lr. May repeat."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print recipe, plan and costs; train nothing.")] = False,
    check_only: Annotated[
        bool, typer.Option("--check-only", help="Check recipe, data and checkpoint; start nothing.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Profile 4 steps; --set run.trace_steps=n for another number.")
    ] = False,
) -> None:
    """Train by a recipe, on every rank that torchrun started (or on one)."""
    from dist_rec.config import load_config

    if init_from is not None and resume not in (None, "auto"):  # with auto there may be nothing to go on from yet
        raise typer.BadParameter(
            f"expected either --init-from, which starts a new run, or --resume with a checkpoint, which has the run's "
            f"own weights, or --resume auto; got --init-from {init_from} and --resume {resume}"
        )
    started = [] if init_from is None else [f"init.checkpoint={json.dumps(init_from)}"]
    config = load_config(recipe, [*(["run.trace_steps=4"] if trace else []), *(overrides or []), *started])

    from dist_rec.door import check_run

    start = "auto" if resume == "auto" else None if resume is None else Path(resume)
    check_run(config, start, allow or [])
    if check_only:
        return

    from dist_rec.common.log import setup_logging
    from dist_rec.training.failure import one_voice
    from dist_rec.training.preview import preview
    from dist_rec.training.ranks import start_ranks
    from dist_rec.training.study import run_study

    with start_ranks(config.parallel) as ranks, one_voice():
        setup_logging(ranks.rank)
        if dry_run:
            preview(config, ranks)
        else:
            run_study(config, ranks, start)


@app.command("eval")
def evaluate(
    recipe: Recipe,
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder, such as runs/quickstart/checkpoints/last.")],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    overrides: Overrides = None,
) -> None:
    """Evaluate a checkpoint on a split, with any number of ranks."""
    from dist_rec.common.log import setup_logging
    from dist_rec.config import load_config
    from dist_rec.training.evaluate import evaluate_checkpoint
    from dist_rec.training.failure import one_voice
    from dist_rec.training.ranks import start_ranks

    config = load_config(recipe, overrides)
    with start_ranks(config.parallel) as ranks, one_voice():
        setup_logging(ranks.rank)
        lines = evaluate_checkpoint(config, checkpoint, split, ranks)
        if ranks.is_main:
            typer.echo("\n".join(lines))


@app.command()
def predict(
    recipe: Recipe,
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder, such as runs/quickstart/checkpoints/last.")],
    data: Annotated[
        Path, typer.Option(help="Folder of the requests, such as a split; labels are not read.", callback=home)
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; one that was begun is gone on with.", callback=home)],
    logits: Annotated[bool, typer.Option("--logits", help="Write the logits, too.")] = False,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Write the features of each candidate before the head, too.")
    ] = False,
    part_requests: Annotated[
        int | None, typer.Option(help="Requests per file, about: 65,536, or fewer of a small prediction.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Predict the candidates of requests into Parquet files, with any number of ranks."""
    from dist_rec.common.log import setup_logging
    from dist_rec.config import load_config
    from dist_rec.predict.columns import More
    from dist_rec.predict.predict import Wanted, predict_files
    from dist_rec.training.failure import one_voice
    from dist_rec.training.ranks import start_ranks

    config = load_config(recipe, overrides)
    wanted = Wanted(data, out, More(logits, embeddings), part_requests)
    with start_ranks(config.parallel) as ranks, one_voice():
        setup_logging(ranks.rank)
        lines = predict_files(config, checkpoint, wanted, ranks)
        if ranks.is_main:
            typer.echo("\n".join(lines))


@app.command()
def replay(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, such as runs/quickstart.", callback=home)],
    step: Annotated[int, typer.Option(help="The step to look at, such as one whose loss is not finite.", min=1)],
) -> None:
    """Make one step of a run again, on one rank, and say what in it is not finite, with the rows of its batch."""
    from dist_rec.common.log import setup_logging
    from dist_rec.config import ParallelConfig
    from dist_rec.training.ranks import start_ranks
    from dist_rec.training.replay import replay as lines

    with start_ranks(ParallelConfig()) as ranks:
        setup_logging(ranks.rank)
        for line in lines(folder, step, ranks):
            typer.echo(line)


@app.command()
def doctor() -> None:
    """Check that this machine can run a training job, and say what to install where it cannot."""
    from dist_rec.doctor import run_doctor

    raise typer.Exit(0 if run_doctor() else 1)


@app.command("plan-cost")
def plan_cost(
    recipe: Recipe,
    gpus: Annotated[str, typer.Option(help="Numbers of GPUs, with commas.")] = "8,64,1024",
    net: Annotated[str, typer.Option(help="Networks between hosts: nvlink, ib400, eth25.")] = "nvlink,ib400,eth25",
    gpu: Annotated[str | None, typer.Option(help="h100-80gb (default), h200, a100-80gb, l4 or cpu2.")] = None,
    machine: Annotated[Path | None, typer.Option(help="YAML file of a machine, in the place of --gpu.")] = None,
    gpus_per_host: Annotated[int | None, typer.Option(help="GPUs that share a host's network, 8 by default.")] = None,
    requests: Annotated[
        list[str] | None, typer.Option(help="key=value: length, spread, candidates, duplicates. Otherwise measured.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Predict the step of a recipe on machines that are not here, and what each part wins there. Trains nothing."""
    from dist_rec.common.log import setup_logging
    from dist_rec.config import load_config

    config = load_config(recipe, overrides)
    setup_logging(0)  # first: libraries warn when they are imported

    from dist_rec.cost.plan_cost import plan_cost as plan

    plan(
        config,
        gpus=gpus,
        nets=net,
        gpu=gpu,
        machine=machine,
        gpus_per_host=gpus_per_host,
        requests=requests or [],
    )


@app.command()
def preflight(
    recipe: Recipe,
    world_size: Annotated[int, typer.Option(help="Ranks, one GPU each.")],
    gpu: Annotated[
        str, typer.Option(help="h100-80gb, h200, a100-80gb, l4, cpu2, or a YAML file of a machine.")
    ] = "h100-80gb",
    net: Annotated[str, typer.Option(help="Network between hosts: nvlink, ib400 or eth25.")] = "ib400",
    gpus_per_host: Annotated[int | None, typer.Option(help="GPUs of a host, 8 by default.")] = None,
    requests: Annotated[
        list[str] | None, typer.Option(help="key=value: length, spread, candidates, duplicates. Otherwise read.")
    ] = None,
    numbers: Annotated[Path | None, typer.Option("--json", help="File to write the numbers to.", callback=home)] = None,
    overrides: Overrides = None,
) -> None:
    """Say whether a run fits a cluster that is not here, and what to change if not. Exits with 0 if it fits, or 1."""
    from dist_rec.common.log import setup_logging
    from dist_rec.config import load_config

    config = load_config(recipe, overrides)
    setup_logging(0)  # first: libraries warn when they are imported

    from dist_rec.cost.preflight import cluster_of
    from dist_rec.cost.preflight_report import run_preflight
    from dist_rec.door import check_elsewhere

    cluster = cluster_of(world_size, gpu, net, gpus_per_host)
    check_elsewhere(config, cluster.machine.device, with_data=not requests)
    typer.echo(f"{recipe}: nothing is wrong with recipe and {'schema' if requests else 'data'}")
    raise typer.Exit(0 if run_preflight(config, cluster, requests or [], numbers) else 1)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder with runs, such as runs.", callback=home)],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs in it to compare; a folder, as of a study, means all in it."),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Metric to show, auc by default, such as logloss. May repeat.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Folder to write runs.html and runs.png into.", callback=home)
    ] = None,
    numbers: Annotated[Path | None, typer.Option("--json", help="File to write the numbers to.", callback=home)] = None,
) -> None:
    """List the runs below a folder, or compare some: what differs in their recipes, metrics, and a test over seeds."""
    from rich.console import Console

    from dist_rec.common.log import setup_logging

    setup_logging(0)  # first: libraries warn when they are imported

    from dist_rec.runs.find import chosen, find_runs
    from dist_rec.runs.page import show, write_page
    from dist_rec.runs.report import report

    found = find_runs(folder)
    some = chosen(found, names) if names else found.runs
    told = report(some, [] if names else found.others, metric or [], compared=bool(names))
    show(told, Console())
    if numbers is not None:
        numbers.write_text(json.dumps(told.numbers(), indent=2, allow_nan=False) + "\n")
    if page is not None:
        typer.echo(f"{write_page(told, str(folder), page)}: the same, with curves")


@app.command()
def purge(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, such as runs/quickstart/checkpoints/last.")],
    ids: Annotated[
        list[str], typer.Option(help="table=FILE, a file of ids: text with one per line, .npy or Parquet. May repeat.")
    ],
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder to write.", callback=home)] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the checkpoint instead.")] = False,
) -> None:
    """Reset rows of tables in a checkpoint, with their optimizer state: mitigation, not exact unlearning."""
    from dist_rec.training.purge_checkpoint import purge_checkpoint

    if (out is None) != in_place:
        raise typer.BadParameter("expected either --out FOLDER or --in-place")
    files: dict[str, Path] = {}
    for given in ids:
        table, found, file = given.partition("=")
        if not (table and found and file) or table in files:
            raise typer.BadParameter(f"--ids: expected table=FILE, once per table, got {given!r}")
        files[table] = Path(os.path.expanduser(file))
    for record in purge_checkpoint(checkpoint, files, out=out):
        typer.echo(f"{record.table}: {record.ids} rows, SHA-256 of their ids {record.sha256}")


@filter_app.command()
def fit(
    data: Annotated[Path, typer.Argument(help="Dataset folder.", callback=home)],
    labels: Annotated[
        str,
        typer.Option(
            help="field=FILE, a file of ids of a field of the events; or a column of 0 and 1, such as history.is_bot; "
            "with --level user a file of grouping keys."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the probe to write.", callback=home)],
    level: Annotated[Literal["event", "session", "user"], typer.Option(help="What a label is of.")] = "event",
    sequence: Annotated[str | None, typer.Option(help="Needed where the data have several.")] = None,
    share: Annotated[
        float | None, typer.Option(help="Share of the events above the threshold; by default the best F1 decides.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Layers after which states are read; chosen by F1, or 0 with coarser labels.")
    ] = None,
    session: Annotated[
        list[str] | None,
        typer.Option(help="key=value: gap_s of the pause that ends one, share of its events. May repeat."),
    ] = None,
) -> None:
    """Fit a probe that scores events, from weak labels of events, sessions or users."""
    from dist_rec.common.log import setup_logging
    from dist_rec.common.strict import check
    from dist_rec.common.yaml_file import apply_override
    from dist_rec.probe.fit import fit_probe
    from dist_rec.probe.labels import Sessions, WeakLabels

    setup_logging(0)
    tree: dict[str, Any] = {}
    for setting in session or []:
        apply_override(tree, setting)
    sessions = check(Sessions, tree, "--session")
    source = os.path.expanduser(labels) if level == "user" else labels
    probe = fit_probe(data, WeakLabels(source, level, sessions), sequence=sequence, share=share, depth=depth)
    probe.save(out)
    found = probe.facts.found
    typer.echo(f"{out}: threshold {probe.facts.threshold:.4f} by {probe.facts.chosen_by}, of users held out:")
    typer.echo(f"F1 {found['f1']:.4f} (best {found['best_f1']:.4f}), {found['above']:.1%} of the events above it")


@filter_app.command()
def score(
    data: Annotated[Path, typer.Argument(help="Dataset folder.", callback=home)],
    probe: Annotated[Path, typer.Option(help="Folder made by filter fit.", callback=home)],
    out: Annotated[
        Path, typer.Option(help="Dataset folder to write; the data's own folder is replaced.", callback=home)
    ],
    force: Force = False,
) -> None:
    """Write the scores of a probe beside the data, as columns `score`."""
    from dist_rec.common.log import setup_logging
    from dist_rec.probe.score import score_dataset

    setup_logging(0)
    for owner, above in score_dataset(data, probe, out, force=force).items():
        typer.echo(f"{out}: {above:.1%} of {owner} above the probe's threshold")


@filter_app.command()
def report(
    path: Annotated[Path, typer.Argument(help="Dataset folder.", callback=home)],
    recipe: Annotated[Path | None, typer.Option(help="Recipe whose data.filter decides.", callback=home)] = None,
    overrides: Overrides = None,
) -> None:
    """What a filter would do, before it does: events, candidates and users by reason and action, with examples."""
    from rich.console import Console

    from dist_rec.common.log import setup_logging

    setup_logging(0)  # first: libraries warn when they are imported

    from dist_rec.training.filter_report import report as report_of

    Console().print(report_of(path, recipe, overrides or []))


def main() -> None:
    """Entry point: what a user got wrong, or their machine, becomes one message. Exit codes: 2 where no restart mends
    it, 1 where one may, 75 of an interrupted run."""
    from dist_rec.common.errors import RunError, Unmet
    from dist_rec.common.made import NotOurs
    from dist_rec.common.strict import ConfigError
    from dist_rec.data.validate import DataError
    from dist_rec.training.interrupt import Interrupted, exit_code

    sys.path.append(os.getcwd())  # parts of one's own: the console script leaves it out
    try:
        app()
    except Interrupted:  # the log has said it
        raise SystemExit(exit_code()) from None
    except (ConfigError, DataError, NotOurs, RunError, OSError) as error:
        told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        # Before ranks have met, all of them find the same, so rank 0 says it.
        if os.environ.get("RANK", "0") == "0" or isinstance(error, RunError):
            typer.echo(f"error: {told}", err=True)
        else:
            time.sleep(5)  # torchrun ends all ranks when the first one fails: leave rank 0 the time to speak
        # One of several ranks may find its disk or the other ranks when it is started again.
        passing = isinstance(error, Unmet) or (isinstance(error, OSError) and "RANK" in os.environ)
        raise SystemExit(1 if passing else 2) from None


if __name__ == "__main__":
    main()

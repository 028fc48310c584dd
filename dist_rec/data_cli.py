"""The commands of `dist-rec data`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from dist_rec.data.importers.source import ImportSummary

data_app = typer.Typer(no_args_is_help=True, help="Make, build, import and look at datasets.")


def home(path: Path | None) -> Path | None:
    """~ as the home folder, where the shell did not do it."""
    return path and Path(os.path.expanduser(path))


Out = Annotated[
    Path, typer.Argument(help="Dataset folder to write; one that dist-rec made is replaced.", callback=home)
]
Force = Annotated[bool, typer.Option("--force", help="Replace whatever folder is there, with all that is in it.")]


@data_app.command()
def synth(
    out: Out,
    kind: Annotated[
        Literal["history", "three", "delayed"],
        typer.Option(
            help="history: one long sequence, one label. three: three sequences that must be crossed, two labels. "
            "delayed: a label that arrives late, and feedback that tells of it early."
        ),
    ] = "history",
    requests: Annotated[
        int | None, typer.Option(help="Requests over all splits: 40,000 by default, three 120,000, delayed 60,000.")
    ] = None,
    candidates: Annotated[int | None, typer.Option(help="Candidates per request: 4 by default, three 2.")] = None,
    max_length: Annotated[
        int | None,
        typer.Option(help="Longest history, in events: 1,000 by default, three 300 clicks, delayed 60."),
    ] = None,
    categories: Annotated[
        int | None, typer.Option(help="Categories of items: 16 by default, delayed 12; not of the kind three.")
    ] = None,
    forget_share: Annotated[
        float | None,
        typer.Option(help="Mean share of events of a domain that a run may be asked to forget; kind history only."),
    ] = None,
    topics: Annotated[int | None, typer.Option(help="Topics of clicks, 12 by default; kind three only.")] = None,
    flat: Annotated[
        bool,
        typer.Option("--flat", help="Flat logs and their build file in the place of requests; kind history only."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same data.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, any option of the kind, such as noise=1 of delayed.")
    ] = None,
    force: Force = False,
) -> None:
    """Make data with a planted truth, whose best reachable AUC is known."""
    from dist_rec.common.log import setup_logging
    from dist_rec.common.strict import ConfigError, check
    from dist_rec.common.yaml_file import apply_override
    from dist_rec.data.synthetic.about import about
    from dist_rec.data.synthetic.delayed import DelayedConfig, synthesize_delayed
    from dist_rec.data.synthetic.flat import BUILD_FILE, synthesize_flat
    from dist_rec.data.synthetic.history import SynthConfig, synthesize
    from dist_rec.data.synthetic.three import ThreeConfig, synthesize_three

    setup_logging(0)
    # Only what was said, so that each kind has defaults of its own and refuses what it does not know.
    said = {"requests": requests, "candidates": candidates, "max_length": max_length, "seed": seed}
    said |= {"categories": categories, "topics": topics, "forget_share": forget_share}
    options = {name: value for name, value in said.items() if value is not None}
    for setting in settings or []:
        apply_override(options, setting)
    where = f"dist-rec data synth --kind {kind}"
    if flat and kind != "history":
        raise ConfigError(f"{where}: expected --kind history with --flat; the others have no flat logs")
    if flat:
        stats = synthesize_flat(out, check(SynthConfig, options, where), force=force)
    elif kind == "three":
        stats = synthesize_three(out, check(ThreeConfig, options, where), force=force)
    elif kind == "delayed":
        stats = synthesize_delayed(out, check(DelayedConfig, options, where), force=force)
    else:
        stats = synthesize(out, check(SynthConfig, options, where), force=force)
    for line in about(out, kind, stats):
        typer.echo(line)
    if flat:
        typer.echo(f"next: dist-rec data build {out / BUILD_FILE}")


@data_app.command()
def build(
    file: Annotated[Path, typer.Argument(help="Build file: sources, sequences, requests, split.", callback=home)],
    out: Annotated[
        Path | None,
        typer.Argument(
            help="Dataset folder to write; by default one beside the build file, of its name.", callback=home
        ),
    ] = None,
    memory: Annotated[str, typer.Option(help="The most that the joins hold in memory; the rest goes to disk.")] = "2GB",
    temporary: Annotated[
        Path | None,
        typer.Option(help="Folder for what does not fit into memory; beside OUT by default.", callback=home),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the joins; all cores by default.")] = None,
    force: Force = False,
) -> None:
    """Build a dataset from flat logs: events, impressions and tables of attributes, CSV or Parquet.

    Every request gets the events of its user that were known before it. Ids and values are numbered by what was known
    when training ended. What is left out is counted by its reason."""
    from rich.console import Console

    from dist_rec.common.log import setup_logging
    from dist_rec.data.build.build import RECIPE_FILE, build_dataset, load_build
    from dist_rec.data.build.report import render

    setup_logging(0)
    config, console = load_build(file), Console()
    place = file.parent / config.name if out is None else out
    done = build_dataset(
        config,
        place,
        folder=file.parent,
        memory=memory,
        temporary=temporary,
        threads=threads,
        force=force,
        progress=console.is_terminal,
    )
    console.print(render(done))
    typer.echo(
        f"{place}: built; launch/local.sh {place / RECIPE_FILE} trains on it, and dist-rec data inspect shows it"
    )


@data_app.command("import")
def import_data(
    importer: Annotated[
        str, typer.Argument(help="movielens, assist, kuairand, ebnerd, or package.module:Name of your own.")
    ],
    source: Annotated[Path, typer.Argument(help="Folder with the data set's own files, plain or .xz.", callback=home)],
    out: Annotated[
        Path | None, typer.Argument(help="Dataset folder to write; the importer names one.", callback=home)
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value, an option of the importer.")] = None,
    force: Force = False,
) -> None:
    """Turn a data set into a dataset folder.

    movielens: MovieLens 100k or 1M, recognised by its files: rating of 4 or more, one request per rating.

    assist: ASSISTments 2009 or Statics 2011: every answer from the earlier ones, five folds.

    kuairand: KuaiRand-Pure, 1K or 27K: clicks, likes and long views of videos, split by days.

    ebnerd: a bundle of EB-NeRD: clicks among the articles in view, split by days."""
    from dist_rec.common.log import setup_logging
    from dist_rec.common.yaml_file import apply_override
    from dist_rec.registry import IMPORTERS, Part

    setup_logging(0)
    options: dict[str, object] = {}
    for setting in settings or []:
        apply_override(options, setting)
    summary: ImportSummary = IMPORTERS.make(Part(name=importer, options=options))(source, out, force=force)
    for split, rows in summary.rows.items():
        typer.echo(f"{summary.out / split}: {rows} requests, {summary.candidates[split]} labelled candidates")
    for reason, count in summary.dropped.items():
        typer.echo(f"dropped {count}: {reason}")


@data_app.command()
def fit(
    path: Annotated[Path, typer.Argument(help="Dataset folder.", callback=home)],
    train: Annotated[
        list[str] | None, typer.Option(help="Sub-folder of the training split, train by default. May repeat.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample that quantiles are taken from.")] = 0,
) -> None:
    """Find mean, spread and quantiles of a dataset's numbers in its training split, and write them into schema.yaml."""
    from dist_rec.common.log import setup_logging

    setup_logging(0)  # first: libraries warn when they are imported

    from dist_rec.data.fit import fit_dataset

    for name, of in fit_dataset(path, train or ["train"], seed=seed).items():
        typer.echo(
            f"{name}: {of.missing:.1%} missing, from {of.bounds[0]:g} to {of.bounds[-1]:g}, {len(of.bounds)} bounds, "
            f"mean {of.mean:g} and standard deviation {of.std:g} on its scale"
        )


@data_app.command()
def migrate(path: Annotated[Path, typer.Argument(help="Dataset folder.", callback=home)]) -> None:
    """Rewrite a dataset of before 0.1.0 in today's words: keys of its schema and names of its columns."""
    from dist_rec.common.log import setup_logging
    from dist_rec.data.migrate import migrate_dataset

    setup_logging(1)  # only errors: what is old is what this is for
    changed = migrate_dataset(path)
    typer.echo("\n".join(f"rewritten: {file}" for file in changed) if changed else f"{path}: nothing to rewrite")


@data_app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Dataset folder.", callback=home)],
    ngram: Annotated[
        list[str] | None, typer.Option(help="N-grams to try at a field of a sequence: 'history.item={rows: 100000}'.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Folder to write inspect.html and inspect.png into.", callback=home)
    ] = None,
) -> None:
    """Look at a dataset: rows, lengths, label rates, ids, bytes with and without dedup; drift between the splits, what
    they share, features that tell a label by themselves; of n-grams how often they occur, and how many share a row."""
    from rich.console import Console

    from dist_rec.common.log import setup_logging

    setup_logging(0)  # first: libraries warn when they are imported

    from dist_rec.data.ngram.told import ngrams_told
    from dist_rec.data.survey.page import render_survey, write_page
    from dist_rec.data.survey.survey import survey

    found = survey(path, ngrams_told(ngram or []))
    Console().print(render_survey(found))
    if page is not None:
        typer.echo(f"{write_page(found, page)}: the same, with pictures")

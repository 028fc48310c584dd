"""The command `dist-rec data fit`."""

import os
from pathlib import Path
from typing import Annotated

import typer


def fit_numbers(
    path: Annotated[Path, typer.Argument(help="Dataset folder.")],
    train: Annotated[
        list[str] | None, typer.Option(help="Sub-folder of the training split, train by default. May repeat.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample that quantiles are taken from.")] = 0,
) -> None:
    """Find mean, spread and quantiles of a dataset's numbers in its training split, and write them into schema.yaml."""
    from dist_rec.common.log import setup_logging

    setup_logging(0)  # first: libraries warn when they are imported

    from dist_rec.data.fit import fit_dataset

    for name, of in fit_dataset(os.path.expanduser(path), train or ["train"], seed=seed).items():
        typer.echo(
            f"{name}: {of.missing:.1%} missing, from {of.bounds[0]:g} to {of.bounds[-1]:g}, {len(of.bounds)} bounds, "
            f"mean {of.mean:g} and standard deviation {of.std:g} on its scale"
        )

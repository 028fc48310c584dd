"""`dist-rec export` and `dist-rec serve`: parse, call, print."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dist_rec.data_cli import home


def export(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe, such as launch/recipes/quickstart.yaml.")],
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder, such as runs/quickstart/checkpoints/last.")],
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier export there is replaced.", callback=home)],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of requests that loaders try the model on; by default the test split.", callback=home
        ),
    ] = None,
    tables: Annotated[
        Literal["fp32", "fp16", "int8", "int4"], typer.Option(help="How rows of tables are stored.")
    ] = "fp32",
    programs: Annotated[
        str,
        typer.Option(help="Programs of the dense part, with commas: torch (torch.export), aot, onnx; or none."),
    ] = "torch",
    delta: Annotated[
        Path | None,
        typer.Option(help="Export of earlier weights: write only what has changed since, for a server that has it."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the recipe, such as model.longer.k=32.")
    ] = None,
) -> None:
    """Write a folder that scores without the trainer, and check that it gives the trainer's scores."""
    from dist_rec.common.log import setup_logging
    from dist_rec.config import load_config

    config = load_config(recipe, overrides)
    setup_logging(0)  # first: libraries warn when they are imported

    from dist_rec.export.program_files import kinds_of
    from dist_rec.export.write import Wanted, export_model

    kinds = tuple(each.strip() for each in programs.split(",")) if programs != "none" else ()
    wanted = Wanted(out, data, tables, delta, kinds_of(kinds))
    for line in export_model(config, checkpoint, wanted):
        typer.echo(line)

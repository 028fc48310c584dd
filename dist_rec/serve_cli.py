"""`dist-rec export` and `dist-rec serve`: parse, call, print."""

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from dist_rec.common.strict import ConfigError, check
from dist_rec.data_cli import home
from dist_rec.serve.server.settings import Settings


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


def serve(export: Path, **options: Any) -> None:
    """Score requests over HTTP with an export. The server's page /docs has its requests, and one that works."""
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"a server needs {', '.join(missing)}; install it with: pip install 'dist-rec[serve]'")
    settings = check(Settings, options, "dist-rec serve")

    from dist_rec.common.log import setup_logging

    setup_logging(0)  # first: libraries warn when they are imported

    from dist_rec.serve.server.run import run

    run(export, settings)


def _signature() -> inspect.Signature:
    """The settings are the options: one place has their names, defaults and what they mean."""
    folder = typer.Argument(help="Folder made by dist-rec export, or a link to one.", callback=home)
    place = inspect.Parameter("export", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[Path, folder])
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=of.default,
            annotation=Annotated[_plain(of.annotation), typer.Option(help=of.description)],
        )
        for name, of in Settings.model_fields.items()
    ]
    return inspect.Signature([place, *options])


def _plain(kind: Any) -> Any:
    """Without checks inside, which typer does not know: a name of a folder is any text to it."""
    return (str | None) if len(parts := get_args(kind)) == 2 and get_args(parts[0])[:1] == (str,) else kind


serve.__signature__ = _signature()  # pyright: ignore[reportFunctionMemberAccess]
serve.__annotations__ = {name: of.annotation for name, of in _signature().parameters.items()}

"""The command line: parses, calls, prints. `dist-rec --help`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
data_app = typer.Typer(no_args_is_help=True, help="Make, import and look at datasets.")
app.add_typer(data_app, name="data")

Recipe = Annotated[Path, typer.Argument(help="YAML recipe, such as launch/recipes/quickstart.yaml.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe, such as model.longer.k=32.")]


@app.command()
def train(
    recipe: Recipe,
    set_: Overrides = None,
    resume: Annotated[Path | None, typer.Option(help="Checkpoint folder to go on from.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved recipe, plan and costs; train nothing.")] = False,
) -> None:
    """Train by a recipe, on every rank that torchrun started (or on one)."""
    from dist_rec.common.log import setup_logging
    from dist_rec.config import load_config
    from dist_rec.train.ranks import start_ranks
    from dist_rec.train.study import run_study

    config = load_config(recipe, set_)
    with start_ranks(config.parallel) as ranks:
        setup_logging(ranks.rank)
        run_study(config, ranks, resume)


def main() -> None:
    """Entry point: user errors become one message and exit code 2."""
    from dist_rec.config import ConfigError

    try:
        app()
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()

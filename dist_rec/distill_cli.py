"""The commands of `dist-rec distill`."""

from pathlib import Path
from typing import Annotated

import typer

distill_app = typer.Typer(no_args_is_help=True, help="Look at what a teacher would read, before it is trained.")


@distill_app.command()
def audit(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe with a distill section.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the recipe, such as distill.weight=1.")
    ] = None,
) -> None:
    """Measure how well feedback alone tells each label that is taught; exit code 1 where a run would stop for it."""
    from dist_rec.common.log import setup_logging
    from dist_rec.config import load_config

    config = load_config(recipe, overrides)
    setup_logging(0)  # first: libraries warn when they are imported

    from dist_rec.training.feedback_audit import audit_recipe
    from dist_rec.training.study import members

    lines, leak = audit_recipe(members(config)[0].config)  # of the first run, if the recipe is of several
    typer.echo("\n".join(lines))
    if leak:
        typer.echo(f"error: {leak}", err=True)
        raise typer.Exit(1)

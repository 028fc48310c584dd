"""Writes the golden files anew: `python -m tests.golden.write [RECIPE ...]`, all recipes by default.

With `--surface` only the list of public names and signatures.

Whoever changes a default, a model or a number does it in the same change, so that its effect shows in the diff.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write(names: list[str]) -> None:
    """The resolved recipe, the model's facts and the curves of these recipes."""
    from tests.golden.measure import GOLDEN, RANKS, Sets, curves, made_with, model_facts, resolved

    for folder in ("recipes", "models", "curves"):
        (GOLDEN / folder).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        sets = Sets(Path(place) / "data")
        found = {ranks: curves(names, ranks, sets, Path(place)) for ranks in RANKS}
        for name in names:
            (GOLDEN / "recipes" / f"{name}.yaml").write_text(resolved(name))
            _write_json(GOLDEN / "models" / f"{name}.json", model_facts(name, sets))
            losses = {str(ranks): by_name[name] for ranks, by_name in found.items()}
            _write_curve(GOLDEN / "curves" / f"{name}.json", losses, made_with())


def _write_curve(path: Path, losses: dict[str, list[float]], made_with: dict[str, str]) -> None:
    """A curve that is the same to the bit keeps its file, with what it came from."""
    if not path.is_file() or json.loads(path.read_text())["losses"] != losses:
        _write_json(path, {"made_with": made_with, "losses": losses})


def _write_json(path: Path, tree: Mapping[str, object]) -> None:
    path.write_text(json.dumps(tree, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # as tests/conftest.py has it without a GPU
    from tests.golden.measure import GOLDEN, RECIPES
    from tests.helpers.surface import surface

    if sys.argv[1:] == ["--surface"]:
        _write_json(GOLDEN / "public_surface.json", surface())
    else:
        write(sys.argv[1:] or RECIPES)

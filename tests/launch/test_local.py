import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _local(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "launch" / "local.sh"), *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


def test_without_a_recipe_it_says_how_it_is_called() -> None:
    ran = _local()
    assert ran.returncode == 1 and "expected a recipe" in ran.stderr


def test_it_finds_its_project_through_links(tmp_path: Path) -> None:
    (tmp_path / "first").symlink_to(ROOT / "launch" / "local.sh")
    (tmp_path / "train").symlink_to(tmp_path / "first")
    ran = subprocess.run(
        [tmp_path / "train", "no/such.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1 and "launch/recipes/quickstart.yaml" in ran.stderr


def test_a_missing_recipe_is_named() -> None:
    ran = _local("no/such.yaml")
    assert ran.returncode == 1 and "no recipe 'no/such.yaml'" in ran.stderr


def test_the_number_of_ranks_is_checked(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("")
    ran = _local(str(recipe), DIST_REC_RANKS="two")
    assert ran.returncode == 1 and "DIST_REC_RANKS must be a positive number, got 'two'" in ran.stderr

import os
import shutil
import subprocess
from pathlib import Path

import pytest

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


PYTHON = """#!/bin/sh
case "$*" in
*ranks.py*) echo "$*"; echo "order=$NCCL_LAUNCH_ORDER_IMPLICIT memory=$PYTORCH_CUDA_ALLOC_CONF" ;;
esac
"""


@pytest.fixture
def three_gpus(tmp_path: Path) -> Path:
    """A project whose python prints what it is to start, on a machine with three GPUs."""
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    scripts = {".venv/bin/python": PYTHON, "bin/nvidia-smi": "#!/bin/sh\nfor i in 0 1 2; do echo GPU $i: x; done\n"}
    for name, text in scripts.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(("visible", "ranks"), [(None, 3), ("1", 1), ("0,2", 2), ("", 2)])
def test_a_rank_per_visible_gpu_and_two_without(three_gpus: Path, visible: str | None, ranks: int) -> None:
    """No visible GPU is not the same as no wish about them."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {"PATH": f"{three_gpus / 'bin'}:{os.environ['PATH']}"}
    environment |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    command = [str(three_gpus / "launch" / "local.sh"), str(three_gpus / "launch/recipes/quickstart.yaml")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert f"--nproc-per-node {ranks} " in ran.stdout
    assert "order=1 memory=expandable_segments:True" in ran.stdout


@pytest.mark.parametrize(
    ("options", "restarts", "called"),
    [
        ([], None, "--max-restarts 0 -m dist_rec.cli train RECIPE"),
        ([], "3", "--max-restarts 3 -m dist_rec.cli train RECIPE --resume auto"),
        (["--resume", "x"], "3", "--max-restarts 3 -m dist_rec.cli train RECIPE --resume x"),
        (["--resume=x"], "3", "--max-restarts 3 -m dist_rec.cli train RECIPE --resume=x"),
    ],
    ids=["none", "three", "from a folder", "from a folder, in one word"],
)
def test_ranks_that_start_again_go_on(three_gpus: Path, options: list[str], restarts: str | None, called: str) -> None:
    environment = {**os.environ, "PATH": f"{three_gpus / 'bin'}:{os.environ['PATH']}"}
    environment |= {} if restarts is None else {"DIST_REC_RESTARTS": restarts}
    recipe = str(three_gpus / "launch/recipes/quickstart.yaml")
    command = [str(three_gpus / "launch" / "local.sh"), recipe, *options]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[0].endswith(called.replace("RECIPE", recipe))


def test_the_number_of_restarts_is_checked(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    ran = _local(str(tmp_path / "recipe.yaml"), DIST_REC_RESTARTS="-1")
    assert ran.returncode == 1 and "DIST_REC_RESTARTS must be a whole number, got '-1'" in ran.stderr

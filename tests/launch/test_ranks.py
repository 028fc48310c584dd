"""What the launcher adds to what the ranks say: nothing, unless a rank could not speak."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEAKS = (
    "import os, sys; rank = os.environ['RANK']; print('error: a bad row', file=sys.stderr) if rank == '1' else None; "
)
SPEAKS += "sys.exit(2 if rank == '1' else 0)"


@pytest.mark.parametrize(
    ("program", "code", "last"),
    [
        ("import os; assert os.environ['WORLD_SIZE'] == '2'", 0, ""),
        (SPEAKS, 2, "error: a bad row"),
        ("import os; os.environ['RANK'] == '1' and os.kill(os.getpid(), 9)", 137, "error: rank 1 was ended by SIGKILL"),
    ],
    ids=["well", "a rank that speaks", "a rank that was killed"],
)
def test_the_last_word(tmp_path: Path, program: str, code: int, last: str) -> None:
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, str(ROOT / "launch" / "ranks.py"), "--standalone", "--nproc-per-node", "2"]
    ran = subprocess.run([*command, str(tmp_path / "program.py")], capture_output=True, text=True, check=False)
    assert ran.returncode == code, ran.stderr
    assert "Traceback" not in ran.stderr
    lines = ran.stderr.strip().splitlines()
    assert lines[-1:] == [last][: len(lines)] or lines[-1].startswith(last)
    assert sum(line.startswith("error:") for line in lines) == bool(last)

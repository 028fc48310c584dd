"""A process that is killed at any file operation of a replacement leaves the old folder or the new one, whole."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dist_rec.common.made import kind_of, mark
from dist_rec.training.kept import tidy

# Replaces a folder; SIGKILL comes before the n-th rename or deletion.
REPLACES = """
import os, signal, sys
from pathlib import Path
from dist_rec.common import made

folder, by, left, exchanges = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "exchange"
if not exchanges:
    made._exchanged = lambda one, other: False

def heard(event, arguments):
    global left
    if event in ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.mkdir"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(heard)
made.replace(folder, by, "checkpoint")
"""
FILES = ("manifest.json", "weights-0", "weights-1")


def write(folder: Path, content: str) -> Path:
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text(content)
    mark(folder, "checkpoint")
    return folder


@pytest.mark.parametrize("way", ["exchange", "aside"])
def test_the_old_one_or_the_new_one_is_there_whole(tmp_path: Path, way: str) -> None:
    found: list[str] = []
    for step in range(1, 40):
        parent = tmp_path / str(step)
        parent.mkdir()
        folder, by = write(parent / "step-2", "old"), write(parent / ".half-step-2-x", "new")
        ended = subprocess.run([sys.executable, "-c", REPLACES, str(folder), str(by), str(step), way], check=False)
        tidy(parent)  # what a run does before it looks for checkpoints
        assert [path.name for path in parent.iterdir()] == ["step-2"]
        assert kind_of(folder) == "checkpoint"
        contents = {(folder / name).read_text() for name in FILES}
        assert len(contents) == 1, "of one of the two"
        found += contents
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
    assert found[-1] == "new"
    assert found == sorted(found, reverse=True), "the old one until it is replaced"
    assert len(found) > 3

"""In a process of its own: Triton compiles for sm_90, and nothing runs (benchmarks/aot/recording_driver.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PROGRAM = """
import json, threading
import torch, triton
import triton.language as tl
from benchmarks.aot import recording_driver
from dist_rec.kernels.common.compile_ahead import compiling_ahead, noticing_builds

launches = recording_driver.install()

@triton.jit
def double(X, OUT, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(OUT + i, 2 * tl.load(X + i))

@triton.jit
def wrong(X, N: tl.constexpr):
    tl.store(X, tl.arange(0, N) + tl.arange(0, 2 * N))

def launch(n):
    x, out = torch.ones(n), torch.full((n,), 7.0)
    double[(1,)](x, out, N=n)
    return out

progress, built, later = [], [], []
with noticing_builds(built.append), compiling_ahead(2, lambda done, started: progress.append((done, started))):
    cleared = [launch(n).tolist() for n in (4, 8, 4)]
    thread = threading.Thread(target=launch, args=(16,))  # as autograd's are
    thread.start()
    thread.join()
    inside = len(launches)
with noticing_builds(later.append):
    kept = [launch(n).tolist() for n in (4, 8, 16)]
    known = list(later)
    launch(32)
try:
    with compiling_ahead(1, lambda *_: None):
        wrong[(1,)](torch.ones(4), N=4)
    error = ""
except Exception as raised:
    error = type(raised).__name__
print(json.dumps({"cleared": cleared, "inside": inside, "after": launches, "kept": kept, "built": built,
                  "known": known, "later": later, "progress": progress[-1], "error": error}))
"""


def found_by(program: str, folder: Path) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    paths = filter(None, [str(ROOT), environment.get("PYTHONPATH")])
    environment |= {"TRITON_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(paths)}
    file = folder / "program.py"  # Triton reads the source of a kernel
    file.write_text(program)
    command = [sys.executable, "-W", "ignore", str(file)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_kernels_are_compiled_and_nothing_runs(tmp_path: Path) -> None:
    found = found_by(PROGRAM, tmp_path)
    assert found["cleared"] == [[0.0] * 4, [0.0] * 8, [0.0] * 4] and found["inside"] == 0
    assert found["built"] == ["double"] * 3 and found["progress"] == [3, 3], "once for every size"
    assert found["known"] == [] and found["later"] == ["double"], "only what was not compiled ahead"
    assert found["after"] == ["double"] * 4 and found["kept"][0] == [7.0] * 4, "launches again, and clears nothing"
    assert found["error"] == "CompilationError"

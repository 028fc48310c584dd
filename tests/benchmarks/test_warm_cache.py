"""What `make` compiles is found by another process in the place that `take` copies it to."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import triton
from triton.runtime import cache

from benchmarks import warm_cache

ROOT = Path(__file__).parents[2]
OWN = Path(triton.__file__).parent
PROGRAM = """
import sys
from pathlib import Path
from triton import knobs
from benchmarks import warm_cache

found = []
knobs.compilation.listener = lambda *, src, cache_hit, **_: found.append(cache_hit)
said = warm_cache.make(Path(sys.argv[1]), [90], None, [(16, 1)], ["A7"])
print(len(found), sum(found), said)
"""


def _made(out: Path) -> tuple[int, int, str]:
    """Kernels, those that were in the cache, and what was said, of a process that compiles a small model."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(out)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    kernels, found, said = ran.stdout.splitlines()[-1].split(maxsplit=2)
    return int(kernels), int(found), said


@pytest.mark.slow
def test_another_process_compiles_nothing(tmp_path: Path) -> None:
    kernels, found, said = _made(tmp_path / "warm")
    assert (
        kernels > 10 and found == 0 and said.startswith(f"{kernels} kernels for sm_90 by Triton {triton.__version__}")
    )
    taken = warm_cache.take(tmp_path / "warm", tmp_path / "taken")
    assert taken == f"{kernels} of {kernels} warm kernels for sm_90 are new in {tmp_path / 'taken'}"
    (tmp_path / "warm").rename(tmp_path / "gone")  # no path may lead back
    assert _made(tmp_path / "taken")[:2] == (kernels, kernels)


def _warm(folder: Path, **changes: str) -> Path:
    """A cache of one kernel, as Triton writes it."""
    kernel = folder / "warm" / "ABC"
    kernel.mkdir(parents=True)
    (kernel / "add.cubin").write_bytes(b"machine code")
    (kernel / "__grp__add.json").write_text(json.dumps({"child_paths": {"add.cubin": str(kernel / "add.cubin")}}))
    about = {"triton": "1.2.3", "installation": warm_cache.installation(), "sources": warm_cache.sources()}
    (folder / "warm" / warm_cache.ABOUT).write_text(json.dumps(about | {"architectures": [80, 90]} | changes))
    return folder / "warm"


def test_paths_are_those_of_the_new_place(tmp_path: Path) -> None:
    into = tmp_path / "a" / "cache"
    said = warm_cache.take(_warm(tmp_path), into)
    assert said == f"1 of 1 warm kernels for sm_80, sm_90 are new in {into}"
    group = json.loads((into / "ABC" / "__grp__add.json").read_text())
    assert group == {"child_paths": {"add.cubin": str(into / "ABC" / "add.cubin")}}
    assert (into / "ABC" / "add.cubin").read_bytes() == b"machine code" and len(list(into.iterdir())) == 1
    (into / "ABC" / "add.cubin").write_bytes(b"compiled here")
    assert warm_cache.take(tmp_path / "warm", into).startswith("0 of 1")
    assert (into / "ABC" / "add.cubin").read_bytes() == b"compiled here", "what is there stays"


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    into = tmp_path / "cache"
    assert warm_cache.take(tmp_path / "none", into).startswith(f"no warm Triton cache in {tmp_path / 'none'}: kernels")
    said = warm_cache.take(_warm(tmp_path / "other", installation="0123"), into)
    assert f"made for Triton 1.2.3 (0123), and here is {triton.__version__} (" in said and not into.exists()
    said = warm_cache.take(_warm(tmp_path / "older", sources="0123"), into)
    assert said.endswith("kernels/ has changed since, and what changed is compiled here") and into.exists()


def test_the_key_of_another_build_is_read_from_its_files(tmp_path: Path) -> None:
    assert warm_cache.key_of(OWN) == cache.triton_key()
    other = tmp_path / "triton"
    for folder, _, files in os.walk(OWN):
        (other / Path(folder).relative_to(OWN)).mkdir()
        for name in files:
            (other / Path(folder).relative_to(OWN) / name).symlink_to(Path(folder) / name)
    assert warm_cache.installation(other) == warm_cache.installation()
    (library,) = (other / "_C").glob("libtriton.*")
    library.unlink()
    library.write_bytes(b"of another Python")
    assert warm_cache.installation(other) != warm_cache.installation()


def test_another_version_cannot_be_compiled_for(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("__version__ = '1.2.3'\n")
    with pytest.raises(SystemExit, match=f"of version {triton.__version__}, which compiles here, got 1.2.3"):
        warm_cache.key_of(tmp_path)
    with pytest.raises(SystemExit, match="got none"):
        warm_cache.key_of(tmp_path / "nothing")


def test_every_model_of_the_stages_is_made() -> None:
    trained = set()
    for line in (ROOT / "benchmarks" / "gpu.sh").read_text().splitlines():
        if "benchmarks.gpu_steps" in line:
            found = {name: int(value) for name, value in re.findall(r"--(width|merge) (\d+)", line)}
            trained.add((found.get("width", 64), found.get("merge", 1)))
    assert trained == set(warm_cache.MODELS)

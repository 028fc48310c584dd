"""What users import: the names, their signatures, and what an import costs.

A change here is a change for users: it belongs into CHANGELOG.md. `python -m tests.golden.write --surface` writes the
list."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.helpers.surface import MODULES, surface

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "tests" / "golden" / "public_surface.json"
# Without torch: names that a script may use before it decides what to load.
WITHOUT_TORCH = ("import dist_rec", "from dist_rec import Config, load_config, part, train")


def test_the_public_names_and_signatures_are_those_that_are_kept() -> None:
    kept, found = json.loads(KEPT.read_text()), surface()
    differing = [
        f"{name}: kept {kept.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
        for name in sorted({*kept, *found})
        if kept.get(name) != found.get(name)
    ]
    assert not differing, "\n".join(["", *differing, "`python -m tests.golden.write --surface` writes the list anew"])


def _run(code: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.parametrize("module", MODULES)
def test_every_name_imports_in_a_fresh_process_and_leaves_cuda_alone(module: str) -> None:
    names = ", ".join(import_module(module).__all__)
    assert _run(f"from {module} import {names}\nimport torch\nprint(torch.cuda.is_initialized())") == "False"


@pytest.mark.parametrize("statement", WITHOUT_TORCH)
def test_the_package_loads_no_torch(statement: str) -> None:
    assert _run(f"{statement}\nimport sys; print('torch' in sys.modules)") == "False"

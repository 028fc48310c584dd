"""The rules of tests/helpers/architecture.py hold, and each can fail: a planted breach is found."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.architecture import (
    FILE_LINES,
    FUNCTION_LINES,
    cycles,
    kernels_by_the_wrong_name,
    missing_tests,
    orphaned_tests,
    over_budget,
    wrong_imports,
    wrong_link,
)

ROOT = Path(__file__).resolve().parents[1]
_OPERATOR = "the signature of an operator: tensors, and keyword-only options that each describe one part of the mask"
# Breaches of a hard budget that are wanted: "path" or "path::function" -> the reason. An entry that is not needed fails
# too.
EXCEPTIONS_AT_MOST = 4
EXCEPTIONS = {
    "kernels/cross_causal_attention/__init__.py::cross_causal_attention": _OPERATOR,
    "dist_rec/optim/hybrid.py::HybridOptimizer.__init__": "options of an optimizer, by keyword as torch's have",
    "dist_rec/data_cli.py::synth": "options of a command, each by its name",
    "dist_rec/embedding/dedup_names.py::_keep_missing": "a hook of torch gets its arguments one by one",
}


def test_imports_follow_the_rules() -> None:
    assert not (found := wrong_imports(ROOT)), _listed(found)


def test_no_import_cycles() -> None:
    assert not (found := cycles(ROOT)), _listed(found)


def test_kernels_are_imported_by_their_full_name() -> None:
    assert not (found := kernels_by_the_wrong_name(ROOT)), _listed(found)


def test_kernels_link() -> None:
    assert not (found := wrong_link(ROOT)), _listed(found)


def test_every_source_has_a_test() -> None:
    assert not (found := missing_tests(ROOT)), _listed(found)


def test_every_test_has_a_source() -> None:
    assert not (found := orphaned_tests(ROOT)), _listed(found)


def test_size_budgets() -> None:
    assert not (found := over_budget(ROOT, EXCEPTIONS)), _listed(found)
    assert len(EXCEPTIONS) <= EXCEPTIONS_AT_MOST


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("dist_rec", ("numpy", "torch", "torchrec", "triton", "fbgemm_gpu")),
        ("dist_rec.config", ("numpy", "torch", "torchrec", "triton", "fbgemm_gpu")),
        ("dist_rec.kernels.cross_causal_attention", ("torchrec", "fbgemm_gpu")),
        ("dist_rec.kernels.gather_pool", ("torchrec", "fbgemm_gpu")),
        ("dist_rec.kernels.unique_ids", ("torchrec", "fbgemm_gpu")),
    ],
)
def test_importing_is_light(module: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*(name for name in {forbidden!r} if name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert not ran.stdout.strip(), f"importing {module} also imported {ran.stdout.strip()}"


def test_operators_work_without_triton() -> None:
    operators = [
        path.parent.name for path in sorted(ROOT.glob("kernels/*/__init__.py")) if path.parent.name != "common"
    ]
    code = "import sys; sys.modules['triton'] = None\n" + "".join(
        f"import dist_rec.kernels.{name}\n" for name in operators
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"the reference must import where Triton is not installed:\n{ran.stderr}"


def _listed(complaints: list[str]) -> str:
    return "\n" + "\n".join(complaints)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree in good order."""
    for place in ("dist_rec/__init__.py", "dist_rec/models/__init__.py", "kernels/gather/__init__.py"):
        _write(tmp_path, place, "")
    _write(tmp_path, "dist_rec/models/longer.py", "import torch\nfrom dist_rec.data.batch import SequenceBatch\n")
    _write(tmp_path, "tests/models/test_longer.py", "")
    _write(tmp_path, "tests/kernels/test_gather.py", "")
    (tmp_path / "dist_rec" / "kernels").symlink_to("../kernels")
    return tmp_path


def _write(root: Path, place: str, text: str) -> None:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(text)


def test_a_tree_in_good_order_has_no_complaints(tree: Path) -> None:
    rules = (wrong_imports, cycles, kernels_by_the_wrong_name, wrong_link, missing_tests, orphaned_tests)
    assert [rule(tree) for rule in rules] == [[]] * len(rules)
    assert over_budget(tree, {}) == []


@pytest.mark.parametrize(
    ("place", "text", "complaint"),
    [
        ("dist_rec/models/longer.py", "import torch.distributed as dist", "may not import torch.distributed"),
        ("dist_rec/models/longer.py", "from torch import distributed", "may not import torch.distributed"),
        ("dist_rec/models/longer.py", "import torch\ntorch.distributed.barrier()", "may not use torch.distributed"),
        (
            "dist_rec/models/longer.py",
            "def f():\n    from ..training import loop",
            "may not import dist_rec.training.loop",
        ),
        (
            "dist_rec/models/longer.py",
            "from torchrec import EmbeddingCollection",
            "may not import torchrec.EmbeddingCollection",
        ),
        ("dist_rec/embedding/unique.py", "from dist_rec.data import reader", "may not import dist_rec.data.reader"),
        ("dist_rec/optim/delayed.py", "import dist_rec.models.longer", "may not import dist_rec.models.longer"),
        ("dist_rec/training/loop.py", "from dist_rec.cli import main", "may not import dist_rec.cli.main"),
        ("dist_rec/data/reader.py", "import benchmarks.harness", "may not import benchmarks.harness"),
        ("dist_rec/__init__.py", "from dist_rec import config", "may not import dist_rec.config"),
        ("dist_rec/data/reader.py", "import dist_rec.config", "may not import dist_rec.config"),
        ("dist_rec/registry.py", "import torch", "may not import torch"),
        ("dist_rec/common/seed.py", "import triton", "may not import triton"),
        ("dist_rec/door.py", "import torch", "may not import torch"),
        ("dist_rec/api.py", "from dist_rec.models import longer", "may not import dist_rec.models.longer"),
        ("kernels/gather/forward.py", "import torchrec", "may not import torchrec"),
        ("dist_rec/extras/other.py", "", "has no entry in RULES"),
    ],
)
def test_finds_a_wrong_import(tree: Path, place: str, text: str, complaint: str) -> None:
    _write(tree, place, text)
    found = wrong_imports(tree)
    assert len(found) == 1 and complaint in found[0], found


def test_an_import_for_types_alone_loads_nothing(tree: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dist_rec.{} import name\n"
    _write(tree, "dist_rec/__init__.py", text.format("config"))
    assert wrong_imports(tree) == []
    _write(tree, "dist_rec/__init__.py", text.format("models"))
    assert len(wrong_imports(tree)) == 1


@pytest.mark.parametrize(
    "text", ["import kernels", "from kernels.gather import op", "def f():\n    import kernels.gather"]
)
def test_finds_kernels_by_the_wrong_name(tree: Path, text: str) -> None:
    _write(tree, "tests/models/test_longer.py", text)
    assert len(kernels_by_the_wrong_name(tree)) == 1


def test_finds_a_lost_link_and_an_init(tree: Path) -> None:
    (tree / "dist_rec" / "kernels").unlink()
    _write(tree, "dist_rec/kernels", "../kernels")
    _write(tree, "kernels/__init__.py", "")
    assert len(wrong_link(tree)) == 2


def test_finds_a_cycle(tree: Path) -> None:
    _write(tree, "dist_rec/models/heads.py", "from dist_rec.models import longer")
    _write(tree, "dist_rec/models/longer.py", "from dist_rec.models.heads import Head")
    assert cycles(tree) == ["import cycle: dist_rec.models.heads -> dist_rec.models.longer -> dist_rec.models.heads"]


def test_finds_a_source_without_a_test(tree: Path) -> None:
    _write(tree, "dist_rec/cli.py", "")
    _write(tree, "kernels/common/backend.py", "")
    _write(tree, "kernels/pool/reference.py", "")
    _write(tree, "dist_rec/models/__init__.py", "def build() -> None: ...")
    assert [line.split(":")[0] for line in missing_tests(tree)] == [
        "dist_rec/cli.py",
        "dist_rec/models/__init__.py",
        "kernels/common/backend.py",
        "kernels/pool/reference.py",
    ]


def test_finds_a_test_without_a_source(tree: Path) -> None:
    for place in (
        "tests/models/test_gone.py",
        "tests/kernels/test_gone.py",
        "tests/kernels/gone/test_x.py",
        "tests/launch/test_gone.py",
    ):
        _write(tree, place, "")
    _write(tree, "tests/integration/test_anything.py", "")
    assert len(orphaned_tests(tree)) == 4


def test_finds_what_is_over_budget(tree: Path) -> None:
    _write(tree, "dist_rec/models/longer.py", "x = 1\n" * (FILE_LINES + 1))
    _write(tree, "dist_rec/models/heads.py", "x = 1\n" * FILE_LINES)
    _write(tree, "dist_rec/models/long.py", "def long():\n" + "    x = 1\n" * (FUNCTION_LINES + 1))
    _write(tree, "dist_rec/models/wide.py", "def wide(self, a, b, c, d, e, *, f, g, h, i): ...")
    _write(tree, "dist_rec/models/launch.py", "def launch(a, b, c, d, e, f, g, h, i):\n    kernel[1](a)")
    found = over_budget(tree, {})
    assert sorted(line.split(":")[0] for line in found) == [
        f"dist_rec/models/{name}.py" for name in ("long", "longer", "wide")
    ]
    reasons = {
        "dist_rec/models/longer.py": "x",
        "dist_rec/models/long.py::long": "x",
        "dist_rec/models/wide.py::wide": "x",
    }
    assert over_budget(tree, reasons) == []
    assert "remove it from EXCEPTIONS" in over_budget(tree, {**reasons, "dist_rec/gone.py": "x"})[0]

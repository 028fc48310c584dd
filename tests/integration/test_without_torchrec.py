"""A trained model is served where only torch, numpy, pyarrow, pydantic, PyYAML and safetensors are installed, by the
code that trained it: it imports there, and its logits are the same to the bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.served import logits

ROOT = Path(__file__).resolve().parents[2]
ABSENT = (
    *("torchrec", "fbgemm_gpu", "triton", "torchdata", "torchmetrics", "tensordict", "iopath", "pyre_extensions"),
    *("duckdb", "matplotlib", "tensorboard", "rich", "typer", "pandas", "scipy", "sklearn"),
)
OF_SERVERS = ("fastapi", "starlette", "uvicorn", "prometheus_client", "redis")
DATA = (
    *("attribute_store", "attributes", "batch", "collate", "columns", "dedup", "host_batch", "joined", "kinds"),
    *("later", "layout", "lengths", "ngram.counts", "ngram.device", "ngram.host", "numbers", "owners", "read_lists"),
    *("reading", "request_values", "schema", "schema_file", "slots", "some_rows", "targets", "torchrec_types"),
    *("transfer_buffer", "unique_tokens", "validate", "filter.event_filter", "filter.policy"),
)
# What makes or shards TorchRec's tables, and nobody needs to serve.
OF_TRAINING = ("dist_rec.models.build",)


def _modules(folder: str) -> list[str]:
    """Those below a folder of dist_rec."""
    places = sorted((ROOT / "dist_rec" / folder).rglob("*.py"))
    found = [".".join(place.relative_to(ROOT).with_suffix("").parts) for place in places]
    return [name.removesuffix(".__init__") for name in found]


def _served() -> list[str]:
    found = ["dist_rec", "dist_rec.config", "dist_rec.embedding.tables", "dist_rec.embedding.ngram_fusion"]
    found += ["dist_rec.predict.columns", "dist_rec.predict.rows", *(f"dist_rec.data.{name}" for name in DATA)]
    found += [f"dist_rec.kernels.{place.parent.name}" for place in sorted(ROOT.glob("kernels/*/__init__.py"))]
    found += [name for name in _modules("serve") if not name.startswith("dist_rec.serve.server")]
    return found + [name for name in _modules("models") if name not in OF_TRAINING]


def _run(code: str, absent: tuple[str, ...] = (*ABSENT, *OF_SERVERS)) -> str:
    """In a process without the packages."""
    threads = torch.get_num_threads()  # how sums are cut depends on it
    start = f"from tests.helpers.absent import hide\nhide({absent!r})\nimport torch\ntorch.set_num_threads({threads})\n"
    command = [sys.executable, "-W", "ignore", "-c", start + code]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def _imports(names: list[str]) -> str:
    """A program that prints which of the modules cannot be imported, and where."""
    return (
        "import traceback, sys\nfrom importlib import import_module\n"
        f"for name in {names!r}:\n"
        "    try:\n        import_module(name)\n"
        "    except ImportError as error:\n"
        "        frames = traceback.extract_tb(error.__traceback__)\n"
        "        places = [of for of in frames if 'dist_rec' in of.filename or 'kernels' in of.filename]\n"
        "        print(f'{name}: {error}, in {places[-1].filename}:{places[-1].lineno}' if places else error)\n"
    )


def test_what_serves_a_model_imports() -> None:
    assert not (found := _run(_imports(_served()))), found


def test_a_server_imports_without_the_trainer() -> None:
    pytest.importorskip("fastapi")
    assert not (found := _run(_imports(_modules("serve")), ABSENT)), found


def test_an_absent_package_is_named() -> None:
    code = (
        "from importlib.util import find_spec\nprint(find_spec('torchrec'))\n"
        "try:\n    import torchrec.sparse.jagged_tensor\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    )
    assert _run(code).split() == ["None", "torchrec"]


def test_logits_are_those_of_training(tmp_path: Path) -> None:
    there = tmp_path / "logits.pt"
    _run(f"from tests.helpers.served import logits\ntorch.save(logits(served=True), {str(there)!r})")
    served, expected = torch.load(there), logits(served=False)
    assert served.keys() == expected.keys()
    for name, of in expected.items():
        assert of.isfinite().all() and of.std() > 0, name
        assert torch.equal(served[name], of), name


def test_a_lookup_says_what_it_lacks() -> None:
    code = (
        "from tests.data.requests import make_rows, make_schema, make_table\n"
        "from dist_rec.data.collate import collate\n"
        "sent = collate(make_table(make_rows(3)), make_schema())\n"
        "try:\n    sent.to(torch.device('cpu'))\nexcept RuntimeError as error:\n    print(error)"
    )
    assert _run(code) == "a batch whose ids TorchRec looks up needs torchrec; it is not installed"


@pytest.mark.parametrize("name", ["DedupEmbeddingCollection", "NgramEmbedding"])
def test_tables_of_torchrec_say_what_they_lack(name: str) -> None:
    code = (
        f"try:\n    from dist_rec.embedding import {name}\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    )
    assert _run(code) in ("torchrec", "fbgemm_gpu")

"""The examples of docs/extending.md, outside the package: they import data and train a model on two ranks."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.errors import DataError
from dist_rec.data.lengths import Lengths
from dist_rec.door import check_run
from dist_rec.registry import IMPORTERS, Part
from tests.helpers.ranks import run_ranks
from tests.training.runs import losses, run, these_ranks

DOCS = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
FILES = dict(re.findall(r'```python title="(own_parts/\w+\.py)"\n(.*?)```', DOCS.read_text(), re.DOTALL))
RECIPE: dict[str, Any] = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)[0])


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the examples and raw data, from which Python imports."""
    folder = tmp_path_factory.mktemp("outside")
    for place, text in FILES.items():
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text(text)
    rng = np.random.default_rng(0)
    rows = [f"{rng.integers(0, 9)},{rng.integers(0, 30)},{rng.integers(0, 2)}" for _ in range(300)]
    (folder / "clicks.csv").write_text("\n".join(["user,item,clicked", *rows]) + "\n")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def data(outside: Path) -> Path:
    importer = Part(name="own_parts.clicks:Clicks", options={"valid_share": 0.3})
    summary = IMPORTERS.make(importer)(outside, outside / "data")
    assert summary.rows == {"train": 210, "valid": 45, "test": 45}
    return outside / "data"


def _config(data: Path, out: Path, **changes: Any) -> Config:
    """The recipe of the page, small."""
    tree = yaml.safe_load(yaml.safe_dump(RECIPE))
    tree["model"] |= {"tokens": {"width": 8, "hidden": 12}}
    tree["model"]["head"] |= {"hidden": [8]}
    tree["data"] |= {"path": str(data), "batch_size": 16, "workers": 0}
    tree["optim"] |= {"lr": 1e-3, "warmup_sync_steps": 2}
    tree["run"] |= {"out": str(out), "name": "own", "log_every": 1}
    for key, value in changes.items():
        *above, last = key.split(".")
        place = tree
        for step in above:
            place = place[step]
        place[last] = value
    return Config.model_validate(tree)


def test_every_example_is_short() -> None:
    assert len(FILES) == 8
    assert max(len(text.splitlines()) for text in FILES.values()) <= 60


def test_the_recipe_of_the_page_names_every_example_but_the_importer() -> None:
    named = set(re.findall(r"own_parts\.(\w+):", yaml.safe_dump(RECIPE)))
    assert {f"own_parts/{name}.py" for name in named} == set(FILES) - {"own_parts/clicks.py"}


def _train(data: Path, out: Path) -> tuple[Any, list[float]]:
    config = _config(data, out, **{"checkpoint": {"every_steps": 4}})
    result = run(config, these_ranks())
    return result, losses(config) if torch.distributed.get_rank() == 0 else []


def test_they_train_on_two_ranks_and_are_in_the_report(data: Path, tmp_path: Path) -> None:
    (result, seen), (other, _) = run_ranks(_train, 2, data, tmp_path)
    assert result.test == other.test and result.steps == len(seen) > 4
    assert np.isfinite(seen).all()
    assert 0.0 <= result.test["clicked"].own["Top1"] <= 1.0


def _resumed(data: Path, out: Path) -> tuple[Any, Any]:
    ranks = these_ranks()
    whole = run(_config(data, out, **{"checkpoint": {"every_steps": 4}}), ranks, "whole")
    resumed = run(_config(data, out), ranks, "resumed", out / "whole" / "checkpoints" / "step-4")
    return whole.test, resumed.test


def test_a_run_with_them_goes_on_to_the_bit(data: Path, tmp_path: Path) -> None:
    for whole, resumed in run_ranks(_resumed, 2, data, tmp_path):
        assert whole == resumed


def test_a_model_of_ones_own_sees_only_what_its_candidate_sees(outside: Path) -> None:
    from own_parts.sasrec import SasRec  # pyright: ignore[reportMissingImports]

    from tests.models.batches import make_inputs, make_view, model_config

    torch.manual_seed(0)
    config = model_config()
    model = SasRec(SasRec.Config(), make_inputs(config)).double()
    tokens, lengths = torch.randn(7, 8, dtype=torch.float64), Lengths.of([5, 0, 2])
    whole = model(tokens, lengths, make_view([2, 1, 1], [5, 3, 0, 2]))
    cut = model(tokens[:3], Lengths.of([3]), make_view([1]))
    torch.testing.assert_close(whole[1:2], cut)
    assert torch.equal(whole[2], model.empty[0])


FOCAL = {"loss": {"name": "own_parts.focal:Focal", "options": {"gama": 1}}}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model.options": {"headz": 2}}, "own_parts.sasrec:SasRec:\n  headz: unknown key; did you mean 'heads'?"),
    ({"model.options": {"heads": 3}}, "model: options.heads=3 must divide tokens.width=8"),
    ({"model.head": FOCAL}, "gama: unknown key; did you mean 'gamma'?"),
    ({"model.name": "own_parts.sasrek:SasRec"}, "found the package own_parts, but no module sasrek in it"),
    ({"run.metrics": ["own_parts.top1:Top"]}, "found own_parts.top1, but no Top in it; did you mean 'Top1'?"),
    ({"optim.optimizer": "own_parts.lion:TorchLion"}, "expected a subclass of dist_rec.training.optimizers.DenseOpt"),
    ({"data.reader": "parquet"}, "expected a folder with at least one .parquet file"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_what_is_wrong_is_told_at_the_door(data: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        check_run(_config(data, tmp_path, **changes))
    assert message in str(caught.value)


SCRIPT = """
import sys
import dist_rec
from own_parts.focal import Focal
from own_parts.jsonl import JsonLines
from own_parts.sasrec import SasRec

class Mine(Focal):
    pass

tree = {"data": {"path": sys.argv[1], "batch_size": 64}, "run": {"out": sys.argv[2], "max_steps": 2}}
tree["model"] = {"tokens": {"width": 8, "hidden": 8}, "head": {"hidden": [8]}}
if __name__ == "__main__":
    config = dist_rec.Config.model_validate(tree)
    result = dist_rec.train(config, model=dist_rec.part(SasRec, {"layers": 1}), loss=Mine, reader=JsonLines)
    print(result.runs[""].steps, (result.folder / "recipe.yaml").read_text())
"""


def test_the_same_parts_from_python(outside: Path, data: Path, tmp_path: Path) -> None:
    (outside / "job.py").write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, str(outside / "job.py"), str(data), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    recipe = ran.stdout
    assert "own_parts.sasrec:SasRec" in recipe and "__main__:Mine" in recipe and "layers: 1" in recipe
    assert (tmp_path / "run" / "checkpoints" / "last").is_dir()

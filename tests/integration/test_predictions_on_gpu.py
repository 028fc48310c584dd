"""Predictions on a GPU: files that go on, one process in Python, and the numbers of a CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dist_rec.config import Config
from dist_rec.predict.columns import More
from dist_rec.predict.folder import part_name
from dist_rec.predict.predict import Wanted, predict_files
from dist_rec.predict.predictor import load_model
from tests.data.requests import make_rows
from tests.helpers.devices import DEVICES, one_rank
from tests.training.runs import make_config, quiet_console, run, write_dataset

FP32 = {"precision": {"tokens": "fp32", "layers": "fp32", "head": "fp32"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "data")


def _trained(data: Path, out: Path, **changes: Any) -> tuple[Config, Path]:
    config = make_config(data, out, run={"max_steps": 4}, data={"workers": 1}, **changes)
    with one_rank("cpu") as ranks:
        run(config, ranks)
    return config, out / "run" / "checkpoints" / "last"


@pytest.mark.parametrize("device", DEVICES)
def test_the_command_and_python_give_the_same(data: Path, tmp_path: Path, device: Any) -> None:
    """In the precision that a device takes by itself, and after a part was lost."""
    config, checkpoint = _trained(data, tmp_path)
    wanted = Wanted(data / "test", tmp_path / "out", More(True, True), part_requests=10)
    with one_rank(device) as ranks:
        predict_files(config, checkpoint, wanted, ranks, quiet_console())
        before = (wanted.out / part_name(1)).read_bytes()
        (wanted.out / part_name(1)).unlink()
        predict_files(config, checkpoint, wanted, ranks, quiet_console())
    assert (wanted.out / part_name(1)).read_bytes() == before
    found = pq.read_table([wanted.out / part_name(number) for number in range(2)])
    with load_model(checkpoint, device=device) as model:
        table = model.predict(make_rows(15, seed=2), logits=True, embeddings=True)
    assert table.equals(found.combine_chunks())


@pytest.mark.parametrize("device", DEVICES)
def test_probabilities_are_those_of_a_cpu(data: Path, tmp_path: Path, device: Any) -> None:
    _, checkpoint = _trained(data, tmp_path, model=FP32)
    by_device = {}
    for place in ("cpu", device):
        with load_model(checkpoint, device=place) as model:
            table = model.predict(make_rows(15, seed=2))
        by_device[place] = table.column("probability.click").combine_chunks().flatten().to_numpy()
    assert np.abs(by_device[device] - by_device["cpu"]).max() < 1e-5

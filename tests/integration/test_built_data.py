"""What is built of flat logs is trained on; histories in copies and stored once give the same run, to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dist_rec.config import Config
from tests.data.build.small import START, build, config
from tests.helpers.ranks import run_ranks
from tests.training.runs import losses, make_config, run, saved_weights, these_ranks

EVENTS = [
    {"user": n % 7, "item": n * n % 11, "time": START - 90 + n // 3, "kind": "ab"[n % 2], "order": n}
    for n in range(150)
]
SHOWN = [
    {"user": n % 8, "item": n % 9, "time": START + n % 30, "page": n, "place": n % 3, "click": int(n % 4 == 0)}
    for n in range(150)
]


def recipe(folder: Path, histories: str) -> Config:
    data = build(folder / histories, config(histories=histories, requests={"context": {"user": "user"}}), EVENTS, SHOWN)
    changes: dict[str, Any] = {"max_length": 12, "workers": 0, "shuffle_window": 40}
    return make_config(data, folder / "runs" / histories, data=changes)


def _train(folder: Path) -> None:
    ranks = these_ranks()
    for histories in ("copies", "once"):
        path = folder / f"{histories}.yaml"
        run(Config.model_validate_json(path.read_text()), ranks)


@pytest.mark.parametrize("world_size", [1, 2])
def test_both_layouts_train_alike(tmp_path: Path, world_size: int) -> None:
    configs = {histories: recipe(tmp_path, histories) for histories in ("copies", "once")}
    for histories, of in configs.items():
        (tmp_path / f"{histories}.yaml").write_text(of.model_dump_json())
    run_ranks(_train, world_size, tmp_path)
    found = {histories: losses(of) for histories, of in configs.items()}
    assert len(found["once"]) > 3 and found["once"] == found["copies"]
    weights = {histories: saved_weights(of) for histories, of in configs.items()}
    assert all(torch.equal(weights["once"][name], of) for name, of in weights["copies"].items())

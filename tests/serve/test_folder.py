"""A damaged export is refused, whatever is damaged."""

import json
from pathlib import Path

import pytest
import torch

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.serve.folder import Export
from dist_rec.serve.load import load_export
from tests.export.exports import exported


@pytest.mark.parametrize(
    "name", ["dense.safetensors", "model.json", "reference.json", "export.json", "tables/item.safetensors"]
)
def test_damage_is_named(config: Config, last: Path, tmp_path: Path, name: str) -> None:
    exported(config, last, tmp_path / "model")
    whole = (tmp_path / "model" / name).read_bytes()
    for number, at in enumerate(
        torch.randint(0, len(whole), (3,), generator=torch.Generator().manual_seed(1)).tolist()
    ):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ (1 << number)]) + whole[at + 1 :]):
            (tmp_path / "model" / name).write_bytes(damaged)
            try:
                same = json.loads(damaged) == json.loads(whole) if name == "export.json" else False
            except ValueError:
                same = False
            if not same:  # a blank more or less in it says nothing else
                with pytest.raises(ConfigError):
                    load_export(tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    with pytest.raises(ConfigError):
        load_export(tmp_path / "model")


def test_other_attributes_are_another_version(tmp_path: Path) -> None:
    (tmp_path / "attributes").mkdir()
    (tmp_path / "model.json").write_text("{}")
    found = []
    for values in ("1", "2", "1"):
        (tmp_path / "attributes" / "price.npy").write_text(values)
        found.append(Export.of(tmp_path, "sum", run="r", step=1, requests=None, versions={}).version)
    (tmp_path / "reference.json").write_text("{}")
    found.append(Export.of(tmp_path, "sum", run="r", step=1, requests=None, versions={}).version)
    assert found[0] == found[2] == found[3] != found[1]

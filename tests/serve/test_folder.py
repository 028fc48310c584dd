"""A damaged export is refused, whatever is damaged."""

import json
from pathlib import Path

import pytest
import torch

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.serve.folder import DENSE, EXPORT, MODEL, REFERENCE, Export, read_model
from dist_rec.serve.load import load_export
from tests.export.exports import exported
from tests.serve.exports import write_export


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (EXPORT, None, "not an export: it has no export.json"),
        (EXPORT, b"{}", "damaged, or of another version of dist_rec: version: Field required"),
        (EXPORT, (b'"step": 1', b'"step": 2'), "export.json: damaged: expected SHA-256 .* of what it says"),
        (DENSE, None, "the export is incomplete: expected a file dense.safetensors"),
        (DENSE, b"short", "dense.safetensors: damaged: expected .* bytes, got 5"),
        (MODEL, (b"history", b"histOry"), "model.json: damaged: expected SHA-256"),
    ],
)
def test_what_is_wrong_is_said(
    name: str, content: bytes | tuple[bytes, bytes] | None, message: str, tmp_path: Path
) -> None:
    path = write_export(tmp_path / "model", requests=1) / name
    whole = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else whole.replace(*content))
    with pytest.raises(ConfigError, match=message):
        load_export(tmp_path / "model")


def test_the_files_that_are_needed(tmp_path: Path) -> None:
    folder = write_export(tmp_path / "model", requests=1)
    (folder / REFERENCE).unlink()
    Export.of(folder, "sum", run="r", step=1, requests=None, versions={}).write(folder)
    with pytest.raises(ConfigError, match=r"damaged: expected reference\.json among its files"):
        load_export(folder)
    (folder / MODEL).write_text("{}")
    with pytest.raises(ConfigError, match=r"model\.json: damaged: .*Field required"):
        read_model(folder)

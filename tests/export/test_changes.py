"""Only rows that differ are kept."""

from pathlib import Path

import pytest
import torch

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.export.changes import keep_changes
from dist_rec.serve.load import read_tensors
from tests.export.exports import exported


def test_rows_that_differ_are_kept_with_their_numbers(config: Config, checkpoints: Path, tmp_path: Path) -> None:
    base = exported(config, checkpoints / "step-2", tmp_path / "base")
    later = exported(config, checkpoints / "last", tmp_path / "later")
    before = read_tensors(base / "tables/item.safetensors")["weight"].clone()
    after = read_tensors(later / "tables/item.safetensors")["weight"].clone()
    keep_changes(later, base)
    kept = read_tensors(later / "tables/item.safetensors")
    differ = (before != after).any(1).nonzero()[:, 0]
    assert 0 < len(differ) < len(before)
    assert torch.equal(kept["rows"], differ) and torch.equal(kept["weight"], after[differ])


def test_another_model_is_refused(config: Config, last: Path, tmp_path: Path) -> None:
    base = exported(config, last, tmp_path / "base")
    other = exported(config, last, tmp_path / "other", tables="fp16")
    with pytest.raises(ConfigError, match="expected an export of the same schema"):
        keep_changes(other, base)

"""Changes on an export are the later export."""

from pathlib import Path

import pytest
import torch

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.serve.columns import serving_schema
from dist_rec.serve.delta import apply_delta
from dist_rec.serve.load import load_export
from tests.data.requests import make_rows, make_schema, make_table
from tests.export.exports import exported


def test_a_delta_is_the_whole_export_of_later_weights(config: Config, checkpoints: Path, tmp_path: Path) -> None:
    exported(config, checkpoints / "step-2", tmp_path / "base")
    exported(config, checkpoints / "last", tmp_path / "whole")
    exported(config, checkpoints / "last", tmp_path / "delta", base=tmp_path / "base")
    base, whole = load_export(tmp_path / "base"), load_export(tmp_path / "whole")
    later = apply_delta(base, tmp_path / "delta")
    requests = make_table(make_rows(20, seed=9), serving_schema(make_schema()))
    assert later.export.version == whole.export.version != base.export.version
    assert torch.equal(later.engine.score_whole(requests).logits, whole.engine.score_whole(requests).logits)
    assert not torch.equal(base.engine.score_whole(requests).logits, whole.engine.score_whole(requests).logits)
    with pytest.raises(ConfigError, match="expected what has changed since version"):
        apply_delta(whole, tmp_path / "delta")
    with pytest.raises(ConfigError, match="got a whole one"):
        apply_delta(base, tmp_path / "whole")
    with pytest.raises(ConfigError, match="expected a whole export"):
        load_export(tmp_path / "delta")
    with pytest.raises(ConfigError, match="expected a whole export with tables in fp32, got a delta"):
        exported(config, checkpoints / "last", tmp_path / "again", base=tmp_path / "delta")

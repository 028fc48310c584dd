"""An engine from a folder: precision, and files that do not fit one another."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.serve.columns import serving_schema
from dist_rec.serve.folder import DENSE, TableFile, read_model
from dist_rec.serve.load import build_engine, load_export, read_table, read_tensors
from tests.data.requests import make_rows, make_schema, make_table
from tests.export.exports import exported
from tests.serve.exports import write_export


def test_bf16_is_near_fp32(config: Config, last: Path, tmp_path: Path) -> None:
    folder = exported(config, last, tmp_path / "model")
    requests = make_table(make_rows(20, seed=9), serving_schema(make_schema()))
    full, half = (load_export(folder, precision=precision).engine for precision in ("fp32", "bf16"))
    wanted, got = full.score_whole(requests).logits, half.score_whole(requests).logits
    assert not torch.equal(wanted, got)
    torch.testing.assert_close(got, wanted, rtol=0.05, atol=0.05)
    assert {of.dtype for of in half.encode(requests)[0].sequences["history"].kept.values()} == {torch.bfloat16}


def test_loading_leaves_random_numbers_alone(config: Config, last: Path, tmp_path: Path) -> None:
    folder = exported(config, last, tmp_path / "model")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_export(folder)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("rows", [[0, 3], [2, 1], [-1, 2]])
def test_rows_of_a_delta_are_rows_of_the_table(tmp_path: Path, rows: list[int]) -> None:
    (tmp_path / "tables").mkdir()
    save_file({"weight": torch.zeros(2, 4), "rows": torch.tensor(rows)}, tmp_path / "tables" / "item.safetensors")
    with pytest.raises(ConfigError, match="expected ascending rows from 0 to 2"):
        read_table(tmp_path, "item", TableFile(stored="fp32", rows=3, dim=4), before=lambda rows: rows)


def test_what_is_no_file_of_tensors_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"anything else")
    with pytest.raises(ConfigError, match="expected a file of safetensors"):
        read_tensors(tmp_path / "file")
    (tmp_path / "tables").mkdir()
    save_file({"weight": torch.zeros(2, 4)}, tmp_path / "tables" / "item.safetensors")
    with pytest.raises(ConfigError, match=r"expected a tensor weight of shape \(3, 4\), got \(2, 4\)"):
        read_table(tmp_path, "item", TableFile(stored="fp32", rows=3, dim=4))
    with pytest.raises(ConfigError, match="expected a tensor scale"):
        read_table(tmp_path, "item", TableFile(stored="int8", rows=2, dim=4))


def test_files_that_do_not_fit_one_another_are_named(tmp_path: Path) -> None:
    folder = write_export(tmp_path / "model", requests=1)
    made, weights = read_model(folder), read_tensors(folder / DENSE)
    with pytest.raises(ConfigError, match=r"model: damaged: .*tables Field required"):
        build_engine(folder, "v", made.model_copy(update={"schema_": {}}), "fp32", deterministic=False)
    first = min(weights)
    changed = {"is on one side only": {name: of for name, of in weights.items() if name != first}}
    changed[f"expected {first} of shape"] = weights | {first: torch.zeros(1, 1, 1)}
    for message, of in changed.items():
        save_file({name: tensor.clone() for name, tensor in of.items()}, tmp_path / DENSE)
        (tmp_path / DENSE).replace(folder / DENSE)
        with pytest.raises(ConfigError, match=message):
            build_engine(folder, "v", made, "fp32", deterministic=False)

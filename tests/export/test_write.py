"""An export gives the trainer's scores, whatever it is asked for, and nothing is written where something is wrong."""

from pathlib import Path

import pytest
import torch

from dist_rec.common.made import NotOurs
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.errors import DataError
from dist_rec.export.write import Wanted, _data_of, export_model
from dist_rec.predict.predictor import load_model
from dist_rec.serve.columns import serving_schema
from dist_rec.serve.folder import Export
from dist_rec.serve.load import load_export
from dist_rec.serve.reference import read_reference
from tests.data.requests import make_rows, make_schema, make_table


def exported(config: Config, checkpoint: Path, out: Path, **more: object) -> list[str]:
    return export_model(config, checkpoint, Wanted(out, **{"programs": (), **more}))  # pyright: ignore[reportArgumentType]


def test_scores_are_those_of_the_predictor(config: Config, last: Path, tmp_path: Path) -> None:
    lines = exported(config, last, tmp_path / "model")
    loaded = load_export(tmp_path / "model")
    assert loaded.export.version in lines[0] and loaded.farthest < 1e-5
    requests = make_table(make_rows(20, seed=9), serving_schema(make_schema()))
    got = loaded.engine.score_whole(requests)
    with load_model(last, config) as model:
        table = model.predict(requests, logits=True)
    for task, label in enumerate(("click", "buy")):
        expected = table.column(f"logit.{label}").combine_chunks().flatten().to_numpy()
        torch.testing.assert_close(got.logits[:, task], torch.from_numpy(expected.copy()), rtol=1e-5, atol=1e-5)
    assert len(read_reference(tmp_path / "model").requests) == 15


@pytest.mark.parametrize(("tables", "lost"), [("fp16", 1e-2), ("int8", 0.1), ("int4", 1.0)])
def test_stored_tables_lose_what_the_reference_says(
    config: Config, last: Path, tmp_path: Path, tables: str, lost: float
) -> None:
    exported(config, last, tmp_path / "model", tables=tables)
    assert 0 < read_reference(tmp_path / "model").lost < lost
    assert load_export(tmp_path / "model").farthest < 1e-5  # from what it gave where it was made


def test_the_same_checkpoint_gives_the_same_version(config: Config, last: Path, tmp_path: Path) -> None:
    exported(config, last, tmp_path / "one")
    exported(config, last, tmp_path / "two")
    exported(config, last, tmp_path / "int8", tables="int8")
    one, two, other = (Export.read(tmp_path / name).version for name in ("one", "two", "int8"))
    assert one == two != other


def test_what_is_there_stays(config: Config, last: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    with pytest.raises(NotOurs):
        exported(config, last, tmp_path / "mine")
    exported(config, last, tmp_path / "model")
    before = (tmp_path / "model" / "export.json").read_bytes()
    with pytest.raises(DataError):
        exported(config, last, tmp_path / "model", data=tmp_path / "nowhere")
    assert (tmp_path / "model" / "export.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model"]
    exported(config, last, tmp_path / "model", data=data / "valid")  # one of ours is replaced
    assert len(read_reference(tmp_path / "model").requests) == 12


def test_a_filter_that_acts_when_candidates_are_scored_is_refused(config: Config, last: Path, tmp_path: Path) -> None:
    tree = config.model_dump(mode="json")
    rules = [{"reason": "privacy", "field": "kind", "values": [0]}]
    tree["data"]["filter"] = {"rules": rules, "evaluation": "filtered"}
    filtered = Config.model_validate(tree)
    with pytest.raises(ConfigError, match=r"data\.filter\.evaluation: an export scores all events"):
        exported(filtered, last, tmp_path / "model")


def test_a_recipe_without_a_split_needs_requests(config: Config, tmp_path: Path) -> None:
    data = config.data.model_copy(update={"train": [], "valid": [], "test": []})
    with pytest.raises(ConfigError, match="--data: the recipe names no split"):
        _data_of(config.model_copy(update={"data": data}), Wanted(tmp_path))

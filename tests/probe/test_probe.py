"""The folder of a probe: read as it was written, and refused where it does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.data.schema_file import load_schema
from dist_rec.probe import probe as module
from dist_rec.probe.fit import fit_probe
from dist_rec.probe.labels import WeakLabels
from dist_rec.probe.probe import EventProbe
from tests.probe.data import FAST, read


@pytest.fixture(scope="module")
def saved(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("saved") / "probe"
    fit_probe(data, WeakLabels("history.is_forget"), config=FAST).save(out)
    return out


def test_is_read_as_it_was_written_and_scores_alike(data: Path, saved: Path, tmp_path: Path) -> None:
    schema, table = load_schema(data), read(data)
    probe = EventProbe.load(saved, schema)
    events, candidates = probe.score(table, schema, candidates=True)
    probe.save(tmp_path / "again")
    other = EventProbe.load(tmp_path / "again", schema)
    for mine, theirs in zip((events, candidates), other.score(table, schema, candidates=True)):
        assert np.array_equal(mine, theirs) and len(mine) and mine.min() >= 0 and mine.max() <= 1
    without, none = probe.score(table, schema, candidates=False)
    np.testing.assert_allclose(without, events, atol=1e-6)
    assert len(none) == 0


def test_parts_of_a_table_score_as_the_whole(data: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema, table = load_schema(data), read(data)
    probe = EventProbe.load(saved, schema)
    whole = probe.score(table, schema, candidates=True)
    monkeypatch.setattr(module, "EVENTS_AT_ONCE", 100)
    assert len(module._parts(table, schema.sequences[0])) > 3
    for mine, theirs in zip(whole, probe.score(table, schema, candidates=True)):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("facts", r"probe.json: damaged, or of another version"),
        ("no facts", r"expected a folder made by `dist-rec filter fit`"),
        ("weights", r"probe.safetensors: expected the weights of a probe"),
        ("shape", r"probe.safetensors: does not fit probe.json"),
        ("table", r"ids: .* when it was fitted"),
        ("sequence", r"fitted on the sequence clicks, but the data have history"),
    ],
)
def test_what_does_not_fit_is_said(data: Path, saved: Path, tmp_path: Path, damage: str, told: str) -> None:
    schema, folder = load_schema(data), tmp_path / "probe"
    EventProbe.load(saved, schema).save(folder)
    facts = json.loads((folder / "probe.json").read_text())
    if damage == "no facts":
        (folder / "probe.json").unlink()
    elif damage == "weights":
        (folder / "probe.safetensors").write_bytes(b"no weights")
    else:
        change = {
            "facts": {"threshold": "high"},
            "shape": {"states": facts["states"] | {"width": 32}},
            "table": {"ids": [["item", "item", 79], *facts["ids"][1:]]},
            "sequence": {"sequence": "clicks"},
        }[damage]
        (folder / "probe.json").write_text(json.dumps(facts | change))
    with pytest.raises(ConfigError, match=told):
        EventProbe.load(folder, schema)

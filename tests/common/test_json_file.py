"""Small JSON files that say what a folder is."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from dist_rec.common.json_file import read_json
from dist_rec.common.strict import ConfigError


class _Note(BaseModel):
    step: int


def test_a_file_is_read_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    assert read_json(path, _Note, ConfigError) is None
    path.write_text('{"step": 3}')
    assert read_json(path, _Note, ConfigError) == _Note(step=3)


@pytest.mark.parametrize(("text", "place"), [('{"step": "x"}', "step"), ('{"step": 3', "the file"), ("\0", "the file")])
def test_a_damaged_one_says_where(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "note.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"note.json: damaged: {place}: .+"):
        read_json(path, _Note, ConfigError)

"""A file by its size and sum."""

import hashlib
from pathlib import Path

import pytest

from dist_rec.common.stored_file import StoredFile


@pytest.mark.parametrize("size", [0, 1, 3 * 2**20 + 5])
def test_size_and_sum_are_those_of_the_bytes(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    assert StoredFile.of(tmp_path / "file") == StoredFile(size=size, sha256=hashlib.sha256(content[:size]).hexdigest())


def test_a_file_that_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        StoredFile.of(tmp_path / "nothing")

"""Small JSON files that say what a folder is."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


def read_json(path: Path, kind: type[M], wrong: Callable[[str], Exception]) -> M | None:
    """What a file holds; None if there is none. Raises `wrong` of one sentence for a file that is damaged, OSError."""
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise wrong(f"{path}: damaged: {place}: {first['msg']}") from None

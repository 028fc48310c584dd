"""A file that a manifest names, by its size and sum."""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

_BLOCK = 1 << 20


class StoredFile(BaseModel):
    """- `size` in bytes, `sha256` in hexadecimal"""

    model_config = ConfigDict(frozen=True)

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "StoredFile":
        """Raises OSError."""
        summed = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                summed.update(block)
            size = file.tell()
        return cls(size=size, sha256=summed.hexdigest())

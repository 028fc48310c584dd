"""Files of safetensors that are written in place, so that a table need not fit into memory.

The library writes tensors that are in memory already; the format is a length, a JSON header and the bytes.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int64: "I64"}


@contextmanager
def mapped_tensors(
    path: Path, shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> Iterator[dict[str, Tensor]]:
    """New tensors by name that lie in the file; what is written into them is there at the end.

    Raises OSError where there is no room."""
    header: dict[str, object] = {}
    starts: dict[str, int] = {}
    at = 0
    for name, (dtype, shape) in shapes.items():
        size = prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
        starts[name] = at
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)  # tensors begin at whole lines of a cache, 8 bytes of length aside
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    whole = np.memmap(path, np.uint8, mode="r+") if at else np.empty(8 + len(text), np.uint8)
    yield {
        name: torch.from_numpy(whole[8 + len(text) + starts[name] :][: prod(shape) * dtype.itemsize])
        .view(dtype)
        .view(shape)
        for name, (dtype, shape) in shapes.items()
    }
    if isinstance(whole, np.memmap):
        whole.flush()

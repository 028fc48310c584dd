"""What is written in place is what the library reads."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from dist_rec.export.mapped import mapped_tensors

SHAPES = {
    "weight": (torch.float32, (5, 3)),
    "half": (torch.float16, (3,)),
    "bytes": (torch.uint8, (7,)),
    "numbers": (torch.int64, (2, 2)),
}


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    with mapped_tensors(tmp_path / "file", SHAPES) as tensors:
        for name, (dtype, shape) in SHAPES.items():
            tensors[name].copy_(torch.arange(tensors[name].numel()).view(shape).to(dtype))
    found = load_file(tmp_path / "file")
    assert {name: (of.dtype, tuple(of.shape)) for name, of in found.items()} == SHAPES
    assert found["numbers"].tolist() == [[0, 1], [2, 3]]
    assert found["half"].tolist() == [0.0, 1.0, 2.0]


def test_nothing_is_a_file_too(tmp_path: Path) -> None:
    with mapped_tensors(tmp_path / "file", {"rows": (torch.float32, (0, 4))}) as tensors:
        assert tensors["rows"].shape == (0, 4)
    assert load_file(tmp_path / "file")["rows"].shape == (0, 4)

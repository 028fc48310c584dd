"""Unpacking as PyTorch meets it."""

import subprocess
import sys

import pytest
import torch

from dist_rec.kernels.unique_ids import BitPackedIndex, op, pack_index, unpack_index

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _packed(length: int) -> BitPackedIndex:
    return pack_index(torch.randint(0, 1000, (length,)), 1000).to(DEVICE)


@pytest.mark.parametrize("length", [0, 1, 100])
def test_opcheck(length: int) -> None:
    packed = _packed(length)
    torch.library.opcheck(op.unpack_words, (packed.words, packed.bits, packed.length))


def test_compiled_equals_eager() -> None:
    torch.compiler.reset()
    packed = _packed(100)

    def run(packed: BitPackedIndex) -> torch.Tensor:
        return unpack_index(packed, backend="triton") + 1

    assert torch.equal(torch.compile(run, fullgraph=True, backend="aot_eager")(packed), run(packed))


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="backend must be one of auto, triton, torch, reference, got 'cuda'"):
        unpack_index(_packed(3), backend="cuda")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("missing", [False, True])
def test_without_a_gpu_triton_is_refused_and_auto_is_torch(missing: bool) -> None:
    """In a process of its own: without the interpreter, or where Triton is not installed at all."""
    script = f"""
import logging, sys, torch
if {missing}:
    sys.modules["triton"] = None
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from dist_rec.kernels.unique_ids import pack_index, unpack_index
packed = pack_index(torch.arange(7), 7)
print(unpack_index(packed).tolist(), unpack_index(packed).tolist())
try:
    unpack_index(packed, backend="triton")
except RuntimeError as error:
    print(error)
"""
    # Isolated from the environment, so without TRITON_INTERPRET; -c puts the root on the path.
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env={}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    refused = "it is not installed" if missing else "needs CUDA tensors, got cpu"
    said, values, error = ran.stdout.splitlines()
    assert said == "unpack_index: torch (inputs on cpu)" and values == f"{list(range(7))} {list(range(7))}"
    assert refused in error

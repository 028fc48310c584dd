"""What is compiled before the first step is all there is to compile. Kernels are built for sm_90 and not run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_rec.training.warm_up import CANDIDATES, telling_of_late_builds

ROOT = Path(__file__).parents[2]
TOKENS = {"tokens": {"width": 40, "hidden": 64}}  # divisible by HyFormer's five tokens
MODELS: dict[str, dict[str, Any]] = {
    "longer": {"name": "longer", **TOKENS, "longer": {"merge": 2, "k": 12, "heads": 2}},
    "hyformer": {"name": "hyformer", **TOKENS, "hyformer": {"heads": 2}},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "teacher", "kinds", "ngrams"),
    [
        *((name, teacher, False, False) for name in MODELS for teacher in (None, "ema")),
        *((name, None, True, False) for name in MODELS),
        *((name, None, False, True) for name in MODELS),
    ],
)
def test_nothing_is_compiled_later(name: str, teacher: str | None, kinds: bool, ngrams: bool) -> None:
    """Nor by twins, by a copy that runs them alone, and by evaluation, which has none; nor by fields of other kinds,
    nor by n-grams that are hashed on the device."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.builds"]
    command += [json.dumps(each) for each in (MODELS[name], teacher, kinds, ngrams)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["compiled"] > 10 and found["later"] == []
    assert found["kept"], "the model itself is not touched"
    assert found["launched"] == []


def test_candidates_meet_every_power_of_two() -> None:
    """Of the query rows of a request, whatever k and the rows of a candidate are."""
    for k in range(130):
        for rows in range(1, 5):
            met = {max(16, 1 << (k + rows * c - 1).bit_length()) for c in CANDIDATES}
            first, last = k + rows, k + rows * CANDIDATES[-1]
            wanted = {max(16, 1 << (n - 1).bit_length()) for n in range(first, last + 1)}
            assert {n for n in wanted if n <= 128} <= met


def test_without_a_gpu_nothing_is_watched() -> None:
    with telling_of_late_builds(torch.device("cpu")):
        pass

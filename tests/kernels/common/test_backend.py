"""Which backend runs, what is refused, and what the log says."""

import logging
from unittest import mock

import pytest
import torch

from dist_rec.kernels.common import backend
from dist_rec.kernels.common.backend import choose, is_interpreted, on

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    backend._log_once.cache_clear()
    monkeypatch.setattr(logging.getLogger("dist_rec"), "propagate", True)
    caplog.set_level(logging.INFO, "dist_rec.kernels")
    return caplog


@pytest.mark.parametrize(
    ("device", "has_triton", "obstacle", "chosen", "reason"),
    [
        (CUDA, True, "", "triton", "inputs on CUDA"),
        (CPU, True, "", "plain", "inputs on cpu"),
        (CPU, True, "no float64", "plain", "inputs on cpu"),
        (CUDA, False, "", "plain", "Triton is not installed"),
        (CUDA, True, "no float64", "plain", "no float64"),
    ],
)
def test_auto_says_its_choice_once(
    device: torch.device, has_triton: bool, obstacle: str, chosen: str, reason: str, said: pytest.LogCaptureFixture
) -> None:
    with mock.patch.object(backend, "HAS_TRITON", has_triton):
        for _ in range(3):
            assert choose("gather", "auto", device, obstacle, fallback="plain") == chosen
    assert [record.getMessage() for record in said.records] == [f"gather: {chosen} ({reason})"]


def test_says_nothing_while_torch_compile_traces(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log call would break the graph. The choice is logged by a later call."""
    with monkeypatch.context() as tracing:
        tracing.setattr(torch.compiler, "is_compiling", lambda: True)
        choose("gather", "auto", CPU)
    assert not said.records
    choose("gather", "auto", CPU)
    assert len(said.records) == 1


@pytest.mark.parametrize(("wanted", "fallback"), [("torch", "torch"), ("reference", "torch"), ("plain", "plain")])
def test_a_backend_by_name_runs_anywhere(wanted: str, fallback: str) -> None:
    for device in (CPU, CUDA):
        assert choose("gather", wanted, device, "no float64", fallback=fallback) == wanted


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="backend must be one of auto, triton, plain, reference, got 'torch'"):
        choose("gather", "torch", CPU, fallback="plain")


@pytest.mark.parametrize(
    ("has_triton", "interpreted", "obstacle", "error", "message"),
    [
        (False, False, "", RuntimeError, "backend='triton' needs Triton; it is not installed"),
        (
            True,
            False,
            "",
            RuntimeError,
            "backend='triton' needs CUDA tensors, got cpu; the CPU has only Triton's interpreter",
        ),
        (True, True, "no float64", ValueError, "backend='triton' cannot run: no float64"),
    ],
)
def test_triton_is_refused(
    has_triton: bool, interpreted: bool, obstacle: str, error: type[Exception], message: str
) -> None:
    situation = mock.patch.multiple(backend, HAS_TRITON=has_triton, is_interpreted=lambda: interpreted)
    with situation, pytest.raises(error, match=message):
        choose("gather", "triton", CPU, obstacle)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_the_interpreter_runs_these_tests() -> None:
    assert is_interpreted() and choose("gather", "triton", CPU) == "triton"
    with mock.patch.object(backend, "HAS_TRITON", False):
        assert not is_interpreted()


def test_a_cpu_needs_no_current_device() -> None:
    with on(CPU):
        assert torch.zeros(1).device == CPU

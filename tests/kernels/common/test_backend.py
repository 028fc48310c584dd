import logging

import pytest
import torch

from dist_rec.kernels.common.backend import _log_once, log_choice


def test_says_a_choice_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    _log_once.cache_clear()
    monkeypatch.setattr(logging.getLogger("dist_rec"), "propagate", True)
    caplog.set_level(logging.INFO, "dist_rec.kernels")
    for _ in range(3):
        log_choice("gather", "triton", "a GPU is here")
    log_choice("gather", "reference", "no GPU is here")
    assert [record.getMessage() for record in caplog.records] == [
        "gather: triton (a GPU is here)",
        "gather: reference (no GPU is here)",
    ]


def test_says_nothing_while_torch_compile_traces(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log call would break the graph. What was not said then is said later."""
    _log_once.cache_clear()
    monkeypatch.setattr(logging.getLogger("dist_rec"), "propagate", True)
    caplog.set_level(logging.INFO, "dist_rec.kernels")
    with monkeypatch.context() as tracing:
        tracing.setattr(torch.compiler, "is_compiling", lambda: True)
        log_choice("gather", "triton", "a GPU is here")
    assert not caplog.records
    log_choice("gather", "triton", "a GPU is here")
    assert len(caplog.records) == 1

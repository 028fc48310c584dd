import logging

import pytest

from dist_rec.kernels.common.backend import log_choice


def test_says_a_choice_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    log_choice.cache_clear()
    monkeypatch.setattr(logging.getLogger("dist_rec"), "propagate", True)
    caplog.set_level(logging.INFO, "dist_rec.kernels")
    for _ in range(3):
        log_choice("gather", "triton", "a GPU is here")
    log_choice("gather", "reference", "no GPU is here")
    assert [record.getMessage() for record in caplog.records] == [
        "gather: triton (a GPU is here)",
        "gather: reference (no GPU is here)",
    ]

import logging

import pytest


@pytest.fixture(autouse=True)
def _messages_reach_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever command has set up logging in this process before."""
    monkeypatch.setattr(logging.getLogger("dist_rec"), "propagate", True)

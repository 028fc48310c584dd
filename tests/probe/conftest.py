"""Fixtures of the tests of the probe."""

from pathlib import Path

import pytest

from tests.probe.data import make_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("probe") / "data")

"""A small dataset and a checkpoint of it, as in the tests of predictions."""

from tests.predict.conftest import checkpoints, config, data, last

__all__ = ["checkpoints", "config", "data", "last"]

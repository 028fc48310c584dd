"""Long-sequence recommenders on TorchRec. Importing this package imports nothing else; the names below are imported
when they are used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dist_rec.api import train as train
    from dist_rec.config import Config as Config
    from dist_rec.config import load_config as load_config
    from dist_rec.predict.predictor import Predictor as Predictor
    from dist_rec.predict.predictor import load_model as load_model
    from dist_rec.registry import part as part

_HOMES = {
    "train": "dist_rec.api",
    "Config": "dist_rec.config",
    "load_config": "dist_rec.config",
    "Predictor": "dist_rec.predict.predictor",
    "load_model": "dist_rec.predict.predictor",
    "part": "dist_rec.registry",
}
__all__ = ["Config", "Predictor", "load_config", "load_model", "part", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dist_rec' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

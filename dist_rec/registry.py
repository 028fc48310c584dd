"""Names of parts in a recipe: built in, or `package.module:Name` for a part of one's own. Imported when used.

A part is a subclass of the base of its kind, has its options as a class `Config` inside, and is made by
`Name(options, ...)`. docs/extending.md has an example of every kind."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_serializer, model_validator

from dist_rec.common.strict import ConfigError, Strict, check, nearest


class Part(Strict):
    """A part and its options. In YAML `focal` alone means `{name: focal}`."""

    name: str = Field(description="A built-in name, or package.module:Name.")
    options: dict[str, Any] = Field(default={}, description="Checked by the part's own `Config`.")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_serializer
    def _short(self) -> Any:
        return {"name": self.name, "options": self.options} if self.options else self.name


@dataclass(frozen=True)
class Kind:
    """One kind of part: what it is called in messages, the key of the recipe, built-in names, and the base of its
    classes."""

    what: str
    key: str
    built_in: Mapping[str, str]
    base: str

    def known(self, part: Part) -> Part:
        """The part. Raises ValueError if its name is neither built in nor a path.

        A path is followed by the door (door.py) and not here: reading a recipe, perhaps the one in a stranger's
        checkpoint, must import nothing."""
        if ":" not in part.name and part.name not in self.built_in:
            raise ValueError(self._unknown(part.name))
        if ":" not in part.name and part.options:
            raise ValueError(f"{part.name} is built in and has no options of its own here, got {part.options}")
        return part

    def _unknown(self, name: str) -> str:
        near = nearest(name, list(self.built_in))
        return f"no {self.what} named '{name}'; {near} (a part of one's own: package.module:Name)"

    def resolve(self, name: str) -> Any:
        """The class of this name. Raises ConfigError that says how far the name led and what is there instead."""
        if ":" not in name:
            if name not in self.built_in:
                raise ConfigError(f"{self.key}: {self._unknown(name)}")
            return _load(self.built_in[name], self.key)
        found, base = _load(name, self.key), _load(self.base, self.key)
        if not _is_kind_of(found, base):
            came = f"{found.__qualname__}, which is none" if inspect.isclass(found) else type(found).__name__
            raise ConfigError(
                f"{self.key}={name}: expected a subclass of {base.__module__}.{base.__qualname__}, got {came}"
            )
        if not _is_kind_of(found.Config, base.Config):
            raise ConfigError(f"{self.key}={name}: expected its Config to be a subclass of {base.Config.__qualname__}")
        return found

    def options(self, part: Part) -> Any:
        """The checked options of a part. Raises ConfigError."""
        return check(self.resolve(part.name).Config, part.options, f"options of {self.key}={part.name}")

    def make(self, part: Part, *arguments: Any) -> Any:
        """`Name(options, *arguments)`. Raises ConfigError."""
        return self.resolve(part.name)(self.options(part), *arguments)


def part(found: type, options: Mapping[str, Any] | None = None) -> Part:
    """A class of one's own as a recipe names it, to be used from Python: `part(Focal, {"gamma": 2.0})`."""
    return Part(name=f"{found.__module__}:{found.__qualname__}", options=dict(options or {}))


# Name -> folder, options, model. Options are in `config.py`, which is read without torch, the model is in `model.py`.
_MODELS = {
    "longer": ("longer", "LongerConfig", "Longer"),
    "hyformer": ("hyformer", "HyFormerConfig", "HyFormer"),
    "sum_pooling": ("baselines", "SumPoolingConfig", "SumPooling"),
    "din": ("baselines", "DinConfig", "Din"),
}
MODELS = Kind(
    what="model",
    key="model.name",
    built_in={name: f"dist_rec.models.{folder}.model:{model}" for name, (folder, _, model) in _MODELS.items()},
    base="dist_rec.models.protocol:Model",
)
MODEL_SECTIONS = {name: f"dist_rec.models.{folder}.config:{options}" for name, (folder, options, _) in _MODELS.items()}
MODEL_SECTIONS["rankmixer"] = "dist_rec.models.rank_mixer.config:RankMixerConfig"
LOSSES = Kind(
    what="loss",
    key="model.head.loss",
    built_in={"binary_cross_entropy": "dist_rec.models.layers.loss:BinaryCrossEntropy"},
    base="dist_rec.models.layers.loss:Loss",
)
_OPTIMIZERS = "dist_rec.training.optimizers"
OPTIMIZERS = Kind(
    what="optimizer of the dense parameters",
    key="optim.optimizer",
    built_in={
        name: f"{_OPTIMIZERS}:{found}"
        for name, found in {
            "adamw": "AdamW",
            "adam": "Adam",
            "adagrad": "Adagrad",
            "sgd": "Sgd",
            "muon": "Muon",
        }.items()
    },
    base=f"{_OPTIMIZERS}:DenseOptimizer",
)
_FUSED = "dist_rec.embedding.optimizers"
FUSED_OPTIMIZERS = Kind(
    what="optimizer of embedding rows",
    key="embedding.optimizer",
    built_in={"rowwise_adagrad": f"{_FUSED}:RowWiseAdagrad", "adam": f"{_FUSED}:Adam", "sgd": f"{_FUSED}:Sgd"},
    base=f"{_FUSED}:FusedOptimizer",
)
READERS = Kind(
    what="reader",
    key="data.reader",
    built_in={"parquet": "dist_rec.data.row_reader:ParquetReader"},
    base="dist_rec.data.row_reader:RowReader",
)
_POLICY = "dist_rec.data.filter.policy"
FILTERS = Kind(
    what="filter policy",
    key="data.filter.policy",
    built_in={"rules": f"{_POLICY}:Rules"},
    base=f"{_POLICY}:FilterPolicy",
)
_IMPORTERS = "dist_rec.data.importers"
IMPORTERS = Kind(
    what="importer",
    key="dist-rec data import",
    built_in={
        "movielens": f"{_IMPORTERS}.movielens:MovieLens",
        "assist": f"{_IMPORTERS}.assist:Assist",
        "kuairand": f"{_IMPORTERS}.built:KuaiRand",
        "ebnerd": f"{_IMPORTERS}.built:EbNerd",
    },
    base=f"{_IMPORTERS}.source:Importer",
)
METRICS = Kind(what="metric", key="run.metrics", built_in={}, base="dist_rec.training.metrics:Metric")
LISTENERS = Kind(what="listener", key="run.listeners", built_in={}, base="dist_rec.training.listener:Listener")


def model_section(name: str) -> type[Strict] | None:
    """The options of a built-in section of `model`; None for any other name. Does not import torch."""
    return _load(MODEL_SECTIONS[name], f"model.{name}") if name in MODEL_SECTIONS else None


def _is_kind_of(found: Any, base: Any) -> bool:
    return inspect.isclass(found) and issubclass(found, base)


def _load(name: str, key: str) -> Any:
    """What `package.module:Name` names, found step by step."""
    path, _, attribute = name.partition(":")
    found: Any = None
    done = ""
    for step in path.split("."):
        wanted = f"{done}.{step}" if done else step
        try:
            found = importlib.import_module(wanted)
        except ModuleNotFoundError as error:
            if error.name != wanted:
                raise ConfigError(f"{key}={name}: {wanted} cannot be imported: {error}") from error
            raise ConfigError(f"{key}={name}: {_missing(wanted, done, found)}") from None
        except Exception as error:  # the module is the user's: it may raise anything
            raise ConfigError(f"{key}={name}: {wanted} cannot be imported: {type(error).__name__}: {error}") from error
        done = wanted
    for step in attribute.split("."):
        if not hasattr(found, step):
            classes = [n for n, value in vars(found).items() if inspect.isclass(value) and value.__module__ == path]
            raise ConfigError(f"{key}={name}: found {done}, but no {step or 'name'} in it; {nearest(step, classes)}")
        found, done = getattr(found, step), f"{done}{':' if done == path else '.'}{step}"
    return found


def _missing(wanted: str, done: str, found: Any) -> str:
    """Why a step of a path led nowhere: `done` is how far the path led, to the module `found`."""
    if not done:
        return (
            f"no module {wanted} where Python looks; expected its folder on PYTHONPATH or installed, or the run to be "
            "started in the folder around it"
        )
    step = wanted.rpartition(".")[2]
    if not hasattr(found, "__path__"):
        return f"found {done}, which is a module and no package; a class in it is named {done}:{step}"
    inside = [entry.name for entry in pkgutil.iter_modules(found.__path__)]
    return f"found the package {done}, but no module {step} in it; {nearest(step, inside)}"

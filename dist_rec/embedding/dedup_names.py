"""Keeps the names of tables in state dicts, parameters and fused optimizer states, before and after sharding.

A wrapper has its tables at other paths than the wrapped collection, and jobs choose optimizers, freeze, log and save by
name. So a `Renamed` module uses the names of the wrapped collection, for itself and for every module around it:

- plain modules collect parameters from `named_modules`, which yields these names;
- `DistributedModelParallel` finds sharded modules by `named_children` and calls their `named_parameters` and
  `named_buffers` with their paths. A `Renamed` module replaces both methods of its sharded modules (DDP skips their
  parameters by name);
- fused optimizers come from the first `FusedOptimizerModule` from the top, which is the wrapper.

The collections inside keep their true paths, which plans and pipelines use.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torchrec.distributed.types import ShardedModule
from torchrec.optim.fused import FusedOptimizerModule
from torchrec.optim.keyed import CombinedOptimizer

INNER = "embeddings"  # where an EmbeddingCollection, sharded or not, has its tables


class Renamed(nn.Module, FusedOptimizerModule):
    """A module with `EmbeddingCollection`s whose tables have the names `<tables>.<table>...` outside.

    Args:
        tables: attribute of the wrapped collection with its tables, `embeddings` or `embedding_bags`.
        homes: table name -> path of its collection in this module, in the order of the tables.
    """

    def __init__(self, tables: str, homes: dict[str, str]) -> None:
        super().__init__()
        self._tables, self._homes = tables, homes
        self._order = {name: place for place, name in enumerate(homes)}
        # The prefix and the errors so far of a load, which post hooks do not get.
        self._loading: tuple[str, list[str]] | None = None
        self.register_state_dict_post_hook(_rename_saved)
        self.register_load_state_dict_pre_hook(_rename_loaded)
        self.register_load_state_dict_post_hook(_rename_complaints)

    def holders(self) -> list[str]:
        """Paths of the collections in this module."""
        return list(dict.fromkeys(self._homes.values()))

    def held(self) -> list[nn.Module]:
        return [self.get_submodule(path) for path in self.holders()]

    def tables(self) -> nn.ModuleDict:
        """The table modules by name, in the order of the wrapped collection."""
        inside: dict[str, Any] = {path: getattr(self.get_submodule(path), INNER) for path in self.holders()}
        return nn.ModuleDict({name: inside[path][name] for name, path in self._homes.items()})

    def outer(self, name: str) -> str:
        """The outer name of the inner name `name`."""
        for path in self.holders():
            if name == f"{path}.{INNER}" or name.startswith(f"{path}.{INNER}."):
                return self._tables + name[len(path) + 1 + len(INNER) :]
        return name

    def inner(self, name: str) -> str:
        """The inner name of the outer name `name`."""
        first, _, rest = name.partition(".")
        home = self._homes.get(rest.partition(".")[0]) if first == self._tables else None
        return name if home is None else f"{home}.{INNER}.{rest}"

    def place(self, name: str) -> int:
        """Index of an outer name among the tables; -1 for other names."""
        first, _, rest = name.partition(".")
        return self._order.get(rest.partition(".")[0], -1) if first == self._tables else -1

    def named_modules(  # pyright: ignore[reportIncompatibleMethodOverride] - torch's is not annotated
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        self._name_sharded()
        start = f"{prefix}." if prefix else ""
        found = [
            (self.outer(name[len(start) :]), name, module)
            for name, module in super().named_modules(memo, prefix, remove_duplicate)
        ]
        # The order of the tables decides the numbers of parameters in torch's optimizers.
        for outer, name, module in sorted(found, key=lambda item: self.place(item[0])):
            yield (name if outer == name[len(start) :] else start + outer), module

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        self._name_sharded()
        yield from super().named_children()

    @property
    def fused_optimizer(self) -> CombinedOptimizer:
        """The fused optimizers of the sharded collections, with states under outer names."""
        held = zip(self.holders(), self.held(), strict=True)
        fused: list[Any] = [(path, of.fused_optimizer) for path, of in held if isinstance(of, FusedOptimizerModule)]
        return _RenamedOptimizer(fused, self)

    def _name_sharded(self) -> None:
        """Renames the parameters of the modules that sharding put in the place of collections, before their use."""
        for path in self.holders():
            collection = self.get_submodule(path)
            if isinstance(collection, ShardedModule) and "named_parameters" not in vars(collection):
                for listing in ("named_parameters", "named_buffers"):
                    renamed = functools.partial(_named, collection, listing, f"{path}.", self._tables)
                    object.__setattr__(collection, listing, renamed)
                collection.register_load_state_dict_pre_hook(functools.partial(_keep_missing, f"{path}.", self._tables))
                collection.register_load_state_dict_post_hook(_rename_complaints_of_sharded)
                hooks: Any = collection._load_state_dict_pre_hooks
                hooks.move_to_end(next(reversed(hooks)), last=False)  # before TorchRec's, which expects every table


def _named(
    collection: nn.Module,
    listing: str,
    path: str,
    tables: str,
    prefix: str = "",
    recurse: bool = True,
    remove_duplicate: bool = True,
) -> Iterator[tuple[str, Any]]:
    """`collection.named_parameters` or `named_buffers`, with outer names if `prefix` ends at `path` in the wrapper."""
    here = f"{prefix}.{INNER}."
    within = f".{prefix}.".endswith(f".{path}")
    for name, value in getattr(type(collection), listing)(collection, prefix, recurse, remove_duplicate):
        if within and name.startswith(here):
            name = f"{prefix[: len(prefix) + 1 - len(path)]}{tables}.{name[len(here) :]}"
        yield name, value


class _RenamedOptimizer(CombinedOptimizer):
    """The fused optimizers of a `Renamed` module: `CombinedOptimizer` saves and loads by the keys of `params`."""

    def __init__(self, optimizers: list[Any], names: Renamed) -> None:
        self._outer = names.outer
        super().__init__(optimizers)

    @property
    def params(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride] - a property there, too
        return {self._outer(name): parameter for name, parameter in super().params.items()}


def _rename_saved(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(module, Renamed)
    renamed = {key: module.outer(key[len(prefix) :]) for key in state if key.startswith(prefix)}
    tables = [(key, name) for key, name in renamed.items() if name != key[len(prefix) :]]
    for key, name in sorted(tables, key=lambda pair: module.place(pair[1])):
        state[prefix + name] = state.pop(key)


def _rename_loaded(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    assert isinstance(module, Renamed)
    module._name_sharded()
    module._loading = (prefix, others[-1])
    first, collection = next(zip(module.holders(), module.held(), strict=True))
    for key in [key for key in state if key.startswith(prefix)]:
        name = key[len(prefix) :]
        inner = module.inner(name)
        if inner == name and name.startswith(f"{module._tables}.") and isinstance(collection, ShardedModule):
            # No table has this name: a sharded collection reports an unexpected key, the modules around do not.
            inner = f"{first}.{INNER}{name[len(module._tables) :]}"
        if inner != name:
            state[prefix + inner] = state.pop(key)


def _rename_complaints(module: nn.Module, complaints: Any) -> None:
    assert isinstance(module, Renamed)
    if module._loading is not None:
        (prefix, errors), module._loading = module._loading, None
        _rename_all(complaints, errors, prefix, lambda name: prefix + module.outer(name))


def _keep_missing(
    path: str,
    tables: str,
    collection: nn.Module,
    state: dict[str, Any],
    prefix: str,
    _: Any,
    __: bool,
    missing: list[str],
    ___: list[str],
    errors: list[str],
) -> None:
    """Reports tables of a sharded collection (at `path` in its wrapper) that the state lacks; their values stay."""
    outside = (prefix.removesuffix(path) if prefix.endswith(path) else prefix) + tables
    vars(collection)["_loading_here"] = (f"{prefix}{INNER}.", outside, errors)
    for name, table in collection.state_dict().items():
        if name.endswith(".weight") and prefix + name not in state:
            missing.append(prefix + name)
            state[prefix + name] = table


def _rename_complaints_of_sharded(collection: nn.Module, complaints: Any) -> None:
    here = vars(collection).pop("_loading_here", None)
    if here is not None:
        inside, outside, errors = here
        _rename_all(complaints, errors, inside, lambda name: f"{outside}.{name}")


def _rename_all(complaints: Any, errors: list[str], start: str, rename: Callable[[str], str]) -> None:
    """Renames in place the part after `start` of keys and errors."""
    for names in (complaints.missing_keys, complaints.unexpected_keys):
        names[:] = [rename(name[len(start) :]) if name.startswith(start) else name for name in names]
    begin = "size mismatch for "
    for place, error in enumerate(errors):
        if error.startswith(begin + start):
            name, colon, rest = error[len(begin + start) :].partition(":")
            errors[place] = begin + rename(name) + colon + rest

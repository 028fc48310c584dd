"""One name for a table everywhere: in state dicts, among parameters and in fused optimizer states, before sharding and
after.

A wrapper holds tables elsewhere than the collection it wraps, and jobs choose optimizers, freeze, log and save by name.
So a `Renamed` module answers with the names of the wrapped collection, itself and for every module around it:

- plain modules collect parameters from `named_modules`, which is answered under those names;
- `DistributedModelParallel` asks every sharded module, by `named_children`, for its parameters and buffers, with the
  path where it stands; a sharded module in here is told to answer with the other name (DDP leaves parameters to it by
  name);
- fused optimizers are collected from the first `FusedOptimizerModule` on the way down, which is the wrapper.

The collections inside keep their true paths, by which plans name them and pipelines find them.
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
    """A module that holds `EmbeddingCollection`s, with tables that have the names `<tables>.<table>...` outside.

    Args:
        tables: where the wrapped collection has its tables, `embeddings` or `embedding_bags`.
        homes: path of the collection here by name of the table, in the order of the tables.
    """

    def __init__(self, tables: str, homes: dict[str, str]) -> None:
        super().__init__()
        self._tables, self._homes = tables, homes
        self._order = {name: place for place, name in enumerate(homes)}
        self._loading: tuple[str, list[str]] | None = (
            None  # what post hooks are not told: the prefix, and errors up to here
        )
        self.register_state_dict_post_hook(_rename_saved)
        self.register_load_state_dict_pre_hook(_rename_loaded)
        self.register_load_state_dict_post_hook(_rename_complaints)

    def holders(self) -> list[str]:
        """Paths of the collections here."""
        return list(dict.fromkeys(self._homes.values()))

    def held(self) -> list[nn.Module]:
        return [self.get_submodule(path) for path in self.holders()]

    def tables(self) -> nn.ModuleDict:
        """The table modules by name, in the order of the wrapped collection."""
        inside: dict[str, Any] = {path: getattr(self.get_submodule(path), INNER) for path in self.holders()}
        return nn.ModuleDict({name: inside[path][name] for name, path in self._homes.items()})

    def outer(self, name: str) -> str:
        """The name outside of what is called `name` in here."""
        for path in self.holders():
            if name == f"{path}.{INNER}" or name.startswith(f"{path}.{INNER}."):
                return self._tables + name[len(path) + 1 + len(INNER) :]
        return name

    def inner(self, name: str) -> str:
        """The other way."""
        first, _, rest = name.partition(".")
        home = self._homes.get(rest.partition(".")[0]) if first == self._tables else None
        return name if home is None else f"{home}.{INNER}.{rest}"

    def place(self, name: str) -> int:
        """Of a name outside, among the tables; what is no table comes first."""
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
        # Parameters come in the order of the tables, by which torch's optimizers number them.
        for outer, name, module in sorted(found, key=lambda item: self.place(item[0])):
            yield (name if outer == name[len(start) :] else start + outer), module

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        self._name_sharded()
        yield from super().named_children()

    @property
    def fused_optimizer(self) -> CombinedOptimizer:
        """Of the collections that are sharded, with states under the names outside."""
        held = zip(self.holders(), self.held(), strict=True)
        fused: list[Any] = [(path, of.fused_optimizer) for path, of in held if isinstance(of, FusedOptimizerModule)]
        return _RenamedOptimizer(fused, self)

    def _name_sharded(self) -> None:
        """Sharding puts a module of TorchRec's in the place of a collection; it is met here before anyone asks it for
        names."""
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
    """`collection.named_parameters` or `named_buffers`, under the names outside where `prefix` says that it stands in
    the wrapper (at `path`)."""
    here = f"{prefix}.{INNER}."
    within = f".{prefix}.".endswith(f".{path}")
    for name, value in getattr(type(collection), listing)(collection, prefix, recurse, remove_duplicate):
        if within and name.startswith(here):
            name = f"{prefix[: len(prefix) + 1 - len(path)]}{tables}.{name[len(here) :]}"
        yield name, value


class _RenamedOptimizer(CombinedOptimizer):
    """The fused optimizers of a `Renamed` module; `CombinedOptimizer` saves and loads states by the keys of
    `params`."""

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
            # No table of that name: a sharded collection raises what is unexpected, its surroundings do not.
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
    """Tables of a sharded collection (at `path` in its wrapper) that are not in the state: reported, and loaded as they
    are."""
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
    """Renames in place what comes after `start` in keys and in errors."""
    for names in (complaints.missing_keys, complaints.unexpected_keys):
        names[:] = [rename(name[len(start) :]) if name.startswith(start) else name for name in names]
    for place, error in enumerate(errors):
        told = "size mismatch for "
        if error.startswith(told + start):
            name, colon, rest = error[len(told + start) :].partition(":")
            errors[place] = told + rename(name) + colon + rest

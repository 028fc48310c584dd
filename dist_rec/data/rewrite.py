"""Replaces values at any depth inside a batch, without changing the batch itself."""

import collections
import copy
import copyreg
import functools
import logging
import threading
import types
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedTensor

# The search does not look into these.
_WHOLE = (
    *(str, bytes, bytearray, int, float, complex, types.NoneType, Enum, np.ndarray, np.generic),
    *(torch.Tensor, torch.Generator, JaggedTensor, KeyedTensor),
    *(nn.Module, torch.optim.Optimizer, Dataset, DataLoader, Sampler),
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial),
    *(types.GeneratorType, threading.Thread, logging.Logger),
)
_IN_PLACE = (dict, list, collections.deque)  # copied first and filled later, so that they may contain themselves
_COPY_HOOKS = ("__copy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
_COPY_HOOKS += ("__getnewargs__", "__getnewargs_ex__")
_WRITTEN_IN_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE


def replace_inside(value: Any, kinds: tuple[type, ...], change: Callable[[Any], Any]) -> Any:
    """`value` with `change(x)` in place of every x of `kinds` inside, at any depth; `value` itself if none changes.

    The search looks into dicts, lists, tuples (also named), deques and sets and their subclasses, and into the
    attributes of all other objects, in `__dict__` or `__slots__`: dataclasses, attrs, pydantic models and other
    classes, frozen or not. It does not look into tensors, modules, optimizers, data sets and loaders, types, functions.
    An object without an x stays the same object. An object with an x is copied with its type: by the copy hooks of its
    class, or field by field without hooks. An object that occurs twice is changed once, and cycles are kept.

    Raises:
        TypeError: an object that has to be copied, but cannot be, or returns itself as its copy.
    """
    twins: dict[int, Any] = {}  # by the id of the replaced object
    holders: dict[int, list[Any]] = {}
    seen: dict[int, Any] = {id(value): value}  # keeps ids valid
    waiting, changed = [value], []
    while waiting:
        found = waiting.pop()
        if isinstance(found, kinds):
            twins[id(found)] = change(found)
            if twins[id(found)] is not found:
                changed.append(found)
            continue
        for part in _parts(found):
            if isinstance(part, _WHOLE) and not isinstance(part, kinds):
                continue
            holders.setdefault(id(part), []).append(found)
            if id(part) not in seen:
                seen[id(part)] = part
                waiting.append(part)
    touched: set[int] = set()
    while changed:
        for holder in holders.get(id(changed.pop()), ()):
            if id(holder) not in touched:
                touched.add(id(holder))
                changed.append(holder)
    return _rebuilt(value, touched, twins)


def _parts(value: Any) -> Iterable[Any]:
    """Direct parts of `value` in reversed order: the walk takes the last one first."""
    return reversed([*_elements(value), *_attributes(value).values()])


def _elements(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(dict.values(value))
    if isinstance(value, types.MappingProxyType):
        return list(value.values())
    if isinstance(value, list | tuple | collections.deque | set | frozenset):
        return list(value)
    return []


def _attributes(value: Any) -> dict[str, Any]:
    found = dict(_dict_of(value))
    for name, slot in _slots(type(value)).items():
        try:
            found[name] = slot.__get__(value)
        except AttributeError:
            continue  # never set
    return found


def _dict_of(value: Any) -> dict[str, Any]:
    """Its own `__dict__`, not that of an object behind its `__getattr__`; empty without one."""
    try:
        return object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}


def _slots(kind: type) -> dict[str, Any]:
    """The slots of Python classes, by name. They are written directly: a frozen class has no setter."""
    declared = [vars(of) for of in kind.__mro__ if "__slots__" in vars(of)]
    return {name: slot for of in declared for name, slot in of.items() if isinstance(slot, types.MemberDescriptorType)}


def _rebuilt(value: Any, touched: set[int], twins: dict[int, Any]) -> Any:
    if id(value) in twins:
        return twins[id(value)]
    if id(value) not in touched:
        return value
    if isinstance(value, tuple | set | frozenset | types.MappingProxyType):
        twin = _built_at_once(value, touched, twins)
        if id(value) in twins:  # a cycle through an object that is filled later made it already
            return twins[id(value)]
        twins[id(value)] = twin
    else:
        twin = _copied(value)
        if twin is value:
            raise TypeError(
                f"expected to copy a {type(value).__name__}, which holds features to be replaced, but its copy is "
                "itself; let its __copy__ give another object"
            )
        twins[id(value)] = twin
        base = next((of for of in _IN_PLACE if isinstance(value, of)), None)
        if base is not None:
            places = list(value) if base is dict else range(len(value))
            for place, part in zip(places, _elements(value), strict=True):
                if (new := _rebuilt(part, touched, twins)) is not part:
                    base.__setitem__(twin, place, new)  # the subclass may check, or forbid, what is set
    parts = _attributes(value)
    new = {name: _rebuilt(part, touched, twins) for name, part in parts.items()}
    _set_attributes(twin, {name: part for name, part in new.items() if part is not parts[name]})
    return twin


def _set_attributes(twin: Any, values: dict[str, Any]) -> None:
    slots = _slots(type(twin))
    for name, value in values.items():
        if name in slots:
            slots[name].__set__(twin, value)
        else:
            _dict_of(twin)[name] = value


def _copied(value: Any) -> Any:
    kind = type(value)
    try:
        return _copied_by_field(value) if _says_nothing_about_copies(kind) else copy.copy(value)
    except Exception as error:
        raise TypeError(
            f"expected to copy a {kind.__name__}, which holds features to be replaced, but that raised "
            f"{type(error).__name__}: {error}; give the class a __copy__"
        ) from error


def _says_nothing_about_copies(kind: type) -> bool:
    classes = [of for of in kind.__mro__ if of not in (object, dict, list)]
    return kind not in copyreg.dispatch_table and all(
        of.__flags__ & _WRITTEN_IN_PYTHON and not any(hook in vars(of) for hook in _COPY_HOOKS) for of in classes
    )


def _copied_by_field(value: Any) -> Any:
    """Unlike `copy.copy`, this calls no `__getattr__` of the empty twin, which may fail."""
    kind: Any = type(value)
    twin = kind.__new__(kind)
    if isinstance(value, dict):
        for key, part in dict.items(value):
            dict.__setitem__(twin, key, part)
    elif isinstance(value, list):
        list.extend(twin, list.__iter__(value))
    _set_attributes(twin, _attributes(value))
    return twin


def _built_at_once(value: Any, touched: set[int], twins: dict[int, Any]) -> Any:
    parts = [_rebuilt(part, touched, twins) for part in _elements(value)]
    if isinstance(value, types.MappingProxyType):
        return types.MappingProxyType(dict(zip(value, parts, strict=True)))
    if not isinstance(value, tuple):
        return type(value)(parts)
    twin = tuple.__new__(type(value), parts)  # without the constructor, whose arguments may differ
    if own := _dict_of(value):
        _dict_of(twin).update(own)
    return twin
